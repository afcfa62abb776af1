// SPDX-License-Identifier: MIT
/// Logits of a panel of queries against every key of a block: the one place where they are made.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "kvfit/attention/head_sizes.hpp"
#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/tile_product.hpp"
#include "kvfit/attention/visible_rows.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/simd/accumulate.hpp"
#include "kvfit/simd/dot.hpp"
#include "kvfit/simd/soft_cap.hpp"
#include "kvfit/view/check.hpp"
#include "kvfit/view/load.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// Rows of queries taken together: rows first … first + count − 1 of one query block. `offset` is
/// the number of rows in the blocks and panels before.
struct query_panel {
  std::size_t block = 0;
  index_t first = 0;
  index_t count = 0;
  index_t offset = 0;
};

/// Rows of a panel whose logits against `keys` keys take at most 16 MB; between 8 and 96, since a
/// product of fewer rows is bound by reading the keys. 16 and more are multiples of 16: whole
/// registers. Never more than `most`, where that is not 0.
inline index_t panel_rows(index_t keys, index_t most = 0) noexcept {
  constexpr index_t panel_floats = index_t{4} << 20;
  const index_t rows = std::clamp<index_t>(panel_floats / std::max<index_t>(keys, 1), 8, 96);
  const index_t whole = rows < 16 ? rows : rows - rows % 16;
  return most > 0 ? (std::min)(most, whole) : whole;
}

/// Rows of the largest panel that the queries of `sizes` are cut into for `keys` keys.
inline index_t largest_panel(const head_sizes& sizes, index_t keys) noexcept {
  return (std::min)(panel_rows(keys, sizes.panel), sizes.largest_block);
}

/// All query blocks cut into panels; no panel spans two blocks.
struct panel_list {
  std::vector<query_panel> panels;

  /// For panels of at most `rows`.
  void declare(workspace& space, index_t queries, index_t blocks, index_t rows) {
    space.reserve(panels, queries / rows + blocks);
  }
};

/// Cuts all query blocks into panels of at most `rows`.
inline std::vector<query_panel> cut_panels(const query_set& queries, index_t rows) {
  const auto blocks = queries.blocks();
  panel_list list;
  allocate_buffers(list, queries.rows(), static_cast<index_t>(blocks.size()), rows);
  index_t offset = 0;
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    const index_t total = blocks[b].rows.rows();
    for (index_t first = 0; first < total; first += rows) {
      const index_t count = (std::min)(rows, total - first);
      list.panels.push_back({b, first, count, offset});
      offset += count;
    }
  }
  return std::move(list.panels);
}

/// What logits are made of, in numbers.
struct logit_sizes {
  index_t keys = 0;
  index_t depth = 0;
  index_t panel = 0;      ///< rows of the largest panel
  bool has_mask = false;  ///< whose columns are the keys'
  precision_kind precision = precision_kind::fp32;
};

/// Of `keys` keys and the queries of `sizes`.
inline logit_sizes logit_sizes_of(const head_sizes& sizes, index_t keys) noexcept {
  return {keys, sizes.depth, largest_panel(sizes, keys), sizes.has_masks, sizes.precision};
}

/// What a `logit_source` works in.
struct logit_buffers {
  static constexpr index_t key_tile = 256;  ///< keys taken together

  std::vector<float> queries;
  std::vector<float> packed_queries;  ///< of the panel at work: depth × count
  std::vector<index_t> query_positions;
  std::vector<float> keys;          ///< a tile
  std::vector<float> mask;          ///< a tile
  std::vector<float> largest_keys;  ///< largest |k| of each tile; negative until it is seen

  void declare(workspace& space, const logit_sizes& of) {
    const index_t tile = (std::min)(key_tile, of.keys);
    space.add_matrices(of.panel, of.depth, queries, packed_queries);
    space.add(query_positions, of.panel);
    space.add(keys, tile, of.depth);
    space.add(largest_keys, (of.keys + key_tile - 1) / key_tile, 1, -1.0F);
    if (of.has_mask) space.add(mask, of.panel, tile);
  }
};

/// Bytes of a `logit_source`.
inline void declare_logits(workspace& space, const logit_sizes& of) {
  logit_buffers().declare(space, of);
  packed_factors().declare(space, of.precision, (std::min)(logit_buffers::key_tile, of.keys),
                           of.depth, of.panel);
}

/// Makes logits by `logit_rule`, tile by tile of keys.
///
/// `columns`, if given, says which column of the masks belongs to each key: compacted keys keep the
/// masks of the rows they come from. `precision` is that of the products.
class logit_source {
 public:
  static constexpr index_t key_tile = logit_buffers::key_tile;  ///< made and handed on together

