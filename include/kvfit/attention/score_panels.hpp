// SPDX-License-Identifier: MIT
/// The work of `score_pass`, on inputs and options that were checked before.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

#include "kvfit/attention/check.hpp"
#include "kvfit/attention/origin.hpp"
#include "kvfit/attention/panel.hpp"
#include "kvfit/attention/result_memory.hpp"
#include "kvfit/attention/score_bytes.hpp"
#include "kvfit/attention/score_options.hpp"
#include "kvfit/attention/scores.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/parallel/stop.hpp"
#include "kvfit/simd/dot.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Pools `scores` in place; the average counts the zeros beyond the ends, as the published method
/// does. Cost T · width: every window is summed by itself, so equal windows pool to equal numbers.
/// `raw`: memory for as many numbers.
inline void pool(float* scores, pooling_kind kind, index_t width, vector& raw) {
  if (kind == pooling_kind::none || width == 1) return;
  std::copy_n(scores, raw.size(), raw.data());
  const index_t half = width / 2;
  const index_t last = raw.size() - 1;
  for (index_t j = 0; j <= last; ++j) {
    const index_t begin = j > half ? j - half : 0;
    const index_t end = last - j > half ? j + half : last;
    float largest = raw[begin];
    float sum = 0;
    for (index_t k = begin; k <= end; ++k) {
      largest = (std::max)(largest, raw[k]);
      sum += raw[k];
    }
    scores[j] = kind == pooling_kind::max ? largest : sum / static_cast<float>(width);
  }
}

/// A panel at work, and what the pass takes from it.
struct scored_panel {
  attention_panel panel;
  query_panel part;
  float* scale = nullptr;  ///< 1 / Σ_j exp(s_ij − shift_i), or 0
  index_t first = 0;       ///< queries before it are not observed
  /// Which of the others are, where that is not all of them.
  std::span<const char> observed = {};
  result<void> outcome = {};

  scored_panel(const kv_block& cache, const query_set& queries, const logit_rule& rule,
               const score_options& options)
      : panel(cache, queries, rule, options.precision, options.outputs) {}
};

/// Takes the attention weights A_ij = exp(s_ij − shift_i) · scale_i of a panel's observed queries
/// into the running sums or maxima of the keys `from` … `from + count − 1`.
inline void add_importance(const scored_panel& of, importance_kind kind, index_t from,
                           index_t count, std::span<double> importance) noexcept {
  const index_t n = of.part.count - of.first;
  if (n == 0 || kind == importance_kind::none) return;
  const float* scales = of.scale + of.first;
  for (index_t j = from; j < from + count; ++j) {
    const float* row = of.panel.exponentials(j) + of.first;
    double& sum = importance[static_cast<std::size_t>(j)];
    switch (kind) {
      case importance_kind::none:
        return;
      case importance_kind::mean:
        sum += static_cast<double>(simd::dot32(row, scales, n));
        break;
      case importance_kind::rms:
        sum += static_cast<double>(simd::square_sum32(row, scales, n));
        break;
      case importance_kind::max:
        sum = (std::max)(sum, static_cast<double>(simd::largest_product(row, scales, n)));
        break;
    }
  }
}

/// Computes `at.part` and writes its queries' rows of the n there are, d_v = `width`.
inline result<void> score_panel(scored_panel& at, const score_target& scores, index_t n,
                                index_t width) {
  const query_panel& part = at.part;
  const bool is_kept = scores.exponentials != nullptr;
  const auto ok = is_kept ? at.panel.compute(part, scores.exponentials + part.offset, n)
                          : at.panel.compute(part);
  if (!ok) return ok;
  for (index_t i = 0; i < part.count; ++i) {
    const index_t row = part.offset + i;
    scores.max[row] = at.panel.largest(i);
    scores.mass[row] = static_cast<float>(at.panel.mass(i));
    scores.log_mass[row] = static_cast<float>(at.panel.log_mass(i));
    if (scores.output != nullptr) {
      std::copy_n(at.panel.output(i), width, scores.output + row * width);
    }
    if (is_kept) scores.shift[row] = at.panel.shift(i);
    const bool counts = at.observed.empty() || at.observed[static_cast<std::size_t>(i)] != 0;
    at.scale[i] = counts && at.panel.sum(i) > 0 ? static_cast<float>(1.0 / at.panel.sum(i)) : 0.0F;
  }
  return {};
}

