// SPDX-License-Identifier: MIT
/// Random rows in memory of any type and layout, beside the numbers that stand there, which are
/// decoded by plain arithmetic that shares nothing with the library's.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "kvfit/core/random.hpp"
#include "kvfit/view/make_view.hpp"

namespace kvfit_test {

/// What one number of memory is worth, from the definition of its type.
namespace decoded {

inline float fp8(unsigned bits, int exponent_bits, int fraction_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const auto exponent = static_cast<int>((bits & 0x7FU) >> fraction_bits);
  const auto fraction = static_cast<double>(bits & ((1U << fraction_bits) - 1U));
  const double unit = std::ldexp(1.0, -fraction_bits);
  const double magnitude = exponent == 0 ? std::ldexp(fraction * unit, 1 - bias)
                                         : std::ldexp(1.0 + fraction * unit, exponent - bias);
  return static_cast<float>((bits & 0x80U) != 0 ? -magnitude : magnitude);
}
/// NaN: all bits but the sign.
inline float e4m3(unsigned bits) {
  return (bits & 0x7FU) == 0x7FU ? std::numeric_limits<float>::quiet_NaN() : fp8(bits, 4, 3);
}
inline float e5m2(unsigned bits) {
  if ((bits & 0x7CU) != 0x7CU) return fp8(bits, 5, 2);
  if ((bits & 3U) != 0) return std::numeric_limits<float>::quiet_NaN();
  return (bits & 0x80U) != 0 ? -std::numeric_limits<float>::infinity()
                             : std::numeric_limits<float>::infinity();
}
inline float half(const std::byte* at) {
  Eigen::half x;
  std::memcpy(&x, at, 2);
  return static_cast<float>(x);
}
inline unsigned byte(const std::byte* at) {
  return std::to_integer<unsigned>(*at);
}

/// Number e of memory, without its scale.
inline float number(const std::vector<std::byte>& memory, kvfit::dtype type, kvfit::index_t e) {
  const auto n = static_cast<std::size_t>(e);
  switch (type) {
    case kvfit::dtype::fp16:
      return half(&memory[2 * n]);
    case kvfit::dtype::bf16: {
      const std::uint32_t bits = (byte(&memory[2 * n]) << 16U) | (byte(&memory[2 * n + 1]) << 24U);
      float x = 0;
      std::memcpy(&x, &bits, 4);
      return x;
    }
    case kvfit::dtype::fp8_e4m3:
      return e4m3(byte(&memory[n]));
    case kvfit::dtype::fp8_e5m2:
      return e5m2(byte(&memory[n]));
    case kvfit::dtype::q8_0: {
      const std::byte* block = &memory[n / 32 * 34];
      const auto q = static_cast<int>(byte(block + 2 + n % 32));
      return half(block) * static_cast<float>(q < 128 ? q : q - 256);
    }
    case kvfit::dtype::q4_0: {
      const std::byte* block = &memory[n / 32 * 18];
      const unsigned pair = byte(block + 2 + n % 16);
      const auto nibble = static_cast<int>(n % 32 < 16 ? pair % 16 : pair / 16);
      return half(block) * static_cast<float>(nibble - 8);
    }
    case kvfit::dtype::int8: {
      const auto q = static_cast<int>(byte(&memory[n]));
      return static_cast<float>(q < 128 ? q : q - 256);
    }
    default: {
      float x = 0;
      std::memcpy(&x, &memory[4 * n], 4);
      return x;
    }
  }
}

}  // namespace decoded

/// How rows lie: after each other; as one of three heads; by number; in pages; all of it with rows
/// or with columns contiguous, and seen directly or transposed.
struct arrangement {
  enum class place : std::uint8_t { strided, one_of_three, listed, paged_32, paged_64 };
  /// What shares a scale: groups of columns, or of rows, too; a row; everything.
  enum class scaling : std::uint8_t { none, groups, rows, shared };
  kvfit::dtype type = kvfit::dtype::fp32;
  place where = place::strided;
  bool by_cols = false;     ///< columns are contiguous in memory: llama.cpp's transposed V
  bool is_flipped = false;  ///< the view is `transposed()`
  scaling scales = scaling::none;

