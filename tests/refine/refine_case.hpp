// SPDX-License-Identifier: MIT
/// A head with rows that have moved, under any rule, and their logits in double.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "kvfit/attention/score_pass.hpp"
#include "kvfit/attention/split.hpp"
#include "kvfit/refine/batch.hpp"
#include "selection/heads.hpp"
#include "support/attention_oracle.hpp"
#include "support/catch.hpp"
#include "support/dense.hpp"

namespace kvfit_test {

/// A head, some of its rows, and a point (keys and biases) some way from them.
struct refine_case {
  head made;
  std::vector<kvfit::query_block> blocks;
  kvfit::matrix mask;  ///< n × T, or empty
  std::vector<kvfit::row_view> masks;
  kvfit::logit_rule rule;
  std::vector<kvfit::index_t> rows = {1, 5, 9, 14, 20, 26};
  kvfit::matrix original;
  kvfit::matrix keys;
  kvfit::vector bias;

  /// 277 queries: a whole panel and a part of one.
  explicit refine_case(std::uint64_t seed, kvfit::index_t queries = 277)
      : made(make_head(seed, {.queries = queries, .keys = 30, .depth = 8, .width = 5})) {
    original = gather(made.values);
    keys = gather(made.keys) + random_matrix(6, 8, seed + 40, 0.2F);
    bias = random_matrix(6, 1, seed + 41, 0.5F).array() + 1.0F;
    blocks = {kvfit::query_block(made.queries)};
  }
  refine_case(const refine_case&) = delete;  // views point into it
  refine_case& operator=(const refine_case&) = delete;

  [[nodiscard]] kvfit::matrix gather(const kvfit::matrix& from) const {
    kvfit::matrix out(6, from.cols());
    for (kvfit::index_t l = 0; l < 6; ++l) out.row(l) = from.row(rows[static_cast<std::size_t>(l)]);
    return out;
  }

  /// Numbers in every logit, hidden keys, and a query that sees none of them.
  void add_masks() {
    mask = random_matrix(made.queries.rows(), 30, 77, 0.4F);
    mask.block(20, 3, 60, 12).setConstant(hidden_key);
    mask.row(11).setConstant(hidden_key);
    mask.row(250).setConstant(hidden_key);
    masks = {mask};
  }

  /// Two heads with slopes, the second at positions that the causal rule and the window cut into.
  void add_positions() {
    const kvfit::row_view all = made.queries;
    blocks = {kvfit::query_block(all.middle_rows(0, 200), 5, 0.02F),
              kvfit::query_block(all.middle_rows(200, 77), 12, 0.05F)};
    blocks[1].position_step = 2;
    rule.causal = true;
    rule.window = 195;
  }

  [[nodiscard]] kvfit::query_part part() const {
    return kvfit::split_queries(std::span<const kvfit::query_block>(blocks), masks, 0).fit;
  }
  [[nodiscard]] kvfit::kv_block cache() const {
    kvfit::kv_block block = made.cache();
    block.masks = masks;
    return block;
  }
};

/// All queries of a case, laid out with their scores.
inline kvfit::refine_batch whole_batch(const refine_case& of) {
  const kvfit::query_part part = of.part();
  const auto scores = kvfit::score_pass(part.beside(of.made.cache()), part.set(), of.rule);
  REQUIRE(scores);
  const kvfit::scored_part one{&part, &*scores};
  return kvfit::make_batch(std::span(&one, 1), {}, of.cache(), of.rule, of.rows);
}

/// Logits of a case's queries over six keys in double: n × 6, with scale, soft-cap, and what the
/// rows that the keys come from have of masks and positions.
class moved_logits {
 public:
  explicit moved_logits(const refine_case& of) : of_(of) {
    // What keys of zero leave of a logit: mask and positions.
    const kvfit::matrix nothing = kvfit::matrix::Zero(of.made.keys.rows(), of.made.keys.cols());
    kvfit::kv_block rest = of.cache();
    rest.keys = nothing;
    const std::span<const kvfit::query_block> blocks(of.blocks);
    const MatrixXd of_all_keys = make_logits(rest, blocks, of.rule).logit;
    added_.resize(of_all_keys.rows(), 6);
    for (kvfit::index_t l = 0; l < 6; ++l) {
      added_.col(l) = of_all_keys.col(of.rows[static_cast<std::size_t>(l)]);
    }
  }

  [[nodiscard]] MatrixXd operator()(const MatrixXd& keys, const VectorXd& bias) const {
    const MatrixXd queries = oracle::to_double(of_.made.queries);
    const double scale = of_.rule.scale ? static_cast<double>(*of_.rule.scale) : 1 / std::sqrt(8.0);
    MatrixXd logits = scale * oracle::product(queries, keys.transpose());
    const auto cap = static_cast<double>(of_.rule.soft_cap);
    if (cap > 0) logits = (logits / cap).unaryExpr([](double x) { return std::tanh(x); }) * cap;
    logits += added_;
    logits.rowwise() += bias.transpose();
    return logits;
  }

 private:
  const refine_case& of_;
  MatrixXd added_;
};

}  // namespace kvfit_test
