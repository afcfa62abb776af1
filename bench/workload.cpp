// SPDX-License-Identifier: MIT
#include "workload.hpp"

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "kvfit/attention/compare.hpp"

namespace kvfit::bench {
namespace {

/// Everything kept of the size in work.
struct kept {
  index_t keys = 0;
  index_t depth = 0;
  std::uint64_t seed = 0;
  workload work;
  std::optional<baseline::attention> plain;
  std::optional<std::vector<index_t>> positions;
  std::optional<baseline::vector> weights;
};

kept& current() {
  static kept only;
  return only;
}

quality judge_with(const workload& work, std::span<const index_t> positions, const vector& weights,
                   const matrix* values) {
  const std::vector<index_t> chosen(positions.begin(), positions.end());
  const matrix keys = baseline::gather_rows(work.data.keys, chosen);
  const vector bias = weights.array().log();
  if (values != nullptr) return judge(work, keys, bias, *values);
  const matrix fitted = baseline::least_squares(
      baseline::softmax_weights(work.data.queries, keys, bias), plain_attention(work).output);
  return judge(work, keys, bias, fitted);
}

}  // namespace

const workload& load(index_t keys, index_t depth, std::uint64_t seed) {
  kept& now = current();
  if (now.keys == keys && now.depth == depth && now.seed == seed) return now.work;
  now = {};
  now.keys = keys;
  now.depth = depth;
  now.seed = seed;
  head& data = now.work.data;
  data = synthetic_head({.keys = keys,
                         .depth = depth,
                         .queries = fit_queries,
                         .held_out = held_out_queries,
                         .seed = seed});
  now.work.budget = keys / compaction_ratio;
  now.work.held_out = baseline::attend(data.held_out, data.keys, data.values);
  now.work.held_out.exponentials.resize(0, 0);
  return now.work;
}

const baseline::attention& plain_attention(const workload& work) {
  auto& plain = current().plain;
  if (!plain) plain = baseline::attend(work.data.queries, work.data.keys, work.data.values);
  return *plain;
}

const std::vector<index_t>& common_positions(const workload& work) {
  auto& positions = current().positions;
  if (!positions) {
    positions =
        baseline::highest_attention(baseline::rms_importance(plain_attention(work)), work.budget);
    std::sort(positions->begin(), positions->end());
  }
  return *positions;
}

const baseline::vector& common_weights(const workload& work) {
  auto& weights = current().weights;
  if (!weights) {
    const auto& full = plain_attention(work);
    weights =
        baseline::fit_weights(baseline::gather_columns(full.exponentials, common_positions(work)),
                              full.mass, {std::exp(-3.0F), std::exp(3.0F)}, 2);
  }
  return *weights;
}

quality judge(const workload& work, const matrix& keys, const vector& bias, const matrix& values) {
  const float scale = 1.0F / std::sqrt(static_cast<float>(keys.cols()));
  matrix x = scale * work.data.held_out * keys.transpose();
  vector log_mass(x.rows());
  for (index_t i = 0; i < x.rows(); ++i) {
    x.row(i) += bias.transpose();
    const float max = x.row(i).maxCoeff();
    x.row(i) = (x.row(i).array() - max).exp();
    const float mass = x.row(i).sum();
    x.row(i) /= mass;
    log_mass[i] = max + std::log(mass);
  }
  const vector full = work.held_out.max.array() + work.held_out.mass.array().log();
  const fidelity found = compare(work.held_out.output, full, x * values, log_mass);
  return {found.output_error, found.mass_error};
}

quality judge_positions(const workload& work, std::span<const index_t> positions) {
  const auto& full = plain_attention(work);
  const std::vector<index_t> chosen(positions.begin(), positions.end());
  return judge_weights(work, positions,
                       baseline::fit_weights(baseline::gather_columns(full.exponentials, chosen),
                                             full.mass, {std::exp(-3.0F), std::exp(3.0F)}, 2));
}

quality judge_weights(const workload& work, std::span<const index_t> positions,
                      const vector& weights) {
  return judge_with(work, positions, weights, nullptr);
}

quality judge_values(const workload& work, const matrix& values) {
  return judge_with(work, common_positions(work), common_weights(work), &values);
}

}  // namespace kvfit::bench
