// SPDX-License-Identifier: MIT
/// Heads that benchmarks run on, what the baseline makes of them, and how results are judged.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "baselines.hpp"
#include "synthetic.hpp"

namespace kvfit::bench {

inline constexpr index_t fit_queries = 2048;
inline constexpr index_t held_out_queries = 512;
inline constexpr index_t compaction_ratio = 20;

/// One head and the truth about its held-out queries.
struct workload {
  head data;
  index_t budget = 0;
  baseline::attention held_out;  ///< of `data.held_out`, without the exponentials
};

/// How far a result is from full attention: means over queries, as `kvfit::fidelity` defines them.
struct quality {
  double output_error = 0;
  double mass_error = 0;
};

/// The head of that size and seed. Only the last one asked for is kept, like everything below.
const workload& load(index_t keys, index_t depth, std::uint64_t seed = 1);

/// Full attention of the fitting queries, by the baseline.
const baseline::attention& plain_attention(const workload& work);

/// Rows of highest rms attention (baseline), in ascending order: common ground for the later
/// stages.
const std::vector<index_t>& common_positions(const workload& work);

/// The published weights of `common_positions` (baseline).
const baseline::vector& common_weights(const workload& work);

/// A compact cache, on the held-out queries.
quality judge(const workload& work, const matrix& keys, const vector& bias, const matrix& values);

/// The same for a bare choice of rows, or of rows and weights: the rest is the baseline's.
quality judge_positions(const workload& work, std::span<const index_t> positions);
quality judge_weights(const workload& work, std::span<const index_t> positions,
                      const vector& weights);
/// And for values of `common_positions` under `common_weights`.
quality judge_values(const workload& work, const matrix& values);

}  // namespace kvfit::bench
