// SPDX-License-Identifier: MIT
/// Logits of a panel of queries against every key of a block: the one place where they are made.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/view/check.hpp"
#include "kvfit/view/load.hpp"

namespace kvfit::inline KVFIT_ISA {

/// Rows of queries taken together: rows first … first + count − 1 of one query block. `offset` is
/// the number of rows in the blocks and panels before.
struct query_panel {
  std::size_t block = 0;
  index first = 0;
  index count = 0;
  index offset = 0;
};

/// Cuts all query blocks into panels of at most `rows`; no panel spans two blocks.
inline std::vector<query_panel> cut_panels(const query_set& queries, index rows) {
  std::vector<query_panel> panels;
  index offset = 0;
  const auto blocks = queries.blocks();
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    const index total = blocks[b].rows.rows();
    for (index first = 0; first < total; first += rows) {
      const index count = std::min(rows, total - first);
      panels.push_back({b, first, count, offset});
      offset += count;
    }
  }
  return panels;
}

/// Rows of a panel whose logits against `keys` keys take at most 16 MB; between 8 and 64, since a
/// product of fewer rows is bound by reading the keys.
inline index panel_rows(index keys) noexcept {
  constexpr index panel_floats = index{4} << 20;
  return std::clamp<index>(panel_floats / std::max<index>(keys, 1), 8, 64);
}

/// Makes logits by `logit_rule`, tile by tile of keys.
///
/// `columns`, if given, says which column of the masks belongs to each key: compacted keys keep the
/// masks of the rows they come from.
class logit_source {
 public:
  logit_source(const kv_block& cache, const query_set& queries, const logit_rule& rule,
               std::span<const index> columns = {})
      : cache_(cache),
        queries_(queries),
        rule_(rule),
        columns_(columns),
        scale_(rule.scale.value_or(1.0F / std::sqrt(static_cast<float>(cache.keys.cols())))) {}

  [[nodiscard]] index keys() const noexcept { return cache_.keys.rows(); }
  [[nodiscard]] float scale() const noexcept { return scale_; }
  [[nodiscard]] const query_set& queries() const noexcept { return queries_; }

  /// Fills `logits` (panel.count × keys(), rows `stride` apart). Returns the first row of the panel
  /// with a product of query and key that overflows fp32 (either way, hidden or not), panel.count
  /// where there is none. Cost count · T · d_k multiply-adds; after the first call nothing is
  /// allocated but, for d_k > 128, the buffers that Eigen packs tiles into (under 1 MB).
  index fill(const query_panel& panel, float* logits, index stride) {
    const index depth = cache_.keys.cols();
    query_buffer_.resize(static_cast<std::size_t>(panel.count * depth));
    key_buffer_.resize(static_cast<std::size_t>(key_tile * depth));
    const query_block& block = queries_.blocks()[panel.block];
    const float_tile q = load_rows(block.rows, panel.first, panel.count, query_buffer_.data());
    const const_map queries(q.data, panel.count, depth, Eigen::OuterStride<>(q.stride));
    const float largest_query = queries.cwiseAbs().maxCoeff();
    largest_keys_.resize(static_cast<std::size_t>((keys() + key_tile - 1) / key_tile), -1.0F);
    index overflow = panel.count;
    for (index first = 0; first < keys(); first += key_tile) {
      const index count = std::min(key_tile, keys() - first);
      const float_tile k = load_rows(cache_.keys, first, count, key_buffer_.data());
      const const_map keys(k.data, count, depth, Eigen::OuterStride<>(k.stride));
      map tile(logits + first, panel.count, count, Eigen::OuterStride<>(stride));
      tile.noalias() = scale_ * (queries * keys.transpose());
      float& largest_key = largest_keys_[static_cast<std::size_t>(first / key_tile)];
      if (largest_key < 0) largest_key = keys.cwiseAbs().maxCoeff();
      // Before the rule: a soft cap would bend an infinite product into a common one, and −∞ would
      // pass for a hidden key.
      if (may_overflow(largest_query, largest_key)) {
        overflow = std::min(overflow, first_overflow(tile));
      }
      apply_rule(panel, first, tile);
    }
    return overflow;
  }

