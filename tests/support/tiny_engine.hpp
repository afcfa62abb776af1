// SPDX-License-Identifier: MIT
/// A transformer small enough to be read through by plain loops: random weights, GQA, RoPE.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/queries/engine.hpp"
#include "support/random_matrix.hpp"

namespace kvfit_test {

using kvfit::index_t;

struct tiny_layer {
  kvfit::layer_shape shape;
  kvfit::matrix query;   // width × (query_heads · d_k)
  kvfit::matrix key;     // width × (kv_heads · d_k)
  kvfit::matrix value;   // width × (kv_heads · d_v)
  kvfit::matrix output;  // (query_heads · d_v) × width
  kvfit::matrix up;      // width × inner
  kvfit::matrix down;    // inner × width
};

/// Weights and what was done with them. The engine is written with Eigen's products, the oracle
/// below with loops in double.
struct tiny_engine {
  static constexpr index_t width = 16;

  index_t known_positions = 200;
  kvfit::matrix embedding;  // vocabulary × width
  std::vector<tiny_layer> stack;

  mutable std::vector<index_t> projections;  ///< tokens that each layer has projected
  mutable std::vector<index_t> finishes;     ///< tokens that each layer has finished
  /// A call of `project` that fails, from 1; 0: none.
  mutable index_t failing_projection = 0;

  explicit tiny_engine(index_t layer_count = 3, std::uint64_t seed = 1);

  [[nodiscard]] index_t layers() const { return static_cast<index_t>(stack.size()); }
  [[nodiscard]] kvfit::layer_shape shape(index_t layer) const { return at(layer).shape; }
  [[nodiscard]] index_t positions() const { return known_positions; }
  [[nodiscard]] index_t vocabulary() const { return embedding.rows(); }

  [[nodiscard]] kvfit::result<kvfit::matrix> embed(std::span<const kvfit::token> tokens) const;
  [[nodiscard]] kvfit::result<kvfit::layer_rows> project(index_t layer, const kvfit::matrix& hidden,
                                                         index_t position) const;
  [[nodiscard]] kvfit::result<void> finish(index_t layer, const std::vector<kvfit::matrix>& outputs,
                                           kvfit::matrix& hidden) const;
  [[nodiscard]] kvfit::result<kvfit::matrix> logits(const kvfit::matrix& hidden) const;

  [[nodiscard]] const tiny_layer& at(index_t layer) const {
    return stack[static_cast<std::size_t>(layer)];
  }

  /// Tokens made at random.
  [[nodiscard]] std::vector<kvfit::token> text(index_t length, std::uint64_t seed) const;
};

static_assert(kvfit::engine<tiny_engine>);

// ---- The oracle: one token after the other, in double

using numbers = std::vector<double>;

/// A row that a token may look at.
struct seen_row {
  numbers key;
  numbers value;
  double bias = 0;
};

/// What a token is in one layer.
struct oracle_token {
  std::vector<numbers> queries;  // a query head each
  std::vector<seen_row> rows;    // a KV head each
};

/// Everything that a text makes: [layer][token], and logits [token].
struct oracle_run {
  std::vector<std::vector<oracle_token>> layers;
  std::vector<numbers> logits;
};

/// In layer l, KV head h, tokens from `from` on see rows[l][h] in the place of all tokens before
/// `from`; a layer without an entry is as it was.
struct oracle_replacement {
  std::size_t from = 0;
  std::vector<std::vector<std::vector<seen_row>>> rows;
};

oracle_run oracle_read(const tiny_engine& model, std::span<const kvfit::token> tokens,
                       const oracle_replacement& replaced = {});

/// The largest difference between a row of floats and its oracle.
template <class Row>
double difference(const Row& row, const numbers& oracle) {
  double most = 0;
  for (std::size_t k = 0; k < oracle.size(); ++k) {
    most = std::max(most, std::abs(static_cast<double>(row[static_cast<index_t>(k)]) - oracle[k]));
  }
  return most;
}

/// fp32 through three layers of numbers near 1, with a margin; what is wrong differs by 1e-2 and
/// more.
inline constexpr double tiny_tolerance = 2e-4;

}  // namespace kvfit_test