  logit_source(const kv_block& cache, const query_set& queries, const logit_rule& rule,
               std::span<const index_t> columns = {},
               precision_kind precision = precision_kind::fp32)
      : cache_(cache),
        queries_(queries),
        rule_(rule),
        columns_(columns),
        precision_(precision),
        product_(precision),
        scale_(rule.scale.value_or(1.0F / std::sqrt(static_cast<float>(cache.keys.cols())))) {}

  [[nodiscard]] index_t keys() const noexcept { return cache_.keys.rows(); }
  [[nodiscard]] float scale() const noexcept { return scale_; }
  [[nodiscard]] const query_set& queries() const noexcept { return queries_; }

  /// Allocates for panels of up to `most` queries, so that `fill` allocates nothing.
  void reserve(index_t most) {
    if (most <= reserved_) return;
    const bool has_mask = !cache_.masks.empty() && columns_.empty();
    allocate_buffers(buffers_, logit_sizes{keys(), cache_.keys.cols(), most, has_mask, precision_});
    product_.reserve((std::min)(key_tile, keys()), cache_.keys.cols(), most);
    reserved_ = most;
  }

  /// Writes the logits of all keys, a row each, against the panel's queries: key j's panel.count
  /// floats at `logits + j · stride`. Returns the first query of the panel with a product of query
  /// and key that overflows fp32 (either way, hidden from the query or not), panel.count where
  /// there is none. Rows that the bias hides are not read, and their logits are −∞. Cost count · T
  /// · d_k multiply-adds; nothing is allocated after the first call.
  index_t fill(const query_panel& panel, float* logits, index_t stride) {
    begin(panel);
    index_t overflow = panel.count;
    for (index_t first = 0; first < keys(); first += key_tile) {
      overflow = (std::min)(overflow, fill_tile(panel, first, logits, stride));
    }
    return overflow;
  }

  /// The same tile by tile, for a caller that takes each while it is near: `begin(panel)`, then
  /// `fill_tile` for the keys from first = 0, `key_tile`, 2 · `key_tile`, … on. The same rows of
  /// `then`, if given, are fetched meanwhile.
  void begin(const query_panel& panel) {
    const index_t depth = cache_.keys.cols();
    reserve(panel.count);
    largest_query_ = pack_queries(queries_.blocks()[panel.block].rows, panel);
    product_.take_right(buffers_.packed_queries.data(), panel.count, depth, panel.count);
  }
  index_t fill_tile(const query_panel& panel, index_t first, float* logits, index_t stride,
                    const row_view* then = nullptr) {
    const index_t depth = cache_.keys.cols();
    const index_t count = (std::min)(key_tile, keys() - first);
    const float_tile k =
        detail::load_visible_rows(cache_.keys, cache_.bias, first, count, buffers_.keys.data());
    const tile rows{logits + first * stride, stride, first, count};
    product_.by_rows(k.data, k.stride, count, {rows.logits, stride},
                     then ? memory_of_rows(*then, first, count) : simd::prefetch_range{});
    float& largest_key = buffers_.largest_keys[static_cast<std::size_t>(first / key_tile)];
    if (largest_key < 0) {
      largest_key = 0;
      for (index_t j = 0; j < count; ++j) {
        largest_key = (std::max)(largest_key, simd::largest_size(k.data + j * k.stride, depth));
      }
    }
    const bool is_doubtful = may_overflow(largest_query_, largest_key);
    return apply_rule(panel, queries_.blocks()[panel.block], rows, is_doubtful);
  }

 private:
  static constexpr float hidden = -std::numeric_limits<float>::infinity();

  /// Some rows of logits: those of keys first_key … first_key + count − 1.
  struct tile {
    float* logits;
    index_t stride;
    index_t first_key;
    index_t count;

    [[nodiscard]] float* row(index_t j) const noexcept { return logits + j * stride; }
  };

  /// Turns the panel's queries into depth × count; returns the largest magnitude among them.
  float pack_queries(const row_view& rows, const query_panel& panel) {
    const index_t depth = rows.cols();
    const float_tile q = load_rows(rows, panel.first, panel.count, buffers_.queries.data());
    float largest = 0;
    for (index_t i = 0; i < panel.count; ++i) {
      for (index_t k = 0; k < depth; ++k) {
        const float x = q.data[i * q.stride + k];
        buffers_.packed_queries[static_cast<std::size_t>(k * panel.count + i)] = x;
        largest = (std::max)(largest, std::abs(x));
      }
    }
    return largest;
  }

