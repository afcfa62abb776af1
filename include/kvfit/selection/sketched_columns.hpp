// SPDX-License-Identifier: MIT
/// Columns of the mass equation with the queries folded onto fewer rows.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/random.hpp"
#include "kvfit/selection/mass_columns.hpp"
#include "kvfit/simd/accumulate.hpp"
#include "kvfit/simd/product.hpp"

namespace kvfit::inline KVFIT_ISA {

/// S Φ for a sketch S of `rows` rows: query i is added to row i mod `rows` with a random sign, so
/// that E[(SΦ)ᵀ(SΦ)] = ΦᵀΦ and inner products of columns keep their value but for about 1/√rows of
/// the product of their norms (a count sketch with even buckets; Charikar, Chen & Farach-Colton
/// 2004). What is chosen by inner products can be chosen on the sketch at n / rows of the cost.
///
/// With `rows` of 0, n or more, or where 2 · T · `rows` floats exceed the cap, nothing is folded
/// and every use goes to `full`, which must outlive this.
class sketched_columns {
 public:
  sketched_columns(mass_columns& full, index rows, index memory_cap) : full_(full) {
    const index n = full.queries();
    const auto bytes = static_cast<double>(rows) * static_cast<double>(full.keys()) * sizeof(float);
    if (rows < 1 || rows >= n || 2 * bytes > static_cast<double>(memory_cap)) return;
    rows_ = rows;
    signs_.resize(n);
    random_source random(0);  // what is drawn matters as little as in a hash
    for (float& sign : signs_) sign = (random.next() >> 63U) != 0 ? 1.0F : -1.0F;
    matrix by_key;
    full.fold(signs_, rows_, by_key);
    folded_.resize(rows_, keys());
    constexpr index block = 64;  // a transposition that stays in cache
    for (index first = 0; first < keys(); first += block) {
      const index count = std::min(block, keys() - first);
      folded_.middleCols(first, count) = by_key.middleRows(first, count).transpose();
    }
  }

  [[nodiscard]] bool is_folded() const noexcept { return rows_ > 0; }
  /// The length of a column.
  [[nodiscard]] index rows() const noexcept { return is_folded() ? rows_ : full_.queries(); }
  [[nodiscard]] index keys() const noexcept { return full_.keys(); }

  /// Rows of `targets` (m × n) as the columns are: m × rows().
  [[nodiscard]] matrix fold(const matrix& targets) const {
    if (!is_folded()) return targets;
    matrix out = matrix::Zero(targets.rows(), rows_);
    for (index k = 0; k < targets.rows(); ++k) {
      for (index first = 0; first < targets.cols(); first += rows_) {
        simd::add_products(out.row(k).data(), targets.row(k).data() + first, signs_.data() + first,
                           std::min(rows_, targets.cols() - first));
      }
    }
    return out;
  }

  /// out_j = squared norm of column j.
  void squared_norms(vector& out) {
    if (is_folded()) {
      out = folded_.colwise().squaredNorm().transpose();
    } else {
      full_.norms(out);
      out = out.cwiseProduct(out).eval();
    }
  }

  /// Products of the rows of `of` (m × rows()) with every column: m × T.
  void correlate(const matrix& of, matrix& out) {
    if (!is_folded()) {
      matrix by_key;
      full_.correlate(of, by_key);
      out = by_key.transpose();
      return;
    }
    out.resize(of.rows(), keys());
    simd::multiply({of.data(), of.cols(), 1}, {folded_.data(), keys()}, {out.data(), keys()},
                   of.rows(), keys(), rows_);
  }

  /// The columns of the keys numbered `which`, a row each.
  [[nodiscard]] matrix columns(std::span<const index> which) const {
    if (!is_folded()) return full_.columns(which).transpose();
    matrix out(static_cast<index>(which.size()), rows_);
    for (std::size_t k = 0; k < which.size(); ++k) {
      out.row(static_cast<index>(k)) = folded_.col(which[k]).transpose();
    }
    return out;
  }

 private:
  mass_columns& full_;
  index rows_ = 0;  // 0: not folded
  vector signs_;
  matrix folded_;  // rows × T
};

/// Whether `sketched_columns` of `rows` rows folds.
inline bool folds_columns(const head_sizes& sizes, index rows) noexcept {
  return rows >= 1 && rows < sizes.queries &&
         2 * float_bytes(rows, sizes.keys) <= static_cast<double>(sizes.memory_cap);
}

}  // namespace kvfit::inline KVFIT_ISA
