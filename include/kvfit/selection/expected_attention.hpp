// SPDX-License-Identifier: MIT
/// Keeps the keys that queries drawn from a Gaussian are expected to attend to most.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/attention/origin.hpp"
#include "kvfit/attention/query_moments.hpp"
#include "kvfit/attention/visible_rows.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/core/settings.hpp"
#include "kvfit/selection/policies.hpp"
#include "kvfit/selection/problem.hpp"
#include "kvfit/selection/ranking.hpp"
#include "kvfit/simd/double_vectors.hpp"
#include "kvfit/simd/product.hpp"
#include "kvfit/view/load.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// The smallest and the largest position of some visible keys or queries.
struct position_range {
  index_t first = (std::numeric_limits<index_t>::max)();
  index_t last = (std::numeric_limits<index_t>::min)();

  void take(index_t position) noexcept {
    first = (std::min)(first, position);
    last = (std::max)(last, position);
  }
};

inline position_range positions_of(const kv_block& cache) {
  position_range range;
  for (index_t j = 0; j < cache.keys.rows(); ++j) {
    if (!cache.is_hidden(j)) range.take(cache.position(j));
  }
  return range;
}

inline position_range positions_of(const query_block& block) {
  position_range range;
  if (block.positions.empty()) {
    range.take(block.position(0));
    range.take(block.position(block.rows.rows() - 1));
  } else {
    for (index_t i = 0; i < block.rows.rows(); ++i) range.take(block.position(i));
  }
  return range;
}

/// ln(exp(a) + exp(b)).
inline double add_logarithms(double a, double b) noexcept {
  const double larger = (std::max)(a, b);
  if (std::isinf(larger)) return larger;
  return larger + std::log1p(std::exp((std::min)(a, b) - larger));
}

/// What the Gaussian can't say.
inline result<void> check_gaussian(const selection_problem& problem) {
  const auto refuse = [](const char* argument) {
    return error{errc::invalid_option, argument, error::none, error::none,
                 "expected attention has no model of it"};
  };
  if (problem.rule.soft_cap > 0) return refuse("rule.soft_cap");
  if (!problem.cache.masks.empty()) return refuse("masks");
  if (!problem.rule.causal && problem.rule.window == 0) return {};
  const position_range keys = positions_of(problem.cache);
  if (keys.first > keys.last) return {};  // none is visible
  for (const query_block& block : problem.queries.blocks()) {
    const position_range queries = positions_of(block);
    if (problem.rule.causal && keys.last > queries.first) return refuse("rule.causal");
    if (problem.rule.window > 0 && queries.last - keys.first >= problem.rule.window) {
      return refuse("rule.window");
    }
  }
  return {};
}

/// What `expected_logits` works in, and its result.
struct expected_buffers {
  static constexpr index_t tile_rows = 256;

  Eigen::VectorXd logits;
  matrix rows;          ///< a tile
  double_matrix keys;   ///< the same
  double_matrix sight;  ///< μ + ½ scale Σ k_j

  void declare(workspace& space, index_t all, index_t depth) {
    space.add(logits, all);
    space.add_matrices(tile_rows, depth, rows, keys, sight);
  }
};

/// ℓ_j of all keys for the queries of one head, −∞ of hidden ones; see
/// `selection::expected_attention`.
inline Eigen::VectorXd expected_logits(const selection_problem& problem,
                                       std::span<const query_block> head) {
  constexpr index_t tile_rows = expected_buffers::tile_rows;
  const kv_block& cache = problem.cache;
  const index_t depth = cache.keys.cols();
  const double scale = problem.rule.scale ? static_cast<double>(*problem.rule.scale)
                                          : 1.0 / std::sqrt(static_cast<double>(depth));
  const auto slope = static_cast<double>(head.front().alibi_slope);
  query_moments moments = moments_of(head);
  simd::scale(moments.covariance.data(), 0.5 * scale, depth * depth);
  expected_buffers own;
  allocate_buffers(own, cache.keys.rows(), depth);
  auto& [logits, buffer, keys, sight] = own;
  const index_t visible = next_row(cache.bias, 0, cache.bias.empty() ? 0 : logits.size(), false);
  for (index_t first = 0; first < logits.size(); first += tile_rows) {
    const index_t count = (std::min)(tile_rows, logits.size() - first);
    const float_tile rows = load_visible_rows(cache.keys, cache.bias, first, count, buffer.data());
    for (index_t j = 0; j < count; ++j) {
      const float* key = rows.data + j * rows.stride;
      for (index_t k = 0; k < depth; ++k) keys(j, k) = static_cast<double>(key[k]);
      std::copy_n(moments.mean.data(), depth, sight.data() + j * depth);
    }
    simd::multiply({keys.data(), depth, 1}, {moments.covariance.data(), depth},
                   {sight.data(), depth}, count, depth, depth, simd::product_mode::add);
    for (index_t j = 0; j < count; ++j) {
      const index_t row = first + j;
      if (cache.is_hidden(row)) {
        logits[row] = -std::numeric_limits<double>::infinity();
        continue;
      }
      // One by one, in an order that no alignment changes: equal keys must tie.
      double product = 0;
      for (index_t k = 0; k < depth; ++k) product += keys(j, k) * sight(j, k);
      double logit = scale * product;
      if (!cache.bias.empty()) {
        logit += static_cast<double>(cache.bias[static_cast<std::size_t>(row)]);
      }
      // Of −slope · (p − r) the query's part is the same for all keys.
      logits[row] =
          logit + slope * static_cast<double>(cache.position(row) - cache.position(visible));
    }
  }
  return std::move(logits);
}

