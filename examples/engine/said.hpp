// SPDX-License-Identifier: MIT
/// What a model says over a compact cache, compared with what it says over the full one.
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <span>

#include "kvfit/core/index.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/queries/engine.hpp"

namespace llama {

/// sum / count; NaN where nothing was counted.
inline double mean_of(double sum, kvfit::index_t count) {
  return count == 0 ? std::numeric_limits<double>::quiet_NaN() : sum / static_cast<double>(count);
}

/// Sums over passages; `kl` and all else divided by their counts are the figures.
struct said_figures {
  kvfit::index_t tokens = 0;  ///< distributions compared
  double kl = 0;              ///< Σ KL(full ‖ compact), nats
  double loss = 0;            ///< Σ −ln p(target), nats
  kvfit::index_t agreed = 0;  ///< most likely tokens that are the full cache's
  kvfit::index_t right = 0;   ///< passages whose targets all are the most likely tokens
  kvfit::index_t passages = 0;

  void add(const said_figures& more) {
    tokens += more.tokens;
    kl += more.kl;
    loss += more.loss;
    agreed += more.agreed;
    right += more.right;
    passages += more.passages;
  }

  /// Nats a token; NaN without tokens.
  [[nodiscard]] double mean_kl() const { return mean_of(kl, tokens); }
  /// Share of agreed tokens; NaN without tokens.
  [[nodiscard]] double top1() const { return mean_of(static_cast<double>(agreed), tokens); }
  /// Share of right passages; NaN without passages.
  [[nodiscard]] double recall() const { return mean_of(static_cast<double>(right), passages); }
};

/// ln p of a row of logits.
inline Eigen::RowVectorXd log_softmax(const kvfit::matrix& logits, kvfit::index_t row) {
  const Eigen::RowVectorXd wide = logits.row(row).cast<double>();
  const double most = wide.maxCoeff();
  return wide.array() - (most + std::log((wide.array() - most).exp().sum()));
}

/// One passage: its logits over the compact cache against those over the full one.
///
/// full, compact: logits of the scored rows, one row a target.
inline said_figures compare(std::span<const kvfit::token> targets, const kvfit::matrix& full,
                            const kvfit::matrix& compact) {
  said_figures said{.passages = 1};
  bool is_right = true;
  for (kvfit::index_t i = 0; i < full.rows(); ++i) {
    const Eigen::RowVectorXd p = log_softmax(full, i);
    const Eigen::RowVectorXd q = log_softmax(compact, i);
    const kvfit::token target = targets[static_cast<std::size_t>(i)];
    kvfit::index_t expected = 0;
    kvfit::index_t chosen = 0;
    p.maxCoeff(&expected);
    q.maxCoeff(&chosen);
    ++said.tokens;
    said.kl += (p.array().exp() * (p - q).array()).sum();
    said.loss -= q[target];
    said.agreed += chosen == expected ? 1 : 0;
    is_right = is_right && chosen == target;
  }
  said.right = is_right ? 1 : 0;
  return said;
}

}  // namespace llama
