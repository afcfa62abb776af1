// SPDX-License-Identifier: MIT
/// The score pass: everything compaction must know of full attention, in one streaming sweep.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "kvfit/attention/check.hpp"
#include "kvfit/attention/panel.hpp"
#include "kvfit/core/guarded.hpp"
#include "kvfit/simd/accumulate.hpp"
#include "kvfit/simd/softmax.hpp"

namespace kvfit {

/// How a key's attention weights A_ij over the queries i become one number.
enum class importance_kind : std::uint8_t {
  none,  ///< not asked for
  mean,  ///< (1/n) Σ_i A_ij
  rms,   ///< √((1/n) Σ_i A_ij²)
  max,   ///< max_i A_ij
};

/// One-dimensional pooling of importance along the keys, stride 1.
enum class pooling_kind : std::uint8_t { none, average, max };

struct score_options {
  importance_kind importance = importance_kind::rms;
  pooling_kind pooling = pooling_kind::none;
  /// Width of the pooling window: odd and ≥ 1. (An even one can't be centred: the published code
  /// then yields T + 1 scores.)
  index pooling_width = 7;
};

/// Full attention of n queries over T keys, reduced.
struct attention_scores {
  vector max;         ///< n: m_i = max_j s_ij, natural log; −∞ where every key is hidden
  vector mass;        ///< n: y_i = Σ_j exp(s_ij − m_i), in [1, T]; 0 where every key is hidden
  vector log_mass;    ///< n: ln Σ_j exp(s_ij); −∞ where every key is hidden
  matrix output;      ///< n × d_v: Σ_j A_ij v_j; zero where every key is hidden
  vector importance;  ///< T, by `score_options`; empty for `none`
};

}  // namespace kvfit

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

/// `score_pass` on inputs and options that were checked before.
inline result<attention_scores> score_checked(const kv_block& cache, const query_set& queries,
                                              const logit_rule& rule,
                                              const score_options& options) {
  const index n = queries.rows();
  const index keys = cache.keys.rows();
  attention_scores scores;
  scores.max.resize(n);
  scores.mass.resize(n);
  scores.log_mass.resize(n);
  scores.output.resize(n, cache.values.cols());
  if (options.importance != importance_kind::none) scores.importance = vector::Zero(keys);

  attention_panel panel(cache, queries, rule);
  for (const query_panel& part : cut_panels(queries, panel_rows(keys))) {
    if (const auto ok = panel.compute(part); !ok) return ok.error();
    for (index i = 0; i < part.count; ++i) {
      const index row = part.offset + i;
      const double mass = panel.mass(i);
      scores.max[row] = panel.max(i);
      scores.mass[row] = static_cast<float>(mass);
      scores.log_mass[row] = static_cast<float>(static_cast<double>(panel.max(i)) + std::log(mass));
      scores.output.row(row) = panel.output(i);
      const float scale = mass > 0 ? static_cast<float>(1.0 / mass) : 0.0F;
      float* sums = scores.importance.data();
      switch (options.importance) {
        case importance_kind::none:
          break;
        case importance_kind::mean:
          simd::add_scaled(sums, panel.exponentials(i), scale, keys);
          break;
        case importance_kind::rms:
          simd::add_scaled_squares(sums, panel.exponentials(i), scale, keys);
          break;
        case importance_kind::max:
          simd::max_scaled(sums, panel.exponentials(i), scale, keys);
          break;
      }
    }
  }
  const float share = 1.0F / static_cast<float>(n);
  if (options.importance == importance_kind::mean) scores.importance *= share;
  if (options.importance == importance_kind::rms) {
    scores.importance = (scores.importance * share).cwiseSqrt();
  }
  if (options.importance != importance_kind::none) {
    detail::pool(scores.importance, options.pooling, options.pooling_width);
  }
  return scores;
}

}  // namespace kvfit::detail::inline KVFIT_ISA

namespace kvfit::inline KVFIT_ISA {

/// `invalid_option` where the pooling window has no centre.
inline result<void> check_score_options(const score_options& options) {
  if (options.pooling_width >= 1 && options.pooling_width % 2 == 1) return {};
  return error{errc::invalid_option, "pooling_width", options.pooling_width, error::none,
               "must be odd and at least 1"};
}

/// Sweeps all keys once for every panel of queries: log-mass, output and importance.
///
/// Never holds n × T numbers: the workspace is one panel of at most max(16 MB, 8 · T · 4 bytes)
/// plus the results. Cost n · T · (d_k + d_v) multiply-adds and n · T exponentials, pooling
/// T · width. Errors:
/// everything that `check_cache` and `check_queries` refuse, `invalid_option`, and `non_finite`
/// where fp32 overflows in a product of query and key or a logit (argument "logits"), or in the
/// values' weighted sum ("output"); the row is the query's. A query that sees no key at all is no
/// error here.
inline result<attention_scores> score_pass(const kv_block& cache, const query_set& queries,
                                           const logit_rule& rule = {},
                                           const score_options& options = {}) {
  return detail::guard_memory("score_pass", [&]() -> result<attention_scores> {
    if (const auto ok = check_rule(rule); !ok) return ok.error();
    if (const auto ok = check_score_options(options); !ok) return ok.error();
    if (const auto ok = check_cache(cache, queries); !ok) return ok.error();
    if (const auto ok = check_queries(queries, cache.keys.cols()); !ok) return ok.error();
    return detail::score_checked(cache, queries, rule, options);
  });
}

}  // namespace kvfit::inline KVFIT_ISA
