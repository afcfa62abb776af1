// SPDX-License-Identifier: MIT
/// Rows of a block that its bias does not hide: read without touching the others.
#pragma once

#include <algorithm>
#include <limits>
#include <span>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/view/load.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

inline bool hides(float bias) noexcept {
  return bias == -std::numeric_limits<float>::infinity();
}

/// The first of the rows first … end − 1 whose bias does, or does not, hide it; else `end`.
inline index_t next_row(std::span<const float> bias, index_t first, index_t end,
                        bool is_hidden) noexcept {
  while (first < end && hides(bias[static_cast<std::size_t>(first)]) != is_hidden) ++first;
  return first;
}

/// `load_rows` of keys or values whose rows have `bias` (empty: none), with zeros in the place of
/// hidden rows, which are not read. `buffer`: count × cols floats. The same tile where none of the
/// rows is hidden. No allocation.
inline float_tile load_visible_rows(const row_view& view, std::span<const float> bias,
                                    index_t first, index_t count, float* buffer) noexcept {
  const index_t end = first + count;
  if (bias.empty() || next_row(bias, first, end, true) == end) {
    return load_rows(view, first, count, buffer);
  }
  const index_t cols = view.cols();
  for (index_t begin = first; begin < end;) {
    float* const to = buffer + (begin - first) * cols;
    const bool is_hidden = hides(bias[static_cast<std::size_t>(begin)]);
    const index_t stop = next_row(bias, begin, end, !is_hidden);
    if (is_hidden) {
      std::fill(to, to + (stop - begin) * cols, 0.0F);
    } else {
      const float_tile part = load_rows(view, begin, stop - begin, to);
      for (index_t i = 0; part.data != to && i < stop - begin; ++i) {
        std::copy(part.data + i * part.stride, part.data + i * part.stride + cols, to + i * cols);
      }
    }
    begin = stop;
  }
  return {buffer, cols};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
