// SPDX-License-Identifier: MIT
/// What kvfit::compiled offers, compiled once for each instruction set. Its one global symbol is
/// KVFIT_ENTRY_POINTS, a name that the build gives; all others are made local, for the linker would
/// else keep but one instruction set's copy of every function that Eigen and the standard library
/// share.
#include <span>
#include <utility>
#include <vector>

#include "kvfit/attention/attend_blocks.hpp"
#include "kvfit/attention/compare_rows.hpp"
#include "kvfit/attention/compiled.hpp"
#include "kvfit/attention/score_panels.hpp"
#include "kvfit/bias/nnls.hpp"
#include "kvfit/bias/projected_gradient.hpp"
#include "kvfit/bias/zero.hpp"
#include "kvfit/cache/compact_tasks.hpp"
#include "kvfit/cache/compiled.hpp"
#include "kvfit/cache/plan_tasks.hpp"
#include "kvfit/cache/refit_tasks.hpp"
#include "kvfit/cache/shared_rows.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/compact/compiled.hpp"
#include "kvfit/compact/memory_plan.hpp"
#include "kvfit/compact/progressive.hpp"
#include "kvfit/core/active_isa.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/refine/gradient_descent.hpp"
#include "kvfit/selection/expected_attention.hpp"
#include "kvfit/selection/fixed.hpp"
#include "kvfit/selection/highest_attention.hpp"
#include "kvfit/selection/joint.hpp"
#include "kvfit/selection/omp.hpp"
#include "kvfit/values/copy.hpp"
#include "kvfit/values/least_squares.hpp"
#include "kvfit/values/unpivoted_qr.hpp"

