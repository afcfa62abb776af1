// SPDX-License-Identifier: MIT
/// The columns that a search looks among: those of all keys, or copies of those of some.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/selection/mass_columns.hpp"
#include "kvfit/selection/sketched_columns.hpp"
#include "kvfit/simd/dot.hpp"
#include "kvfit/simd/product.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Columns of keys numbered 0 … keys() − 1. Without `narrow` these are all rows of the problem.
class candidate_columns {
 public:
  /// `all` must outlive this.
  explicit candidate_columns(sketched_columns& all) : all_(all) {}

  /// Takes the keys of `rows` alone, in their order. Their columns are copied, some at a time, for
  /// making those that are not stored takes memory of its own.
  void narrow(std::vector<index_t> rows) {
    columns_.resize(static_cast<index_t>(rows.size()), length());
    for (std::size_t first = 0; first < rows.size(); first += copied_at_once) {
      const std::size_t many = (std::min)(copied_at_once, rows.size() - first);
      const matrix some = all_.columns(std::span<const index_t>(rows).subspan(first, many));
      std::copy_n(some.data(), some.size(),
                  columns_.data() + static_cast<index_t>(first) * length());
    }
    rows_ = std::move(rows);
    is_narrow_ = true;
  }

  /// What `narrow` to `many` keys holds, where columns have `length` rows and those of `sizes` are
  /// folded or not; they are made by `column_use::some`.
  static void declare(workspace& space, const head_sizes& sizes, bool folds, index_t length,
                      index_t many) {
    space.count(float_bytes(many, length) + grown_bytes(double_bytes(many)));
    const workspace::phase copying(space);
    const index_t some = (std::min)(static_cast<index_t>(copied_at_once), many);
    mass_columns::declare_columns(space, sizes, some, column_use::some);
    if (folds) space.count(float_bytes(some, length));
  }

  [[nodiscard]] index_t keys() const noexcept {
    return is_narrow_ ? static_cast<index_t>(rows_.size()) : all_.keys();
  }
  /// The length of a column.
  [[nodiscard]] index_t length() const noexcept { return all_.rows(); }
  /// The row of the problem that key k is.
  [[nodiscard]] index_t row(index_t k) const noexcept {
    return is_narrow_ ? rows_[static_cast<std::size_t>(k)] : k;
  }

  /// out_k = squared norm of column k.
  void squared_norms(vector& out) {
    if (!is_narrow_) {
      all_.squared_norms(out);
      return;
    }
    out.resize(keys());
    for (index_t k = 0; k < keys(); ++k) {
      const float* const column = columns_.data() + k * length();
      out[k] = simd::dot32(column, column, length());
    }
  }

  /// Products of every column with the columns of `of` (length() × m): keys() × m.
  void correlate(const matrix& of, matrix& out) {
    if (!is_narrow_) {
      all_.correlate(of, out);
      return;
    }
    const index_t many = of.cols();
    out.resize(keys(), many);
    over_pieces(
        all_.threads(), keys(), mass_columns::piece, [&](index_t first, index_t count) noexcept {
          simd::multiply({columns_.data() + first * length(), length(), 1}, {of.data(), many},
                         {out.data() + first * many, many}, count, many, length());
        });
  }

  /// The columns of the keys numbered `which`, a row each.
  [[nodiscard]] matrix columns(std::span<const index_t> which) const {
    if (!is_narrow_) return all_.columns(which);
    matrix out(static_cast<index_t>(which.size()), length());
    for (std::size_t k = 0; k < which.size(); ++k) {
      std::copy_n(columns_.data() + which[k] * length(), length(),
                  out.data() + static_cast<index_t>(k) * length());
    }
    return out;
  }

 private:
  static constexpr std::size_t copied_at_once = 256;

  sketched_columns& all_;
  bool is_narrow_ = false;
  std::vector<index_t> rows_;
  matrix columns_;  // of rows_
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
