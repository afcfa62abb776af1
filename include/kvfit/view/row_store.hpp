// SPDX-License-Identifier: MIT
/// How rows are written into a `row_memory`. Include kvfit/view/store.hpp.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/quantised.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/simd/convert.hpp"
#include "kvfit/view/check.hpp"
#include "kvfit/view/load.hpp"
#include "kvfit/view/store_target.hpp"
#include "kvfit/view/writable_view.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Stores rows in two passes over the source: the first finds whatever does not fit, the second
/// writes. Both see the memory's own rows and columns: a transposed target transposes the source.
class row_store : private store_target {
 public:
  row_store(const row_view& source, const writable_view& target, std::string_view argument)
      : store_target(target, source.rows(), source.cols()),
        argument_(argument),
        source_(is_transposed_ ? source.transposed() : source) {}

  using store_target::check_borders;
  using store_target::check_places;

  /// One pass; only the second may write, and only where the first found nothing.
  result<void> pass(bool writes) {
    writes_ = writes;
    if (makes_scales()) {
      return for_bands(memory_.scales.row_group, &row_store::with_made_scales);
    }
    if (memory_.is_scaled()) return for_bands(1, &row_store::with_given_scales);
    if (!is_block(memory_.type)) return for_bands(1, &row_store::numbers);
    const bool by_cols = memory_.col_stride == 1;
    return for_bands(by_cols ? 1 : block_length,
                     by_cols ? &row_store::blocks_by_cols : &row_store::blocks_by_rows);
  }

 private:
  [[nodiscard]] error refuse(errc code, index_t row, index_t col, std::string detail = {}) const {
    if (is_transposed_) std::swap(row, col);
    return error{code, std::string(argument_), row, col, std::move(detail)};
  }
  [[nodiscard]] error overflow(index_t row, index_t col, dtype type) const {
    return refuse(errc::storage_overflow, row, col, "exceeds " + std::string(name(type)));
  }

  using band_step = result<void> (row_store::*)(index_t first, index_t count);
  result<void> for_bands(index_t band, band_step step) {
    for (index_t first = 0; first < rows_.count; first += band) {
      const index_t count = (std::min)(band, rows_.count - first);
      if (const auto ok = (this->*step)(first, count); !ok) return ok;
    }
    return {};
  }

  /// Rows of the source, checked in the first pass.
  result<float_tile> load(index_t first, index_t count) {
    buffer_.resize(static_cast<std::size_t>(count * cols_.count));
    const float_tile tile = load_rows(source_, first, count, buffer_.data());
    for (index_t k = 0; k < count && !writes_; ++k) {
      const index_t at = first_non_finite(tile.data + k * tile.stride, cols_.count);
      if (at < cols_.count) return refuse(errc::non_finite, first + k, at);
    }
    return tile;
  }

  [[nodiscard]] std::byte* address(index_t row, index_t col) const noexcept {
    const std::byte* at = memory_.address(memory_.offset(rows_.at(row), cols_.at(col)));
    return const_cast<std::byte*>(at);  // NOLINT(*-const-cast): see `writable_view`
  }

  result<void> numbers(index_t row, index_t /*count*/) {
    const auto tile = load(row, 1);
    if (!tile) return tile.error();
    const auto n = static_cast<std::size_t>(cols_.count);
    const std::size_t size = size_of(memory_.type);
    stored_.resize(n);  // of four bytes each, so aligned for any type
    simd::narrow(memory_.type, tile->data, stored_.data(), cols_.count);
    if (!writes_) {
      restored_.resize(n);
      simd::widen(memory_.type, stored_.data(), restored_.data(), cols_.count);
      const index_t at = first_non_finite(restored_.data(), cols_.count);
      return at < cols_.count ? result<void>(overflow(row, at, memory_.type)) : result<void>();
    }
    put(row, reinterpret_cast<const std::byte*>(stored_.data()), size);
    return {};
  }

  /// A row's numbers, `size` bytes each.
  void put(index_t row, const std::byte* bytes, std::size_t size) const noexcept {
    const auto n = static_cast<std::size_t>(cols_.count);
    if (memory_.col_stride == 1 && cols_.step == 1) {
      std::memcpy(address(row, 0), bytes, n * size);
    } else {
      for (std::size_t l = 0; l < n; ++l) {
        std::memcpy(address(row, static_cast<index_t>(l)), bytes + l * size, size);
      }
    }
  }

  /// One block of 32 numbers, `stride` floats apart; `place(j)`: row and column of number j.
  template <class Place>
  result<void> block(const float* x, index_t stride, Place place) {
    std::array<float, block_length> values;  // NOLINT(*-init)
    for (std::size_t j = 0; j < values.size(); ++j) values[j] = x[static_cast<index_t>(j) * stride];
    const auto put = [&](const auto& stored) -> result<void> {
      if (writes_) {
        std::memcpy(address(place(0).first, place(0).second), &stored, sizeof stored);
      } else if (!is_finite(to_float(stored.scale))) {
        const auto largest = std::max_element(values.begin(), values.end(), [](float a, float b) {
          return std::abs(a) < std::abs(b);
        });
        const auto [row, col] = place(largest - values.begin());
        return overflow(row, col, memory_.type);
      }
      return {};
    };
    return memory_.type == dtype::q8_0 ? put(to_q8_0(values)) : put(to_q4_0(values));
  }

