// SPDX-License-Identifier: MIT
/// The tool's only way to the library's arithmetic: heads compacted, one or all, and judged.
///
/// compact.hpp takes long to compile, so heads.cpp alone includes it and all else sees plain data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvfit/attention/fidelity.hpp"
#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/rope.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/cache/heads.hpp"
#include "kvfit/compact/compacted.hpp"
#include "kvfit/compact/protection.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/io/capture.hpp"
#include "kvfit/parallel/progress.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "kvfit/view/row_view.hpp"
#include "measure/candidate.hpp"

namespace kvfit_tool {

/// A preset of the library.
struct method {
  std::string_view name;
  std::string_view summary;
  bool is_fitted = false;  ///< false: a baseline, which evicts rows and fits nothing
};

/// All presets, in the library's order: baselines first.
const std::vector<method>& methods();

/// The preset of that name, or none.
const method* find_method(std::string_view name);

/// One KV head of a capture, with the query heads that read it. It refers to the capture.
struct head_view {
  kvfit::kv_block block;                         ///< keys, values, and where the keys stand
  std::vector<kvfit::query_block> queries;       ///< with positions, slopes and sinks
  std::vector<kvfit::query_block> test_queries;  ///< empty where the capture has none
  kvfit::logit_rule rule;
  std::optional<kvfit::rope> rotation;  ///< of keys and queries, where the capture says
};

/// How to compact it.
struct head_plan {
  candidate what;
  kvfit::index_t budget = 0;
  kvfit::dtype storage = kvfit::dtype::fp32;  ///< unless the candidate sets its own
  kvfit::protection protect = {};
  std::uint64_t seed = 0;  ///< for methods that draw
};

/// What `kvfit::compact` returns, less the parts of the report that the tool does not show.
struct small_head {
  std::vector<kvfit::index_t> positions;
  std::vector<kvfit::index_t> key_positions;
  kvfit::matrix keys;
  kvfit::vector bias;
  kvfit::matrix values;
  /// On the reference queries: all of them where there are sinks, else as the compaction says.
  kvfit::fidelity train;
  std::optional<kvfit::fidelity> held_out;  ///< none where there are sinks
  double seconds = 0;                       ///< wall clock
};

/// Compacts one head by its layer's rule. A sink stays beside the compact block: the fit leaves it
/// out, while its errors, here and in `judge`, are those of attention with it.
kvfit::result<small_head> compact(const head_view& head, const head_plan& plan);

/// How a whole capture is compacted.
struct cache_request {
  head_plan head;  ///< its budget is not used
  double ratio = 1;
  share_policy shares = share_policy::uniform;
  std::vector<kvfit::head_share> given = {};  ///< for `share_policy::given`
  bool copies_failed = false;  ///< a head whose method fails keeps copied rows, and is counted
};

/// A head of a capture as it is done.
struct finished_head {
  std::size_t place = 0;  ///< in the order of `heads_of`
  small_head rows;
  std::optional<kvfit::error> fallback;  ///< why rows were copied instead
};

/// Compacts every head of a capture on the pool's threads and hands each to `take` as it is done,
/// never two at once. Under `uniform` a head keeps floor(T / ratio) rows; else all heads together
/// keep the sum of that.
kvfit::result<void> compact_capture(const kvfit::capture& capture, const cache_request& request,
                                    kvfit::thread_pool& pool,
                                    const std::function<kvfit::result<void>(finished_head&&)>& take,
                                    const kvfit::watch& by);

/// Attention of the test queries over the full cache.
struct full_attention {
  kvfit::matrix output;
  kvfit::vector log_mass;
};

kvfit::result<full_attention> attend_full(const head_view& head);

/// The same queries over the compact cache, held against `full`.
kvfit::result<kvfit::fidelity> judge(const head_view& head, const full_attention& full,
                                     const small_head& small);

/// Compacts one head of a model's cache with the queries of its layer.
kvfit::result<kvfit::compacted> compact_one(const kvfit::cache_layer& layer, kvfit::index_t head,
                                            const kvfit::layer_queries& queries,
                                            const head_plan& plan);

/// Compacts a model's whole cache, rows[i] for head i in the order of the view, one head after the
/// other on the calling thread. The plan's own budget is not used.
kvfit::result<kvfit::compacted_cache> compact_all(const kvfit::cache_view& cache,
                                                  const kvfit::cache_queries& queries,
                                                  const head_plan& plan,
                                                  std::vector<kvfit::index_t> rows);

/// Which keys are ranked together where rows are shared out by a ranking.
enum class ranked_together : std::uint8_t {
  all_heads,         ///< `budgets::global_ranking`: one threshold, a row a head at least
  heads_of_a_layer,  ///< `budgets::layer_ranking`, its safeguard as published
};

/// The same with `total` rows in all, by a ranking: by what the method itself ranks keys by, where
/// it keeps the highest (kvzip the maximum attention, h2o the mean, ...); by the maximum attention,
/// KVzip's rule, for all other methods.
kvfit::result<kvfit::compacted_cache> compact_ranked(const kvfit::cache_view& cache,
                                                     const kvfit::cache_queries& queries,
                                                     const head_plan& plan, ranked_together within,
                                                     kvfit::index_t total);

/// Goes on with a rolling cache: `live` has come, and one round takes all of it. None before the
/// first round. Returns the block.
kvfit::result<std::shared_ptr<const kvfit::compacted_cache>> compact_again(
    std::shared_ptr<const kvfit::compacted_cache> block, const kvfit::cache_view& live,
    kvfit::index_t first_live, const kvfit::cache_queries& queries, const head_plan& plan,
    std::vector<kvfit::index_t> rows);

}  // namespace kvfit_tool
