// SPDX-License-Identifier: MIT
/// Parts of a `row_memory` as fp32. Include kvfit/view/load.hpp.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include "kvfit/core/config.hpp"
#include "kvfit/simd/blocks.hpp"
#include "kvfit/simd/convert.hpp"
#include "kvfit/view/row_memory.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Numbers first, first + step, …: `count` of them.
struct stepped {
  index_t first = 0;
  index_t step = 1;
  index_t count = 0;

  [[nodiscard]] index_t at(index_t k) const noexcept { return first + k * step; }
};

/// Where element (k, l) of what is decoded goes: data + k · row_gap + l · col_gap.
struct decode_target {
  float* data;
  index_t row_gap;
  index_t col_gap;
};

/// Contiguous numbers offset … offset + count − 1 of memory, `gap` floats apart; without scales.
inline void decode_run(const row_memory& memory, index_t offset, index_t count, float* out,
                       index_t gap) {
  const auto widen = [&](index_t from, index_t n, float* to) {
    if (is_block(memory.type)) {
      simd::widen_blocks(memory.type, memory.data, from, n, to);
    } else {
      simd::widen(memory.type, memory.address(from), to, n);
    }
  };
  if (gap == 1) return widen(offset, count, out);
  if (memory.type == dtype::fp32) {
    const auto* from = reinterpret_cast<const float*>(memory.address(offset));
    for (index_t k = 0; k < count; ++k) out[k * gap] = from[k];
    return;
  }
  constexpr index_t piece = 256;
  std::array<float, piece> buffer;  // NOLINT(*-init)
  for (index_t first = 0; first < count; first += piece) {
    const index_t n = (std::min)(piece, count - first);
    widen(offset + first, n, buffer.data());
    for (index_t k = 0; k < n; ++k) out[(first + k) * gap] = buffer[static_cast<std::size_t>(k)];
  }
}

/// The scales of some columns, for one row after the other.
class column_scales {
 public:
  column_scales(const row_memory& memory, stepped cols) noexcept
      : memory_(memory), cols_(cols), first_(group_of(0)), left_(left_of(0)) {}

  /// Calls use(l, count, scale) for each run of columns that share a scale in memory row `row`:
  /// columns cols.at(l) … cols.at(l + count − 1).
  template <class Use>
  void for_row(index_t row, Use use) const {
    const index_t of_row = memory_.scale_row(row);
    index_t group = first_;
    index_t left = left_;  // columns of the group from here on
    for (index_t l = 0; l < cols_.count;) {
      const index_t fitting = cols_.step == 1 ? left : (left - 1) / cols_.step + 1;
      const index_t count = (std::min)(fitting, cols_.count - l);
      use(l, count, memory_.scale_at(of_row + group * memory_.scales.group_stride));
      l += count;
      group = cols_.step == 1 ? group + 1 : group_of(l);
      left = cols_.step == 1 ? memory_.scales.group : left_of(l);
    }
  }

 private:
  [[nodiscard]] index_t group_of(index_t l) const noexcept {
    return cols_.at(l) / memory_.scales.group;
  }
  [[nodiscard]] index_t left_of(index_t l) const noexcept {  // may exceed any number of columns
    return memory_.scales.group - cols_.at(l) % memory_.scales.group;
  }

  const row_memory& memory_;
  stepped cols_;
  index_t first_;
  index_t left_;
};

/// Multiplies decoded numbers by their scales.
inline void apply_scales(const row_memory& memory, stepped rows, stepped cols,
                         decode_target out) noexcept {
  const column_scales scales(memory, cols);
  for (index_t k = 0; k < rows.count; ++k) {
    float* const row = out.data + k * out.row_gap;
    scales.for_row(rows.at(k), [&](index_t l, index_t count, float scale) {
      for (index_t at = l; at < l + count; ++at) row[at * out.col_gap] *= scale;
    });
  }
}

