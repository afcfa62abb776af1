// SPDX-License-Identifier: MIT
/// Ways to give kept keys their values. Plain settings; the code of each stands in a header of its
/// own.
#pragma once

#include "kvfit/attention/output_weighting.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/linalg/least_squares_options.hpp"

namespace kvfit::values {

/// The most queries or keys, whichever are fewer, that a ridge is cross-validated for.
inline constexpr index_t cross_validated_at_most = 512;

/// min_C ‖F (X C − Y)‖²_F + λ‖C − C₀‖²_F, X the n × t softmax weights, Y the full outputs, F by
/// `output_weighting`.
///
/// Solved in values/least_squares.hpp. C₀ is 0 as published, or the kept rows' own values: then
/// whatever the queries do not determine (fewer queries than keys, keys that none of them attends
/// to) stays as it was instead of going to 0.
struct least_squares {
  linalg::least_squares_method method = linalg::least_squares_method::ranked;
  linalg::ridge_mode ridge_scaling = linalg::ridge_mode::none;
  double ridge = 0;  ///< ≥ 0; λ = ridge × ‖FX‖₂², × ‖FX‖_F²/t, or × 1
  /// Where no ridge is asked for (`ridge_scaling` none) and the queries are fewer than this many
  /// times the keys, ≥ 0, λ is what generalised cross-validation calls for, on the rows as
  /// `weighting` has them. 0: never. Nor where queries and keys both are more than
  /// `cross_validated_at_most`: its cost grows with the cube of the smaller number.
  double cross_validate_below = 16;
  bool toward_original = true;
  output_weighting weighting = output_weighting::absolute;
  /// Fits more, each with row i of the one before divided by the square root of its error: they
  /// tend from the least mean square to the least mean of the errors, which outliers rule less, ≥
  /// 0.
  int reweightings = 0;

  friend bool operator==(const least_squares&, const least_squares&) = default;
};

/// min_C ‖X C − Y‖²_F + λ‖C‖²_F as the published code solves it: QR in fp32, full rank assumed
/// (values/unpivoted_qr.hpp).
struct unpivoted_qr {
  linalg::ridge_mode ridge_scaling = linalg::ridge_mode::none;
  double ridge = 0;  ///< ≥ 0; λ = ridge × ‖X‖₂², × ‖X‖_F²/t, or × 1

  friend bool operator==(const unpivoted_qr&, const unpivoted_qr&) = default;
};

/// The kept rows keep their own values (values/copy.hpp).
struct copy {};

}  // namespace kvfit::values
