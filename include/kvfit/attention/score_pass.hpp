// SPDX-License-Identifier: MIT
/// The score pass: everything compaction must know of full attention, in one streaming sweep.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

#include "kvfit/attention/check.hpp"
#include "kvfit/attention/origin.hpp"
#include "kvfit/attention/panel.hpp"
#include "kvfit/attention/score_bytes.hpp"
#include "kvfit/attention/score_options.hpp"
#include "kvfit/core/guarded.hpp"
#include "kvfit/parallel/stop.hpp"
#include "kvfit/simd/dot.hpp"

namespace kvfit::detail::inline KVFIT_ISA {

/// Pools `scores` in place; the average counts the zeros beyond the ends, as the published method
/// does. Cost T · width: every window is summed by itself, so equal windows pool to equal numbers.
inline void pool(vector& scores, pooling_kind kind, index width) {
  if (kind == pooling_kind::none || width == 1) return;
  const vector raw = scores;
  const index half = width / 2;
  const index last = raw.size() - 1;
  for (index j = 0; j <= last; ++j) {
    const index begin = j > half ? j - half : 0;
    const index end = last - j > half ? j + half : last;
    const auto window = raw.segment(begin, end - begin + 1);
    scores[j] =
        kind == pooling_kind::max ? window.maxCoeff() : window.sum() / static_cast<float>(width);
  }
}

/// Takes the attention weights A_ij = exp(s_ij − shift_i) · scale_i of a panel's queries from
/// `first` on into every key's running sum or maximum.
inline void add_importance(const attention_panel& panel, const vector& scale, index first,
                           importance_kind kind, Eigen::VectorXd& importance) {
  const index n = scale.size() - first;
  if (n == 0) return;
  const float* scales = scale.data() + first;
  for (index j = 0; j < importance.size(); ++j) {
    const float* row = panel.exponentials(j) + first;
    switch (kind) {
      case importance_kind::none:
        return;
      case importance_kind::mean:
        importance[j] += static_cast<double>(simd::dot32(row, scales, n));
        break;
      case importance_kind::rms:
        importance[j] += static_cast<double>(simd::square_sum32(row, scales, n));
        break;
      case importance_kind::max:
        importance[j] =
            std::max(importance[j], static_cast<double>(simd::largest_product(row, scales, n)));
        break;
    }
  }
}

/// `score_pass` on inputs and options that were checked before. `origins`: one per query block
/// where these are parts of the caller's, whose ends `options.window` then counts from. `cancelled`
/// where `stop` is due before a panel.
inline result<attention_scores> score_checked(const kv_block& cache, const query_set& queries,
                                              const logit_rule& rule, const score_options& options,
                                              std::span<const block_origin> origins = {},
                                              const stop_when& stop = {}) {
  const index n = queries.rows();
  const index keys = cache.keys.rows();
  attention_scores scores;
  scores.max.resize(n);
  scores.mass.resize(n);
  scores.log_mass.resize(n);
  scores.output.resize(n, cache.values.cols());

  // n × T numbers are kept only where they are asked for and fit.
  const double bytes = static_cast<double>(n) * static_cast<double>(keys) * sizeof(float);
  const bool is_kept = bytes <= static_cast<double>(options.keep_exponentials);
  if (is_kept) {
    scores.exponentials.resize(keys, n);
    scores.shift.resize(n);
  }

  Eigen::VectorXd importance;
  if (options.importance != importance_kind::none) importance.setZero(keys);
  const std::vector<index> observed = last_rows(queries.blocks(), origins, options.window);
  attention_panel panel(cache, queries, rule, options.precision);
  vector scale;
  for (const query_panel& part : cut_panels(queries, panel_rows(keys, options.panel))) {
    if (const auto go_on = check_stop(stop, "score pass"); !go_on) return go_on.error();
    const auto ok = is_kept ? panel.compute(part, scores.exponentials.data() + part.offset, n)
                            : panel.compute(part);
    if (!ok) return ok.error();
    scale.resize(part.count);
    for (index i = 0; i < part.count; ++i) {
      const index row = part.offset + i;
      scores.max[row] = panel.max(i);
      scores.mass[row] = static_cast<float>(panel.mass(i));
      scores.log_mass[row] = static_cast<float>(panel.log_mass(i));
      scores.output.row(row) = panel.output(i);
      if (is_kept) scores.shift[row] = panel.shift(i);
      scale[i] = panel.sum(i) > 0 ? static_cast<float>(1.0 / panel.sum(i)) : 0.0F;
    }
    const index unobserved =
        queries.blocks()[part.block].rows.rows() - observed[part.block] - part.first;
    add_importance(panel, scale, std::clamp<index>(unobserved, 0, part.count), options.importance,
                   importance);
  }
  const double share =
      1.0 / static_cast<double>(std::accumulate(observed.begin(), observed.end(), index{0}));
  switch (options.importance) {
    case importance_kind::none:
      break;
    case importance_kind::mean:
      scores.importance = (importance * share).cast<float>();
      break;
    case importance_kind::rms:
      scores.importance = (importance * share).cwiseSqrt().cast<float>();
      break;
    case importance_kind::max:
      scores.importance = importance.cast<float>();
      break;
  }
  if (options.importance != importance_kind::none) {
    pool(scores.importance, options.pooling, options.pooling_width);
  }
  return scores;
}

}  // namespace kvfit::detail::inline KVFIT_ISA

namespace kvfit::inline KVFIT_ISA {

/// Sweeps all keys once for every panel of queries: log-mass, output and importance.
///
/// Never holds n × T numbers, unless `keep_exponentials` asks for them: the workspace is one panel
/// of at most max(16 MB, 8 · T · 4 bytes) plus the results (`score_pass_bytes`). Cost n · T · (d_k
/// + d_v) multiply-adds and n · T exponentials, pooling T · width. Errors: everything that
/// `check_cache` and `check_queries` refuse, `invalid_option`, `memory_cap_exceeded` before
/// anything is computed, `cancelled` where `stop` is due before a panel, and `non_finite` where
/// fp32 overflows in a product of query and key or a logit (argument "logits"), or in the values'
/// weighted sum ("output"); the row is the query's. A bias and a mask that overflow downwards
/// together hide the key. A query that sees no key at all is no error here.
inline result<attention_scores> score_pass(const kv_block& cache, const query_set& queries,
                                           const logit_rule& rule = {},
                                           const score_options& options = {},
                                           const stop_when& stop = {}) {
  return detail::guard_memory("score_pass", [&]() -> result<attention_scores> {
    if (const auto ok = check_rule(rule); !ok) return ok.error();
    if (const auto ok = check_score_options(options); !ok) return ok.error();
    if (const auto ok = check_cache(cache, queries); !ok) return ok.error();
    if (const auto ok = check_queries(queries, cache.keys.cols()); !ok) return ok.error();
    const auto within = detail::score_options_within(sizes_of_head(cache, queries), options);
    if (!within) return within.error();
    return detail::score_checked(cache, queries, rule, *within, {}, stop);
  });
}

}  // namespace kvfit::inline KVFIT_ISA
