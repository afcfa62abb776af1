// SPDX-License-Identifier: MIT
/// What attention is computed from: queries, blocks of keys and values, and the rule of the logit.
#pragma once

#include <concepts>
#include <cstddef>
#include <limits>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include "kvfit/view/row_view.hpp"

namespace kvfit {

/// How the logit of a query at position p and a key at position r is made, in natural-log units:
///
///     s = cap(scale · q·k) + bias + mask − alibi_slope · (p − r)
///     cap(x) = soft_cap · tanh(x / soft_cap)
///
/// and s = −∞ where `causal` hides r > p, or `window` hides p − r ≥ window. Nothing here is
/// guessed: keys and queries come already rotated (RoPE), and an engine that scales its queries
/// passes scale 1.
struct logit_rule {
  std::optional<float> scale = {};  ///< default 1/√d_k; any finite number
  float soft_cap = 0;               ///< 0: none; otherwise > 0
  bool causal = false;              ///< keys after the query's position are hidden
  index_t window = 0;  ///< 0: none; otherwise the number of positions a query sees back
  friend bool operator==(const logit_rule&, const logit_rule&) = default;
};

/// The queries of one query head. Several heads that share one KV head (GQA) are several blocks.
struct query_block {
  query_block() = default;
  query_block(const row_view& queries) : rows(queries) {}  // NOLINT(*-explicit-*)
  query_block(const row_view& queries, index_t position, float slope = 0)
      : rows(queries), first_position(position), alibi_slope(slope) {}

  row_view rows;               ///< n × d_k
  index_t first_position = 0;  ///< of row 0; row i stands at first_position + i · position_step
  index_t position_step = 1;   ///< other than 1 where `rows` skips rows
  float alibi_slope = 0;       ///< ALiBi slope of this head, 0 for none
  /// Logit of an attention sink: adds exp(sink_logit) to the mass and nothing to the output. Used
  /// by `attend` alone: it stays beside the compacted block, so fits leave it out (engines.md, 7).
  float sink_logit = -std::numeric_limits<float>::infinity();
  /// Where rows stand at no even distance: a table, and row i stands at
  /// positions[first_position + i · position_step], which then count places in it. Empty: no table.
  std::span<const index_t> positions = {};

  [[nodiscard]] index_t position(index_t i) const noexcept {
    const index_t place = first_position + i * position_step;
    return positions.empty() ? place : positions[static_cast<std::size_t>(place)];
  }
};

/// One or several query blocks, by reference: `compact(k, v, queries)` takes a matrix, a view, a
/// `query_block`, or a span of blocks. Rows of all blocks are counted through, block after block.
class query_set {
 public:
  query_set() = default;
  query_set(const query_block& one) : single_(one) {}  // NOLINT(*-explicit-*)
  query_set(const row_view& one) : single_(one) {}     // NOLINT(*-explicit-*)
  query_set(std::span<const query_block> many)         // NOLINT(*-explicit-*)
      : many_(many), is_many_(true) {}
  // clang-format off
  template <class M>
  requires(std::constructible_from<row_view, M> && !std::same_as<std::remove_cvref_t<M>, row_view>)
  query_set(M&& one)  // NOLINT(*-explicit-*, *-forwarding-*)
      : single_(row_view(std::forward<M>(one))) {}
  // clang-format on

  [[nodiscard]] std::span<const query_block> blocks() const noexcept {
    return is_many_ ? many_ : std::span<const query_block>(&single_, 1);
  }

  /// Rows of all blocks together.
  [[nodiscard]] index_t rows() const noexcept {
    index_t total = 0;
    for (const query_block& block : blocks()) total += block.rows.rows();
    return total;
  }

 private:
  query_block single_;
  std::span<const query_block> many_;
  bool is_many_ = false;
};

/// A stretch of cache of one KV head, in any order of its rows.
///
/// A row whose bias is −∞ is hidden from every query: padding, or memory not yet written. Its key
/// and value are never read; its position and its column of the masks mean nothing.
struct kv_block {
  row_view keys;    ///< T × d_k
  row_view values;  ///< T × d_v
  /// Added to every logit of a key: T numbers, finite or −∞ (the row is hidden), or empty.
  std::span<const float> bias = {};
  /// Where each key stands: T numbers, or empty for first_position, first_position + 1, …
  std::span<const index_t> positions = {};
  index_t first_position = 0;
  /// Added to single logits: for each query block one n × T view of finite numbers or −∞, or empty.
  std::span<const row_view> masks = {};

  [[nodiscard]] index_t position(index_t j) const noexcept {
    return positions.empty() ? first_position + j : positions[static_cast<std::size_t>(j)];
  }
  /// Whether the bias hides row j, where there is one number per key.
  [[nodiscard]] bool is_hidden(index_t j) const noexcept {
    return !bias.empty() &&
           bias[static_cast<std::size_t>(j)] == -std::numeric_limits<float>::infinity();
  }
};

}  // namespace kvfit
