// SPDX-License-Identifier: MIT
/// Least squares over columns that arrive one after the other, by QR: the specification of
/// kvfit/linalg/growing_cholesky.hpp.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cassert>
#include <cmath>
#include <utility>
#include <vector>

#include "kvfit/linalg/matrix_ref.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {

/// Solves min_w ‖A w − y‖ while columns are appended to A, without ever refitting.
///
/// Keeps A = Q R by Gram–Schmidt done twice in double ("twice is enough": Giraud, Langou &
/// Rozložník 2005), the residual r = y − Q Qᵀy and Qᵀy. A column whose part outside the span of its
/// predecessors is at most `rank_tolerance` times its norm, or that holds NaN or infinity, is
/// counted but gets coefficient 0.
///
/// A column costs O(n·size) flops, `solve` O(size²). All memory, (n + capacity/2)·capacity doubles,
/// is allocated by the constructor; appending and solving into a given vector allocate nothing.
///
///     growing_qr fit(queries, budget);
///     fit.set_target(mass);
///     fit.append(column);                    // fp32 or double, n entries
///     Eigen::VectorXd w = fit.solve();       // fit.residual() is y − A w
class growing_qr {
 public:
  /// What the fp32 rounding of an entry (6e-8) can leave of a column that truly depends on others.
  static constexpr double default_rank_tolerance = 1e-6;

  /// `rows` = n ≥ 0, `capacity` ≥ 0 columns at most, `rank_tolerance` in [0, 1).
  growing_qr(Eigen::Index rows, Eigen::Index capacity,
             double rank_tolerance = default_rank_tolerance)
      : growing_qr(rows, capacity, std::min(rows, capacity),
                   std::clamp<Eigen::Index>(capacity, 1, 32), rank_tolerance) {}

  [[nodiscard]] Eigen::Index rows() const noexcept { return q_.rows(); }
  [[nodiscard]] Eigen::Index capacity() const noexcept { return capacity_; }
  /// Columns appended, dependent ones included.
  [[nodiscard]] Eigen::Index size() const noexcept { return size_; }
  /// Independent columns among them.
  [[nodiscard]] Eigen::Index rank() const noexcept {
    return static_cast<Eigen::Index>(place_.size());
  }
  /// Q, n × rank.
  [[nodiscard]] auto basis() const { return q_.leftCols(rank()); }

  /// Sets y (n, fp32 or double; all entries finite); columns stay. Cost 4·n·rank flops.
  template <class Rhs>
  void set_target(const Eigen::MatrixBase<Rhs>& y) {
    assert(y.rows() == rows() && y.cols() == 1);
    target_ = y.template cast<double>();
    residual_ = target_;
    for (Eigen::Index k = 0; k < rank(); ++k) project_target(k);
  }

  /// Appends one column (n, fp32 or double); requires size() < capacity(). True where it is
  /// independent of those before it; false: its coefficient is 0. Cost 8·n·rank flops.
  template <class Column>
  bool append(const Eigen::MatrixBase<Column>& column) {
    static_assert(Column::ColsAtCompileTime == 1, "one column; append_block takes several");
    return append_block(column) == 1;
  }

  /// Appends the columns of `block` (n × k, k ≤ capacity() − size()) from left to right; returns
  /// how many were independent. The same flops, but read Q once for 32 columns: two to
  /// four times faster than one by one.
  template <class Block>
  Eigen::Index append_block(const Eigen::MatrixBase<Block>& block) {
    assert(block.rows() == rows() && block.cols() <= capacity_ - size_);
    const Eigen::Index rank_before = rank();
    for (Eigen::Index first = 0; first < block.cols(); first += block_.cols()) {
      const Eigen::Index count = std::min(block_.cols(), block.cols() - first);
      block_.leftCols(count) = block.middleCols(first, count).template cast<double>();
      append_loaded(count);
    }
    return rank() - rank_before;
  }

