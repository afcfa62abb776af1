// SPDX-License-Identifier: MIT
/// Least squares over columns that arrive one after the other, by the factor of their products.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <span>
#include <vector>

#include "kvfit/core/matrix.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/linalg/detail/row_sweep.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/simd/double_vectors.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {

/// Solves min_w ‖A w − y‖ while columns are appended to A, without ever refitting.
///
/// Keeps AᵀA = L Lᵀ for columns scaled to length 1, in double, and an estimate of ‖L⁻¹‖: of
/// L z = s with the signs s_k = ±1 that make z grow, ‖z‖ / √size, most often a quarter of it or
/// more (Cline, Moler, Stewart & Wilkinson 1979 estimate conditions so). From `improve_from` on a
/// solution is improved once from its own residual, which makes it about as good as one by QR
/// (corrected seminormal equations, Björck 1987); below, products in double leave an error of some
/// size · 1e-16 · ‖L⁻¹‖². A column whose part outside the span of
/// its predecessors is at most `rank_tolerance` times its norm, or that holds NaN or infinity, is
/// counted but gets coefficient 0.
///
/// A column costs 2·n·size + size² flops, `solve` size², or 4·n·size + 4·size² where it improves.
/// All memory, n·capacity floats and min(n, capacity)²/2 doubles, is allocated by the constructor.
///
///     growing_cholesky fit(queries, budget);
///     fit.set_target(mass);
///     fit.append(column.data());             // n floats
///     fit.solve_into(w);
class growing_cholesky {
 public:
  /// Products in double lose sight of parts below 1e-7; fp32 entries leave 6e-8 of a column that
  /// truly depends on others.
  static constexpr double default_rank_tolerance = 1e-6;

  /// Solutions are improved where ‖L⁻¹‖ is estimated to be this large.
  static constexpr double improve_from = 100;

  /// `rows` = n ≥ 0, `capacity` ≥ 0 columns at most, `rank_tolerance` in [1e-7, 1); `threads` share
  /// the products with all columns, on which no result depends.
  growing_cholesky(index_t rows, index_t capacity, double rank_tolerance = default_rank_tolerance,
                   const executor_ref& threads = {})
      : rank_tolerance_(rank_tolerance), threads_(threads) {
    assert(rows >= 0 && capacity >= 0 && rank_tolerance >= 1e-7 && rank_tolerance < 1);
    allocate_buffers(*this, rows, capacity);
    std::fill_n(target_.data(), rows, 0.0);
  }
  /// Of no rows.
  growing_cholesky() = default;

  void declare(workspace& space, index_t rows, index_t capacity) {
    const index_t most = (std::min)(rows, capacity);
    space.reserve(place_, most);
    space.add(columns_, capacity, rows);
    space.add(factor_, many_times(most, most + 1) / 2);
    space.add(incoming_, block, rows);
    space.add(block_products_, many_times(block, capacity));
    space.add_vectors(rows, target_, residual_);
    space.add_vectors(capacity, products_, norms_, projected_target_, solution_, grown_);
  }

  [[nodiscard]] index_t rows() const noexcept { return columns_.cols(); }
  [[nodiscard]] index_t capacity() const noexcept { return columns_.rows(); }
  /// Columns appended, dependent ones included.
  [[nodiscard]] index_t size() const noexcept { return size_; }
  /// Independent columns among them.
  [[nodiscard]] index_t rank() const noexcept { return static_cast<index_t>(place_.size()); }

  /// Sets y (n finite numbers); columns stay.
  void set_target(const Eigen::VectorXd& y) {
    assert(y.size() == rows());
    target_ = y;
    times(target_.data(), products_.data());
    for (index_t k = 0; k < rank(); ++k) project_target(k);
  }

  /// Appends one column of n floats; requires size() < capacity(). True where it is independent of
  /// those before it; false: its coefficient is 0.
  bool append(const float* column) {
    const index_t before = rank();
    append(column, 1);
    return rank() > before;
  }

  /// Appends `count` columns of n floats, one after the other in memory: faster than one by one,
  /// with the same result but for rounding. Requires size() + count ≤ capacity().
  void append(const float* columns, index_t count) {
    assert(count >= 0 && size_ + count <= capacity());
    if (count == 0) return;
    std::copy_n(columns, count * rows(), column(size_));
    factor_in(count);
  }