namespace {

using kvfit::index_t;
using kvfit::result;
using kvfit::compiled::head_taker;
using kvfit::compiled::plain_rows;

/// The same options with this file's functions of every policy that kvfit knows.
kvfit::compact_options bound(kvfit::compact_options options) {
  options.selection = options.selection.bound();
  options.bias = options.bias.bound();
  options.values = options.values.bound();
  options.gradient = options.gradient.bound();
  return options;
}

kvfit::cache_options bound(kvfit::cache_options options) {
  options.head = bound(std::move(options.head));
  return options;
}

result<plain_rows> compact(const kvfit::kv_block& cache, const kvfit::query_set& queries,
                           const kvfit::compact_options& options, const kvfit::stop_when& stop,
                           const kvfit::executor_ref& threads) {
  return kvfit::detail::catch_bad_alloc("compact", [&]() -> result<plain_rows> {
    auto fitted = kvfit::compact(cache, queries, bound(options), stop, threads);
    if (!fitted) return fitted.error();
    return kvfit::compiled::to_plain(std::move(*fitted));
  });
}

result<std::vector<plain_rows>> compact_progressive(const kvfit::kv_block& cache,
                                                    const kvfit::query_set& queries,
                                                    const kvfit::compact_options& options,
                                                    std::span<const index_t> budgets,
                                                    const kvfit::stop_when& stop) {
  return kvfit::detail::catch_bad_alloc(
      "compact_progressive", [&]() -> result<std::vector<plain_rows>> {
        auto fitted = kvfit::compact_progressive(cache, queries, bound(options), budgets, stop);
        if (!fitted) return fitted.error();
        std::vector<plain_rows> all;
        all.reserve(fitted->size());
        for (auto& rows : *fitted) all.push_back(kvfit::compiled::to_plain(std::move(rows)));
        return all;
      });
}

result<kvfit::memory_report> planned_memory(const kvfit::compaction_sizes& sizes,
                                            const kvfit::compact_options& options) {
  return kvfit::detail::catch_bad_alloc(
      "planned_memory", [&] { return kvfit::planned_memory(sizes, bound(options)); });
}

constexpr kvfit::compiled::compact_entry_points compact_here{&compact, &compact_progressive,
                                                             &planned_memory};

result<void> attend(const kvfit::query_set& queries, std::span<const kvfit::kv_block> blocks,
                    const kvfit::logit_rule& rule, const kvfit::attend_options& options,
                    const kvfit::output_owner& into) {
  return kvfit::detail::catch_bad_alloc(
      "attend", [&] { return kvfit::detail::attend_blocks(queries, blocks, rule, options, into); });
}

result<void> score_pass(const kvfit::kv_block& cache, const kvfit::query_set& queries,
                        const kvfit::logit_rule& rule, const kvfit::score_options& options,
                        const kvfit::stop_when& stop, const kvfit::executor_ref& threads,
                        const kvfit::scores_owner& into) {
  return kvfit::detail::catch_bad_alloc("score_pass", [&] {
    return kvfit::detail::check_and_score(cache, queries, rule, options, stop, threads, into);
  });
}

constexpr kvfit::compiled::attention_entry_points attention_here{
    &attend, &kvfit::detail::attend_blocks_bytes, &score_pass, &kvfit::detail::checked_scores_bytes,
    &kvfit::detail::compare_rows};

result<kvfit::cache_plan> plan_cache(const kvfit::cache_view& cache,
                                     const kvfit::cache_queries& queries,
                                     const kvfit::cache_options& options,
                                     const kvfit::executor_ref& threads, const kvfit::watch& by) {
  return kvfit::detail::catch_bad_alloc("plan_cache", [&] {
    kvfit::detail::head_exchange alone;
    return kvfit::detail::plan_heads(alone, cache, queries, bound(options), threads, by);
  });
}

/// Hands heads over as plain rows.
auto given_to(const head_taker& taker) {
  return [&taker](std::size_t place, kvfit::compacted_head&& head) {
    return taker.take(taker.owner, place, kvfit::compiled::to_plain(std::move(head)));
  };
}

result<void> compact_heads(const kvfit::cache_view& cache, const kvfit::cache_plan& plan,
                           const kvfit::cache_options& options, const kvfit::executor_ref& threads,
                           const kvfit::watch& by, const head_taker& taker) {
  return kvfit::detail::catch_bad_alloc("compact_heads", [&] {
    return kvfit::detail::compact_tasks(cache, plan, bound(options), threads, given_to(taker), by);
  });
}

result<void> refit_layer(const kvfit::cache_layer& layer,
                         std::span<const std::vector<index_t>> rows,
                         std::span<const kvfit::query_block> queries,
                         const kvfit::compact_options& options, const kvfit::executor_ref& threads,
                         const kvfit::watch& by, const head_taker& taker) {
  return kvfit::detail::catch_bad_alloc("refit_layer", [&] {
    return kvfit::detail::refit_tasks(layer, rows, queries, bound(options), threads,
                                      given_to(taker), by);
  });
}

result<std::vector<index_t>> shared_rows(const kvfit::cache_layer& layer,
                                         const kvfit::compacted_layer& fitted,
                                         std::span<const kvfit::head_task> tasks,
                                         const kvfit::compact_options& options, index_t most,
                                         const kvfit::stop_when& stop) {
  return kvfit::detail::catch_bad_alloc("share_positions", [&] {
    return kvfit::detail::shared_rows(layer, fitted, tasks, bound(options), most, stop);
  });
}

constexpr kvfit::compiled::cache_entry_points cache_here{&plan_cache, &compact_heads, &refit_layer,
                                                         &shared_rows};

}  // namespace

extern "C" void KVFIT_ENTRY_POINTS(kvfit::compiled::entry_points& into) {
  static const auto selections = kvfit::any_selection::known_functions<kvfit::isa_tag>();
  static const auto biases = kvfit::any_bias::known_functions<kvfit::isa_tag>();
  static const auto values = kvfit::any_values::known_functions<kvfit::isa_tag>();
  static const auto gradients = kvfit::any_gradient::known_functions<kvfit::isa_tag>();
  into = {.isa = kvfit::detail::isa_name(KVFIT_STRING(KVFIT_ISA_D)),
          .attention = &attention_here,
          .compact = &compact_here,
          .cache = &cache_here,
          .selections = selections,
          .biases = biases,
          .values = values,
          .gradients = gradients};
}
