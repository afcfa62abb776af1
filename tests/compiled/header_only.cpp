// SPDX-License-Identifier: MIT
#include "compiled/header_only.hpp"

#include "kvfit/attention/attend.hpp"
#include "kvfit/attention/compare.hpp"
#include "kvfit/attention/score_pass.hpp"
#include "kvfit/cache/compact_cache.hpp"
#include "kvfit/cache/refit.hpp"
#include "kvfit/cache/shared_positions.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/core/active_isa.hpp"
#include "kvfit/parallel/serial.hpp"
#include "kvfit/selection/omp.hpp"

#if defined(KVFIT_COMPILED)
#error "this file is to have all of kvfit in it"
#endif

namespace kvfit_test::header_only {

std::string_view isa() {
  return kvfit::active_isa();
}

kvfit::result<kvfit::compacted> compact(const kvfit::kv_block& cache,
                                        const kvfit::query_set& queries,
                                        const kvfit::compact_options& options) {
  return kvfit::compact(cache, queries, options);
}

kvfit::result<kvfit::compacted_layer> refit_layer(const kvfit::cache_layer& layer,
                                                  std::span<const std::vector<kvfit::index_t>> rows,
                                                  std::span<const kvfit::query_block> queries,
                                                  const kvfit::compact_options& options) {
  return kvfit::refit_layer(layer, rows, queries, options);
}

kvfit::result<kvfit::attention_output> attend(const kvfit::query_set& queries,
                                              std::span<const kvfit::kv_block> blocks,
                                              const kvfit::logit_rule& rule,
                                              const kvfit::attend_options& options) {
  return kvfit::attend(queries, blocks, rule, options);
}

kvfit::result<kvfit::attention_scores> score_pass(const kvfit::kv_block& cache,
                                                  const kvfit::query_set& queries,
                                                  const kvfit::logit_rule& rule,
                                                  const kvfit::score_options& options,
                                                  const kvfit::stop_when& stop) {
  return kvfit::score_pass(cache, queries, rule, options, stop);
}

kvfit::fidelity compare(const kvfit::attention_output& full,
                        const kvfit::attention_output& fitted) {
  return kvfit::compare(full.output, full.log_mass, fitted.output, fitted.log_mass);
}

kvfit::result<kvfit::compacted_cache> compact_cache(const kvfit::cache_view& cache,
                                                    const kvfit::cache_queries& queries,
                                                    const kvfit::cache_options& options,
                                                    const kvfit::watch& by) {
  return kvfit::compact_cache(cache, queries, options, kvfit::serial{}, by);
}

kvfit::result<kvfit::compacted_layer> share_positions(const kvfit::cache_layer& layer,
                                                      const kvfit::compacted_layer& fitted,
                                                      std::span<const kvfit::query_block> queries,
                                                      const kvfit::compact_options& options,
                                                      kvfit::index_t most_rows) {
  return kvfit::share_positions(layer, fitted, queries, options, most_rows);
}

kvfit::any_selection omp() {
  return kvfit::selection::omp{};
}

}  // namespace kvfit_test::header_only