  [[nodiscard]] std::string name() const {
    const char* const places[] = {"strided", "one of three", "listed", "paged 32", "paged 64"};
    const char* const scalings[] = {"", ", scales of groups", ", scales of rows", ", one scale"};
    return std::string(kvfit::name(type)) + ", " + places[static_cast<int>(where)] +
           (by_cols ? ", columns contiguous" : "") + (is_flipped ? ", transposed view" : "") +
           scalings[static_cast<int>(scales)];
  }
};

/// Every one that makes sense: decoded rows have no direction of memory.
inline std::vector<arrangement> all_arrangements() {
  std::vector<arrangement> all;
  for (int type = 0; type <= static_cast<int>(kvfit::dtype::decoded); ++type) {
    for (int where = 0; where < 5; ++where) {
      for (const bool by_cols : {false, true}) {
        for (const bool is_flipped : {false, true}) {
          const auto number_type = static_cast<kvfit::dtype>(type);
          if (number_type == kvfit::dtype::decoded && by_cols) continue;
          const bool is_int8 = number_type == kvfit::dtype::int8;
          for (int scales = is_int8 ? 1 : 0; scales < (takes_scales(number_type) ? 4 : 1);
               ++scales) {
            all.push_back({number_type, static_cast<arrangement::place>(where), by_cols, is_flipped,
                           static_cast<arrangement::scaling>(scales)});
          }
        }
      }
    }
  }
  return all;
}

/// Random numbers of moderate size, stored; both sizes multiples of 32.
class stored_rows {
 public:
  stored_rows(const arrangement& how, kvfit::index_t rows, kvfit::index_t cols, std::uint64_t seed)
      : random_(seed), how_(how) {
    if (how.is_flipped) std::swap(rows, cols);
    rows_ = rows;
    cols_ = cols;
    place();
    fill();
    memory_.data = how.type == kvfit::dtype::decoded ? static_cast<const void*>(this)
                                                     : start_of(first_number_);
    exact_.resize(rows_, cols_);
    for (kvfit::index_t r = 0; r < rows_; ++r) {
      for (kvfit::index_t c = 0; c < cols_; ++c) exact_(r, c) = value(r, c);
    }
    view_ = make();
    if (how.is_flipped) {
      view_ = view_.transposed();
      exact_ = kvfit::matrix(exact_.transpose());
    }
  }
  stored_rows(const stored_rows&) = delete;
  stored_rows& operator=(const stored_rows&) = delete;

  [[nodiscard]] const kvfit::row_view& view() const { return view_; }
  /// The numbers as they were stored.
  [[nodiscard]] const kvfit::matrix& exact() const { return exact_; }
  [[nodiscard]] std::vector<std::byte>& bytes() { return bytes_; }
  /// The scales' own bytes.
  [[nodiscard]] std::vector<std::byte> scale_bytes() const {
    const auto* const first = static_cast<const std::byte*>(memory_.scales.data);
    if (first == nullptr) return {};
    const bool is_half = memory_.scales.type == kvfit::dtype::fp16;
    return {first, first + scales_.size() * (is_half ? 2U : 4U)};
  }
  /// The scale that all rows share.
  [[nodiscard]] float shared_scale() const {
    return memory_.scales.type == kvfit::dtype::fp16 ? static_cast<float>(half_scales_[0])
                                                     : scales_[0];
  }

 private:
  using index_t = kvfit::index_t;
  static constexpr index_t page = 32;
  static constexpr index_t spare = 32;  // slots that hold no row

