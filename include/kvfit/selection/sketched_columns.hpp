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
#include "kvfit/simd/dot.hpp"
#include "kvfit/simd/product.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// Whether `sketched_columns` of `rows` rows folds.
inline bool folds_columns(index_t rows, index_t queries, index_t keys, index_t cap) noexcept {
  return rows >= 1 && rows < queries && float_bytes(rows, keys) <= static_cast<double>(cap);
}

/// What `sketched_columns` that fold work in.
struct sketch_buffers {
  vector signs;
  matrix folded;  ///< T × rows

  void declare(workspace& space, index_t queries, index_t keys, index_t rows, column_use use) {
    space.add(signs, queries);
    if (use == column_use::all) space.add(folded, keys, rows);
  }
};

/// S Φ for a sketch S of `rows` rows: query i is added to row i mod `rows` with a random sign, so
/// that E[(SΦ)ᵀ(SΦ)] = ΦᵀΦ and inner products of columns keep their value but for about 1/√rows of
/// the product of their norms (a count sketch with even buckets; Charikar, Chen & Farach-Colton
/// 2004). What is chosen by inner products can be chosen on the sketch at n / rows of the cost.
///
/// With `rows` of 0, n or more, or where T · `rows` floats exceed the cap, nothing is folded and
/// every use goes to `full`, which must outlive this. For `column_use::some` columns are folded as
/// they are asked for, whatever the cap, and only `columns` may be called.
class sketched_columns {
 public:
  sketched_columns(mass_columns& full, index_t rows, index_t memory_cap,
                   column_use use = column_use::all)
      : full_(full), use_(use) {
    const index_t kept = use == column_use::all ? full.keys() : 0;
    if (!folds_columns(rows, full.queries(), kept, memory_cap)) return;
    rows_ = rows;
    allocate_buffers(own_, full.queries(), full.keys(), rows, use);
    random_source random(0);  // what is drawn matters as little as in a hash
    for (float& sign : own_.signs) sign = (random.next() >> 63U) != 0 ? 1.0F : -1.0F;
    if (use == column_use::all) full.fold(own_.signs, rows_, own_.folded);
  }

  [[nodiscard]] bool is_folded() const noexcept { return rows_ > 0; }
  /// The length of a column.
  [[nodiscard]] index_t rows() const noexcept { return is_folded() ? rows_ : full_.queries(); }
  [[nodiscard]] index_t keys() const noexcept { return full_.keys(); }
  [[nodiscard]] const executor_ref& threads() const noexcept { return full_.threads(); }

  /// `targets` (n × m) folded as the columns are: rows() × m.
  [[nodiscard]] matrix fold(const matrix& targets) const {
    if (!is_folded()) return targets;
    const index_t many = targets.cols();
    matrix out(rows_, many);
    std::fill_n(out.data(), out.size(), 0.0F);
    for (index_t i = 0; i < targets.rows(); ++i) {
      simd::subtract_scaled(out.data() + (i % rows_) * many, -own_.signs[i],
                            targets.data() + i * many, many);
    }
    return out;
  }

  /// Sᵀ of what is folded (rows() × m): n × m, whose products with columns that are not folded are
  /// those of `of` with the folded ones.
  [[nodiscard]] matrix unfold(const matrix& of) const {
    if (!is_folded()) return of;
    const index_t many = of.cols();
    matrix out(full_.queries(), many);
    for (index_t i = 0; i < out.rows(); ++i) {
      const float* const from = of.data() + (i % rows_) * many;
      float* const to = out.data() + i * many;
      for (index_t c = 0; c < many; ++c) to[c] = own_.signs[i] * from[c];
    }
    return out;
  }

  /// out_j = squared norm of column j.
  void squared_norms(vector& out) {
    if (!is_folded()) {
      full_.norms(out);
      for (float& norm : out) norm *= norm;
      return;
    }
    out.resize(keys());
    for (index_t j = 0; j < keys(); ++j) {
      const float* column = own_.folded.data() + j * rows_;
      out[j] = simd::dot32(column, column, rows_);
    }
  }

  /// Products of every column with the columns of `of` (rows() × m): T × m.
  void correlate(const matrix& of, matrix& out) {
    if (!is_folded()) {
      full_.correlate(of, out);
      return;
    }
    out.resize(keys(), of.cols());
    const index_t many = of.cols();
    over_pieces(full_.threads(), keys(), mass_columns::piece,
                [&](index_t first, index_t count) noexcept {
                  simd::multiply({own_.folded.data() + first * rows_, rows_, 1}, {of.data(), many},
                                 {out.data() + first * many, many}, count, many, rows_);
                });
  }

  /// The columns of the keys numbered `which`, a row each.
  [[nodiscard]] matrix columns(std::span<const index_t> which) const {
    if (!is_folded()) return full_.columns(which);
    if (use_ == column_use::some) return folded(full_.columns(which));
    matrix out(static_cast<index_t>(which.size()), rows_);
    for (std::size_t k = 0; k < which.size(); ++k) {
      std::copy_n(own_.folded.data() + which[k] * rows_, rows_,
                  out.data() + static_cast<index_t>(k) * rows_);
    }
    return out;
  }

 private:
  /// Columns of `of`, a row each, folded in the order in which `mass_columns::fold` does.
  [[nodiscard]] matrix folded(const matrix& of) const {
    matrix out(of.rows(), rows_);
    std::fill_n(out.data(), out.size(), 0.0F);
    for (index_t k = 0; k < of.rows(); ++k) {
      for (index_t i = 0; i < of.cols(); i += rows_) {
        simd::add_products(out.data() + k * rows_, of.data() + k * of.cols() + i,
                           own_.signs.data() + i, (std::min)(rows_, of.cols() - i));
      }
    }
    return out;
  }

  mass_columns& full_;
  column_use use_;
  index_t rows_ = 0;  // 0: not folded
  sketch_buffers own_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit
