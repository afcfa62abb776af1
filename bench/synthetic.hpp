// SPDX-License-Identifier: MIT
/// Seeded heads with the structure of attention: what the benchmarks run on.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "kvfit/core/matrix.hpp"
#include "kvfit/core/random.hpp"

namespace kvfit::bench {

/// Independent standard normal numbers (Box–Muller).
class normal_source {
 public:
  explicit normal_source(std::uint64_t seed) : uniform_(seed) {}

  float operator()() {
    if (has_spare_) {
      has_spare_ = false;
      return static_cast<float>(spare_);
    }
    const double radius = std::sqrt(-2 * std::log(1 - uniform_.uniform()));
    const double angle = 2 * std::numbers::pi * uniform_.uniform();
    spare_ = radius * std::sin(angle);
    has_spare_ = true;
    return static_cast<float>(radius * std::cos(angle));
  }

  random_source& uniform() { return uniform_; }
  float between(double low, double high) {
    return static_cast<float>(low + (high - low) * uniform_.uniform());
  }

 private:
  random_source uniform_;
  double spare_ = 0;
  bool has_spare_ = false;
};

struct head_shape {
  index_t keys = 8192;
  index_t depth = 64;  ///< of keys, queries and values
  index_t queries = 2048;
  index_t held_out = 512;
  std::uint64_t seed = 1;
};

/// One head; `queries` are for fitting, `held_out` come from the same distribution and are for
/// judging.
struct head {
  matrix keys;
  matrix values;
  matrix queries;
  matrix held_out;
};

/// Keys, values and queries with the structure that compaction lives from:
///
/// * Energy is spread unevenly over coordinates (variance of coordinate c ~ (1 + c)^-1/2), so keys
///   have a low effective rank.
/// * Text comes in runs of about 32 tokens, each run on one of T/128 topics, some far more frequent
///   than others. A key is its topic's centre plus as much of its own; a value is half topic, half
///   its own.
/// * The first four keys are sinks: every query gives them 4 to 7 logits above the mean, and their
///   values are nearly zero.
/// * Half the queries look for a topic (4 to 10 logits above the background), 30 % for one token (6
///   to 14), 20 % for nothing in particular. Their background logits have a deviation of about 1.5.
///
/// So some rows of attention have a handful of keys in them and some thousands; bench/README.md has
/// the measured spread. The same seed gives the same head up to the rounding of libm.
inline head synthetic_head(const head_shape& shape) {
  normal_source normal(shape.seed);
  const index_t d = shape.depth;
  const auto root_depth = std::sqrt(static_cast<float>(d));

  vector energy(d);
  for (index_t c = 0; c < d; ++c) energy[c] = std::pow(1.0F + static_cast<float>(c), -0.25F);
  energy *= root_depth / energy.norm();
  const auto draw = [&](const vector& scale) {
    vector x(scale.size());
    for (index_t c = 0; c < x.size(); ++c) x[c] = scale[c] * normal();
    return x;
  };
  const vector flat = vector::Ones(d);
  const vector sink_direction = draw(flat).normalized();

  const index_t topics = std::max<index_t>(8, shape.keys / 128);
  matrix key_centres(topics, d);
  matrix value_centres(topics, d);
  for (index_t topic = 0; topic < topics; ++topic) {
    key_centres.row(topic) = draw(energy).transpose();
    value_centres.row(topic) = draw(flat).transpose();
  }

  constexpr float half = 0.70710678F;  // of the variance
  head out;
  out.keys.resize(shape.keys, d);
  out.values.resize(shape.keys, d);
  std::vector<index_t> topic_of(static_cast<std::size_t>(shape.keys));
  index_t topic = 0;
  for (index_t j = 0; j < shape.keys; ++j) {
    if (j == 0 || normal.uniform().below(32) == 0) {
      const double u = normal.uniform().uniform();
      topic = static_cast<index_t>(static_cast<double>(topics) * u * u);
    }
    topic_of[static_cast<std::size_t>(j)] = topic;
    out.keys.row(j) = half * (key_centres.row(topic) + draw(energy).transpose());
    out.values.row(j) = half * (value_centres.row(topic) + draw(flat).transpose());
  }
  for (index_t sink = 0; sink < std::min<index_t>(4, shape.keys); ++sink) {
    out.keys.row(sink) = (7.0F - static_cast<float>(sink)) * sink_direction.transpose();
    out.values.row(sink) *= 0.02F;
  }

  const auto fill_queries = [&](matrix& queries, index_t count) {
    queries.resize(count, d);
    for (index_t i = 0; i < count; ++i) {
      const auto anchor =
          static_cast<index_t>(normal.uniform().below(static_cast<std::uint64_t>(shape.keys)));
      const double kind = normal.uniform().uniform();
      vector towards = vector::Zero(d);
      if (kind < 0.5) {  // half·gain logits onto the topic's keys
        towards = key_centres.row(topic_of[static_cast<std::size_t>(anchor)]).transpose();
        towards *= normal.between(4, 10) / (half * root_depth);
      } else if (kind < 0.8) {
        towards = out.keys.row(anchor).transpose() * (normal.between(6, 14) / root_depth);
      }
      const vector own = draw(energy);
      queries.row(i) = (towards + own + root_depth * sink_direction).transpose();
    }
  };
  fill_queries(out.queries, shape.queries);
  fill_queries(out.held_out, shape.held_out);
  return out;
}

}  // namespace kvfit::bench
