// SPDX-License-Identifier: MIT
#include "support/growing_qr.hpp"

#include <cassert>
#include <cmath>
#include <utility>

namespace oracle {

growing_qr::growing_qr(Eigen::Index rows, Eigen::Index capacity, Eigen::Index most,
                       Eigen::Index width, double rank_tolerance)
    : rank_tolerance_(rank_tolerance),
      capacity_(capacity),
      q_(rows, most),
      r_(packed(most)),
      projected_target_(most),
      target_(Eigen::VectorXd::Zero(rows)),
      residual_(Eigen::VectorXd::Zero(rows)),
      block_(rows, width),
      norms_(width),
      onto_old_(most, width),
      correction_(most, width),
      coefficients_(most),
      part_(most) {
  assert(rows >= 0 && capacity >= 0 && rank_tolerance >= 0 && rank_tolerance < 1);
  place_.reserve(static_cast<std::size_t>(most));
}

Eigen::MatrixXd growing_qr::basis() const {
  return q_.leftCols(rank());
}

void growing_qr::set_target(const kvfit::vector& y) {
  assert(y.size() == rows());
  target_ = y.cast<double>();
  residual_ = target_;
  for (Eigen::Index k = 0; k < rank(); ++k) project_target(k);
}

Eigen::Index growing_qr::append_block(const kvfit::matrix& block) {
  assert(block.rows() == rows() && block.cols() <= capacity_ - size_);
  const Eigen::Index rank_before = rank();
  for (Eigen::Index first = 0; first < block.cols(); first += block_.cols()) {
    const Eigen::Index count = std::min(block_.cols(), block.cols() - first);
    block_.leftCols(count) = block.middleCols(first, count).cast<double>();
    append_loaded(count);
  }
  return rank() - rank_before;
}

void growing_qr::solve_into(Eigen::VectorXd& weights) const {
  weights.setZero(size_);
  weights.head(rank()) = projected_target_.head(rank());
  for (Eigen::Index k = rank() - 1; k >= 0; --k) {
    const auto column_of_r = r_.segment(packed(k), k + 1);
    weights[k] /= column_of_r[k];
    weights.head(k) -= weights[k] * column_of_r.head(k);
  }
  // Spread them over the appended columns, last one first: no target is still to be read.
  for (Eigen::Index k = rank() - 1; k >= 0; --k) {
    std::swap(weights[place_[static_cast<std::size_t>(k)]], weights[k]);
  }
}

Eigen::VectorXd growing_qr::solve() const {
  Eigen::VectorXd weights;
  solve_into(weights);
  return weights;
}

double growing_qr::residual_norm() const {
  return residual_.norm();
}

double growing_qr::diagonal_ratio() const {
  double smallest = 0;
  double largest = 0;
  for (Eigen::Index k = 0; k < rank(); ++k) {
    const double pivot = r_[packed(k) + k];
    smallest = k == 0 ? pivot : std::min(smallest, pivot);
    largest = std::max(largest, pivot);
  }
  return rank() == 0 ? 1.0 : largest / smallest;
}

void growing_qr::clear() {
  size_ = 0;
  place_.clear();
  residual_ = target_;
}

void growing_qr::append_loaded(Eigen::Index count) {
  // Lengths of 1 from here on: no column is too long or too short to be squared.
  for (Eigen::Index j = 0; j < count; ++j) {
    const double norm = block_.col(j).stableNorm();
    norms_[j] = std::isfinite(norm) ? norm : 0.0;
    if (norms_[j] > 0)
      block_.col(j) /= norms_[j];
    else
      block_.col(j).setZero();
  }
  // Twice against the columns of earlier blocks, all at once; a product with few columns is
  // slower than as many single ones.
  const Eigen::Index old = count < narrow ? 0 : rank();
  if (old > 0) project_block(count, old);
  for (Eigen::Index j = 0; j < count; ++j) append_projected(j, old);
}

void growing_qr::project_block(Eigen::Index count, Eigen::Index old) {
  auto block = block_.leftCols(count);
  auto onto_old = onto_old_.topLeftCorner(old, count);
  auto correction = correction_.topLeftCorner(old, count);
  onto_old.noalias() = q_.leftCols(old).transpose() * block;
  block.noalias() -= q_.leftCols(old) * onto_old;
  correction.noalias() = q_.leftCols(old).transpose() * block;
  block.noalias() -= q_.leftCols(old) * correction;
  onto_old += correction;
}

void growing_qr::append_projected(Eigen::Index j, Eigen::Index old) {
  const Eigen::Index place = size_++;
  const Eigen::Index k = rank();
  if (k == q_.cols()) return;  // n independent columns span everything
  auto incoming = block_.col(j);
  auto onto = coefficients_.head(k);
  onto.head(old) = onto_old_.col(j).head(old);
  onto.tail(k - old).setZero();
  const double outside_old = incoming.norm();
  for (int pass = 0; pass < 2; ++pass) project_off(j, old, k);
  // What this took away leaves the rounding of the blocked pass magnified: once more, in full.
  if (old > 0 && incoming.norm() < 0.1 * outside_old) project_off(j, 0, k);
  const double outside = incoming.norm();
  if (!(outside > rank_tolerance_)) return;

  q_.col(k) = incoming / outside;
  auto column_of_r = r_.segment(packed(k), k + 1);
  column_of_r.head(k) = onto * norms_[j];
  column_of_r[k] = outside * norms_[j];
  place_.push_back(place);
  project_target(k);
}

void growing_qr::project_off(Eigen::Index j, Eigen::Index first, Eigen::Index last) {
  if (first == last) return;
  auto incoming = block_.col(j);
  auto known = q_.middleCols(first, last - first);
  auto part = part_.segment(first, last - first);
  part.noalias() = known.transpose() * incoming;
  incoming.noalias() -= known * part;
  coefficients_.segment(first, last - first) += part;
}

void growing_qr::project_target(Eigen::Index k) {
  projected_target_[k] = q_.col(k).dot(residual_);
  residual_ -= projected_target_[k] * q_.col(k);
}

}  // namespace oracle
