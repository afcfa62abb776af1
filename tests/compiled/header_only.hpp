// SPDX-License-Identifier: MIT
/// kvfit as a file has it that does not link kvfit::compiled (header_only.cpp).
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "kvfit/attention/attend_options.hpp"
#include "kvfit/attention/fidelity.hpp"
#include "kvfit/attention/output.hpp"
#include "kvfit/attention/score_options.hpp"
#include "kvfit/attention/scores.hpp"
#include "kvfit/cache/cache_options.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/compact/compacted.hpp"
#include "kvfit/compact/options.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/progress.hpp"
#include "kvfit/parallel/stop.hpp"

namespace kvfit_test::header_only {

/// The instruction set of that file.
std::string_view isa();

kvfit::result<kvfit::compacted> compact(const kvfit::kv_block& cache,
                                        const kvfit::query_set& queries,
                                        const kvfit::compact_options& options);

kvfit::result<kvfit::compacted_layer> refit_layer(const kvfit::cache_layer& layer,
                                                  std::span<const std::vector<kvfit::index_t>> rows,
                                                  std::span<const kvfit::query_block> queries,
                                                  const kvfit::compact_options& options);

kvfit::result<kvfit::attention_output> attend(const kvfit::query_set& queries,
                                              std::span<const kvfit::kv_block> blocks,
                                              const kvfit::logit_rule& rule,
                                              const kvfit::attend_options& options);

kvfit::result<kvfit::attention_scores> score_pass(const kvfit::kv_block& cache,
                                                  const kvfit::query_set& queries,
                                                  const kvfit::logit_rule& rule,
                                                  const kvfit::score_options& options,
                                                  const kvfit::stop_when& stop);

kvfit::fidelity compare(const kvfit::attention_output& full, const kvfit::attention_output& fitted);

kvfit::result<kvfit::compacted_cache> compact_cache(const kvfit::cache_view& cache,
                                                    const kvfit::cache_queries& queries,
                                                    const kvfit::cache_options& options,
                                                    const kvfit::watch& by);

kvfit::result<kvfit::compacted_layer> share_positions(const kvfit::cache_layer& layer,
                                                      const kvfit::compacted_layer& fitted,
                                                      std::span<const kvfit::query_block> queries,
                                                      const kvfit::compact_options& options,
                                                      kvfit::index_t most_rows);

/// A handle with that file's own functions.
kvfit::any_selection omp();

}  // namespace kvfit_test::header_only
