// SPDX-License-Identifier: MIT
#include "support/attention_oracle.hpp"

#include <cstddef>
#include <vector>

namespace kvfit_test {

MatrixXd to_double(const kvfit::row_view& view) {
  MatrixXd numbers(view.rows(), view.cols());
  for (index_t i = 0; i < view.rows(); ++i) {
    for (index_t j = 0; j < view.cols(); ++j) numbers(i, j) = static_cast<double>(view(i, j));
  }
  return numbers;
}

oracle_logits make_logits(const kvfit::kv_block& cache, const kvfit::query_set& queries,
                          const kvfit::logit_rule& rule) {
  const MatrixXd keys = to_double(cache.keys);
  const double scale = rule.scale ? static_cast<double>(*rule.scale)
                                  : 1.0 / std::sqrt(static_cast<double>(cache.keys.cols()));
  const auto cap = static_cast<double>(rule.soft_cap);
  oracle_logits made{MatrixXd(queries.rows(), keys.rows()), MatrixXd(queries.rows(), keys.rows())};
  index_t row = 0;
  for (std::size_t b = 0; b < queries.blocks().size(); ++b) {
    const kvfit::query_block& block = queries.blocks()[b];
    const MatrixXd q = to_double(block.rows);
    const MatrixXd products = scale * q * keys.transpose();
    const MatrixXd sizes = std::abs(scale) * q.cwiseAbs() * keys.cwiseAbs().transpose();
    for (index_t i = 0; i < q.rows(); ++i, ++row) {
      for (index_t j = 0; j < keys.rows(); ++j) {
        double s = products(i, j);
        if (cap > 0) s = cap * std::tanh(s / cap);
        double magnitude = sizes(i, j);
        if (!cache.bias.empty()) {
          const auto bias = static_cast<double>(cache.bias[static_cast<std::size_t>(j)]);
          s += bias;
          magnitude += std::abs(bias);
        }
        if (!cache.masks.empty()) {
          const auto mask = static_cast<double>(cache.masks[b](i, j));
          s += mask;
          magnitude += std::abs(mask);
        }
        const index_t p = block.first_position + i * block.position_step;
        const index_t r = cache.positions.empty() ? cache.first_position + j
                                                  : cache.positions[static_cast<std::size_t>(j)];
        const double alibi = static_cast<double>(block.alibi_slope) * static_cast<double>(p - r);
        s -= alibi;
        magnitude += std::abs(alibi);
        if (rule.causal && r > p) s = -infinity;
        if (rule.window > 0 && p - r >= rule.window) s = -infinity;
        made.logit(row, j) = s;
        made.magnitude(row, j) = s == -infinity ? 0.0 : magnitude;
      }
    }
  }
  return made;
}

oracle_attention attend_in_double(const kvfit::query_set& queries,
                                  std::span<const kvfit::kv_block> blocks,
                                  const kvfit::logit_rule& rule) {
  index_t total = 0;
  for (const kvfit::kv_block& cache : blocks) total += cache.keys.rows();
  const index_t n = queries.rows();
  MatrixXd logits(n, total);
  MatrixXd magnitudes(n, total);
  MatrixXd values(total, blocks[0].values.cols());
  index_t at = 0;
  for (const kvfit::kv_block& cache : blocks) {
    const oracle_logits made = make_logits(cache, queries, rule);
    logits.middleCols(at, cache.keys.rows()) = made.logit;
    magnitudes.middleCols(at, cache.keys.rows()) = made.magnitude;
    values.middleRows(at, cache.keys.rows()) = to_double(cache.values);
    at += cache.keys.rows();
  }

  oracle_attention y{VectorXd(n),
                     VectorXd(n),
                     MatrixXd(n, values.cols()),
                     MatrixXd(n, total),
                     magnitudes.rowwise().maxCoeff(),
                     values.cwiseAbs().maxCoeff()};
  index_t row = 0;
  for (const kvfit::query_block& block : queries.blocks()) {
    const auto sink = static_cast<double>(block.sink_logit);
    for (index_t i = 0; i < block.rows.rows(); ++i, ++row) {
      y.max[row] = logits.row(row).maxCoeff();
      const double shift = std::max(y.max[row], sink);
      if (shift == -infinity) {  // nothing to see
        y.log_mass[row] = -infinity;
        y.weights.row(row).setZero();
        continue;
      }
      double mass = std::exp(sink - shift);
      for (index_t j = 0; j < total; ++j) {
        y.weights(row, j) = std::exp(logits(row, j) - shift);
        mass += y.weights(row, j);
      }
      y.weights.row(row) /= mass;
      y.log_mass[row] = shift + std::log(mass);
      if (sink != -infinity) y.magnitude[row] = std::max(y.magnitude[row], std::abs(sink));
    }
  }
  y.output = y.weights * values;
  return y;
}

oracle_attention attend_in_double(const kvfit::query_set& queries, const kvfit::kv_block& cache,
                                  const kvfit::logit_rule& rule) {
  return attend_in_double(queries, std::span<const kvfit::kv_block>(&cache, 1), rule);
}

VectorXd importance_of(const MatrixXd& weights, kvfit::importance_kind kind) {
  switch (kind) {
    case kvfit::importance_kind::none:
      break;
    case kvfit::importance_kind::mean:
      return weights.colwise().mean();
    case kvfit::importance_kind::rms:
      return weights.cwiseAbs2().colwise().mean().cwiseSqrt();
    case kvfit::importance_kind::max:
      return weights.colwise().maxCoeff();
  }
  return {};
}

VectorXd pool_of(const VectorXd& scores, kvfit::pooling_kind kind, index_t width) {
  if (kind == kvfit::pooling_kind::none) return scores;
  VectorXd pooled = VectorXd::Zero(scores.size());
  for (index_t j = 0; j < scores.size(); ++j) {
    for (index_t k = j - width / 2; k <= j + width / 2; ++k) {
      if (k < 0 || k >= scores.size()) continue;
      pooled[j] = kind == kvfit::pooling_kind::max
                      ? std::max(pooled[j], scores[k])
                      : pooled[j] + scores[k] / static_cast<double>(width);
    }
  }
  return pooled;
}

}  // namespace kvfit_test
