// SPDX-License-Identifier: MIT
#include "measure/said.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace kvfit_tool {

namespace {

using kvfit::index_t;
using kvfit::matrix;

/// ln p of a row of logits.
Eigen::RowVectorXd log_softmax(const matrix& logits, index_t row) {
  const Eigen::RowVectorXd wide = logits.row(row).cast<double>();
  const double most = wide.maxCoeff();
  return wide.array() - (most + std::log((wide.array() - most).exp().sum()));
}

double mean_of(double sum, index_t count) {
  return count == 0 ? std::numeric_limits<double>::quiet_NaN() : sum / static_cast<double>(count);
}

}  // namespace

void said_figures::add(const said_figures& more) {
  tokens += more.tokens;
  kl += more.kl;
  loss += more.loss;
  agreed += more.agreed;
  right += more.right;
  passages += more.passages;
}

double said_figures::mean_kl() const {
  return mean_of(kl, tokens);
}
double said_figures::top1() const {
  return mean_of(static_cast<double>(agreed), tokens);
}
double said_figures::recall() const {
  return mean_of(static_cast<double>(right), passages);
}

void said_parts::add(const passage& of, const said_figures& said) {
  switch (of.kind) {
    case passage_kind::continuation:
      return text.add(said);
    case passage_kind::off_context:
      return off_context.add(said);
    case passage_kind::answer:
      break;
  }
  answers.add(said);
  if (!of.depth) return;
  const auto part = static_cast<std::size_t>(*of.depth * static_cast<double>(depths));
  by_depth[std::min(part, depths - 1)].add(said);
}

void said_parts::add(const said_parts& more) {
  text.add(more.text);
  answers.add(more.answers);
  off_context.add(more.off_context);
  for (std::size_t i = 0; i < depths; ++i) by_depth[i].add(more.by_depth[i]);
}

said_figures compare(const passage& of, const matrix& full, const matrix& compact) {
  said_figures said{.passages = 1};
  bool is_right = true;
  for (index_t i = 0; i < full.rows(); ++i) {
    const Eigen::RowVectorXd p = log_softmax(full, i);
    const Eigen::RowVectorXd q = log_softmax(compact, i);
    const llama::token target = of.targets[static_cast<std::size_t>(i)];
    index_t expected = 0;
    index_t chosen = 0;
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

}  // namespace kvfit_tool