 private:
  using map = Eigen::Map<matrix, 0, Eigen::OuterStride<>>;
  using const_map = Eigen::Map<const matrix, 0, Eigen::OuterStride<>>;
  static constexpr index key_tile = 256;
  static constexpr float hidden = -std::numeric_limits<float>::infinity();

  /// Whether some partial sum of scale · q·k, multiplied in any order, may leave fp32. Reading
  /// every tile once more to see it costs a seventh of the score pass; this bound is free and
  /// almost always enough.
  [[nodiscard]] bool may_overflow(float largest_query, float largest_key) const noexcept {
    const auto at_least_1 = [](float x) { return std::max(1.0, static_cast<double>(x)); };
    const double bound = static_cast<double>(cache_.keys.cols()) * at_least_1(std::abs(scale_)) *
                         at_least_1(largest_query) * at_least_1(largest_key);
    return bound >= 0.5 * static_cast<double>(std::numeric_limits<float>::max());
  }

  static index first_overflow(const map& tile) noexcept {
    for (index i = 0; i < tile.rows(); ++i) {
      if (detail::first_non_finite(tile.row(i).data(), tile.cols()) < tile.cols()) return i;
    }
    return tile.rows();
  }

  void apply_rule(const query_panel& panel, index first_key, map& tile) {
    if (rule_.soft_cap > 0) {
      tile.array() = rule_.soft_cap * (tile.array() / rule_.soft_cap).tanh();
    }
    if (!cache_.bias.empty()) {
      const Eigen::Map<const Eigen::RowVectorXf> bias(cache_.bias.data() + first_key, tile.cols());
      tile.rowwise() += bias;
    }
    if (!cache_.masks.empty()) add_mask(panel, first_key, tile);
    const query_block& block = queries_.blocks()[panel.block];
    if (rule_.causal || rule_.window > 0 || block.alibi_slope != 0) {
      apply_positions(block, panel.first, first_key, tile);
    }
  }

  void add_mask(const query_panel& panel, index first_key, map& tile) {
    const row_view& mask = cache_.masks[panel.block];
    if (!columns_.empty()) {
      for (index i = 0; i < tile.rows(); ++i) {
        for (index j = 0; j < tile.cols(); ++j) {
          tile(i, j) += mask(panel.first + i, columns_[static_cast<std::size_t>(first_key + j)]);
        }
      }
      return;
    }
    mask_buffer_.resize(static_cast<std::size_t>(tile.size()));
    const float_tile entries = load_rows(mask.middle_cols(first_key, tile.cols()), panel.first,
                                         tile.rows(), mask_buffer_.data());
    tile += const_map(entries.data, tile.rows(), tile.cols(), Eigen::OuterStride<>(entries.stride));
  }

  void apply_positions(const query_block& block, index first_query, index first_key,
                       map& tile) const {
    for (index i = 0; i < tile.rows(); ++i) {
      const index at = block.first_position + (first_query + i) * block.position_step;
      if (cache_.positions.empty()) {
        apply_run(block.alibi_slope, at - (cache_.first_position + first_key), tile.row(i).data(),
                  tile.cols());
        continue;
      }
      for (index j = 0; j < tile.cols(); ++j) {
        apply_run(block.alibi_slope, at - cache_.position(first_key + j), &tile(i, j), 1);
      }
    }
  }

  /// Keys at consecutive positions; the first lies `back` positions before the query.
  void apply_run(float slope, index back, float* logits, index count) const {
    // Key j lies back − j before the query: hidden where that is < 0, or ≥ window.
    const index begin = rule_.window > 0 ? std::clamp<index>(back - rule_.window + 1, 0, count) : 0;
    const index end = rule_.causal ? std::clamp<index>(back + 1, begin, count) : count;
    std::fill(logits, logits + begin, hidden);
    std::fill(logits + end, logits + count, hidden);
    if (slope == 0) return;
    for (index j = begin; j < end; ++j) logits[j] -= slope * static_cast<float>(back - j);
  }

  kv_block cache_;
  query_set queries_;
  logit_rule rule_;
  std::span<const index> columns_;
  float scale_;
  std::vector<float> query_buffer_;
  std::vector<float> key_buffer_;
  std::vector<float> mask_buffer_;
  std::vector<float> largest_keys_;  ///< largest |k| of each tile; negative until it is seen
};

}  // namespace kvfit::inline KVFIT_ISA
