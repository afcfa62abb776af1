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

  explicit tiny_engine(index_t layer_count = 3, std::uint64_t seed = 1) {
    constexpr index_t inner = 24;
    embedding = random_matrix(29, width, seed);
    for (index_t l = 0; l < layer_count; ++l) {
      const auto weights = [&](index_t rows, index_t cols, std::uint64_t which) {
        const auto stream = seed * 1000 + static_cast<std::uint64_t>(l) * 10 + which;
        return random_matrix(rows, cols, stream, 1.2F / std::sqrt(static_cast<float>(rows)));
      };
      tiny_layer layer;
      layer.shape = {.query_heads = 4, .kv_heads = 2, .key_size = 8, .value_size = 6};
      layer.shape.rotation = kvfit::rope{.base = 100.0 + static_cast<double>(l)};
      layer.query = 1.5F * weights(width, 4 * 8, 1);
      layer.key = 1.5F * weights(width, 2 * 8, 2);
      layer.value = weights(width, 2 * 6, 3);
      layer.output = weights(4 * 6, width, 4);
      layer.up = weights(width, inner, 5);
      layer.down = weights(inner, width, 6);
      stack.push_back(std::move(layer));
    }
    projections.assign(stack.size(), 0);
    finishes.assign(stack.size(), 0);
  }

  [[nodiscard]] index_t layers() const { return static_cast<index_t>(stack.size()); }
  [[nodiscard]] kvfit::layer_shape shape(index_t layer) const { return at(layer).shape; }
  [[nodiscard]] index_t positions() const { return known_positions; }
  [[nodiscard]] index_t vocabulary() const { return embedding.rows(); }

  [[nodiscard]] kvfit::result<kvfit::matrix> embed(std::span<const kvfit::token> tokens) const {
    kvfit::matrix hidden(static_cast<index_t>(tokens.size()), width);
    for (index_t i = 0; i < hidden.rows(); ++i) {
      hidden.row(i) = embedding.row(tokens[static_cast<std::size_t>(i)]);
    }
    return hidden;
  }

  [[nodiscard]] kvfit::result<kvfit::layer_rows> project(index_t layer, const kvfit::matrix& hidden,
                                                         index_t position) const {
    if (failing_projection > 0 && --failing_projection == 0) {
      return kvfit::error{kvfit::errc::out_of_memory, "engine"};
    }
    projections[static_cast<std::size_t>(layer)] += hidden.rows();
    const tiny_layer& weights = at(layer);
    const kvfit::layer_shape& shape = weights.shape;
    const kvfit::matrix x = normalised(hidden);
    kvfit::layer_rows rows;
    rows.queries = heads_of(x * weights.query, shape.query_heads);
    rows.keys = heads_of(x * weights.key, shape.kv_heads);
    rows.values = heads_of(x * weights.value, shape.kv_heads);
    for (index_t i = 0; i < hidden.rows(); ++i) {
      const kvfit::row_rotation turn(*shape.rotation, shape.key_size, position + i);
      for (kvfit::matrix& head : rows.queries) turn.turn(head.row(i).data());
      for (kvfit::matrix& head : rows.keys) turn.turn(head.row(i).data());
    }
    return rows;
  }

  [[nodiscard]] kvfit::result<void> finish(index_t layer, const std::vector<kvfit::matrix>& outputs,
                                           kvfit::matrix& hidden) const {
    finishes[static_cast<std::size_t>(layer)] += hidden.rows();
    const tiny_layer& weights = at(layer);
    const index_t size = weights.shape.value_size;
    kvfit::matrix joined(hidden.rows(), size * weights.shape.query_heads);
    for (std::size_t h = 0; h < outputs.size(); ++h) {
      joined.middleCols(static_cast<index_t>(h) * size, size) = outputs[h];
    }
    hidden += joined * weights.output;
    const kvfit::matrix inner = (normalised(hidden) * weights.up).array().tanh().matrix();
    hidden += inner * weights.down;
    return {};
  }

  [[nodiscard]] kvfit::result<kvfit::matrix> logits(const kvfit::matrix& hidden) const {
    return kvfit::matrix(normalised(hidden) * embedding.transpose());
  }

  [[nodiscard]] const tiny_layer& at(index_t layer) const {
    return stack[static_cast<std::size_t>(layer)];
  }

  /// Tokens made at random.
  [[nodiscard]] std::vector<kvfit::token> text(index_t length, std::uint64_t seed) const {
    kvfit::random_source random(seed);
    std::vector<kvfit::token> tokens;
    for (index_t i = 0; i < length; ++i) {
      tokens.push_back(
          static_cast<kvfit::token>(random.below(static_cast<std::uint64_t>(vocabulary()))));
    }
    return tokens;
  }

 private:
  static kvfit::matrix normalised(const kvfit::matrix& hidden) {
    kvfit::matrix x = hidden;
    for (index_t i = 0; i < x.rows(); ++i) {
      x.row(i) /= std::sqrt(x.row(i).squaredNorm() / static_cast<float>(x.cols()) + 1e-5F);
    }
    return x;
  }

  static std::vector<kvfit::matrix> heads_of(const kvfit::matrix& joined, index_t count) {
    const index_t size = joined.cols() / count;
    std::vector<kvfit::matrix> heads;
    for (index_t h = 0; h < count; ++h) heads.emplace_back(joined.middleCols(h * size, size));
    return heads;
  }
};

