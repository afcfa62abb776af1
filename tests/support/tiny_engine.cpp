// SPDX-License-Identifier: MIT
#include "support/tiny_engine.hpp"

#include <utility>

#include "support/dense.hpp"
#include "support/random_matrix.hpp"

namespace kvfit_test {

namespace {

kvfit::matrix normalised(const kvfit::matrix& hidden) {
  kvfit::matrix x = hidden;
  for (index_t i = 0; i < x.rows(); ++i) {
    x.row(i) /= std::sqrt(x.row(i).squaredNorm() / static_cast<float>(x.cols()) + 1e-5F);
  }
  return x;
}

std::vector<kvfit::matrix> heads_of(const kvfit::matrix& joined, index_t count) {
  const index_t size = joined.cols() / count;
  std::vector<kvfit::matrix> heads;
  for (index_t h = 0; h < count; ++h) heads.emplace_back(joined.middleCols(h * size, size));
  return heads;
}
numbers oracle_normalised(const numbers& hidden) {
  double squares = 0;
  for (const double x : hidden) squares += x * x;
  numbers scaled = hidden;
  for (double& x : scaled) x /= std::sqrt(squares / static_cast<double>(hidden.size()) + 1e-5);
  return scaled;
}

/// x · m, columns first … first + count − 1.
numbers oracle_product(const numbers& x, const kvfit::matrix& m, index_t first, index_t count) {
  numbers y(static_cast<std::size_t>(count), 0.0);
  for (index_t c = 0; c < count; ++c) {
    for (std::size_t k = 0; k < x.size(); ++k) {
      y[static_cast<std::size_t>(c)] +=
          x[k] * static_cast<double>(m(static_cast<index_t>(k), first + c));
    }
  }
  return y;
}

void oracle_turn(numbers& row, double base, double position) {
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

}  // namespace

tiny_engine::tiny_engine(index_t layer_count, std::uint64_t seed) {
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

kvfit::result<kvfit::matrix> tiny_engine::embed(std::span<const kvfit::token> tokens) const {
  kvfit::matrix hidden(static_cast<index_t>(tokens.size()), width);
  for (index_t i = 0; i < hidden.rows(); ++i) {
    hidden.row(i) = embedding.row(tokens[static_cast<std::size_t>(i)]);
  }
  return hidden;
}

kvfit::result<kvfit::layer_rows> tiny_engine::project(index_t layer, const kvfit::matrix& hidden,
                                                      index_t position) const {
  if (failing_projection > 0 && --failing_projection == 0) {
    return kvfit::error{kvfit::errc::out_of_memory, "engine"};
  }
  projections[static_cast<std::size_t>(layer)] += hidden.rows();
  const tiny_layer& weights = at(layer);
  const kvfit::layer_shape& shape = weights.shape;
  const kvfit::matrix x = normalised(hidden);
  kvfit::layer_rows rows;
  rows.queries = heads_of(oracle::product_in_float(x, weights.query), shape.query_heads);
  rows.keys = heads_of(oracle::product_in_float(x, weights.key), shape.kv_heads);
  rows.values = heads_of(oracle::product_in_float(x, weights.value), shape.kv_heads);
  for (index_t i = 0; i < hidden.rows(); ++i) {
    const kvfit::row_rotation turn(*shape.rotation, shape.key_size, position + i);
    for (kvfit::matrix& head : rows.queries) turn.turn(head.row(i).data());
    for (kvfit::matrix& head : rows.keys) turn.turn(head.row(i).data());
  }
  return rows;
}

kvfit::result<void> tiny_engine::finish(index_t layer, const std::vector<kvfit::matrix>& outputs,
                                        kvfit::matrix& hidden) const {
  finishes[static_cast<std::size_t>(layer)] += hidden.rows();
  const tiny_layer& weights = at(layer);
  const index_t size = weights.shape.value_size;
  kvfit::matrix joined(hidden.rows(), size * weights.shape.query_heads);
  for (std::size_t h = 0; h < outputs.size(); ++h) {
    joined.middleCols(static_cast<index_t>(h) * size, size) = outputs[h];
  }
  hidden += oracle::product_in_float(joined, weights.output);
  const kvfit::matrix inner =
      oracle::product_in_float(normalised(hidden), weights.up).array().tanh().matrix();
  hidden += oracle::product_in_float(inner, weights.down);
  return {};
}

kvfit::result<kvfit::matrix> tiny_engine::logits(const kvfit::matrix& hidden) const {
  return oracle::product_in_float(normalised(hidden), embedding.transpose());
}

std::vector<kvfit::token> tiny_engine::text(index_t length, std::uint64_t seed) const {
  kvfit::random_source random(seed);
  std::vector<kvfit::token> tokens;
  for (index_t i = 0; i < length; ++i) {
    tokens.push_back(
        static_cast<kvfit::token>(random.below(static_cast<std::uint64_t>(vocabulary()))));
  }
  return tokens;
}

oracle_run oracle_read(const tiny_engine& model, std::span<const kvfit::token> tokens,
                       const oracle_replacement& replaced) {
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

}  // namespace kvfit_test
