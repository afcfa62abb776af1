// SPDX-License-Identifier: MIT
/// Rows of a view as fp32 tiles: in place where they already are, converted otherwise.
#pragma once

#include <algorithm>
#include <span>

#include "kvfit/core/config.hpp"
#include "kvfit/simd/convert.hpp"
#include "kvfit/simd/prefetch.hpp"
#include "kvfit/view/decode.hpp"
#include "kvfit/view/row_view.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Rows first … first + count − 1 of a view that is not plain, cols floats each.
inline void decode_rows(const row_view& view, index_t first, index_t count, float* out) noexcept {
  const row_view::window& where = view.where();
  const index_t cols = view.cols();
  if (where.is_transposed) {
    const stepped memory_rows{where.first_row, where.row_step, cols};
    const stepped memory_cols{where.first_col + first * where.col_step, where.col_step, count};
    return decode_part(view.memory(), memory_rows, memory_cols, {out, 1, cols});
  }
  const stepped memory_rows{where.first_row + first * where.row_step, where.row_step, count};
  const stepped memory_cols{where.first_col, where.col_step, cols};
  decode_part(view.memory(), memory_rows, memory_cols, {out, cols, 1});
}

/// Rows of fp32 in neighbouring slots, each contiguous, or nothing.
inline const float* rows_in_place(const row_view& view, index_t first, index_t count) noexcept {
  const row_memory& memory = view.memory();
  const row_view::window& where = view.where();
  if (memory.type != dtype::fp32 || memory.col_stride != 1 || memory.row_stride < 0 ||
      where.is_transposed || where.col_step != 1 || where.row_step != 1) {
    return nullptr;
  }
  const index_t row = where.first_row + first;
  if (memory.map.run(row, count) < count) return nullptr;
  return reinterpret_cast<const float*>(memory.address(memory.offset(row, where.first_col)));
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// Some rows as fp32: row i starts at `data + i · stride`, its columns are contiguous.
struct float_tile {
  const float* data = nullptr;
  index_t stride = 0;
};

// Neither of the two is inlined: what decodes every type is compiled once, not at every caller.

/// Writes row `i` of `view` to `out` (cols floats). No allocation.
[[gnu::noinline]] inline void load_row(const row_view& view, index_t i, float* out) noexcept {
  const index_t cols = view.cols();
  if (cols <= 0) return;
  if (!view.is_plain()) return detail::decode_rows(view, i, 1, out);
  if (view.col_stride() == 1) {
    simd::widen(view.type(), view.address(i, 0), out, cols);
    return;
  }
  for (index_t j = 0; j < cols; ++j) out[j] = view(i, j);
}

/// Rows first … first + count − 1 as fp32. Returns the memory of the view itself where its rows are
/// contiguous fp32 in ascending order (rows by number or in pages: in neighbouring slots), else
/// fills `buffer` (count × cols floats). The tile's stride is never negative: Eigen's maps refuse
/// that. No allocation.
[[gnu::noinline]] inline float_tile load_rows(const row_view& view, index_t first, index_t count,
                                              float* buffer) noexcept {
  if (count <= 0 || view.cols() <= 0) return {buffer, view.cols()};
  if (!view.is_plain()) {
    if (const float* rows = detail::rows_in_place(view, first, count); rows != nullptr) {
      return {rows, view.memory().row_stride};
    }
    detail::decode_rows(view, first, count, buffer);
    return {buffer, view.cols()};
  }
  if (view.type() == dtype::fp32 && view.col_stride() == 1 && view.row_stride() >= 0) {
    return {reinterpret_cast<const float*>(view.address(first, 0)), view.row_stride()};
  }
  const index_t cols = view.cols();
  if (view.row_stride() == 1 && view.col_stride() != 1) {
    // Transposed memory: walk along the contiguous direction, or every element costs a cache line.
    detail::decode_by_cols(view.memory(), {first, 1, count}, {0, 1, cols}, {buffer, cols, 1});
    return {buffer, cols};
  }
  for (index_t i = 0; i < count; ++i) load_row(view, first + i, buffer + i * cols);
  return {buffer, cols};
}

/// The memory of rows first … first + count − 1, as far as there are any, to be fetched while
/// something else is computed. None where it lies scattered: there the rows would have to be
/// fetched one by one. No allocation.
inline simd::prefetch_range memory_of_rows(const row_view& view, index_t first,
                                           index_t count) noexcept {
  count = (std::min)(count, view.rows() - first);
  if (count <= 0 || view.empty() || !view.is_plain() || view.col_stride() != 1) return {};
  const index_t stride = view.row_stride();
  if (stride < view.cols() || stride > 2 * view.cols()) return {};
  const auto size = static_cast<index_t>(size_of(view.type()));
  return {view.address(first, 0), ((count - 1) * stride + view.cols()) * size};
}

/// The rows numbered `rows`, gathered into a fresh matrix (|rows| × cols).
inline matrix gather_rows(const row_view& view, std::span<const index_t> rows) {
  matrix gathered(static_cast<index_t>(rows.size()), view.cols());
  float* to = gathered.data();
  for (const index_t row : rows) {
    load_row(view, row, to);
    to += view.cols();
  }
  return gathered;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
