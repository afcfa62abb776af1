// SPDX-License-Identifier: MIT
/// How close compact attention comes to full attention, query by query.
#pragma once

#include "kvfit/attention/fidelity.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"

#if defined(KVFIT_COMPILED)
#include "kvfit/attention/compiled.hpp"
#else
#include "kvfit/attention/compare_rows.hpp"
#endif

namespace kvfit {
inline namespace KVFIT_ISA {

/// Compares two attention results row by row, in double (the metrics of the paper's evaluation,
/// without the constants that the published code adds to its denominators).
///
/// `output`, `fitted`: n × d_v; log-masses: n, natural log. Queries that see no key (log-mass −∞ on
/// both sides) are left out. n = 0 gives no error. Sizes must be the same on both sides (asserted).
/// No allocation.
inline fidelity compare(const matrix& output, const vector& log_mass, const matrix& fitted,
                        const vector& fitted_log_mass) noexcept {
#if defined(KVFIT_COMPILED)
  return compiled::best_attention().compare(output, log_mass, fitted, fitted_log_mass);
#else
  return detail::compare_rows(output, log_mass, fitted, fitted_log_mass);
#endif
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
