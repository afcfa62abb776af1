// SPDX-License-Identifier: MIT
/// Attention in double precision, written for reading: formulas as they stand in the headers, no
/// tiles, no shortcuts. What kvfit computes in fp32 is compared with this.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <vector>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/score_pass.hpp"

namespace kvfit_test {

using Eigen::MatrixXd;
using Eigen::VectorXd;
using kvfit::index_t;

inline constexpr double infinity = std::numeric_limits<double>::infinity();

/// Half the distance from 1 to the next float: the relative error of one fp32 rounding.
inline constexpr double fp32_rounding = 0x1p-24;

inline MatrixXd to_double(const kvfit::row_view& view) {
  MatrixXd numbers(view.rows(), view.cols());
  for (index_t i = 0; i < view.rows(); ++i) {
    for (index_t j = 0; j < view.cols(); ++j) numbers(i, j) = static_cast<double>(view(i, j));
  }
  return numbers;
}

/// Logits of all queries (n rows, block after block) against the keys of one block (T columns).
struct oracle_logits {
  MatrixXd logit;
  /// The absolute values of all terms of a logit, added up: rounding errors are a multiple of this.
  /// 0 where the key is hidden.
  MatrixXd magnitude;
};

/// s = cap(scale · q·k) + bias + mask − alibi_slope · (p − r), as `kvfit::logit_rule` says.
inline oracle_logits make_logits(const kvfit::kv_block& cache, const kvfit::query_set& queries,
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

/// Softmax attention over one or several blocks together.
struct oracle_attention {
  VectorXd max;          ///< n: the largest logit of any block; −∞ if all is hidden
  VectorXd log_mass;     ///< n: sinks included; −∞ if all is hidden and there is no sink
  MatrixXd output;       ///< n × d_v
  MatrixXd weights;      ///< n × (keys of all blocks): A_ij
  VectorXd magnitude;    ///< n: the largest magnitude of a logit
  double value_max = 0;  ///< the largest |value|

  /// How far fp32 logits may be off: the inner product has `depth` terms, and a handful of
  /// roundings (scale, cap, bias, mask, ALiBi, sink) follow.
  [[nodiscard]] double logit_error(index_t i, index_t depth) const {
    return fp32_rounding * static_cast<double>(depth + 16) * magnitude[i];
  }
  /// ln Σ exp moves no more than its logits; then come sum (1e-6, see simd/softmax.hpp), ln and the
  /// rounding of the result.
  [[nodiscard]] double log_mass_error(index_t i, index_t depth) const {
    const double size = std::isinf(log_mass[i]) ? 0.0 : std::abs(log_mass[i]);
    return logit_error(i, depth) + 2e-6 + 4 * fp32_rounding * (size + magnitude[i]);
  }
  /// Each weight is off by a factor of at most e^{±2 δ}; the sum over keys adds roundings of up to
  /// √T units for weights and values of random sign, 8 √T to be safe.
  [[nodiscard]] double output_error(index_t i, index_t depth) const {
    const double keys = static_cast<double>(std::max<index_t>(weights.cols(), 1));
    return value_max *
           (std::expm1(2 * logit_error(i, depth)) + 2e-6 + 8 * fp32_rounding * std::sqrt(keys));
  }
};

inline oracle_attention attend_in_double(const kvfit::query_set& queries,
                                         std::span<const kvfit::kv_block> blocks,
                                         const kvfit::logit_rule& rule = {}) {
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

inline oracle_attention attend_in_double(const kvfit::query_set& queries,
                                         const kvfit::kv_block& cache,
                                         const kvfit::logit_rule& rule = {}) {
  return attend_in_double(queries, std::span<const kvfit::kv_block>(&cache, 1), rule);
}

/// One number per key from the weights A_ij (n × T).
inline VectorXd importance_of(const MatrixXd& weights, kvfit::importance_kind kind) {
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

/// Every score replaced by the mean (zeros beyond the ends count) or the maximum of the `width`
/// scores around it.
inline VectorXd pool_of(const VectorXd& scores, kvfit::pooling_kind kind, index_t width) {
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