/// Scores into memory of the caller.
inline result<void> score_into(const scores_owner& into, const kv_block& cache,
                               const query_set& queries, const logit_rule& rule,
                               const score_options& options, std::span<const block_origin> origins,
                               const stop_when& stop, const executor_ref& threads) {
  const index_t keys = cache.keys.rows();
  const head_sizes sizes = sizes_of_head(cache, queries);
  const score_target scores = into.allocate(into.owner, sizes, options);
  workspace space(workspace::purpose::allocate);
  const std::vector<index_t> observed = last_rows(queries.blocks(), origins, options.window);
  std::vector<char> latest;  // where those are not the last rows
  if (options.window > 0) {
    latest = latest_queries(queries.blocks(), origins, options.window);
    if (are_last(latest, queries.blocks(), observed)) latest.clear();
  }
  const std::vector<query_panel> parts = cut_panels(queries, panel_rows(keys, options.panel));
  const auto all = static_cast<index_t>(parts.size());
  const index_t at_once =
      (std::min)({options.panels_at_once, all, static_cast<index_t>(threads.threads())});
  index_t longest = 0;
  for (const query_panel& part : parts) longest = (std::max)(longest, part.count);
  score_buffers own;
  own.declare(space, keys, at_once, longest, options);
  std::vector<double>& importance = own.importance;
  std::vector<scored_panel> group(static_cast<std::size_t>(at_once),
                                  scored_panel(cache, queries, rule, options));
  for (index_t k = 0; k < at_once; ++k) {
    group[static_cast<std::size_t>(k)].scale = own.scales.data() + k * longest;
  }
  for (index_t begin = 0; begin < all; begin += static_cast<index_t>(group.size())) {
    if (const auto go_on = check_stop(stop, "score pass"); !go_on) return go_on.error();
    const std::span<scored_panel> now =
        std::span(group).first((std::min)(group.size(), static_cast<std::size_t>(all - begin)));
    for (std::size_t k = 0; k < now.size(); ++k) {
      now[k].part = parts[static_cast<std::size_t>(begin) + k];
      const index_t block = now[k].part.block;
      const index_t unobserved =
          queries.blocks()[block].rows.rows() - observed[block] - now[k].part.first;
      now[k].first = std::clamp<index_t>(unobserved, 0, now[k].part.count);
      if (latest.empty()) continue;
      now[k].first = 0;
      now[k].observed =
          std::span<const char>(latest).subspan(static_cast<std::size_t>(now[k].part.offset),
                                                static_cast<std::size_t>(now[k].part.count));
    }
    threads.run(static_cast<index_t>(now.size()), [&](index_t k) noexcept {
      scored_panel& at = now[static_cast<std::size_t>(k)];
      at.outcome = catch_bad_alloc(
          "score_pass", [&] { return score_panel(at, scores, sizes.queries, sizes.width); });
    });
    for (const scored_panel& at : now) {
      if (!at.outcome) return at.outcome.error();
    }
    if (options.importance == importance_kind::none) continue;
    constexpr index_t piece = 2048;
    over_pieces(threads, keys, piece, [&](index_t from, index_t count) noexcept {
      for (const scored_panel& at : now) {
        add_importance(at, options.importance, from, count, importance);
      }
    });
  }
  if (options.importance == importance_kind::none) return {};
  const double share =
      1.0 / static_cast<double>(std::accumulate(observed.begin(), observed.end(), index_t{0}));
  for (index_t j = 0; j < keys; ++j) {
    const double sum = importance[static_cast<std::size_t>(j)];
    const bool is_mean = options.importance == importance_kind::mean;
    const bool is_largest = options.importance == importance_kind::max;
    scores.importance[j] = static_cast<float>(is_largest ? sum
                                              : is_mean  ? sum * share
                                                         : std::sqrt(sum * share));
  }
  pool(scores.importance, options.pooling, options.pooling_width, own.raw);
  return {};
}

/// `score_pass` on inputs and options that were checked before. `origins`: one per query block
/// where these are parts of the caller's, whose ends `options.window` then counts from. `cancelled`
/// where `stop` is due before a panel, or a group of panels computed at once.
inline result<attention_scores> score_checked(const kv_block& cache, const query_set& queries,
                                              const logit_rule& rule, const score_options& options,
                                              std::span<const block_origin> origins = {},
                                              const stop_when& stop = {},
                                              const executor_ref& threads = {}) {
  attention_scores scores;
  const auto ok =
      score_into(owner_of(scores), cache, queries, rule, options, origins, stop, threads);
  if (!ok) return ok.error();
  return scores;
}

/// `score_pass`, its result in memory of the caller, who is asked for it once the input has been
/// checked.
inline result<void> check_and_score(const kv_block& cache, const query_set& queries,
                                    const logit_rule& rule, const score_options& options,
                                    const stop_when& stop, const executor_ref& threads,
                                    const scores_owner& into) {
  if (const auto ok = check_rule(rule); !ok) return ok;
  if (const auto ok = check_score_options(options); !ok) return ok;
  if (const auto ok = check_cache(cache, queries); !ok) return ok;
  if (const auto ok = check_queries(queries, cache.keys.cols()); !ok) return ok;
  const auto within = score_options_within(sizes_of_head(cache, queries), options);
  if (!within) return within.error();
  return score_into(into, cache, queries, rule, *within, {}, stop, threads);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