  result<void> blocks_by_cols(index_t row, index_t /*count*/) {
    const auto tile = load(row, 1);
    if (!tile) return tile.error();
    for (index_t col = 0; col < cols_.count; col += block_length) {
      const auto place = [&](index_t j) { return std::pair(row, col + j); };
      if (const auto ok = block(tile->data + col, 1, place); !ok) return ok;
    }
    return {};
  }

  result<void> blocks_by_rows(index_t row, index_t count) {
    const auto tile = load(row, count);
    if (!tile) return tile.error();
    for (index_t col = 0; col < cols_.count; ++col) {
      const auto place = [&](index_t j) { return std::pair(row + j, col); };
      if (const auto ok = block(tile->data + col, tile->stride, place); !ok) return ok;
    }
    return {};
  }

  /// Rows at the scales that are there and are others', too.
  result<void> with_given_scales(index_t row, index_t /*count*/) {
    const auto tile = load(row, 1);
    if (!tile) return tile.error();
    bytes_.resize(static_cast<std::size_t>(cols_.count));
    result<void> found;
    column_scales(memory_, cols_)
        .for_row(rows_.at(row), [&](index_t first, index_t count, float scale) {
          if (!found) return;
          if (!is_finite(scale)) {
            found = refuse(errc::non_finite, row, first, "a scale of the target");
            return;
          }
          for (index_t col = first; col < first + count; ++col) {
            const float x = tile->data[col];
            const float number = x == 0 ? x : x / scale;  // infinite where the scale is 0
            // Not what `to_byte` takes, or not what its byte would be read as.
            const bool is_int8 = memory_.type == dtype::int8;
            bool fits = !is_int8 || (number > -128.5F && number < 127.5F);
            if (fits) {
              const std::uint8_t byte = to_byte(memory_.type, number);
              fits = is_finite(of_byte(memory_.type, byte) * scale);
              bytes_[static_cast<std::size_t>(col)] = std::byte{byte};
            }
            if (!fits) {
              found =
                  refuse(errc::storage_overflow, row, col,
                         "exceeds " + std::string(name(memory_.type)) + " at the target's scale");
              return;
            }
          }
        });
    if (found && writes_) put(row, bytes_.data(), 1);
    return found;
  }

  /// Rows that share scales, which are made. Twice through the source, a row at a time: there may
  /// be many.
  result<void> with_made_scales(index_t first, index_t count) {
    const group_scales& scales = memory_.scales;
    const index_t groups = (cols_.count - 1) / scales.group + 1;
    const float most = largest_stored(memory_.type);
    const auto scale_for = [&](float largest) {
      return as_stored(scale_of(memory_.type, scales.type, largest), scales.type);
    };
    largest_.assign(static_cast<std::size_t>(groups), 0.0F);
    for (index_t k = 0; k < count; ++k) {
      const auto tile = load(first + k, 1);
      if (!tile) return tile.error();
      for (index_t g = 0; g < groups; ++g) {
        float& largest = largest_[static_cast<std::size_t>(g)];
        largest = (std::max)(largest, largest_magnitude(of_group(*tile, g)));
        if (!writes_ && !is_finite(most * scale_for(largest))) {
          index_t col = g * scales.group;
          while (std::abs(tile->data[col]) < largest) ++col;
          return refuse(errc::storage_overflow, first + k, col,
                        "the scale exceeds " + std::string(name(scales.type)));
        }
      }
    }
    if (!writes_) return {};
    for (index_t g = 0; g < groups; ++g) {
      float& scale = largest_[static_cast<std::size_t>(g)];
      scale = scale_for(scale);
      put_scale(rows_.at(first), cols_.at(g * scales.group), scale);
    }
    bytes_.resize(static_cast<std::size_t>(cols_.count));
    for (index_t k = 0; k < count; ++k) {
      const auto tile = load(first + k, 1);
      for (index_t col = 0; col < cols_.count; ++col) {
        const float scale = largest_[static_cast<std::size_t>(col / scales.group)];
        const float number = std::clamp(over_scale(tile->data[col], scale), -most, most);
        bytes_[static_cast<std::size_t>(col)] = std::byte{to_byte(memory_.type, number)};
      }
      put(first + k, bytes_.data(), 1);
    }
    return {};
  }

  [[nodiscard]] std::span<const float> of_group(const float_tile& row, index_t g) const noexcept {
    const index_t start = g * memory_.scales.group;
    const index_t count = (std::min)(memory_.scales.group, cols_.count - start);
    return {row.data + start, static_cast<std::size_t>(count)};
  }

  void put_scale(index_t row, index_t col, float scale) const noexcept {
    auto* const data = static_cast<std::byte*>(
        const_cast<void*>(memory_.scales.data));  // NOLINT(*-const-cast): see `writable_view`
    const index_t at = memory_.scale_offset(row, col);
    // By bytes: scales behind rows of bytes need not be aligned.
    if (memory_.scales.type == dtype::fp16) {
      const fp16 half = to_fp16(scale);
      std::memcpy(data + at * static_cast<index_t>(sizeof half), &half, sizeof half);
    } else {
      std::memcpy(data + at * static_cast<index_t>(sizeof scale), &scale, sizeof scale);
    }
  }

  std::string_view argument_;
  row_view source_;
  bool writes_ = false;
  std::vector<float> buffer_;
  std::vector<float> stored_;
  std::vector<float> restored_;
  std::vector<float> largest_;
  std::vector<std::byte> bytes_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