  /// Writes the coefficients of all size() columns into `weights` (resized): R w = Qᵀy for the
  /// independent ones, 0 for the others. Cost O(rank²).
  void solve_into(Eigen::VectorXd& weights) const {
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

  [[nodiscard]] Eigen::VectorXd solve() const {
    Eigen::VectorXd weights;
    solve_into(weights);
    return weights;
  }

  /// y − A w at the solution, kept up to date by every append.
  [[nodiscard]] const Eigen::VectorXd& residual() const noexcept { return residual_; }
  [[nodiscard]] double residual_norm() const { return residual_.norm(); }

  /// max_k |R_kk| / min_k |R_kk|: a lower estimate of the independent columns' condition number.
  [[nodiscard]] double diagonal_ratio() const {
    double smallest = 0;
    double largest = 0;
    for (Eigen::Index k = 0; k < rank(); ++k) {
      const double pivot = r_[packed(k) + k];
      smallest = k == 0 ? pivot : std::min(smallest, pivot);
      largest = std::max(largest, pivot);
    }
    return rank() == 0 ? 1.0 : largest / smallest;
  }

  /// Removes every column; the target and the memory stay.
  void clear() {
    size_ = 0;
    place_.clear();
    residual_ = target_;
  }

 private:
  static constexpr Eigen::Index narrow = 16;

  growing_qr(Eigen::Index rows, Eigen::Index capacity, Eigen::Index most, Eigen::Index width,
             double rank_tolerance)
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

  /// Where column k of R starts: columns of 1, 2, 3, … entries lie one after the other.
  static constexpr Eigen::Index packed(Eigen::Index k) noexcept { return k * (k + 1) / 2; }

  /// Orthogonalises the first `count` columns of block_ and appends them.
  void append_loaded(Eigen::Index count) {
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

  void project_block(Eigen::Index count, Eigen::Index old) {
    auto block = block_.leftCols(count);
    auto onto_old = onto_old_.topLeftCorner(old, count);
    auto correction = correction_.topLeftCorner(old, count);
    onto_old.noalias() = q_.leftCols(old).transpose() * block;
    block.noalias() -= q_.leftCols(old) * onto_old;
    correction.noalias() = q_.leftCols(old).transpose() * block;
    block.noalias() -= q_.leftCols(old) * correction;
    onto_old += correction;
  }

  /// Column j of block_, orthogonal to Q's first `old` columns already, against the newer ones.
  void append_projected(Eigen::Index j, Eigen::Index old) {
    const Eigen::Index place = size_++;
    const Eigen::Index k = rank();
    if (k == q_.cols()) return;  // n independent columns span everything
    auto incoming = block_.col(j);
    auto onto = coefficients_.head(k);
    onto.head(old) = onto_old_.col(j).head(old);
    onto.tail(k - old).setZero();
    const double outside_old = incoming.norm();
    for (int pass = 0; pass < 2; ++pass) project_off(incoming, old, k);
    // What this took away leaves the rounding of the blocked pass magnified: once more, in full.
    if (old > 0 && incoming.norm() < 0.1 * outside_old) project_off(incoming, 0, k);
    const double outside = incoming.norm();
    if (!(outside > rank_tolerance_)) return;

    q_.col(k) = incoming / outside;
    auto column_of_r = r_.segment(packed(k), k + 1);
    column_of_r.head(k) = onto * norms_[j];
    column_of_r[k] = outside * norms_[j];
    place_.push_back(place);
    project_target(k);
  }

  /// Takes the part along Q's columns [first, last) off `incoming` and adds it to coefficients_.
  template <class Column>
  void project_off(Column& incoming, Eigen::Index first, Eigen::Index last) {
    if (first == last) return;
    auto known = q_.middleCols(first, last - first);
    auto part = part_.segment(first, last - first);
    part.noalias() = known.transpose() * incoming;
    incoming.noalias() -= known * part;
    coefficients_.segment(first, last - first) += part;
  }

  void project_target(Eigen::Index k) {
    projected_target_[k] = q_.col(k).dot(residual_);
    residual_ -= projected_target_[k] * q_.col(k);
  }

  double rank_tolerance_;
  Eigen::Index capacity_;
  Eigen::Index size_ = 0;
  std::vector<Eigen::Index> place_;  // column of A behind each column of Q
  Eigen::MatrixXd q_;
  Eigen::VectorXd r_;
  Eigen::VectorXd projected_target_;
  Eigen::VectorXd target_;
  Eigen::VectorXd residual_;
  Eigen::MatrixXd block_;     // columns on their way in, n × block_width
  Eigen::VectorXd norms_;     // their lengths
  Eigen::MatrixXd onto_old_;  // Qᵀ block, and what the second pass adds to it
  Eigen::MatrixXd correction_;
  Eigen::VectorXd coefficients_;  // Qᵀ of one column, and what a pass adds to it
  Eigen::VectorXd part_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