  /// Chooses slots, strides and scales.
  void place() {
    slots_ = rows_ + spare;
    order_.resize(static_cast<std::size_t>(slots_));
    std::iota(order_.begin(), order_.end(), index_t{0});
    const bool has_pages = how_.where >= arrangement::place::paged_32;
    const index_t heads = how_.where == arrangement::place::strided ? 1 : 3;
    if (has_pages) {
      // [pages][3][page][cols], or [pages][3][cols][page].
      pages_ = slots_ / page;
      table_.resize(static_cast<std::size_t>(pages_));
      std::iota(table_.begin(), table_.end(), index_t{0});
      shuffle(table_);
      for (const index_t entry : table_) table_32_.push_back(static_cast<std::int32_t>(entry));
      page_stride_ = heads * page * cols_;
      row_stride_ = how_.by_cols ? 1 : cols_;
      col_stride_ = how_.by_cols ? page : 1;
      first_number_ = page * cols_;
    } else {
      // [slots][heads][cols], or [heads][cols][slots].
      if (how_.where == arrangement::place::listed) shuffle(order_);
      row_stride_ = how_.by_cols ? 1 : heads * cols_;
      col_stride_ = how_.by_cols ? slots_ : 1;
      first_number_ = heads > 1 ? (how_.by_cols ? cols_ * slots_ : cols_) : 0;
    }
    numbers_ = heads * slots_ * cols_;
    memory_.type = how_.type;
    memory_.rows = has_pages ? 0 : slots_;
    memory_.cols = cols_;
    if (how_.type != kvfit::dtype::decoded) {
      memory_.row_stride = row_stride_;
      memory_.col_stride = col_stride_;
    }
    if (how_.scales == arrangement::scaling::none) return;
    const bool has_groups = how_.scales == arrangement::scaling::groups;
    memory_.scales.group = !has_groups || how_.by_cols ? cols_ : 32;
    memory_.scales.row_group =
        has_groups && how_.where == arrangement::place::one_of_three ? 32 : 1;
    memory_.scales.type = how_.is_flipped ? kvfit::dtype::fp16 : kvfit::dtype::fp32;
    groups_ = (cols_ - 1) / memory_.scales.group + 1;
    if (how_.scales == arrangement::scaling::shared) return;
    memory_.scales.row_stride = groups_;
    if (has_pages) memory_.scales.page_stride = page * groups_;
  }

  void fill() {
    const std::size_t block = kvfit::size_of(how_.type);
    if (kvfit::is_block(how_.type)) {
      bytes_.resize(static_cast<std::size_t>(numbers_) / 32 * block);
      for (std::byte& x : bytes_) x = static_cast<std::byte>(random_.next());
      for (std::size_t at = 0; at < bytes_.size(); at += block) {
        const Eigen::half scale(
            static_cast<float>((random_.uniform() - 0.5) / (block == 34 ? 40 : 3)));
        std::memcpy(&bytes_[at], &scale, 2);
      }
      return;
    }
    if (how_.scales != arrangement::scaling::none) {
      const bool is_int8 = how_.type == kvfit::dtype::int8;
      scales_.resize(static_cast<std::size_t>(slots_ * groups_));
      for (float& x : scales_) {
        x = static_cast<float>(is_int8 ? random_.uniform() / 60 : 0.25 + random_.uniform());
      }
      if (how_.scales == arrangement::scaling::shared) scales_[0] = is_int8 ? 0.07F : 0.03F;
      for (const float x : scales_) half_scales_.emplace_back(x);
      memory_.scales.data = memory_.scales.type == kvfit::dtype::fp16
                                ? static_cast<const void*>(half_scales_.data())
                                : static_cast<const void*>(scales_.data());
    }
    if (how_.type == kvfit::dtype::int8) {
      bytes_.resize(static_cast<std::size_t>(numbers_));
      for (std::byte& x : bytes_) x = static_cast<std::byte>(random_.next());
      return;
    }
    const std::size_t size = block == 0 ? 4 : block;
    bytes_.resize(static_cast<std::size_t>(numbers_) * size);
    for (std::size_t n = 0; n < static_cast<std::size_t>(numbers_); ++n) {
      const auto x = static_cast<float>(4 * (random_.uniform() - 0.5));
      std::byte* const at = &bytes_[n * size];
      const Eigen::half half(x);
      const Eigen::bfloat16 brain(x);
      // fp8: any bits but those of numbers that are large, infinite or none.
      const auto tiny = static_cast<std::uint8_t>(random_.next());
      const bool is_e4m3 = how_.type == kvfit::dtype::fp8_e4m3;
      const auto small =
          static_cast<std::uint8_t>((tiny & 0x80U) | ((tiny & 0x7FU) % (is_e4m3 ? 0x42U : 0x41U)));
      if (size == 4) std::memcpy(at, &x, 4);
      if (how_.type == kvfit::dtype::fp16) std::memcpy(at, &half, 2);
      if (how_.type == kvfit::dtype::bf16) std::memcpy(at, &brain, 2);
      if (size == 1) std::memcpy(at, &small, 1);
    }
  }

