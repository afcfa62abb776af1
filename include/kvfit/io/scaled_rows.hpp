// SPDX-License-Identifier: MIT
/// Rows of F8 numbers that are multiplied by scales, as captures have them.
#pragma once

#include <cstddef>
#include <cstring>

#include "kvfit/core/config.hpp"
#include "kvfit/core/element.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/simd/convert.hpp"
#include "kvfit/view/row_memory.hpp"

namespace kvfit {

/// rows × cols numbers of fp8, row-major: row r is its numbers times scales[r / rows_a_scale].
struct scaled_rows {
  const std::byte* data = nullptr;
  dtype type = dtype::fp8_e4m3;
  index_t cols = 0;
  const float* scales = nullptr;
  index_t rows_a_scale = 1;  ///< ≥ 1: consecutive rows that share a scale
};

}  // namespace kvfit

namespace kvfit::inline KVFIT_ISA {

namespace io_detail {

/// `decode_row` of `scaled_rows`.
inline void decode_scaled_row(const void* context, index_t row, float* out) noexcept {
  const auto& rows = *static_cast<const scaled_rows*>(context);
  simd::widen(rows.type, rows.data + row * rows.cols, out, rows.cols);
  const float scale = rows.scales[row / rows.rows_a_scale];
  for (index_t k = 0; k < rows.cols; ++k) out[k] *= scale;
}

}  // namespace io_detail

}  // namespace kvfit::inline KVFIT_ISA
