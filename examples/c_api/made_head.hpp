// SPDX-License-Identifier: MIT
/// What both examples need: numbers that stand for a model's, and the C library's objects with
/// their ends.
#pragma once

#include <kvfit/c/kvfit.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

namespace example {

struct free_options {
  void operator()(kvfit_options* options) const { kvfit_options_free(options); }
};
struct free_cache {
  void operator()(kvfit_cache* cache) const { kvfit_cache_free(cache); }
};
using options_ptr = std::unique_ptr<kvfit_options, free_options>;
using cache_ptr = std::unique_ptr<kvfit_cache, free_cache>;

/// Ends the program where a call failed, with what the library says.
inline void need(std::int32_t code, const kvfit_error& error) {
  if (code == KVFIT_OK) return;
  std::fprintf(stderr, "%s\n", error.message);
  std::exit(1);
}

inline kvfit_error no_error() {
  kvfit_error error{};
  error.struct_size = sizeof error;
  return error;
}

/// A plain fp32 matrix, a row after the other.
inline kvfit_rows plain_rows(const float* data, std::int64_t rows, std::int64_t cols) {
  kvfit_rows view{};
  view.struct_size = sizeof view;
  view.data = data;
  view.rows = rows;
  view.cols = cols;
  return view;
}

/// Keys around a few directions, values that follow them, queries that ask for them: no model, but
/// not noise either.
struct made_head {
  std::vector<float> keys, values, queries;
  std::int64_t tokens, asked, dim;

  made_head(unsigned seed, std::int64_t t, std::int64_t n, std::int64_t d)
      : keys(t * d), values(t * d), queries(n * d), tokens(t), asked(n), dim(d) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    constexpr int topics = 24;
    std::vector<float> topic(topics * d), meaning(topics * d);
    for (float& x : topic) x = normal(random);
    for (float& x : meaning) x = normal(random);
    for (std::int64_t j = 0; j < t; ++j) {
      const auto of = static_cast<std::int64_t>(random() % topics);
      for (std::int64_t k = 0; k < d; ++k) {
        keys[j * d + k] = 0.5F * topic[of * d + k] + 0.3F * normal(random);
        values[j * d + k] = meaning[of * d + k] + 0.3F * normal(random);
      }
    }
    for (std::int64_t i = 0; i < n; ++i) {
      const auto of = static_cast<std::int64_t>(random() % topics);
      for (std::int64_t k = 0; k < d; ++k) {
        queries[i * d + k] = 1.5F * topic[of * d + k] + 0.5F * normal(random);
      }
    }
  }
};

/// Attention of a head's queries over one block.
inline std::vector<float> attention(const made_head& of, const kvfit_rows& keys,
                                    const kvfit_rows& values, const float* bias) {
  const kvfit_rows rows = plain_rows(of.queries.data(), of.asked, of.dim);
  kvfit_queries queries{};
  queries.struct_size = sizeof queries;
  queries.rows = &rows;
  kvfit_block block{};
  block.struct_size = sizeof block;
  block.keys = &keys;
  block.values = &values;
  block.bias = bias;
  std::vector<float> output(static_cast<std::size_t>(of.asked * of.dim));
  kvfit_error error = no_error();
  need(kvfit_attend(&queries, 1, &block, 1, nullptr, 0, output.data(), nullptr, &error), error);
  return output;
}

/// ‖a − b‖ / ‖a‖.
inline double difference(const std::vector<float>& a, const std::vector<float>& b) {
  double squares = 0, all = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double by = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    squares += by * by;
    all += static_cast<double>(a[i]) * static_cast<double>(a[i]);
  }
  return std::sqrt(squares / all);
}

}  // namespace example
