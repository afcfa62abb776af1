// SPDX-License-Identifier: MIT
/// Attention in double precision, written for reading: formulas as they stand in the headers, no
/// tiles, no shortcuts. Compiled once. What kvfit computes in fp32 is compared with this.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/attention/score_pass.hpp"

namespace kvfit_test {

using Eigen::MatrixXd;
using Eigen::VectorXd;
using kvfit::index_t;

inline constexpr double infinity = std::numeric_limits<double>::infinity();

/// Half the distance from 1 to the next float: the relative error of one fp32 rounding.
inline constexpr double fp32_rounding = 0x1p-24;

MatrixXd to_double(const kvfit::row_view& view);

/// Logits of all queries (n rows, block after block) against the keys of one block (T columns).
struct oracle_logits {
  MatrixXd logit;
  /// The absolute values of all terms of a logit, added up: rounding errors are a multiple of this.
  /// 0 where the key is hidden.
  MatrixXd magnitude;
};

/// s = cap(scale · q·k) + bias + mask − alibi_slope · (p − r), as `kvfit::logit_rule` says.
oracle_logits make_logits(const kvfit::kv_block& cache, const kvfit::query_set& queries,
                          const kvfit::logit_rule& rule);

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

oracle_attention attend_in_double(const kvfit::query_set& queries,
                                  std::span<const kvfit::kv_block> blocks,
                                  const kvfit::logit_rule& rule = {});
oracle_attention attend_in_double(const kvfit::query_set& queries, const kvfit::kv_block& cache,
                                  const kvfit::logit_rule& rule = {});

/// One number per key from the weights A_ij (n × T).
VectorXd importance_of(const MatrixXd& weights, kvfit::importance_kind kind);

/// Every score replaced by the mean (zeros beyond the ends count) or the maximum of the `width`
/// scores around it.
VectorXd pool_of(const VectorXd& scores, kvfit::pooling_kind kind, index_t width);

}  // namespace kvfit_test
