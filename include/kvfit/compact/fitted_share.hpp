// SPDX-License-Identifier: MIT
/// How many of the queries given a fit looks at.
#pragma once

#include <algorithm>

#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"

namespace kvfit::detail::inline KVFIT_ISA {

/// The share of the `given` queries not held out that is fitted on, for `budget` rows: see
/// `compaction::queries_per_row`.
template <class Options>
double fitted_share(const Options& options, index budget, index given) {
  if (options.queries_per_row == 0) return 1;
  const double wanted =
      std::max(static_cast<double>(options.queries_per_row) * static_cast<double>(budget),
               static_cast<double>(options.queries_at_least));
  const double open = static_cast<double>(given) * (1 - options.held_out);
  return std::min(1.0, wanted / std::max(open, 1.0));
}

}  // namespace kvfit::detail::inline KVFIT_ISA
