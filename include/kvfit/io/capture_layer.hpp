// SPDX-License-Identifier: MIT
/// What a capture holds: layers of keys, values and queries, and how their attention is computed.
#pragma once

#include <cassert>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/rope.hpp"
#include "kvfit/io/attention_rule.hpp"
#include "kvfit/io/safetensors_read.hpp"
#include "kvfit/view/row_view.hpp"

namespace kvfit {

/// The rows of a layer as they lie in a file.
struct capture_rows {
  row_view keys;                       ///< the heads one below the other
  row_view values;                     ///< the same
  std::vector<row_view> queries;       ///< one block a query head
  std::vector<row_view> test_queries;  ///< one block a query head, or none
};

/// Where the rows of a layer stand, the same for all heads.
struct capture_positions {
  std::vector<index_t> keys;          ///< T, or none: 0, 1, …
  std::vector<index_t> queries;       ///< n, or none: the rule does not use positions
  std::vector<index_t> test_queries;  ///< m, or none
};

/// One layer: H_kv heads of keys and values, and H_q = G · H_kv heads of queries.
class capture_layer {
 public:
  capture_layer(index_t number, index_t heads, capture_rows rows, attention_rule rule,
                capture_positions positions)
      : number_(number),
        heads_(heads),
        rows_(std::move(rows)),
        rule_(std::move(rule)),
        positions_(std::move(positions)) {}

  /// l in `layers.{l}.k`.
  [[nodiscard]] index_t number() const noexcept { return number_; }
  /// H_kv.
  [[nodiscard]] index_t heads() const noexcept { return heads_; }
  /// H_q.
  [[nodiscard]] index_t query_heads() const noexcept {
    return static_cast<index_t>(rows_.queries.size());
  }
  /// T, the same for all heads of a layer.
  [[nodiscard]] index_t rows() const noexcept { return rows_.keys.rows() / heads_; }
  /// How attention is computed; `logits.scale` is always there.
  [[nodiscard]] const attention_rule& rule() const noexcept { return rule_; }

  /// T × d, after RoPE.
  [[nodiscard]] row_view keys(index_t head) const noexcept {
    return rows_.keys.middle_rows(head * rows(), rows());
  }
  /// T × d_v.
  [[nodiscard]] row_view values(index_t head) const noexcept {
    return rows_.values.middle_rows(head * rows(), rows());
  }
  /// Where the keys stand: T numbers, several of which may be the same, or none for 0, 1, …
  [[nodiscard]] std::span<const index_t> key_positions() const noexcept { return positions_.keys; }
  /// Keys and values with their positions.
  [[nodiscard]] kv_block block(index_t head) const noexcept {
    return {.keys = keys(head), .values = values(head), .positions = positions_.keys};
  }
  /// G blocks n × d: those of query heads h·G … h·G + G − 1, which read KV head h.
  [[nodiscard]] std::span<const row_view> queries(index_t head) const noexcept {
    return group(rows_.queries, head);
  }
  /// The same for the m × d held-out queries, never to be fitted on; empty where there are none.
  [[nodiscard]] std::span<const row_view> test_queries(index_t head) const noexcept {
    return group(rows_.test_queries, head);
  }
  /// `queries` with their positions, ALiBi slopes and sinks. They refer to this layer.
  [[nodiscard]] std::vector<query_block> query_blocks(index_t head) const {
    return blocks_of(queries(head), positions_.queries, head);
  }
  /// The same of `test_queries`.
  [[nodiscard]] std::vector<query_block> test_query_blocks(index_t head) const {
    return blocks_of(test_queries(head), positions_.test_queries, head);
  }

 private:
  [[nodiscard]] std::span<const row_view> group(const std::vector<row_view>& blocks,
                                                index_t head) const noexcept {
    assert(head >= 0 && head < heads_);
    const std::size_t size = blocks.size() / static_cast<std::size_t>(heads_);
    return std::span(blocks).subspan(static_cast<std::size_t>(head) * size, size);
  }

  [[nodiscard]] std::vector<query_block> blocks_of(std::span<const row_view> rows,
                                                   std::span<const index_t> positions,
                                                   index_t head) const {
    std::vector<query_block> blocks;
    blocks.reserve(rows.size());
    std::size_t query_head = static_cast<std::size_t>(head) * rows.size();
    for (const row_view& one : rows) {
      query_block& block = blocks.emplace_back(one);
      block.positions = positions;
      if (!rule_.alibi_slopes.empty()) block.alibi_slope = rule_.alibi_slopes[query_head];
      if (!rule_.sink_logits.empty()) block.sink_logit = rule_.sink_logits[query_head];
      ++query_head;
    }
    return blocks;
  }

  index_t number_;
  index_t heads_;
  capture_rows rows_;
  attention_rule rule_;
  capture_positions positions_;
};

/// A capture. It owns the memory its views show; moving it keeps them valid.
struct capture {
  float scale = 0;                    ///< logit = scale · q·k, where a layer says no other
  std::optional<rope> rotation = {};  ///< how keys and queries were turned, the same
  index_t next_position = 0;          ///< where the next token would stand
  std::string fingerprint = {};       ///< of the model; may be empty
  std::vector<capture_layer> layers;  ///< ascending by number, not always without gaps
  safetensors_file file;              ///< all that was read, other metadata included
};

}  // namespace kvfit
