// SPDX-License-Identifier: MIT
/// The published method (Attention Matching, arXiv:2602.16284) in plain Eigen: what kvfit is
/// measured against. fp32, one thread, every array materialised, as a careful engineer would write
/// it first.
#pragma once

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <Eigen/QR>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

namespace baseline {

using index_t = std::int64_t;
/// One token a row.
using rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
/// What is factorised or taken apart column by column.
using columns = Eigen::MatrixXf;
using vector = Eigen::VectorXf;

/// Full attention, n × T numbers kept: exp(s_ij − max_i), their row sums, and the output.
struct attention {
  rows exponentials;
  vector max;
  vector mass;
  rows output;
};

inline attention attend(const rows& queries, const rows& keys, const rows& values) {
  attention out;
  const float scale = 1.0F / std::sqrt(static_cast<float>(keys.cols()));
  const rows scaled = scale * queries;
  out.exponentials.noalias() = scaled * keys.transpose();
  out.max = out.exponentials.rowwise().maxCoeff();
  out.mass.resize(out.max.size());
  for (index_t i = 0; i < out.max.size(); ++i) {
    auto row = out.exponentials.row(i).array();
    row = (row - out.max[i]).exp();
    out.mass[i] = row.sum();
  }
  out.output.noalias() = out.exponentials * values;
  out.output.array().colwise() /= out.mass.array();
  return out;
}

/// √(mean over queries of A_ij²), A the softmax.
inline vector rms_importance(const attention& full) {
  vector sums = vector::Zero(full.exponentials.cols());
  for (index_t i = 0; i < full.exponentials.rows(); ++i) {
    sums.array() += (full.exponentials.row(i).transpose().array() / full.mass[i]).square();
  }
  return (sums / static_cast<float>(full.exponentials.rows())).cwiseSqrt();
}

/// The `count` best of `candidates` by descending score, first.
inline void sort_best_first(std::vector<index_t>& candidates, const vector& scores, index_t count) {
  std::partial_sort(
      candidates.begin(), candidates.begin() + count, candidates.end(),
      [&](index_t a, index_t b) { return scores[a] != scores[b] ? scores[a] > scores[b] : a < b; });
}

inline std::vector<index_t> highest_attention(const vector& importance, index_t budget) {
  std::vector<index_t> order(static_cast<std::size_t>(importance.size()));
  std::iota(order.begin(), order.end(), index_t{0});
  sort_best_first(order, importance, budget);
  order.resize(static_cast<std::size_t>(budget));
  return order;
}

/// Those columns of exp(s_ij − max_i).
inline columns gather_columns(const rows& exponentials, const std::vector<index_t>& positions) {
  columns out(exponentials.rows(), static_cast<index_t>(positions.size()));
  for (index_t i = 0; i < out.rows(); ++i) {
    for (index_t j = 0; j < out.cols(); ++j) {
      out(i, j) = exponentials(i, positions[static_cast<std::size_t>(j)]);
    }
  }
  return out;
}

inline rows gather_rows(const rows& from, const std::vector<index_t>& positions) {
  rows out(static_cast<index_t>(positions.size()), from.cols());
  for (index_t j = 0; j < out.rows(); ++j) {
    out.row(j) = from.row(positions[static_cast<std::size_t>(j)]);
  }
  return out;
}

/// min ‖A X − B‖ by Householder QR without pivoting; Cholesky of the Gram matrix + 1e-6 where that
/// gives NaN (n ≥ t).
template <class A, class B>
Eigen::MatrixXf least_squares(const A& a, const B& b) {
  Eigen::MatrixXf x = Eigen::HouseholderQR<Eigen::MatrixXf>(a).solve(b);
  if (x.allFinite()) return x;
  Eigen::MatrixXf gram = Eigen::MatrixXf::Zero(a.cols(), a.cols());
  gram.selfadjointView<Eigen::Lower>().rankUpdate(a.transpose());
  gram.diagonal().array() += 1e-6F;
  return gram.selfadjointView<Eigen::Lower>().llt().solve(a.transpose() * b);
}

inline Eigen::MatrixXf least_squares_cholesky(const columns& a, const rows& b) {
  Eigen::MatrixXf gram = Eigen::MatrixXf::Zero(a.cols(), a.cols());
  gram.selfadjointView<Eigen::Lower>().rankUpdate(a.transpose());
  return gram.selfadjointView<Eigen::Lower>().llt().solve(a.transpose() * b);
}

struct bounds {
  float lower = 1e-12F;
  float upper = std::numeric_limits<float>::infinity();
};

inline vector clip(const vector& w, const bounds& box) {
  return w.cwiseMax(box.lower).cwiseMin(box.upper);
}

/// Weights of the chosen columns: clipped least squares, then projected-gradient steps of length
/// 1/σ².
template <class M>
vector fit_weights(const M& m, const vector& mass, const bounds& box, int steps) {
  vector w = clip(least_squares(m, mass), box);
  if (steps == 0) return w;
  vector u = vector::LinSpaced(m.cols(), 1.0F, 2.0F).normalized();  // any start with no zero in it
  vector image(m.rows());
  for (int round = 0; round < 3; ++round) {
    image.noalias() = m * u;
    u.noalias() = m.transpose() * image;
    const float norm = u.norm();
    if (!(norm > 0)) break;
    u /= norm;
  }
  image.noalias() = m * u;
  const float step = 1.0F / std::max(image.squaredNorm(), 1e-6F);
  for (int k = 0; k < steps; ++k) {
    const vector residual = m * w - mass;
    w = clip(w - step * (m.transpose() * residual), box);
  }
  return w;
}

/// Orthogonal matching pursuit, every refit from scratch.
struct omp {
  index_t keys_per_round = 1;
  index_t refit_interval = 1;
  bounds box = {1e-12F, std::exp(7.0F)};
  float drop_below = -7;
  int drop_passes = 3;
};

struct selected {
  std::vector<index_t> positions;
  vector weights;
};

inline selected select(const omp& options, const attention& full, index_t budget) {
  const rows& phi = full.exponentials;
  const index_t n = phi.rows();
  columns chosen(n, budget);  // columns of phi, in order of choice
  selected out;
  std::vector<char> is_open(static_cast<std::size_t>(phi.cols()), 1);
  std::vector<index_t> candidates;
  vector residual = full.mass;
  vector correlation(phi.cols());
  bool has_weights = false;
  index_t round = 0;
  const auto size = [&] { return static_cast<index_t>(out.positions.size()); };
  const auto refit = [&] {
    out.weights = fit_weights(chosen.leftCols(size()), full.mass, options.box, 0);
    has_weights = true;
  };
  const auto update_residual = [&] {
    residual = full.mass;
    residual.noalias() -= chosen.leftCols(size()) * out.weights;
  };
  for (int pass = 0;; ++pass) {
    while (size() < budget) {
      correlation.noalias() = phi.transpose() * residual;
      candidates.clear();
      for (index_t j = 0; j < phi.cols(); ++j) {
        if (is_open[static_cast<std::size_t>(j)] != 0) candidates.push_back(j);
      }
      const index_t count = std::min(
          {options.keys_per_round, budget - size(), static_cast<index_t>(candidates.size())});
      if (count == 0) return out;
      sort_best_first(candidates, correlation, count);
      for (index_t k = 0; k < count; ++k) {
        const index_t j = candidates[static_cast<std::size_t>(k)];
        chosen.col(size()) = phi.col(j);
        out.positions.push_back(j);
        is_open[static_cast<std::size_t>(j)] = 0;
      }
      if (!has_weights || round % options.refit_interval == 0) {
        refit();
      } else {
        out.weights.conservativeResize(size());
        out.weights.tail(count).setConstant(options.box.lower);
      }
      update_residual();
      ++round;
    }
    if (pass == options.drop_passes) return out;
    refit();
    std::vector<index_t> kept;
    for (index_t j = 0; j < size(); ++j) {
      if (std::log(out.weights[j]) >= options.drop_below) kept.push_back(j);
    }
    if (static_cast<index_t>(kept.size()) == size()) return out;
    std::vector<index_t> positions;
    for (const index_t j : kept) {
      chosen.col(static_cast<index_t>(positions.size())) = chosen.col(j).eval();
      positions.push_back(out.positions[static_cast<std::size_t>(j)]);
    }
    out.positions = positions;
    refit();
    update_residual();
    has_weights = false;
    ++round;
  }
}

/// softmax(Q Cᵀ/√d + β), column-major for the factorisation that follows.
inline columns softmax_weights(const rows& queries, const rows& keys, const vector& bias) {
  const float scale = 1.0F / std::sqrt(static_cast<float>(keys.cols()));
  rows x(queries.rows(), keys.rows());
  const rows scaled = scale * queries;
  x.noalias() = scaled * keys.transpose();
  for (index_t i = 0; i < x.rows(); ++i) {
    auto row = x.row(i).array();
    row += bias.transpose().array();
    row = (row - row.maxCoeff()).exp();
    row /= row.sum();
  }
  return x;
}

struct compacted {
  std::vector<index_t> positions;
  rows keys;
  vector bias;
  rows values;
};

inline compacted finish(const rows& queries, const rows& keys, const attention& full,
                        std::vector<index_t> positions, const vector& weights) {
  compacted out;
  out.keys = gather_rows(keys, positions);
  out.bias = weights.array().log();
  out.values = least_squares(softmax_weights(queries, out.keys, out.bias), full.output);
  out.positions = std::move(positions);
  return out;
}

/// AM-HighestAttnKeys: weights in [e⁻³, e³], two steps.
inline compacted compact_highest_attention(const rows& queries, const rows& keys,
                                           const rows& values, index_t budget) {
  const attention full = attend(queries, keys, values);
  std::vector<index_t> positions = highest_attention(rms_importance(full), budget);
  const vector weights = fit_weights(gather_columns(full.exponentials, positions), full.mass,
                                     {std::exp(-3.0F), std::exp(3.0F)}, 2);
  return finish(queries, keys, full, std::move(positions), weights);
}

/// AM-OMP (1, 1) and AM-OMP-fast (4, 2).
inline compacted compact_omp(const rows& queries, const rows& keys, const rows& values,
                             index_t budget, const omp& options) {
  const attention full = attend(queries, keys, values);
  selected chosen = select(options, full, budget);
  return finish(queries, keys, full, std::move(chosen.positions), chosen.weights);
}

}  // namespace baseline
