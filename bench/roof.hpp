// SPDX-License-Identifier: MIT
/// The roof that arithmetic is measured against, found on the machine itself.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>

#include "kvfit/simd/batch.hpp"

namespace kvfit::bench {

/// Billions of fp32 operations a second that one core can at best do, counting a fused multiply-add
/// as two: the roof that rows are measured against.
inline double measure_roof() {
  constexpr int chains = 16;
  constexpr int rounds = 1 << 20;
  double best = 0;
  for (int attempt = 0; attempt < 5; ++attempt) {
    simd::batch sums[chains];
    for (auto& sum : sums) sum = simd::batch(0.5F);
    simd::batch x(0.999F);
    simd::batch y(1e-3F);
    benchmark::DoNotOptimize(x);
    benchmark::DoNotOptimize(y);
    const auto start = std::chrono::steady_clock::now();
    for (int round = 0; round < rounds; ++round) {
      for (auto& sum : sums) sum = simd::multiply_add(sum, x, y);
    }
    benchmark::DoNotOptimize(sums);
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, 2.0 * chains * rounds * static_cast<double>(simd::lanes) / seconds / 1e9);
  }
  return best;
}

}  // namespace kvfit::bench
