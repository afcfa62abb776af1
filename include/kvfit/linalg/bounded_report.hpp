// SPDX-License-Identifier: MIT
/// What a bounded least-squares solver says of its answer.
#pragma once

#include <cstdint>
#include <string_view>

#include "kvfit/core/index.hpp"

namespace kvfit::linalg {

enum class bounded_status : std::uint8_t {
  optimal,           ///< the KKT residual is within the tolerance asked for
  iteration_limit,   ///< it is not (yet): the best weights found are returned
  diverged,          ///< the step was too long and the loss rose: the best weights are returned
  non_finite_input,  ///< NaN or infinity in the data: the clipped start (or 0) is returned
};

/// The status's name, as written above.
constexpr std::string_view name(bounded_status status) noexcept {
  switch (status) {
    case bounded_status::optimal:
      return "optimal";
    case bounded_status::iteration_limit:
      return "iteration_limit";
    case bounded_status::diverged:
      return "diverged";
    case bounded_status::non_finite_input:
      return "non_finite_input";
  }
  return "unknown";
}

struct bounded_report {
  bounded_status status = bounded_status::iteration_limit;
  int iterations = 0;           ///< gradient steps, or rounds of pivoting
  int factorizations = 0;       ///< Cholesky factors computed
  double objective = 0;         ///< ½‖M w − y‖² of the returned weights
  double start_objective = 0;   ///< the same of the clipped start (of clipped 0 if none was given)
  double kkt_residual = 0;      ///< see `kkt_residual()`; relative
  index_t at_lower = 0;         ///< weights that sit exactly on the lower bound
  index_t at_upper = 0;         ///< and on the upper one
  bool rank_deficient = false;  ///< a factor met dependent columns: other weights may fit as well
};

}  // namespace kvfit::linalg
