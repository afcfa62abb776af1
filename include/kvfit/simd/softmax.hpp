// SPDX-License-Identifier: MIT
/// The two passes of a softmax: maxima, then shifted exponentials with their sums. For one row, and
/// for many softmaxes side by side.
#pragma once

#include <algorithm>
#include <array>
#include <limits>

#include "kvfit/simd/batch.hpp"
#include "kvfit/simd/exp.hpp"

namespace kvfit::simd {
inline namespace KVFIT_ISA {

/// The largest of n floats; -inf if n = 0. NaN is passed over (`exp_shifted_sum` will show it).
/// Exact. Allocates nothing.
[[nodiscard]] inline float max_value(const float* x, index_t n) noexcept {
  constexpr float lowest = -std::numeric_limits<float>::infinity();
  batch a(lowest), b(lowest), c(lowest), d(lowest);
  index_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    a = larger(load(x + i), a);
    b = larger(load(x + i + lanes), b);
    c = larger(load(x + i + 2 * lanes), c);
    d = larger(load(x + i + 3 * lanes), d);
  }
  for (; i + lanes <= n; i += lanes) a = larger(load(x + i), a);
  if (i < n) b = larger(load_first(x + i, n - i, lowest), b);
  std::array<float, batch::size> values{};
  store(values.data(), larger(larger(a, b), larger(c, d)));
  return *std::max_element(values.begin(), values.end());
}

/// Turns logits into unnormalised attention weights and sums them.
///
///     x_i <- e^{x_i - shift},   returns sum_i x_i   (0 if n = 0)
///
/// x: n logits, natural-log units. shift: usually `max_value(x, n)`; -inf, the maximum of an
/// all-masked row, counts as 0, so such a row becomes all 0 with sum 0. A NaN among x makes itself
/// and the sum NaN.
///
/// Each x_i has the error of `exp` and the same bytes at any offset; x_i - shift is rounded once.
/// The sum of the stored values is taken in fp32 blocks of 16 registers, folded to double: relative
/// error under 20 * 2^-24 = 1.2e-6 (measured: 2e-8). Allocates nothing.
inline double exp_shifted_sum(float* x, index_t n, float shift) noexcept {
  constexpr float lowest = -std::numeric_limits<float>::infinity();
  constexpr index_t block = 16 * lanes;
  const batch shifts(shift == lowest ? 0.0f : shift);
  double total = 0.0;
  index_t i = 0;
  while (i + lanes <= n) {
    const index_t block_end = (std::min)(i + block, n);
    batch partial(0.0f);
    for (; i + lanes <= block_end; i += lanes) {
      const batch weights = simd::exp(load(x + i) - shifts);
      store(x + i, weights);
      partial = partial + weights;
    }
    total += static_cast<double>(sum(partial));
  }
  if (i < n) {
    const batch weights = simd::exp(load_first(x + i, n - i, lowest) - shifts);  // the fill gives 0
    store_first(x + i, weights, n - i);
    total += static_cast<double>(sum(weights));
  }
  return total;
}

/// The same for softmaxes that run down the columns of a `rows` × `cols` matrix:
///
///     x_ji <- e^{x_ji - shift_i},   sums_i <- sums_i + sum_j x_ji
///
/// Rows lie `stride` apart. A shift of -inf counts as 0, as above. Sums of 16 rows are taken in
/// fp32 and folded to double: relative error under 17 * 2^-24 = 1.0e-6. Every element and sum has
/// the same bytes at any offset. Allocates nothing.
inline void exp_shifted_columns(float* x, index_t stride, index_t rows, index_t cols,
                                const float* shifts, double* sums) noexcept {
  constexpr float lowest = -std::numeric_limits<float>::infinity();
  constexpr index_t block = 16;
  for (index_t i = 0; i < cols; i += lanes) {
    const index_t width = (std::min)(lanes, cols - i);
    const bool is_whole = width == lanes;
    const batch given = is_whole ? load(shifts + i) : load_first(shifts + i, width, 0.0f);
    const batch shift = zero_where(given, lowest);
    std::array<float, batch::size> partial{};
    for (index_t first = 0; first < rows; first += block) {
      batch sum_of_block(0.0f);
      for (index_t j = first; j < (std::min)(first + block, rows); ++j) {
        float* at = x + j * stride + i;
        const batch weights =
            simd::exp((is_whole ? load(at) : load_first(at, width, lowest)) - shift);
        if (is_whole) {
          store(at, weights);
        } else {
          store_first(at, weights, width);
        }
        sum_of_block = sum_of_block + weights;
      }
      store(partial.data(), sum_of_block);
      for (index_t lane = 0; lane < width; ++lane) {
        sums[i + lane] += static_cast<double>(partial[static_cast<std::size_t>(lane)]);
      }
    }
  }
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::simd