  /// Whether some partial sum of scale · q·k, multiplied in any order, may leave fp32. This bound
  /// is free and almost always enough; looking means to read every tile once more.
  [[nodiscard]] bool may_overflow(float largest_query, float largest_key) const noexcept {
    const auto at_least_1 = [](float x) { return (std::max)(1.0, static_cast<double>(x)); };
    const double bound = static_cast<double>(cache_.keys.cols()) * at_least_1(std::abs(scale_)) *
                         at_least_1(largest_query) * at_least_1(largest_key);
    return bound >= 0.5 * static_cast<double>((std::numeric_limits<float>::max)());
  }

  /// Products become logits. Returns the first query whose scaled product is not finite, where that
  /// is to be searched for: before the rest of the rule, for a soft cap would bend an infinite
  /// product into a common one, and −∞ would pass for a hidden key.
  index_t apply_rule(const query_panel& panel, const query_block& block, const tile& rows,
                     bool is_doubtful) {
    index_t overflow = panel.count;
    const bool is_capped = rule_.soft_cap > 0;
    const bool has_positions = rule_.causal || rule_.window > 0 || block.alibi_slope != 0;
    if (has_positions) place_queries(panel, block);
    for (index_t j = 0; j < rows.count; ++j) {
      float* row = rows.row(j);
      const auto key = static_cast<std::size_t>(rows.first_key + j);
      const float bias = cache_.bias.empty() ? 0.0F : cache_.bias[key];
      const bool is_split = is_capped || is_doubtful;
      simd::scale_and_add(row, scale_, is_split ? 0.0F : bias, panel.count);
      if (is_split) {
        if (is_doubtful) {
          overflow = (std::min)(overflow, detail::first_non_finite(row, panel.count));
        }
        if (is_capped) simd::soft_cap(row, rule_.soft_cap, panel.count);
        simd::scale_and_add(row, 1.0F, bias, panel.count);
      }
    }
    if (!cache_.masks.empty()) add_mask(panel, rows);
    if (has_positions) {
      for (index_t j = 0; j < rows.count; ++j) {
        if (cache_.is_hidden(rows.first_key + j)) continue;
        apply_position(block.alibi_slope, cache_.position(rows.first_key + j), rows.row(j),
                       panel.count);
      }
    }
    return overflow;
  }

  void add_mask(const query_panel& panel, const tile& rows) {
    const row_view& mask = cache_.masks[panel.block];
    if (!columns_.empty()) {
      for (index_t j = 0; j < rows.count; ++j) {
        if (cache_.is_hidden(rows.first_key + j)) continue;
        const index_t column = columns_[static_cast<std::size_t>(rows.first_key + j)];
        for (index_t i = 0; i < panel.count; ++i) rows.row(j)[i] += mask(panel.first + i, column);
      }
      return;
    }
    const float_tile entries = load_rows(mask.middle_cols(rows.first_key, rows.count), panel.first,
                                         panel.count, buffers_.mask.data());
    for (index_t j = 0; j < rows.count; ++j) {
      if (cache_.is_hidden(rows.first_key + j)) continue;
      for (index_t i = 0; i < panel.count; ++i) {
        rows.row(j)[i] += entries.data[i * entries.stride + j];
      }
    }
  }

  /// Where the panel's queries stand.
  void place_queries(const query_panel& panel, const query_block& block) {
    for (index_t i = 0; i < panel.count; ++i) {
      buffers_.query_positions[static_cast<std::size_t>(i)] = block.position(panel.first + i);
    }
  }

  /// Hides the key at `position` where the rule does, and takes off the ALiBi slope.
  void apply_position(float slope, index_t position, float* row, index_t queries) const {
    constexpr index_t everywhere = (std::numeric_limits<index_t>::max)();
    const index_t nearest = rule_.causal ? 0 : -everywhere;
    const index_t farthest = rule_.window > 0 ? rule_.window - 1 : everywhere;
    for (index_t i = 0; i < queries; ++i) {
      const index_t back = buffers_.query_positions[static_cast<std::size_t>(i)] - position;
      const float lowered = row[i] - slope * static_cast<float>(back);
      row[i] = back < nearest || back > farthest ? hidden : lowered;
    }
  }

  kv_block cache_;
  query_set queries_;
  logit_rule rule_;
  std::span<const index_t> columns_;
  precision_kind precision_;
  tile_product product_;
  float scale_;
  float largest_query_ = 0;  ///< magnitude of a number of the panel at work
  index_t reserved_ = 0;     ///< rows of the largest panel that there is memory for
  logit_buffers buffers_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit
