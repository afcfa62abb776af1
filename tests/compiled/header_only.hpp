// SPDX-License-Identifier: MIT
/// kvfit as a file has it that does not link kvfit::compiled (header_only.cpp).
#pragma once

#include <span>
#include <vector>

#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/compact/compacted.hpp"
#include "kvfit/compact/options.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit_test::header_only {

kvfit::result<kvfit::compacted> compact(const kvfit::kv_block& cache,
                                        const kvfit::query_set& queries,
                                        const kvfit::compact_options& options);

kvfit::result<kvfit::compacted_layer> refit_layer(const kvfit::cache_layer& layer,
                                                  std::span<const std::vector<kvfit::index_t>> rows,
                                                  std::span<const kvfit::query_block> queries,
                                                  const kvfit::compact_options& options);

/// A handle with that file's own functions.
kvfit::any_selection omp();

}  // namespace kvfit_test::header_only