  /// Removes all columns but those at `places` (ascending); target and memory stay.
  void keep(std::span<const index_t> places) {
    index_t to = 0;
    for (const index_t from : places) {
      assert(from >= to && from < size_);
      if (from != to) std::copy_n(column(from), rows(), column(to));
      ++to;
    }
    size_ = 0;
    grown_sq_ = 0;
    place_.clear();
    factor_in(to);
  }

  /// Writes the coefficients of all size() columns into `weights` (resized); 0 for dependent ones.
  void solve_into(Eigen::VectorXd& weights) {
    weights.resize(size_);
    std::fill_n(weights.data(), size_, 0.0);
    std::copy_n(projected_target_.data(), rank(), solution_.data());
    solve_upper(solution_.data());
    add_solution(weights);
    if (!needs_improvement()) return;
    residual_into(weights, residual_);
    times(residual_.data(), products_.data());
    for (index_t k = 0; k < rank(); ++k) solution_[k] = products_[at(k)] / norms_[at(k)];
    solve_lower(solution_.data(), rank());
    solve_upper(solution_.data());
    add_solution(weights);
  }

  /// residual = y − A weights; `weights` of all size() columns.
  void residual_into(const Eigen::VectorXd& weights, Eigen::VectorXd& residual) const {
    assert(weights.size() == size_);
    residual = target_;
    over_pieces(threads_, rows(), columns_apart, [&](index_t from, index_t count) noexcept {
      const auto take = [&](auto group, index_t j) {
        std::array<double, decltype(group)::rows> factors{};
        for (std::size_t r = 0; r < factors.size(); ++r) {
          factors[r] = -weights[j + static_cast<index_t>(r)];
        }
        group.add_to(residual.data() + from, factors);
      };
      detail::for_row_groups(columns_.data() + from, rows(), size_, count, take);
    });
  }

 private:
  /// Where row k of L starts: rows of 1, 2, 3, … entries lie one after the other.
  static constexpr index_t packed(index_t k) noexcept { return k * (k + 1) / 2; }
  [[nodiscard]] const double* factor_row(index_t k) const { return factor_.data() + packed(k); }
  [[nodiscard]] double pivot(index_t k) const { return factor_row(k)[k]; }
  /// The column of A behind row k of L.
  [[nodiscard]] index_t at(index_t k) const { return place_[static_cast<std::size_t>(k)]; }
  [[nodiscard]] float* column(index_t j) noexcept { return columns_.data() + j * rows(); }
  [[nodiscard]] const float* column(index_t j) const noexcept {
    return columns_.data() + j * rows();
  }
  /// Row c of `incoming_`.
  [[nodiscard]] double* incoming(index_t c) noexcept { return incoming_.data() + c * rows(); }

  /// out_j = columns_j · x for all size() columns.
  void times(const double* x, double* out) const {
    over_pieces(threads_, size_, rows_apart, [&](index_t from, index_t count) noexcept {
      multiply(from, count, x, out + from);
    });
  }

  /// out_k = columns_{from + k} · x for `count` of them.
  void multiply(index_t from, index_t count, const double* x, double* out) const noexcept {
    detail::for_row_groups(column(from), rows(), count, rows(), [&](auto group, index_t k) {
      const auto products = group.times(x);
      std::copy(products.begin(), products.end(), out + k);
    });
  }

  /// Counts the `count` columns that lie from `size_` on in.
  void factor_in(index_t count) {
    for (index_t done = 0; done < count; done += block) {
      const index_t many = (std::min)(block, count - done);
      multiply_by_others(many);
      for (index_t c = 0; c < many; ++c) count_in(c);
    }
  }

  /// Widens the next `count` columns to `incoming_`, and multiplies them with those before them.
  void multiply_by_others(index_t count) {
    for (index_t c = 0; c < count; ++c) {
      const float* from = column(size_ + c);
      double* to = incoming(c);
      for (index_t i = 0; i < rows(); ++i) to[i] = static_cast<double>(from[i]);
    }
    over_pieces(threads_, size_, rows_apart, [&](index_t from, index_t many) noexcept {
      if (count == block) {
        multiply_block(from, many);
      } else {
        for (index_t c = 0; c < count; ++c) {
          multiply(from, many, incoming(c), products_with(c) + from);
        }
      }
    });
    for (index_t c = 1; c < count; ++c) {
      multiply(size_, c, incoming(c), products_with(c) + size_);
    }
  }

