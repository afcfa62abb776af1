// SPDX-License-Identifier: MIT
/// Importance of keys under all queries given, those that nothing is fitted to included.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "kvfit/attention/score_bytes.hpp"
#include "kvfit/attention/score_pass.hpp"
#include "kvfit/compact/head_judge.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/parallel/stop.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Queries of a block that are scored together.
inline constexpr index_t ranked_at_once = 384;

/// `attention_scores::importance` of `cache` under `queries`; `wanted` asks for some, without a
/// window. Cost: a score pass.
inline result<vector> importance_of_all(const kv_block& cache, const query_set& queries,
                                        const logit_rule& rule, const score_options& wanted,
                                        const stop_when& stop, const executor_ref& threads) {
  const index_t keys = cache.keys.rows();
  std::vector<double> sums(static_cast<std::size_t>(keys), 0.0);
  const score_options alone{.importance = wanted.importance,
                            .precision = wanted.precision,
                            .panels_at_once = wanted.panels_at_once};
  const auto blocks = queries.blocks();
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    const index_t rows = blocks[b].rows.rows();
    for (index_t first = 0; first < rows; first += ranked_at_once) {
      const index_t count = std::min(ranked_at_once, rows - first);
      query_block some = blocks[b];
      some.rows = some.rows.middle_rows(first, count);
      some.first_position += first * some.position_step;
      std::vector<row_view> masks;
      if (!cache.masks.empty()) masks.push_back(cache.masks[b].middle_rows(first, count));
      kv_block beside = cache;
      beside.masks = masks;
      const auto scores = score_checked(beside, some, rule, alone, {}, stop, threads);
      if (!scores) return scores.error();
      for (index_t j = 0; j < keys; ++j) {
        double& sum = sums[static_cast<std::size_t>(j)];
        const auto one = static_cast<double>(scores->importance[j]);
        const auto n = static_cast<double>(count);
        sum = wanted.importance == importance_kind::max    ? std::max(sum, one)
              : wanted.importance == importance_kind::mean ? sum + n * one
                                                           : sum + n * one * one;
      }
    }
  }
  vector out(keys);
  const double share = 1.0 / static_cast<double>(queries.rows());
  for (index_t j = 0; j < keys; ++j) {
    const double sum = sums[static_cast<std::size_t>(j)];
    out[j] =
        static_cast<float>(wanted.importance == importance_kind::max    ? sum
                           : wanted.importance == importance_kind::mean ? sum * share
                                                                        : std::sqrt(sum * share));
  }
  pool(out, wanted.pooling, wanted.pooling_width);
  return out;
}

/// Makes the importance in `fitted`, the scores of the queries fitted on, that under all `queries`:
/// a row that one query alone looks at is not lost for this one's being held out or left out. Where
/// importance is that of a window nothing is changed. `fits_all`: none but those that judge is left
/// out of the fit; then it costs no more than the judge does anyway.
inline result<void> rank_by_all(const kv_block& cache, const query_set& queries,
                                const logit_rule& rule, const score_options& wanted, bool fits_all,
                                head_judge& judge, attention_scores& fitted, const stop_when& stop,
                                const executor_ref& threads) {
  if (wanted.importance == importance_kind::none || wanted.window > 0) return {};
  if (fits_all && !judge.has_held_out()) return {};
  if (fits_all && wanted.pooling == pooling_kind::none) {
    return judge.add_importance_to(fitted, wanted.importance);
  }
  auto all = importance_of_all(cache, queries, rule, wanted, stop, threads);
  if (!all) return all.error();
  fitted.importance = std::move(*all);
  return {};
}

/// Bytes that `importance_of_all` holds beside its result; `given`: the sizes of the queries given.
inline double importance_of_all_bytes(head_sizes given, const score_options& wanted) {
  given.queries = given.largest_block = std::min(given.largest_block, ranked_at_once);
  given.blocks = 1;
  const score_options alone{.importance = wanted.importance,
                            .precision = wanted.precision,
                            .panels_at_once = wanted.panels_at_once};
  return double_bytes(given.keys) + score_checked_bytes(given, alone) + float_bytes(2, given.keys);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
