// SPDX-License-Identifier: MIT
// Compaction composed of policies, one of them our own.
#include <cstdio>
#include <kvfit/kvfit.hpp>

namespace mine {

/// Keeps every k-th row.
struct every {
  kvfit::index_t step = 16;
};

kvfit::score_options wanted_scores(const every&) {
  return {.importance = kvfit::importance_kind::none};
}

kvfit::result<kvfit::selected_rows> select(const every& policy,
                                           const kvfit::selection_problem& problem) {
  kvfit::selected_rows rows;
  for (kvfit::index_t row = 0; row < problem.cache.keys.rows(); row += policy.step) {
    if (static_cast<kvfit::index_t>(rows.positions.size()) < problem.budget) {
      rows.positions.push_back(row);
    }
  }
  return rows;
}

}  // namespace mine

int main() {
  std::srand(1);
  const kvfit::matrix keys = kvfit::matrix::Random(2048, 64) * 2;
  const kvfit::matrix values = kvfit::matrix::Random(2048, 64);
  const kvfit::matrix queries = kvfit::matrix::Random(512, 64) * 2;
  const kvfit::kv_block cache{.keys = keys, .values = values};

  const kvfit::compact_options composed{
      .budget = 128, .selection = mine::every{}, .values = kvfit::values::copy{}};
  const auto ours = kvfit::compact(cache, queries, composed);

  const auto published = kvfit::compact(cache, queries, kvfit::presets::omp_fast(128));
  if (!ours || !published) return 1;

  std::printf("every 16th row, fitted bias, copied values: mass error %5.1f %%\n",
              100 * ours->report.train.mass_error);
  std::printf("AM-OMP-fast, as published:                  mass error %5.1f %%\n",
              100 * published->report.train.mass_error);
}