  /// The products of a whole block of incoming columns with `count` columns, which are read once.
  void multiply_block(index_t from, index_t count) noexcept {
    detail::for_row_groups(column(from), rows(), count, rows(), [&](auto group, index_t k) {
      const auto products = group.template times<block>(incoming_.data(), rows());
      for (std::size_t p = 0; p < products.size(); ++p) {
        const auto at = static_cast<index_t>(p);
        products_with(at % block)[from + k + at / block] = products[p];
      }
    });
  }

  /// Where the products of an incoming column with those before it are.
  [[nodiscard]] double* products_with(index_t c) noexcept {
    return block_products_.data() + c * capacity();
  }

  /// Counts the next column in, whose products are row c of `block_products_`.
  void count_in(index_t c) {
    const index_t place = size_;
    ++size_;
    const double norm = std::sqrt(simd::squared_norm(incoming(c), rows()));
    norms_[place] = norm;
    if (!(norm > 0) || !std::isfinite(norm)) {
      std::fill_n(column(place), rows(), 0.0F);  // NaN times coefficient 0 is not 0
      return;
    }
    const index_t k = rank();
    if (k == (std::min)(rows(), capacity())) return;  // they span everything
    double* onto = factor_.data() + packed(k);
    for (index_t i = 0; i < k; ++i) onto[i] = products_with(c)[at(i)] / (norms_[at(i)] * norm);
    solve_lower(onto, k);
    const double outside_sq = 1 - simd::squared_norm(onto, k);
    if (!(outside_sq > rank_tolerance_ * rank_tolerance_)) return;
    onto[k] = std::sqrt(outside_sq);
    place_.push_back(place);
    grow_inverse(k);
    products_[place] = simd::dot(incoming(c), target_.data(), rows());
    project_target(k);
  }

  /// Entry k of z, L z = s, s_k the sign that makes it the larger.
  void grow_inverse(index_t k) {
    const double known = simd::dot(factor_row(k), grown_.data(), k);
    grown_[k] = (known > 0 ? -1 - known : 1 - known) / pivot(k);
    grown_sq_ += grown_[k] * grown_[k];
  }
  [[nodiscard]] bool needs_improvement() const noexcept {
    return !(grown_sq_ < improve_from * improve_from * static_cast<double>(rank()));
  }

  /// Entry k of L⁻¹ Âᵀy, Â the scaled columns; products_ holds Aᵀy there.
  void project_target(index_t k) {
    const double known = simd::dot(factor_row(k), projected_target_.data(), k);
    projected_target_[k] = (products_[at(k)] / norms_[at(k)] - known) / pivot(k);
  }

  /// x ← L⁻¹ x, of the first `size` rows.
  void solve_lower(double* x, index_t size) const noexcept {
    for (index_t k = 0; k < size; ++k) {
      x[k] = (x[k] - simd::dot(factor_row(k), x, k)) / pivot(k);
    }
  }

  /// x ← L⁻ᵀ x.
  void solve_upper(double* x) const noexcept {
    for (index_t k = rank() - 1; k >= 0; --k) {
      x[k] /= pivot(k);
      simd::add_scaled(x, -x[k], factor_row(k), k);
    }
  }

  /// Adds the coefficients of the scaled independent columns, `solution_`, to `weights`.
  void add_solution(Eigen::VectorXd& weights) const {
    for (index_t k = 0; k < rank(); ++k) weights[at(k)] += solution_[k] / norms_[at(k)];
  }

  /// Columns that come in together, so that those before them are read once.
  static constexpr index_t block = detail::sweep_rows;
  /// Of the columns, and of the numbers of all of them, that one thread takes at a time.
  static constexpr index_t rows_apart = 64;
  static constexpr index_t columns_apart = 512;

  double rank_tolerance_ = default_rank_tolerance;
  executor_ref threads_;
  double grown_sq_ = 0;  // ‖z‖²
  index_t size_ = 0;
  std::vector<index_t> place_;
  kvfit::matrix columns_;  // Aᵀ: a column a row
  Eigen::VectorXd factor_;
  Eigen::VectorXd target_;
  double_matrix incoming_;  // in double
  Eigen::VectorXd products_;
  Eigen::VectorXd block_products_;  // of incoming columns with all before them
  Eigen::VectorXd residual_;
  Eigen::VectorXd norms_;
  Eigen::VectorXd projected_target_;
  Eigen::VectorXd solution_;
  Eigen::VectorXd grown_;  // z
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
