// SPDX-License-Identifier: MIT
/// What rows that are chosen beforehand explain of all others.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <span>

#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/parallel/stop.hpp"
#include "kvfit/selection/candidate_columns.hpp"
#include "kvfit/selection/mass_columns.hpp"
#include "kvfit/selection/picked_basis.hpp"
#include "kvfit/selection/sketched_columns.hpp"
#include "kvfit/simd/accumulate.hpp"
#include "kvfit/simd/dot.hpp"
#include "kvfit/simd/double_vectors.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Below this share of its column's norm², what is left of a key is rounding.
inline constexpr float dependent_share = 1e-5F;

/// Columns that are made orthonormal together: a whole register of AVX-512. More are little faster
/// and raise the least memory that a call gets by with.
inline constexpr index_t spanned_at_once = 16;

/// Columns that are made together.
inline constexpr index_t made_together = 4 * spanned_at_once;

/// Appends to `basis` what the columns of `rows` span beside it, in their order; columns that are
/// what others are already add nothing. `cancelled` where `stop` is due. Cost n · |rows| · (4 size
/// + 4 `spanned_at_once`) multiply-adds, n the length of a column and size what the basis has come
/// to.
inline result<void> span_columns(const sketched_columns& columns, std::span<const index_t> rows,
                                 picked_basis& basis, const stop_when& stop) {
  constexpr auto together = static_cast<std::size_t>(spanned_at_once);
  matrix made;
  std::array<double, together> norm_sq{};
  for (std::size_t first = 0; first < rows.size(); first += together) {
    if (const auto ok = check_stop(stop, "selection"); !ok) return ok;
    const std::size_t of_made = first % static_cast<std::size_t>(made_together);
    if (of_made == 0) {
      const auto left = rows.size() - first;
      made = columns.columns(
          rows.subspan(first, (std::min)(static_cast<std::size_t>(made_together), left)));
    }
    const index_t length = made.cols();
    matrix added(static_cast<index_t>((std::min)(together, rows.size() - first)), length);
    std::copy_n(row_of(made, static_cast<index_t>(of_made)), added.size(), added.data());
    for (index_t k = 0; k < added.rows(); ++k) {
      norm_sq[static_cast<std::size_t>(k)] = simd::squared_norm(row_of(added, k), length);
    }
    basis.project_out(added, columns.threads());
    index_t many = 0;  // of the rows that are not what others are already
    for (index_t k = 0; k < added.rows(); ++k) {
      float* const column = row_of(added, k);
      for (int pass = 0; pass < 2; ++pass) {
        for (index_t before = 0; before < many; ++before) {
          const float* const other = row_of(added, before);
          simd::subtract_scaled(column, simd::dot32(other, column, length), other, length);
        }
      }
      const double left = simd::squared_norm(column, length);
      if (!(left > static_cast<double>(dependent_share) * norm_sq[static_cast<std::size_t>(k)])) {
        continue;
      }
      basis.append(column, static_cast<float>(1 / std::sqrt(left)));
      std::copy_n(basis.last(), length, row_of(added, many++));
    }
  }
  return {};
}

/// What `span_columns` holds for `count` rows, where columns have `length` rows and those of
/// `sizes` are folded or not, all beforehand or some as they are asked for.
inline void declare_span(workspace& space, const head_sizes& sizes, bool folds, column_use use,
                         index_t length, index_t count) {
  const index_t made = (std::min)(made_together, count);
  const index_t many = (std::min)(spanned_at_once, count);
  const workspace::phase spanning(space);
  space.count(float_bytes(made, length));
  {
    const workspace::phase making(space);
    if (!folds || use == column_use::some) mass_columns::declare_columns(space, sizes, made, use);
  }
  space.count(float_bytes(3, many, length) + float_bytes(many, sizes.budget));
}

/// Products with the basis that are made together.
inline constexpr index_t explained_at_once = 48;

/// out_j −= what the basis explains of ‖a_j‖², for all columns. `cancelled` where `stop` is due.
/// Cost: columns · their length · size of the basis, in products wide enough to read columns
/// seldom.
inline result<void> subtract_explained(candidate_columns& columns, const picked_basis& basis,
                                       const executor_ref& threads, const stop_when& stop,
                                       vector& out) {
  matrix products;
  for (index_t first = 0; first < basis.size(); first += explained_at_once) {
    if (const auto ok = check_stop(stop, "selection"); !ok) return ok;
    const index_t many = (std::min)(explained_at_once, basis.size() - first);
    columns.correlate(transposed(basis.rows(first, many)), products);
    over_pieces(threads, columns.keys(), mass_columns::piece,
                [&](index_t from, index_t count) noexcept {
                  for (index_t j = from; j < from + count; ++j) {
                    const float* const row = row_of(products, j);
                    out[j] -= simd::dot32(row, row, many);
                  }
                });
  }
  return {};
}

/// What `subtract_explained` holds for `keys` keys of `length` rows and a basis of `count`.
inline void declare_explained(workspace& space, index_t keys, index_t length, index_t count) {
  const index_t many = (std::min)(explained_at_once, count);
  const workspace::phase subtracting(space);
  space.count(float_bytes(many, keys) + float_bytes(2, many, length) + float_bytes(length));
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
