// SPDX-License-Identifier: MIT
/// Parts of a `row_memory` as fp32, for views that are not plain. Include kvfit/view/load.hpp.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cstddef>

#include "kvfit/core/config.hpp"
#include "kvfit/simd/blocks.hpp"
#include "kvfit/simd/convert.hpp"
#include "kvfit/view/row_memory.hpp"

namespace kvfit::detail::inline KVFIT_ISA {

/// Numbers first, first + step, …: `count` of them.
struct stepped {
  index first = 0;
  index step = 1;
  index count = 0;

  [[nodiscard]] index at(index k) const noexcept { return first + k * step; }
};

/// Where element (k, l) of what is decoded goes: data + k · row_gap + l · col_gap.
struct decode_target {
  float* data;
  index row_gap;
  index col_gap;
};

/// Contiguous numbers offset … offset + count − 1 of memory, `gap` floats apart; int8 unscaled.
inline void decode_run(const row_memory& memory, index offset, index count, float* out, index gap) {
  const auto widen = [&](index from, index n, float* to) {
    if (is_block(memory.type)) {
      simd::widen_blocks(memory.type, memory.data, from, n, to);
    } else {
      simd::widen(memory.type, memory.address(from), to, n);
    }
  };
  if (gap == 1) return widen(offset, count, out);
  constexpr index piece = 256;
  std::array<float, piece> buffer;  // NOLINT(*-init)
  for (index first = 0; first < count; first += piece) {
    const index n = std::min(piece, count - first);
    widen(offset + first, n, buffer.data());
    for (index k = 0; k < n; ++k) out[(first + k) * gap] = buffer[static_cast<std::size_t>(k)];
  }
}

/// Multiplies decoded int8 by their scales.
inline void apply_scales(const row_memory& memory, stepped rows, stepped cols,
                         decode_target out) noexcept {
  const index group = memory.scales.group;
  for (index k = 0; k < rows.count; ++k) {
    float* row = out.data + k * out.row_gap;
    for (index l = 0; l < cols.count;) {
      const index col = cols.at(l);
      const float scale = memory.scale(rows.at(k), col);
      const index end =
          std::min(cols.count, l + ((col / group + 1) * group - col + cols.step - 1) / cols.step);
      for (; l < end; ++l) row[l * out.col_gap] *= scale;
    }
  }
}

inline void decode_own_format(const row_memory& memory, stepped rows, stepped cols,
                              decode_target out) noexcept {
  std::array<float, static_cast<std::size_t>(decoded_cols_limit)> whole;  // NOLINT(*-init)
  const bool is_direct = cols.count == memory.cols && cols.step == 1 && out.col_gap == 1;
  for (index k = 0; k < rows.count; ++k) {
    float* const row = out.data + k * out.row_gap;
    float* const decoded = is_direct ? row : whole.data();
    memory.decode(memory.data, memory.map.slot(rows.at(k)), decoded);
    if (is_direct) continue;
    for (index l = 0; l < cols.count; ++l) row[l * out.col_gap] = decoded[cols.at(l)];
  }
}

/// Elements rows × cols of `memory`, walked along its contiguous direction where it has one. No
/// allocation.
inline void decode_part(const row_memory& memory, stepped rows, stepped cols,
                        decode_target out) noexcept {
  if (memory.type == dtype::decoded) return decode_own_format(memory, rows, cols, out);
  if (memory.col_stride == 1 && cols.step == 1) {
    for (index k = 0; k < rows.count; ++k) {
      decode_run(memory, memory.offset(rows.at(k), cols.first), cols.count,
                 out.data + k * out.row_gap, out.col_gap);
    }
  } else if (memory.row_stride == 1 && rows.step == 1 && !memory.map.is_listed()) {
    for (index k = 0; k < rows.count;) {
      const index count = std::min(rows.count - k, memory.map.run(rows.at(k)));
      for (index l = 0; l < cols.count; ++l) {
        decode_run(memory, memory.offset(rows.at(k), cols.at(l)), count,
                   out.data + k * out.row_gap + l * out.col_gap, out.row_gap);
      }
      k += count;
    }
  } else {
    for (index k = 0; k < rows.count; ++k) {
      for (index l = 0; l < cols.count; ++l) {
        out.data[k * out.row_gap + l * out.col_gap] = memory.element(rows.at(k), cols.at(l));
      }
    }
    return;  // with their scales
  }
  if (memory.type == dtype::int8) apply_scales(memory, rows, cols, out);
}

}  // namespace kvfit::detail::inline KVFIT_ISA
