// SPDX-License-Identifier: MIT
/// How rows are written into a `row_memory`. Include kvfit/view/store.hpp.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
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
#include "kvfit/view/writable_view.hpp"

namespace kvfit::detail::inline KVFIT_ISA {

/// Stores rows in two passes over the source: the first finds whatever does not fit, the second
/// writes. Both see the memory's own rows and columns: a transposed target transposes the source.
class row_store {
 public:
  row_store(const row_view& source, const writable_view& target, std::string_view argument)
      : memory_(target.view().memory()), argument_(argument) {
    const row_view& view = target.view();
    const row_view::window& where = view.where();
    is_transposed_ = where.is_transposed;
    source_ = is_transposed_ ? source.transposed() : source;
    rows_ = {where.first_row, where.row_step, source_.rows()};
    cols_ = {where.first_col, where.col_step, source_.cols()};
    if (view.is_plain()) {  // whose strides are its own
      memory_.rows = rows_.count;
      memory_.cols = cols_.count;
    }
  }

  /// Whether blocks and groups lie in the target as a whole.
  [[nodiscard]] result<void> check_borders() const {
    if (is_block(memory_.type)) {
      if (memory_.col_stride == 1) return check_whole(cols_, block_length, false, "columns");
      if (const auto ok = check_consecutive_rows(block_length); !ok) return ok;
      return check_whole(rows_, block_length, false, "rows");
    }
    if (memory_.type != dtype::int8) return {};
    const group_scales& scales = memory_.scales;
    const auto shares = [](index_t stride, index_t groups, const char* what) -> result<void> {
      if (stride != 0 || groups <= 1) return {};
      return error{errc::invalid_option, "target", groups, 1,
                   std::string("a scale shared by several ") + what + " can't be written"};
    };
    if (const auto ok = shares(scales.group_stride, count_groups(cols_, scales.group), "groups");
        !ok) {
      return ok;
    }
    const index_t row_groups = count_groups(rows_, scales.row_group);
    if (const auto ok = shares(scales.row_stride, row_groups, "rows"); !ok) return ok;
    if (memory_.map.is_paged()) {
      const index_t pages = count_groups(rows_, memory_.map.page_size());
      if (const auto ok = shares(scales.page_stride, pages, "pages"); !ok) return ok;
    }
    const bool ends = cols_.first + cols_.count == memory_.cols;  // no one else's columns follow
    if (const auto ok = check_whole(cols_, scales.group, ends, "columns"); !ok) return ok;
    if (scales.row_group == 1) return {};
    if (const auto ok = check_consecutive_rows(scales.row_group); !ok) return ok;
    return check_whole(rows_, scales.row_group, false, "rows");
  }