  [[nodiscard]] const std::byte* start_of(index_t number) const {
    const auto unit = kvfit::is_block(how_.type) ? number / 32 : number;
    return bytes_.data() + static_cast<std::size_t>(unit) * kvfit::size_of(how_.type);
  }

  /// The slot of row r, counted through the pages.
  [[nodiscard]] index_t slot(index_t r) const {
    if (!table_.empty()) return table_[static_cast<std::size_t>(r / page)] * page + r % page;
    return order_[static_cast<std::size_t>(r)];
  }

  [[nodiscard]] float value(index_t r, index_t c) const {
    const index_t at = slot(r);
    const index_t in_page = table_.empty() ? at : at % page;
    const index_t of_page = table_.empty() ? 0 : at / page * page_stride_;
    const index_t number = first_number_ + of_page + in_page * row_stride_ + c * col_stride_;
    const float x = decoded::number(bytes_, how_.type, number);
    if (how_.scales == arrangement::scaling::none) return x;
    if (how_.scales == arrangement::scaling::shared) return x * shared_scale();
    const index_t row_group = memory_.scales.row_group;
    const index_t scale_row =
        table_.empty() ? at / row_group : at / page * page + in_page / row_group;
    const auto scale = static_cast<std::size_t>(scale_row * groups_ + c / memory_.scales.group);
    return x * (memory_.scales.type == kvfit::dtype::fp16 ? static_cast<float>(half_scales_[scale])
                                                          : scales_[scale]);
  }

  [[nodiscard]] kvfit::row_view make() {
    if (how_.type == kvfit::dtype::decoded) {
      memory_.decode = [](const void* context, index_t at, float* out) noexcept {
        const auto& self = *static_cast<const stored_rows*>(context);
        const index_t in_page = self.table_.empty() ? at : at % page;
        const index_t of_page = self.table_.empty() ? 0 : at / page * self.page_stride_;
        const index_t number = self.first_number_ + of_page + in_page * self.row_stride_;
        std::memcpy(out, &self.bytes_[static_cast<std::size_t>(number) * 4],
                    static_cast<std::size_t>(self.cols_) * 4);
      };
    }
    const bool is_decoded = how_.type == kvfit::dtype::decoded;
    const kvfit::paging pool{pages_, page, is_decoded ? 0 : page_stride_};
    switch (how_.where) {
      case arrangement::place::listed:
        return *kvfit::make_listed_view(
            memory_, std::span<const index_t>(order_).first(static_cast<std::size_t>(rows_)));
      case arrangement::place::paged_32:
        return *kvfit::make_paged_view(memory_, std::span<const std::int32_t>(table_32_), pool,
                                       rows_);
      case arrangement::place::paged_64:
        return *kvfit::make_paged_view(memory_, std::span<const index_t>(table_), pool, rows_);
      default:
        memory_.rows = rows_;
        return *kvfit::make_view(memory_);
    }
  }

  void shuffle(std::vector<index_t>& numbers) {
    for (std::size_t k = numbers.size(); k > 1; --k) {
      std::swap(numbers[k - 1], numbers[random_.below(k)]);
    }
  }

  kvfit::random_source random_;
  arrangement how_;
  index_t rows_ = 0;
  index_t cols_ = 0;
  index_t slots_ = 0;
  index_t pages_ = 0;
  index_t page_stride_ = 0;
  index_t row_stride_ = 0;
  index_t col_stride_ = 1;
  index_t first_number_ = 0;
  index_t numbers_ = 0;
  index_t groups_ = 1;
  std::vector<index_t> order_;
  std::vector<index_t> table_;
  std::vector<std::int32_t> table_32_;
  std::vector<std::byte> bytes_;
  std::vector<float> scales_;
  std::vector<Eigen::half> half_scales_;
  kvfit::row_memory memory_;
  kvfit::matrix exact_;
  kvfit::row_view view_;
};

}  // namespace kvfit_test
