// SPDX-License-Identifier: MIT
/// The right-hand side of the weighted mass equation, and what its bounds must be.
#pragma once

#include <string>
#include <vector>

#include "kvfit/attention/mass_row.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/core/workspace.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// One number each per query.
struct mass_target {
  vector target;                ///< of the equation before row factors
  std::vector<double> factors;  ///< 0 where a query sees nothing

  void declare(workspace& space, index_t queries) { space.add_vectors(queries, target, factors); }
};

inline mass_target mass_target_of(const attention_scores& scores, index_t n,
                                  mass_weighting weighting) {
  mass_target out;
  make_room(out, n);
  for (index_t i = 0; i < n; ++i) {
    const mass_row row = weighted_mass_row(scores, i, weighting);
    out.factors[static_cast<std::size_t>(i)] = static_cast<double>(row.factor);
    out.target[i] = row.factor > 0 ? row.target / row.factor : 0.0F;
  }
  return out;
}

/// The bounds must be 0 < lower ≤ upper and lower < 1e30.
inline result<void> check_bounds(const char* policy, double lower, double upper) {
  if (!(lower > 0 && lower < 1e30)) {
    return refuse_number(std::string(policy) + ".lower", lower, "must be above 0 and below 1e30");
  }
  if (!(upper >= lower)) {
    return refuse_number(std::string(policy) + ".upper", upper,
                         "must be at least lower, " + number_text(lower));
  }
  return {};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
