// SPDX-License-Identifier: MIT
/// Least squares over columns that arrive one after the other, by QR: the specification of
/// kvfit/linalg/growing_cholesky.hpp.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <vector>

#include "kvfit/core/matrix.hpp"

namespace oracle {

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
///     fit.append(column);                    // n entries
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
  [[nodiscard]] Eigen::MatrixXd basis() const;

  /// Sets y (n, all entries finite); columns stay. Cost 4·n·rank flops.
  void set_target(const kvfit::vector& y);

  /// Appends one column (n entries); requires size() < capacity(). True where it is
  /// independent of those before it; false: its coefficient is 0. Cost 8·n·rank flops.
  bool append(const kvfit::vector& column) { return append_block(column) == 1; }

  /// Appends the columns of `block` (n × k, k ≤ capacity() − size()) from left to right; returns
  /// how many were independent. The same flops, but read Q once for 32 columns: two to
  /// four times faster than one by one.
  Eigen::Index append_block(const kvfit::matrix& block);

  /// Writes the coefficients of all size() columns into `weights` (resized): R w = Qᵀy for the
  /// independent ones, 0 for the others. Cost O(rank²).
  void solve_into(Eigen::VectorXd& weights) const;
  [[nodiscard]] Eigen::VectorXd solve() const;

  /// y − A w at the solution, kept up to date by every append.
  [[nodiscard]] const Eigen::VectorXd& residual() const noexcept { return residual_; }
  [[nodiscard]] double residual_norm() const;

  /// max_k |R_kk| / min_k |R_kk|: a lower estimate of the independent columns' condition number.
  [[nodiscard]] double diagonal_ratio() const;

  /// Removes every column; the target and the memory stay.
  void clear();

 private:
  static constexpr Eigen::Index narrow = 16;

  growing_qr(Eigen::Index rows, Eigen::Index capacity, Eigen::Index most, Eigen::Index width,
             double rank_tolerance);

  /// Where column k of R starts: columns of 1, 2, 3, … entries lie one after the other.
  static constexpr Eigen::Index packed(Eigen::Index k) noexcept { return k * (k + 1) / 2; }

  /// Orthogonalises the first `count` columns of block_ and appends them.
  void append_loaded(Eigen::Index count);
  void project_block(Eigen::Index count, Eigen::Index old);
  /// Column j of block_, orthogonal to Q's first `old` columns already, against the newer ones.
  void append_projected(Eigen::Index j, Eigen::Index old);
  /// Takes the part along Q's columns [first, last) off column j of block_ and adds it to
  /// coefficients_.
  void project_off(Eigen::Index j, Eigen::Index first, Eigen::Index last);
  void project_target(Eigen::Index k);

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

}  // namespace oracle