  /// One pass; only the second may write, and only where the first found nothing.
  result<void> pass(bool writes) {
    writes_ = writes;
    if (memory_.type == dtype::int8) return for_bands(memory_.scales.row_group, &row_store::int8);
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

  /// Groups of `group` that a range reaches into.
  static index_t count_groups(const stepped& range, index_t group) noexcept {
    return range.count < 1 ? 0 : range.at(range.count - 1) / group - range.first / group + 1;
  }

  static result<void> check_whole(const stepped& range, index_t group, bool may_end_short,
                                  const char* what) {
    if (range.count > 1 && range.step != 1 && group > 1) {
      return error{errc::shape_mismatch, "target", range.step, 1,
                   std::string("every s-th of the ") + what + " that share a scale"};
    }
    if (range.first % group != 0) {
      return error{errc::shape_mismatch, "target", range.first, group,
                   std::string("first of the ") + what + " must start a block or group"};
    }
    if (range.count % group != 0 && !may_end_short) {
      return error{errc::shape_mismatch, "target", range.count, group,
                   std::string("number of ") + what + " must be whole blocks or groups"};
    }
    return {};
  }

  /// Rows that share a scale must be neighbours in memory, too.
  [[nodiscard]] result<void> check_consecutive_rows(index_t group) const {
    if (memory_.map.is_listed()) {
      return error{errc::invalid_option, "target", error::none, error::none,
                   "rows by number can't share scales with each other"};
    }
    if (memory_.map.is_paged() && memory_.map.page_size() % group != 0) {
      return error{errc::shape_mismatch, "target", memory_.map.page_size(), group,
                   "page size must be whole blocks or groups"};
    }
    return {};
  }

  using band_step = result<void> (row_store::*)(index_t first, index_t count);
  result<void> for_bands(index_t band, band_step step) {
    for (index_t first = 0; first < rows_.count; first += band) {
      const index_t count = std::min(band, rows_.count - first);
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
    const auto* bytes = reinterpret_cast<const std::byte*>(stored_.data());
    if (memory_.col_stride == 1 && cols_.step == 1) {
      std::memcpy(address(row, 0), bytes, n * size);
    } else {
      for (std::size_t l = 0; l < n; ++l) {
        std::memcpy(address(row, static_cast<index_t>(l)), bytes + l * size, size);
      }
    }
    return {};
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

  /// Rows that share scales. Twice through the source, a row at a time: there may be many.
  result<void> int8(index_t first, index_t count) {
    const group_scales& scales = memory_.scales;
    const index_t groups = (cols_.count - 1) / scales.group + 1;
    largest_.assign(static_cast<std::size_t>(groups), 0.0F);
    for (index_t k = 0; k < count; ++k) {
      const auto tile = load(first + k, 1);
      if (!tile) return tile.error();
      for (index_t g = 0; g < groups; ++g) {
        float& largest = largest_[static_cast<std::size_t>(g)];
        largest = std::max(largest, largest_magnitude(of_group(*tile, g)));
        if (scales.type == dtype::fp16 && !writes_ &&
            !is_finite(as_stored(largest / 127.0F, dtype::fp16))) {
          index_t col = g * scales.group;
          while (std::abs(tile->data[col]) < largest) ++col;
          return refuse(errc::storage_overflow, first + k, col, "the scale exceeds fp16");
        }
      }
    }
    if (!writes_) return {};
    for (float& scale : largest_) scale = as_stored(scale / 127.0F, scales.type);
    for (index_t g = 0; g < groups; ++g) {
      put_scale(rows_.at(first), cols_.first + g * scales.group,
                largest_[static_cast<std::size_t>(g)]);
    }
    for (index_t k = 0; k < count; ++k) {
      const auto tile = load(first + k, 1);
      for (index_t col = 0; col < cols_.count; ++col) {
        const float scale = largest_[static_cast<std::size_t>(col / scales.group)];
        const std::int8_t number = to_int8(tile->data[col], scale);
        std::memcpy(address(first + k, col), &number, 1);
      }
    }
    return {};
  }

  [[nodiscard]] std::span<const float> of_group(const float_tile& row, index_t g) const noexcept {
    const index_t start = g * memory_.scales.group;
    const index_t count = std::min(memory_.scales.group, cols_.count - start);
    return {row.data + start, static_cast<std::size_t>(count)};
  }

  void put_scale(index_t row, index_t col, float scale) const noexcept {
    void* const data = const_cast<void*>(memory_.scales.data);  // NOLINT(*-const-cast)
    const index_t at = memory_.scale_offset(row, col);
    if (memory_.scales.type == dtype::fp16) {
      static_cast<fp16*>(data)[at] = to_fp16(scale);
    } else {
      static_cast<float*>(data)[at] = scale;
    }
  }

  row_memory memory_;
  std::string_view argument_;
  row_view source_;
  stepped rows_;  // of the memory
  stepped cols_;
  bool is_transposed_ = false;
  bool writes_ = false;
  std::vector<float> buffer_;
  std::vector<float> stored_;
  std::vector<float> restored_;
  std::vector<float> largest_;
};

}  // namespace kvfit::detail::inline KVFIT_ISA
