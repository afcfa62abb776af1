// SPDX-License-Identifier: MIT
/// Products of tiles at a chosen precision: the ones that logits and outputs are made of.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/precision.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/simd/bf16_pairs.hpp"
#include "kvfit/simd/bf16_product.hpp"
#include "kvfit/simd/product.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// What the factors of a `tile_product` are packed into.
struct packed_factors {
  /// A factor in pairs of bf16, and what rounding left of it.
  struct factor {
    std::vector<std::uint32_t> numbers;
    std::vector<std::uint32_t> rests;

    [[nodiscard]] std::uint32_t* rests_or_null() noexcept {
      return rests.empty() ? nullptr : rests.data();
    }
  };
  factor left;
  factor right;

  /// For factors of at most rows × depth and depth × cols.
  void declare(workspace& space, precision_kind precision, index_t rows, index_t depth,
               index_t cols) {
    if (precision == precision_kind::fp32) return;
    const index_t pairs = simd::pairs_of(depth);
    space.add(left.numbers, pairs, rows);
    space.add(right.numbers, pairs, cols);
    if (precision != precision_kind::bf16x3) return;
    space.add(left.rests, pairs, rows);
    space.add(right.rests, pairs, cols);
  }
};

/// C = A B, where B stays while A's change. Errors as `precision_kind` says; in fp32 nothing is
/// packed. Numbers must be finite; those beyond the largest bf16, 3.39e38, are packed as that one.
class tile_product {
 public:
  explicit tile_product(precision_kind precision = precision_kind::fp32) noexcept
      : precision_(precision) {
    if (precision != precision_kind::fp32) pairs_.emplace();
  }

  /// Allocates for factors of at most rows × depth and depth × cols. To be called first.
  void reserve(index_t rows, index_t depth, index_t cols) {
    make_room(packed_, precision_, rows, depth, cols);
  }

  /// B from now on: `depth` rows of `cols` floats, `stride` apart. In fp32 they must stay where
  /// they are.
  void take_right(const float* data, index_t stride, index_t depth, index_t cols) {
    plain_right_ = {data, stride};
    depth_ = depth;
    cols_ = cols;
    if (precision_ == precision_kind::fp32) return;
    packed_factors::factor& to = packed_.right;
    simd::pack_row_pairs(data, stride, depth, cols, to.numbers.data(), to.rests_or_null());
  }

  /// C = A B for A's `rows` rows, `stride` apart. Meanwhile the memory `next` is fetched.
  void by_rows(const float* a, index_t stride, index_t rows, const simd::row_target& c,
               const simd::prefetch_range& next = {}) {
    if (precision_ == precision_kind::fp32) {
      return simd::multiply({a, stride, 1}, plain_right_, c, rows, cols_, depth_,
                            simd::product_mode::assign, next);
    }
    const index_t pairs = simd::pairs_of(depth_);
    packed_factors::factor& to = packed_.left;
    simd::pack_rows(a, stride, rows, depth_, to.numbers.data(), to.rests_or_null());
    multiply(pairs, 1, rows, c, next);
  }

  /// C = Aᵀ B for `rows` columns of A, whose rows lie `stride` apart.
  void by_columns(const float* a, index_t stride, index_t rows, const simd::row_target& c,
                  const simd::prefetch_range& next = {}) {
    if (precision_ == precision_kind::fp32) {
      return simd::multiply({a, 1, stride}, plain_right_, c, rows, cols_, depth_,
                            simd::product_mode::assign, next);
    }
    packed_factors::factor& to = packed_.left;
    simd::pack_row_pairs(a, stride, depth_, rows, to.numbers.data(), to.rests_or_null());
    multiply(1, rows, rows, c, next);
  }

 private:
  [[nodiscard]] bool has_rests() const noexcept { return precision_ == precision_kind::bf16x3; }

  void multiply(index_t row_stride, index_t pair_stride, index_t rows, const simd::row_target& c,
                const simd::prefetch_range& next) const {
    const index_t pairs = simd::pairs_of(depth_);
    const auto left = [&](const std::vector<std::uint32_t>& words) {
      return simd::pair_left_factor{words.data(), row_stride, pair_stride};
    };
    const auto right = [&](const std::vector<std::uint32_t>& words) {
      return simd::pair_row_factor{words.data(), cols_};
    };
    if (!has_rests()) {
      return (*pairs_)(left(packed_.left.numbers), right(packed_.right.numbers), c, rows, cols_,
                       pairs, simd::product_mode::assign, next);
    }
    // The small products first.
    (*pairs_)(left(packed_.left.rests), right(packed_.right.numbers), c, rows, cols_, pairs,
              simd::product_mode::assign, next);
    (*pairs_)(left(packed_.left.numbers), right(packed_.right.rests), c, rows, cols_, pairs,
              simd::product_mode::add);
    (*pairs_)(left(packed_.left.numbers), right(packed_.right.numbers), c, rows, cols_, pairs,
              simd::product_mode::add);
  }

  precision_kind precision_;
  std::optional<simd::pair_multiplier> pairs_;  ///< none in fp32
  simd::row_factor plain_right_;
  index_t depth_ = 0;
  index_t cols_ = 0;
  packed_factors packed_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit
