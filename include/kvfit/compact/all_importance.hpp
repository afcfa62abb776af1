// SPDX-License-Identifier: MIT
/// Importance of keys under all queries given, those that nothing is fitted to included.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include "kvfit/attention/score_by.hpp"
#include "kvfit/attention/score_panels.hpp"
#include "kvfit/compact/fit_scores.hpp"
#include "kvfit/compact/stage_values.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/core/workspace.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Queries of a block that are scored together.
inline constexpr index_t ranked_at_once = 192;

/// What is asked of a score pass for importance alone, not yet pooled. Whoever else runs passes is
/// asked for outputs, too, as it is in every other pass.
inline score_options importance_alone(const score_options& wanted, const score_runner& runner) {
  return {.importance = wanted.importance,
          .outputs = runner.run != nullptr,
          .precision = wanted.precision,
          .panels_at_once = wanted.panels_at_once};
}

/// Sums over queries (or maxima) of what a key's importance is made of.
class importance_sums {
 public:
  explicit importance_sums(const score_options& wanted) : wanted_(wanted) {}

  /// Takes in the importance that `count` queries give, not pooled.
  void add(const vector& importance, index_t count) {
    sums_.resize(static_cast<std::size_t>(importance.size()), 0.0);
    const auto n = static_cast<double>(count);
    for (index_t j = 0; j < importance.size(); ++j) {
      double& sum = sums_[static_cast<std::size_t>(j)];
      const auto one = static_cast<double>(importance[j]);
      sum = wanted_.importance == importance_kind::max    ? (std::max)(sum, one)
            : wanted_.importance == importance_kind::mean ? sum + n * one
                                                          : sum + n * one * one;
    }
    count_ += n;
  }

  /// That of all of them, pooled.
  [[nodiscard]] vector importance() const {
    vector out(static_cast<index_t>(sums_.size()));
    for (index_t j = 0; j < out.size(); ++j) {
      const double sum = sums_[static_cast<std::size_t>(j)];
      const bool is_mean = wanted_.importance == importance_kind::mean;
      const bool is_largest = wanted_.importance == importance_kind::max;
      out[j] = static_cast<float>(is_largest ? sum
                                  : is_mean  ? sum / count_
                                             : std::sqrt(sum / count_));
    }
    vector raw(out.size());
    pool(out.data(), wanted_.pooling, wanted_.pooling_width, raw);
    return out;
  }

 private:
  const score_options& wanted_;
  std::vector<double> sums_;
  double count_ = 0;
};

/// Adds the importance that `queries` give, a stretch of each block at a time; `cache` has their
/// masks. Cost: a score pass.
inline result<void> add_importance_of(const stages::problem& of, const kv_block& cache,
                                      const query_set& queries, const score_options& alone,
                                      importance_sums& sums) {
  const auto blocks = queries.blocks();
  index_t before = 0;  // rows of the blocks before
  for (std::size_t b = 0; b < blocks.size(); before += blocks[b++].rows.rows()) {
    const index_t rows = blocks[b].rows.rows();
    for (index_t first = 0; first < rows; first += ranked_at_once) {
      const index_t count = (std::min)(ranked_at_once, rows - first);
      query_block some = blocks[b];
      some.rows = some.rows.middle_rows(first, count);
      some.first_position += first * some.position_step;
      std::vector<row_view> masks;
      if (!cache.masks.empty()) masks.push_back(cache.masks[b].middle_rows(first, count));
      kv_block beside = cache;
      beside.masks = masks;
      const auto scores = score_by(of.options.score_by, beside, some, of.options.rule, alone, {},
                                   of.stop, of.threads);
      if (!scores) {
        error cause = scores.error();
        if (cause.code == errc::non_finite) cause.actual += before + first;
        return cause;
      }
      sums.add(scores->importance, count);
    }
  }
  return {};
}

/// Makes the importance in `full`, that of the queries fitted on, that under all queries, so that a
/// row which only a query held out or left out attends to can be chosen.
/// Where importance is that of a window nothing is changed. Cost: n T d_k for the n queries
/// held out where all others are fitted on and nothing is pooled, else for all.
inline result<void> rank_by_all(const stages::problem& of, stages::scored& full) {
  const score_options wanted =
      fit_scores(of.options, of.cache.keys.rows(), of.options.budget, of.threads.threads());
  const index_t fitted = full.fitted.max.size();
  if (wanted.importance == importance_kind::none || wanted.window > 0) return {};
  if (fitted == of.queries.rows()) return {};
  importance_sums sums(wanted);
  const score_options alone = importance_alone(wanted, of.options.score_by);
  const index_t held_out = full.parts.judge.set().rows();
  if (fitted + held_out == of.queries.rows() && wanted.pooling == pooling_kind::none) {
    sums.add(full.fitted.importance, fitted);
    const query_part& part = full.parts.judge;
    const auto ok = add_importance_of(of, part.beside(of.cache), part.set(), alone, sums);
    if (!ok) return ok;
  } else if (const auto ok = add_importance_of(of, of.cache, of.queries, alone, sums); !ok) {
    return ok;
  }
  full.fitted.importance = sums.importance();
  return {};
}

/// What `rank_by_all` holds beside the scores; `largest`: rows of the longest block of queries.
inline void declare_ranking(workspace& space, head_sizes sizes, index_t largest,
                            const score_options& wanted, const score_runner& runner) {
  const workspace::phase ranking(space);
  sizes.queries = sizes.largest_block = (std::min)(largest, ranked_at_once);
  sizes.blocks = 1;
  sizes.has_exponentials = false;
  space.count(double_bytes(sizes.keys) + float_bytes(3, sizes.keys));
  declare_score_checked(space, sizes, importance_alone(wanted, runner));
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