static_assert(kvfit::engine<tiny_engine>);

// ---- The oracle: one token after the other, in double
// ---------------------------------------------

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

inline numbers oracle_normalised(const numbers& hidden) {
  double squares = 0;
  for (const double x : hidden) squares += x * x;
  numbers scaled = hidden;
  for (double& x : scaled) x /= std::sqrt(squares / static_cast<double>(hidden.size()) + 1e-5);
  return scaled;
}

/// x · m, columns first … first + count − 1.
inline numbers oracle_product(const numbers& x, const kvfit::matrix& m, index_t first,
                              index_t count) {
  numbers y(static_cast<std::size_t>(count), 0.0);
  for (index_t c = 0; c < count; ++c) {
    for (std::size_t k = 0; k < x.size(); ++k) {
      y[static_cast<std::size_t>(c)] +=
          x[k] * static_cast<double>(m(static_cast<index_t>(k), first + c));
    }
  }
  return y;
}

inline void oracle_turn(numbers& row, double base, double position) {
  const std::size_t half = row.size() / 2;
  for (std::size_t i = 0; i < half; ++i) {
    const double angle =
        position * std::pow(base, -static_cast<double>(i) / static_cast<double>(half));
    const double a = row[i];
    const double b = row[i + half];
    row[i] = a * std::cos(angle) - b * std::sin(angle);
    row[i + half] = b * std::cos(angle) + a * std::sin(angle);
  }
}

inline oracle_run oracle_read(const tiny_engine& model, std::span<const kvfit::token> tokens,
                              const oracle_replacement& replaced = {}) {
  std::vector<numbers> hidden;
  for (const kvfit::token one : tokens) {
    const auto row = model.embedding.row(one);
    hidden.emplace_back(row.data(), row.data() + row.size());
  }
  oracle_run run;
  for (std::size_t l = 0; l < model.stack.size(); ++l) {
    const tiny_layer& weights = model.stack[l];
    const kvfit::layer_shape& shape = weights.shape;
    const auto group = static_cast<std::size_t>(shape.query_heads / shape.kv_heads);
    std::vector<oracle_token> made(tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const numbers x = oracle_normalised(hidden[i]);
      const double position = static_cast<double>(i);
      for (index_t h = 0; h < shape.query_heads; ++h) {
        made[i].queries.push_back(
            oracle_product(x, weights.query, h * shape.key_size, shape.key_size));
        oracle_turn(made[i].queries.back(), shape.rotation->base, position);
      }
      for (index_t h = 0; h < shape.kv_heads; ++h) {
        seen_row row{oracle_product(x, weights.key, h * shape.key_size, shape.key_size),
                     oracle_product(x, weights.value, h * shape.value_size, shape.value_size)};
        oracle_turn(row.key, shape.rotation->base, position);
        made[i].rows.push_back(std::move(row));
      }
    }
    const bool is_replaced = l < replaced.rows.size() && !replaced.rows[l].empty();
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      numbers joined;
      for (std::size_t q = 0; q < made[i].queries.size(); ++q) {
        std::vector<seen_row> seen;
        if (is_replaced && i >= replaced.from) seen = replaced.rows[l][q / group];
        for (std::size_t j = 0; j <= i; ++j) {
          if (is_replaced && i >= replaced.from && j < replaced.from) continue;
          if (shape.rule.window > 0 && static_cast<index_t>(i - j) >= shape.rule.window) continue;
          seen.push_back(made[j].rows[q / group]);
        }
        double mass = 0;
        numbers output(static_cast<std::size_t>(shape.value_size), 0.0);
        for (const seen_row& row : seen) {
          double logit = 0;
          for (std::size_t k = 0; k < row.key.size(); ++k)
            logit += made[i].queries[q][k] * row.key[k];
          const double weight =
              std::exp(logit / std::sqrt(static_cast<double>(row.key.size())) + row.bias);
          mass += weight;
          for (std::size_t k = 0; k < output.size(); ++k) output[k] += weight * row.value[k];
        }
        for (const double sum : output) joined.push_back(sum / mass);
      }
      const numbers attended = oracle_product(joined, weights.output, 0, tiny_engine::width);
      for (std::size_t k = 0; k < attended.size(); ++k) hidden[i][k] += attended[k];
      numbers inner =
          oracle_product(oracle_normalised(hidden[i]), weights.up, 0, weights.up.cols());
      for (double& x : inner) x = std::tanh(x);
      const numbers more = oracle_product(inner, weights.down, 0, tiny_engine::width);
      for (std::size_t k = 0; k < more.size(); ++k) hidden[i][k] += more[k];
    }
    run.layers.push_back(std::move(made));
  }
  const kvfit::matrix across = model.embedding.transpose();
  for (const numbers& one : hidden) {
    run.logits.push_back(oracle_product(oracle_normalised(one), across, 0, across.cols()));
  }
  return run;
}

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
