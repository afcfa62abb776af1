// SPDX-License-Identifier: MIT
/// A row reduced to a number: inner products, summed in fp32 or folded to double, and the like.
#pragma once

#include <algorithm>
#include <array>
#include <limits>

#include "kvfit/simd/batch.hpp"

namespace kvfit::simd {
inline namespace KVFIT_ISA {

/// Partial sums of n terms step(x_i, y_i, sum): the lanes add up to the whole. Four independent
/// chains hide the latency of the multiply-add. `step` must leave a sum as it is for x = y = 0.
template <class Step>
batch sum_lanes(const float* x, const float* y, index_t n, Step step) noexcept {
  batch a(0.0f), b(0.0f), c(0.0f), d(0.0f);
  index_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    a = step(load(x + i), load(y + i), a);
    b = step(load(x + i + lanes), load(y + i + lanes), b);
    c = step(load(x + i + 2 * lanes), load(y + i + 2 * lanes), c);
    d = step(load(x + i + 3 * lanes), load(y + i + 3 * lanes), d);
  }
  for (; i + lanes <= n; i += lanes) a = step(load(x + i), load(y + i), a);
  if (i < n) b = step(load_first(x + i, n - i, 0.0f), load_first(y + i, n - i, 0.0f), b);
  return (a + b) + (c + d);
}

/// sum_i x_i y_i in fp32; 0 if n = 0. Error at most (n / (4 lanes) + 12) 2^-24 sum_i |x_i y_i|.
/// Deterministic for one instruction set. Allocates nothing.
[[nodiscard]] inline float dot32(const float* x, const float* y, index_t n) noexcept {
  return sum(
      sum_lanes(x, y, n, [](batch xs, batch ys, batch old) { return multiply_add(xs, ys, old); }));
}

/// sum_i (x_i y_i)^2 in fp32; 0 if n = 0. Products are rounded before they are squared; relative
/// error at most (n / (4 lanes) + 14) 2^-24. Deterministic for one instruction set. Allocates
/// nothing.
[[nodiscard]] inline float square_sum32(const float* x, const float* y, index_t n) noexcept {
  return sum(sum_lanes(x, y, n, [](batch xs, batch ys, batch old) {
    const batch product = xs * ys;
    return multiply_add(product, product, old);
  }));
}

/// max_i x_i y_i; -inf if n = 0. NaN is passed over. Exact but for the products. Allocates nothing.
[[nodiscard]] inline float largest_product(const float* x, const float* y, index_t n) noexcept {
  constexpr float lowest = -std::numeric_limits<float>::infinity();
  batch most(lowest);
  index_t i = 0;
  for (; i + lanes <= n; i += lanes) most = larger(load(x + i) * load(y + i), most);
  if (i < n) {  // the fill's product is the lowest there is
    most = larger(load_first(x + i, n - i, lowest) * load_first(y + i, n - i, 1.0f), most);
  }
  std::array<float, batch::size> values{};
  store(values.data(), most);
  return *std::max_element(values.begin(), values.end());
}

/// max_i |x_i|; 0 if n = 0. NaN is passed over. Exact. Allocates nothing.
[[nodiscard]] inline float largest_size(const float* x, index_t n) noexcept {
  batch most(0.0f);
  for (index_t i = 0; i < n; i += lanes) {
    const batch xs = i + lanes <= n ? load(x + i) : load_first(x + i, n - i, 0.0f);
    most = larger(xs, larger(-xs, most));
  }
  std::array<float, batch::size> values{};
  store(values.data(), most);
  return *std::max_element(values.begin(), values.end());
}

/// sum_i x_i y_i, taken in fp32 blocks of 64 registers and folded to double; 0 if n = 0. Error at
/// most 30 * 2^-24 sum_i |x_i y_i| whatever n. Deterministic for one instruction set. Allocates
/// nothing.
[[nodiscard]] inline double dot(const float* x, const float* y, index_t n) noexcept {
  constexpr index_t block = 64 * lanes;
  double total = 0.0;
  for (index_t i = 0; i < n; i += block) {
    total += static_cast<double>(dot32(x + i, y + i, (std::min)(block, n - i)));
  }
  return total;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::simd
