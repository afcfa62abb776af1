// SPDX-License-Identifier: MIT
/// Made-up heads with the structure of real ones, and a scored problem over them.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

#include "kvfit/attention/score_pass.hpp"
#include "kvfit/core/random.hpp"
#include "kvfit/selection/problem.hpp"
#include "support/catch.hpp"
#include "support/random_matrix.hpp"

namespace kvfit_test {

using kvfit::index_t;

inline constexpr float hidden_key = -std::numeric_limits<float>::infinity();

/// Queries, keys and values of one head.
struct head {
  kvfit::matrix queries;
  kvfit::matrix test_queries;  ///< of the same kind, for judging
  kvfit::matrix keys;
  kvfit::matrix values;

  [[nodiscard]] kvfit::kv_block cache() const { return {.keys = keys, .values = values}; }
};

struct head_shape {
  index_t queries = 96;
  index_t keys = 64;
  index_t depth = 16;
  index_t width = 8;
  index_t topics = 8;
};

/// Keys lie around `topics` directions, queries ask for one of them: some sharply (logits of 8 and
/// more above the rest), some hardly at all, so that peaked and diffuse queries stand side by side.
/// Values follow the topic, with noise.
inline head make_head(std::uint64_t seed, const head_shape& shape = {}) {
  const kvfit::matrix topics = random_matrix(shape.topics, shape.depth, 11 * seed + 1);
  const kvfit::matrix meaning = random_matrix(shape.topics, shape.width, 11 * seed + 2);
  const kvfit::matrix key_noise = random_matrix(shape.keys, shape.depth, 11 * seed + 3);
  const kvfit::matrix value_noise = random_matrix(shape.keys, shape.width, 11 * seed + 4);
  kvfit::random_source random(11 * seed + 5);
  head made;
  made.keys.resize(shape.keys, shape.depth);
  made.values.resize(shape.keys, shape.width);
  for (index_t j = 0; j < shape.keys; ++j) {
    const auto topic = static_cast<index_t>(random.below(static_cast<std::uint64_t>(shape.topics)));
    made.keys.row(j) = 1.5F * topics.row(topic) + 0.7F * key_noise.row(j);
    made.values.row(j) = meaning.row(topic) + 0.5F * value_noise.row(j);
  }
  const auto ask = [&](std::uint64_t noise_seed) {
    kvfit::matrix queries = random_matrix(shape.queries, shape.depth, noise_seed);
    for (index_t i = 0; i < shape.queries; ++i) {
      const auto topic =
          static_cast<index_t>(random.below(static_cast<std::uint64_t>(shape.topics)));
      const auto sharpness = static_cast<float>(2 * random.uniform());
      queries.row(i) = sharpness * topics.row(topic) + 0.5F * queries.row(i);
    }
    return queries;
  };
  made.queries = ask(11 * seed + 6);
  made.test_queries = ask(11 * seed + 7);
  return made;
}

/// A head scored for a selection; the problem points into this object.
class scored_head {
 public:
  scored_head(const kvfit::kv_block& cache, const kvfit::query_set& queries,
              const kvfit::score_options& wanted = {}, const kvfit::logit_rule& rule = {})
      : cache_(cache), queries_(queries), rule_(rule) {
    auto scores = kvfit::score_pass(cache, queries, rule, wanted);
    REQUIRE(scores);
    scores_ = std::move(*scores);
  }

  [[nodiscard]] kvfit::selection_problem problem(index_t budget) const {
    return {cache_, queries_, rule_, &scores_, budget};
  }
  [[nodiscard]] const kvfit::attention_scores& scores() const noexcept { return scores_; }

 private:
  kvfit::kv_block cache_;
  kvfit::query_set queries_;
  kvfit::logit_rule rule_;
  kvfit::attention_scores scores_;
};

inline std::vector<index_t> rows_up_to(index_t count) {
  std::vector<index_t> rows(static_cast<std::size_t>(count));
  std::iota(rows.begin(), rows.end(), index_t{0});
  return rows;
}

}  // namespace kvfit_test
