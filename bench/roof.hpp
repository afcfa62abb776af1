// SPDX-License-Identifier: MIT
/// The roof that arithmetic is measured against, found on the machine itself.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>

#include "kvfit/simd/batch.hpp"
#include "kvfit/simd/bf16_product.hpp"

namespace kvfit::bench {

/// Billions of operations a second of independent chains sum <- step(sum), `terms` fused
/// multiply-adds a lane each, which count as two.
template <class Step>
double measure_chains(int terms, Step step) {
  // More than hide an instruction's latency, and with the factors no more than there are registers.
  constexpr int chains = simd::detail::has_wide_tiles ? 16 : 12;
  constexpr int rounds = 1 << 20;
  double best = 0;
  for (int attempt = 0; attempt < 5; ++attempt) {
    simd::batch sums[chains];
    // No two alike, or the compiler may compute one for both.
    for (int k = 0; k < chains; ++k) sums[k] = simd::batch(0.5F + 0.01F * static_cast<float>(k));
    const auto start = std::chrono::steady_clock::now();
    for (int round = 0; round < rounds; ++round) {
      for (auto& sum : sums) sum = step(sum);
    }
    benchmark::DoNotOptimize(sums);
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const double steps = static_cast<double>(chains) * rounds * static_cast<double>(simd::lanes);
    best = std::max(best, 2.0 * terms * steps / seconds / 1e9);
  }
  return best;
}

/// What one core can at best do in fp32: the roof that rows are measured against.
inline double measure_roof() {
  simd::batch x(0.999F);
  simd::batch y(1e-3F);
  benchmark::DoNotOptimize(x);
  benchmark::DoNotOptimize(y);
  return measure_chains(1, [=](simd::batch sum) { return simd::multiply_add(sum, x, y); });
}

/// The same for products of bf16 by AVX-512; none for other instructions.
inline std::optional<double> measure_bf16_roof() {
#if defined(__AVX512BF16__) && defined(__AVX512F__)
  if (simd::detail::may_use_amx()) return {};
  using pairs = simd::detail::avx512_pairs;
  std::uint32_t a = 0x30003000U;
  std::uint32_t b = 0x3f803f80U;
  benchmark::DoNotOptimize(a);
  benchmark::DoNotOptimize(b);
  const auto of_a = pairs::spread(a);
  const auto of_b = pairs::spread(b);
  return measure_chains(2, [=](simd::batch sum) { return pairs::add(of_a, of_b, sum); });
#else
  return {};
#endif
}

}  // namespace kvfit::bench
