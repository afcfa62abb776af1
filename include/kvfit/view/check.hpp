// SPDX-License-Identifier: MIT
/// Finds what must not be in a view: no memory, no rows, NaN or infinity.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/finite.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/view/load.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Loads rows of a view as `load_rows` does; `context` is the caller's.
using rows_loader = float_tile (*)(const row_view& view, const void* context, index_t first,
                                   index_t count, float* buffer) noexcept;

/// Rows of so many columns that are checked together: tiles, as rows of transposed memory,
/// quantised above all, are costly one by one.
constexpr index_t checked_rows(index_t cols) noexcept {
  return std::clamp<index_t>(65536 / cols, 1, block_length);
}

/// `check_view` with rows by `load`.
inline result<void> check_rows_loaded(const row_view& view, std::string_view argument,
                                      rows_loader load, const void* context) {
  if (view.rows() <= 0 || view.cols() <= 0) {
    return error{
        errc::empty_input, std::string(argument), view.rows(), error::none,
        std::to_string(view.rows()) + " rows x " + std::to_string(view.cols()) + " columns"};
  }
  if (!view.is_backed()) return error{errc::null_data, std::string(argument)};
  const index_t tile_rows = checked_rows(view.cols());
  std::vector<float> buffer(static_cast<std::size_t>(tile_rows * view.cols()));
  for (index_t first = 0; first < view.rows(); first += tile_rows) {
    const index_t count = (std::min)(tile_rows, view.rows() - first);
    const float_tile tile = load(view, context, first, count, buffer.data());
    for (index_t i = 0; i < count; ++i) {
      const index_t at = detail::first_non_finite(tile.data + i * tile.stride, view.cols());
      if (at < view.cols()) return error{errc::non_finite, std::string(argument), first + i, at};
    }
  }
  return {};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// `null_data`, `empty_input` or `non_finite` (row, column) where `view` is not a usable matrix.
/// Cost: one read of the view; allocates a tile of at most 32 rows and 256 KB, or one row.
inline result<void> check_view(const row_view& view, std::string_view argument) {
  return detail::check_rows_loaded(
      view, argument,
      [](const row_view& of, const void* /*context*/, index_t first, index_t count,
         float* buffer) noexcept { return load_rows(of, first, count, buffer); },
      nullptr);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
