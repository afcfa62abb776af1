// SPDX-License-Identifier: MIT
/// What the pieces that solvers share hold at most.
#pragma once

#include <algorithm>

#include "kvfit/core/bytes.hpp"
#include "kvfit/linalg/detail/strips.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {
namespace detail {

/// `cols` rounded up to whole strips.
constexpr index_t whole_strips(index_t cols) noexcept {
  return (cols + strip_width - 1) / strip_width * strip_width;
}

/// Strips of a matrix of `rows` rows taken into doubles.
constexpr double strips_bytes(index_t rows, index_t cols) noexcept {
  return double_bytes(std::min(rows, strip_rows), whole_strips(cols));
}

/// Work space of a triangular factor or solve of `size` equations and `cols` right-hand sides.
constexpr double triangular_bytes(index_t size, index_t cols) noexcept {
  return double_bytes(std::min(size, strip_rows), whole_strips(size) + whole_strips(cols));
}

/// `strip_qr` of rows × cols, tall.
constexpr double strip_qr_bytes(index_t rows, index_t cols) noexcept {
  constexpr index_t panels = 16 + 2;
  return float_bytes(rows, whole_strips(cols)) + float_bytes(cols, cols) +
         float_bytes(whole_strips(cols), strip_width) + float_bytes(panels, rows) +
         double_bytes(8, cols);
}

}  // namespace detail
}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
