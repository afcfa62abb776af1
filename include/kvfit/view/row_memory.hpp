// SPDX-License-Identifier: MIT
/// `row_memory`: how rows of numbers lie in an engine's memory, whatever their layout and type.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kvfit/core/config.hpp"
#include "kvfit/core/element.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/quantised.hpp"
#include "kvfit/view/row_map.hpp"

namespace kvfit {

/// Scales of int8, which always has some, and of fp8, which may: element (r, c) is its byte's
/// number times the scale at
///
///     slot(r) / row_group · row_stride + c / group · group_stride       (fp32 or fp16)
///
/// in elements of `type`; of paged rows, at page · page_stride + the same within the page. One
/// scale for all rows: group = the row's columns, strides 0. One a row: the same, row_stride ≠ 0.
/// One a channel and 32 tokens: group = 1, row_group = 32.
struct group_scales {
  const void* data = nullptr;
  dtype type = dtype::fp32;  ///< fp32 or fp16
  index_t group = 32;        ///< columns that share a scale, ≥ 1
  index_t row_stride = 0;    ///< 0: all rows, of a page if paged, share their scales
  index_t group_stride = 1;  ///< 0: all groups of a row share one
  index_t page_stride = 0;   ///< of paged rows alone; 0: all pages share their scales
  index_t row_group = 1;     ///< consecutive slots that share a scale, ≥ 1
  friend bool operator==(const group_scales&, const group_scales&) = default;
};

/// Decodes memory row `row` of a format that kvfit does not know: writes all its columns to `out`.
/// Called from any thread, for any row, more than once; must be a pure function of its arguments.
using decode_row = void (*)(const void* context, index_t row, float* out) noexcept;

/// Most columns of a decoded row: one row must fit a buffer on the stack (16 KB).
inline constexpr index_t decoded_cols_limit = 4096;

/// rows × cols numbers as they lie, by reference to all that is the caller's.
///
/// Element (r, c) is number map.offset(r) + c · col_stride of the memory at `data`; numbers of q8_0
/// and q4_0 are counted through the blocks: number e is the (e mod 32)th of block e / 32, so that
/// blocks run along whichever direction has stride 1. Nothing is checked here: `make_view` does.
///
///     row_memory keys{.data = k, .type = dtype::q8_0, .rows = tokens, .cols = 128,
///                     .row_stride = 8 * 128, .map = row_map::listed(cells)};
struct row_memory {
  const void* data = nullptr;  ///< of decoded rows: the context
  dtype type = dtype::fp32;
  index_t rows = 0;
  index_t cols = 0;
  index_t row_stride = 0;  ///< elements between slots
  index_t col_stride = 1;  ///< elements between columns
  row_map map = {};
  group_scales scales = {};     ///< of int8 and fp8
  decode_row decode = nullptr;  ///< of decoded rows, which have no strides: gets slot numbers

  /// Whether numbers are multiplied by scales.
  [[nodiscard]] bool is_scaled() const noexcept {
    return type == dtype::int8 || (takes_scales(type) && scales.data != nullptr);
  }
  /// Numbers that are addressed by two strides alone and are what their bytes say.
  [[nodiscard]] bool is_plain() const noexcept {
    return is_number(type) && map.is_strided() && !is_scaled();
  }

  /// Whether all that is referred to is there.
  [[nodiscard]] bool is_backed() const noexcept {
    if (!map.has_table()) return false;
    if (type == dtype::decoded) return decode != nullptr;
    return data != nullptr && (type != dtype::int8 || scales.data != nullptr);
  }

  [[nodiscard]] index_t offset(index_t r, index_t c) const noexcept {
    return map.offset(r, row_stride, map.page_stride()) + c * col_stride;
  }

  /// Where number `offset` lies, or the block it is in.
  [[nodiscard]] const std::byte* address(index_t offset) const noexcept {
    const index_t unit = is_block(type) ? offset >> 5 : offset;  // rounds down, negative ones too
    return static_cast<const std::byte*>(data) + unit * static_cast<index_t>(size_of(type));
  }

  /// Where the scale of element (r, c) lies, in scales from `scales.data`.
  [[nodiscard]] index_t scale_offset(index_t r, index_t c) const noexcept {
    return scale_row(r) + c / scales.group * scales.group_stride;
  }
  /// The same for the first group of row r.
  [[nodiscard]] index_t scale_row(index_t r) const noexcept {
    if (scales.row_stride == 0 && scales.page_stride == 0) return 0;
    return map.offset(r, scales.row_stride, scales.page_stride, scales.row_group);
  }
  /// The scale that lies there.
  [[nodiscard]] float scale_at(index_t offset) const noexcept {
    // By bytes: scales behind rows of bytes need not be aligned.
    const auto* const bytes = static_cast<const std::byte*>(scales.data);
    if (scales.type == dtype::fp16) {
      fp16 half;
      std::memcpy(&half, bytes + offset * static_cast<index_t>(sizeof half), sizeof half);
      return to_float(half);
    }
    float scale = 0;
    std::memcpy(&scale, bytes + offset * static_cast<index_t>(sizeof scale), sizeof scale);
    return scale;
  }
  [[nodiscard]] float scale(index_t r, index_t c) const noexcept {
    return scale_at(scale_offset(r, c));
  }
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// Element (r, c) of `memory` as fp32. Not inlined: a compiler must not fuse the product with a
/// scale into the sums of a caller, or they would differ from those of decoded rows.
[[nodiscard, gnu::noinline]] inline float element(const row_memory& memory, index_t r,
                                                  index_t c) noexcept {
  if (memory.type == dtype::decoded) {
    std::array<float, static_cast<std::size_t>(decoded_cols_limit)> row;  // NOLINT(*-init)
    memory.decode(memory.data, memory.map.slot(r), row.data());
    return row[static_cast<std::size_t>(c)];
  }
  const index_t at = memory.offset(r, c);
  const std::byte* start = memory.address(at);
  const auto lane = static_cast<std::size_t>(at & (block_length - 1));
  const auto read = [start](auto value) {
    std::memcpy(&value, start, sizeof value);
    return value;
  };
  const auto scaled = [&](float number) {
    return memory.is_scaled() ? number * memory.scale(r, c) : number;
  };
  switch (memory.type) {
    case dtype::fp16:
      return to_float(read(fp16{}));
    case dtype::bf16:
      return to_float(read(bf16{}));
    case dtype::fp8_e4m3:
      return scaled(to_float(read(fp8_e4m3{})));
    case dtype::fp8_e5m2:
      return scaled(to_float(read(fp8_e5m2{})));
    case dtype::q8_0:
      return element(read(q8_0_block{}), lane);
    case dtype::q4_0:
      return element(read(q4_0_block{}), lane);
    case dtype::int8:
      return scaled(static_cast<float>(read(std::int8_t{})));
    case dtype::fp32:
    case dtype::decoded:
      break;
  }
  return read(float{});
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