inline void decode_own_format(const row_memory& memory, stepped rows, stepped cols,
                              decode_target out) noexcept {
  std::array<float, static_cast<std::size_t>(decoded_cols_limit)> whole;  // NOLINT(*-init)
  const bool is_direct = cols.count == memory.cols && cols.step == 1 && out.col_gap == 1;
  for (index_t k = 0; k < rows.count; ++k) {
    float* const row = out.data + k * out.row_gap;
    float* const decoded = is_direct ? row : whole.data();
    memory.decode(memory.data, memory.map.slot(rows.at(k)), decoded);
    if (is_direct) continue;
    for (index_t l = 0; l < cols.count; ++l) row[l * out.col_gap] = decoded[cols.at(l)];
  }
}

/// Contiguous rows of bytes with scales, group by group, to contiguous rows of floats.
inline void decode_scaled_rows(const row_memory& memory, stepped rows, stepped cols,
                               decode_target out) noexcept {
  const column_scales scales(memory, cols);
  for (index_t k = 0; k < rows.count; ++k) {
    const std::byte* const from = memory.address(memory.offset(rows.at(k), cols.first));
    float* const to = out.data + k * out.row_gap;
    scales.for_row(rows.at(k), [&](index_t l, index_t count, float scale) {
      simd::widen_scaled(memory.type, from + l, scale, to + l, count);
    });
  }
}

/// Rows that are contiguous, each of a run of columns.
inline void decode_by_rows(const row_memory& memory, stepped rows, stepped cols,
                           decode_target out) noexcept {
  constexpr index_t worthwhile = 8;  // numbers that are widened and scaled at once
  const bool is_scaled = memory.is_scaled();
  if (is_scaled && out.col_gap == 1 && memory.scales.group >= worthwhile) {
    return decode_scaled_rows(memory, rows, cols, out);
  }
  for (index_t k = 0; k < rows.count; ++k) {
    decode_run(memory, memory.offset(rows.at(k), cols.first), cols.count,
               out.data + k * out.row_gap, out.col_gap);
  }
  if (is_scaled) apply_scales(memory, rows, cols, out);
}

inline void decode_one_by_one(const row_memory& memory, stepped rows, stepped cols,
                              decode_target out) noexcept {
  for (index_t k = 0; k < rows.count; ++k) {
    for (index_t l = 0; l < cols.count; ++l) {
      out.data[k * out.row_gap + l * out.col_gap] = element(memory, rows.at(k), cols.at(l));
    }
  }
}

/// Columns that are contiguous, in runs of rows.
inline void decode_by_cols(const row_memory& memory, stepped rows, stepped cols,
                           decode_target out) noexcept {
  constexpr index_t worthwhile = 4;  // a quantised block is decoded as a whole, whatever the run
  for (index_t k = 0; k < rows.count;) {
    const stepped run{rows.at(k), 1, memory.map.run(rows.at(k), rows.count - k)};
    const decode_target to{out.data + k * out.row_gap, out.row_gap, out.col_gap};
    k += run.count;
    if (run.count < worthwhile) {
      decode_one_by_one(memory, run, cols, to);
      continue;
    }
    for (index_t l = 0; l < cols.count; ++l) {
      decode_run(memory, memory.offset(run.first, cols.at(l)), run.count, to.data + l * to.col_gap,
                 to.row_gap);
    }
    if (memory.is_scaled()) apply_scales(memory, run, cols, to);
  }
}

/// Elements rows × cols of `memory`, walked along its contiguous direction where it has one. No
/// allocation.
inline void decode_part(const row_memory& memory, stepped rows, stepped cols,
                        decode_target out) noexcept {
  if (memory.type == dtype::decoded) return decode_own_format(memory, rows, cols, out);
  if (memory.col_stride == 1 && cols.step == 1) return decode_by_rows(memory, rows, cols, out);
  if (memory.row_stride == 1 && rows.step == 1) return decode_by_cols(memory, rows, cols, out);
  decode_one_by_one(memory, rows, cols, out);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