/// ln Σ_j exp(x_j).
inline double log_sum(const Eigen::VectorXd& x) {
  const double largest = *std::max_element(x.begin(), x.end());
  if (std::isinf(largest)) return largest;
  double sum = 0;
  for (const double one : x) sum += std::exp(one - largest);
  return largest + std::log(sum);
}

/// ln score_j of all keys, −∞ where it is 0.
inline Eigen::VectorXd expected_log_scores(double epsilon, const selection_problem& problem) {
  constexpr double zero = -std::numeric_limits<double>::infinity();
  const auto blocks = problem.queries.blocks();
  const kv_block& cache = problem.cache;
  Eigen::VectorXd scores(cache.keys.rows());
  std::fill(scores.begin(), scores.end(), zero);
  double heads = 0;
  for (std::size_t begin = 0; begin < blocks.size();) {
    const std::size_t end = head_end(blocks, problem.origins, begin);
    const Eigen::VectorXd logits = expected_logits(problem, blocks.subspan(begin, end - begin));
    const double mass = log_sum(logits);
    for (index_t j = 0; j < scores.size(); ++j) {
      scores[j] = add_logarithms(scores[j], logits[j] - mass);
    }
    ++heads;
    begin = end;
  }
  const double floor = std::log(epsilon);
  vector value(cache.values.cols());
  for (index_t j = 0; j < scores.size(); ++j) {
    if (cache.is_hidden(j)) continue;
    load_row(cache.values, j, value.data());
    scores[j] = add_logarithms(scores[j] - std::log(heads), floor) +
                0.5 * std::log(simd::squared_norm(value.data(), value.size()));
  }
  return scores;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit::selection {
inline namespace KVFIT_ISA {

inline score_options wanted_scores(const selection::expected_attention&) {
  return {.importance = importance_kind::none};
}

inline result<void> check_settings(const selection::expected_attention& policy) {
  if (policy.epsilon >= 0 && std::isfinite(policy.epsilon)) return {};
  return kvfit::detail::refuse_number("expected_attention.epsilon", policy.epsilon,
                                      "must be finite and not negative");
}

/// Cost n · d_k² + T · d_k² multiply-adds in double for every query head. Nothing of the score pass
/// enters.
inline result<selected_rows> select(const selection::expected_attention& policy,
                                    const selection_problem& problem) {
  if (const auto ok = check_settings(policy); !ok) return ok.error();
  if (const auto ok = check_problem(problem); !ok) return ok.error();
  if (const auto ok = detail::check_gaussian(problem); !ok) return ok.error();
  const Eigen::VectorXd scores = detail::expected_log_scores(policy.epsilon, problem);
  return selected_rows{.positions = highest_rows(problem, scores.data(), problem.budget)};
}

/// What `select` holds, its result included.
inline void declare(workspace& space, const selection::expected_attention&,
                    const head_sizes& sizes) {
  detail::expected_buffers().declare(space, sizes.keys, sizes.depth);
  space.count(double_bytes(sizes.keys));                                               // scores
  space.count(double_bytes(sizes.depth, sizes.depth) + double_bytes(4, sizes.depth));  // moments
  space.count(float_bytes(sizes.width));
  highest_rows_buffers().declare(space, sizes.budget);
}

constexpr bool may_replace(const selection::expected_attention&) {
  return true;
}

static_assert(selection_policy<selection::expected_attention>);

}  // namespace KVFIT_ISA
}  // namespace kvfit::selection
