// SPDX-License-Identifier: MIT
#include "compiled/header_only.hpp"

#include "kvfit/cache/refit.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/selection/omp.hpp"

#if defined(KVFIT_COMPILED)
#error "this file is to have all of kvfit in it"
#endif

namespace kvfit_test::header_only {

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

kvfit::any_selection omp() {
  return kvfit::selection::omp{};
}

}  // namespace kvfit_test::header_only
