// SPDX-License-Identifier: MIT
/// How `least_squares` is asked, and what it answers.
#pragma once

#include <cstdint>
#include <string_view>

#include "kvfit/core/index.hpp"
#include "kvfit/core/matrix.hpp"

namespace kvfit::linalg {

/// The solver to begin with.
enum class least_squares_method : std::uint8_t {
  ranked,    ///< exact in double; minimum norm where n < t or columns depend
  cholesky,  ///< of XᵀX + λI, or of XXᵀ + λI where n < t; in fp32 where its condition allows it
};

/// λ = ridge × ‖X‖₂², × ‖X‖_F²/t, or × 1, as the published code scales it.
enum class ridge_mode : std::uint8_t { none, spectral, frobenius, fixed };

/// Settings of `least_squares`.
struct least_squares_options {
  least_squares_method method = least_squares_method::ranked;
  ridge_mode mode = ridge_mode::none;
  double ridge = 0;  ///< ≥ 0; ignored by `ridge_mode::none`
  /// Directions of X below this fraction of its largest are taken for noise. 0: ε₃₂·√max(n, t),
  /// what random fp32 rounding of the entries adds. `truncated` can't tell less than 2⁻²⁴ √min(n,
  /// t) from rounding.
  double rank_tolerance = 0;
};

/// What computed the coefficients.
enum class least_squares_tier : std::uint8_t {
  none,           ///< nothing to solve, or input that is not finite: C is C₀ (or 0)
  truncated,      ///< eigenvectors of the Gram matrix above the tolerance: minimum norm
  qr_unpivoted,   ///< Householder QR in fp32, nothing truncated
  cholesky,       ///< of XᵀX + λI, t × t
  cholesky_dual,  ///< of XXᵀ + λI, n × n
};

/// What became of the system.
enum class least_squares_status : std::uint8_t {
  solved,
  rank_deficient,    ///< dependent columns (or n < t): the minimum-norm or regularised answer
  overflow,          ///< some coefficient exceeds fp32 and was clamped to its largest number
  non_finite_input,  ///< NaN or infinity in X, Y or C₀: C is 0
};

/// How the solution was found.
struct least_squares_report {
  least_squares_status status = least_squares_status::solved;
  least_squares_tier tier = least_squares_tier::none;
  bool escalated = false;  ///< λ was raised above the one asked for: a factorization failed
  /// Directions of X (with the ridge, of [X; √λ I]) above the tolerance; an estimate from pivots,
  /// and where fp32 escalated λ, those that √λ does not drown.
  index_t rank = 0;
  double lambda = 0;  ///< the λ used
  /// Estimate, from below, of the condition number of what was inverted: X or [X; √λ I], restricted
  /// to the directions kept.
  double condition = 1;
  bool finite = true;  ///< false with `overflow` and `non_finite_input`; C itself always is finite
};

/// What `least_squares` returns.
struct least_squares_fit {
  kvfit::matrix coefficients;  ///< C, t × d
  least_squares_report report;
};

/// The names as written above.
constexpr std::string_view name(least_squares_tier tier) noexcept {
  switch (tier) {
    case least_squares_tier::none:
      return "none";
    case least_squares_tier::truncated:
      return "truncated";
    case least_squares_tier::qr_unpivoted:
      return "qr_unpivoted";
    case least_squares_tier::cholesky:
      return "cholesky";
    case least_squares_tier::cholesky_dual:
      return "cholesky_dual";
  }
  return "unknown";
}

/// The names as written above.
constexpr std::string_view name(least_squares_status status) noexcept {
  switch (status) {
    case least_squares_status::solved:
      return "solved";
    case least_squares_status::rank_deficient:
      return "rank_deficient";
    case least_squares_status::overflow:
      return "overflow";
    case least_squares_status::non_finite_input:
      return "non_finite_input";
  }
  return "unknown";
}

}  // namespace kvfit::linalg
