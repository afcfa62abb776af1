// SPDX-License-Identifier: MIT
/// Reference queries with their targets, laid out for the refinement's products.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/attention/output_weights.hpp"
#include "kvfit/attention/row_logits.hpp"
#include "kvfit/attention/score_panels.hpp"
#include "kvfit/attention/split.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/simd/transpose.hpp"
#include "kvfit/view/load.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// Queries taken together by the objective: whole registers, and few enough that what belongs to
/// them stays in cache.
inline constexpr index_t refine_panel = 240;

/// n queries, scaled, and what full attention gives for them: row by row and across.
struct refine_batch {
  matrix queries;          ///< n × d_k, times the rule's scale
  matrix queries_across;   ///< panels of d_k × count, one after the other
  vector log_mass;         ///< n
  matrix weighted_output;  ///< n × d_v: f_i² o_i
  matrix output_across;    ///< panels of d_v × count
  vector inverse_length;   ///< n: f_i = 1 / ‖o_i‖ (see `inverse_lengths`)
  vector sees;             ///< n: 1, or 0 where the query sees no key
  matrix added_across;     ///< t × n: masks, ALiBi and hidden keys; empty where there are none

  /// `added`: t where something is added to logits, else 0.
  void declare(workspace& space, index_t n, index_t depth, index_t width, index_t added) {
    space.add_matrices(n, depth, queries, queries_across);
    space.add_matrices(n, width, weighted_output, output_across);
    space.add_vectors(n, log_mass, inverse_length, sees);
    if (added > 0) space.add(added_across, added, n);
  }
};

namespace refine_detail {

/// Whether a logit is more than cap(scale q·k) + bias.
inline bool adds_to_logits(const query_part& part, const logit_rule& rule) {
  if (rule.causal || rule.window > 0 || !part.masks.empty()) return true;
  for (const query_block& block : part.blocks) {
    if (block.alibi_slope != 0) return true;
  }
  return false;
}

/// Panel by panel, `from` across: element (i, k) of the panel that starts at row `first` and has
/// `count` rows lies at first · cols + k · count + i − first.
inline void across(const matrix& from, matrix& to) {
  const std::vector<float> ones(static_cast<std::size_t>(from.cols()), 1.0F);
  for (index_t first = 0; first < from.rows(); first += refine_panel) {
    const index_t count = (std::min)(refine_panel, from.rows() - first);
    float* const start = to.data() + first * from.cols();
    simd::transpose_scaled(from.data() + first * from.cols(), from.cols(), ones.data(), from.cols(),
                           count, start, count);
  }
}

}  // namespace refine_detail

/// One set of queries and its scores.
struct scored_part {
  const query_part* part;
  const attention_scores* scores;
};

/// Every `stride`-th query from number `first` on, counted through all blocks of a part.
struct every {
  index_t first = 0;
  index_t stride = 1;

  [[nodiscard]] bool takes(index_t i) const noexcept {
    return i >= first && (i - first) % stride == 0;
  }
  [[nodiscard]] index_t count(index_t n) const noexcept {
    return n > first ? (n - first + stride - 1) / stride : 0;
  }
};

/// Lays out the queries `taken` of all `parts`, one after the other. `rows`: the cache's rows that
/// the compact keys come from, whose masks and positions they keep.
inline refine_batch make_batch(std::span<const scored_part> parts, const every& taken,
                               const kv_block& cache, const logit_rule& rule,
                               std::span<const index_t> rows,
                               output_weighting weighting = output_weighting::relative) {
  index_t n = 0;
  for (const scored_part& one : parts) n += taken.count(one.scores->max.size());
  const index_t depth = cache.keys.cols();
  const index_t width = cache.values.cols();
  const float scale = rule.scale.value_or(1.0F / std::sqrt(static_cast<float>(depth)));
  bool is_plain = true;
  for (const scored_part& one : parts) {
    is_plain = is_plain && !refine_detail::adds_to_logits(*one.part, rule);
  }
  refine_batch batch;
  allocate_buffers(batch, n, depth, width, is_plain ? 0 : static_cast<index_t>(rows.size()));
  matrix& output = batch.weighted_output;
  matrix nothing;  // keys of zero leave what the rule adds: cap(0) is 0
  if (!is_plain) {
    nothing.resize(static_cast<index_t>(rows.size()), depth);
    std::fill_n(nothing.data(), nothing.size(), 0.0F);
  }
  index_t at = 0;
  for (const scored_part& one : parts) {
    matrix added;
    if (!is_plain) {
      kv_block beside = one.part->beside(cache);
      beside.bias = {};
      row_logits_into(beside, one.part->set(), rule, rows, nothing, added);
    }
    index_t number = 0;
    for (const query_block& block : one.part->blocks) {
      for (index_t i = 0; i < block.rows.rows(); ++i, ++number) {
        if (!taken.takes(number)) continue;
        load_row(block.rows, i, batch.queries.data() + at * depth);
        batch.log_mass[at] = one.scores->log_mass[number];
        std::copy_n(one.scores->output.data() + number * width, width, output.data() + at * width);
        for (index_t l = 0; l < added.cols(); ++l) batch.added_across(l, at) = added(number, l);
        ++at;
      }
    }
  }
  for (index_t k = 0; k < batch.queries.size(); ++k) batch.queries.data()[k] *= scale;
  batch.inverse_length = inverse_lengths(output, weighting);
  refine_detail::across(batch.queries, batch.queries_across);
  refine_detail::across(output, batch.output_across);
  for (index_t i = 0; i < n; ++i) {
    const bool sees = batch.log_mass[i] > -std::numeric_limits<float>::infinity();
    batch.sees[i] = sees ? 1.0F : 0.0F;
    const float weight = batch.inverse_length[i] * batch.inverse_length[i];
    float* const row = output.data() + i * width;
    for (index_t k = 0; k < width; ++k) row[k] *= weight;
  }
  return batch;
}

/// What `make_batch` of `taken` queries holds: the batch, and beside it while it is made. `adds`:
/// the rule, a mask or a slope adds to logits.
inline void declare_batch(workspace& space, const head_sizes& sizes, index_t taken, bool adds) {
  refine_batch().declare(space, taken, sizes.depth, sizes.width, adds ? sizes.budget : 0);
  const workspace::phase making(space);
  space.count(float_bytes((std::max)(sizes.depth, sizes.width)) + float_bytes(taken) +
              double_bytes(taken));
  if (!adds) return;
  space.count(float_bytes(sizes.budget, sizes.depth));
  declare_row_logits(space, sizes, sizes.budget);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
