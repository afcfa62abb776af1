// SPDX-License-Identifier: MIT
/// The columns of the mass equation in bf16, each with what rounding took from it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kvfit/core/config.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/selection/mass_columns.hpp"
#include "kvfit/simd/dot.hpp"
#include "kvfit/simd/half_dot.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// What the root of a sum of n squares in fp32 may miss, because they vanish: those of numbers
/// under 1e-22 do, or lose digits.
inline float unseen_norm(index_t n) noexcept {
  return 1e-22F * std::sqrt(static_cast<float>(n));
}

/// Φ̃ ≈ Φ, a key a row, half as large: to tell which columns are to be examined in fp32. By
/// Cauchy–Schwarz
///
///     |Φ_:j·r − Φ̃_:j·r| ≤ lost(j) ‖r‖,   lost(j) = ‖Φ_:j − Φ̃_:j‖ ≤ 2⁻⁸ ‖Φ_:j‖
///
/// (the last for numbers that are normal).
///
/// 2 n T bytes, made in one pass over the columns.
class half_columns {
 public:
  /// None: `is_empty()`.
  half_columns() = default;

  void declare(workspace& space, index_t keys, index_t queries) {
    const index_t words = simd::half_words(queries);
    space.add(words_, keys, words);
    space.add(lost_, keys);
    space.add(weights_, 2 * words);
  }

  /// `norms` gets ‖Φ_:j‖ of all keys, as by `mass_columns::norms`, in the same pass.
  half_columns(mass_columns& columns, vector& norms) {
    const index_t keys = columns.keys();
    allocate_buffers(*this, keys, columns.queries());
    norms.resize(keys);
    std::fill_n(norms.data(), keys, 0.0F);
    std::fill_n(lost_.data(), keys, 0.0F);
    const index_t tail = (std::min)(words_.cols(), simd::lanes);  // what no number may fill
    for (index_t p = 0; p < columns.parts(); ++p) {
      const column_part part = columns.part(p);
      const float* factors = columns.factors().data() + part.first;
      over_pieces(columns.threads(), keys, mass_columns::piece,
                  [&](index_t first, index_t count) noexcept {
                    for (index_t j = first; j < first + count; ++j) {
                      std::uint32_t* words = words_.data() + j * words_.cols();
                      if (p == 0) std::fill_n(words + words_.cols() - tail, tail, 0U);
                      norms[j] += simd::square_sum32(part.row(j), factors, part.count);
                      auto* at = reinterpret_cast<std::byte*>(words) + 2 * part.first;
                      lost_[j] += simd::round_to_halves(part.row(j), factors, part.count, at);
                    }
                  });
    }
    const float unseen = unseen_norm(columns.queries());
    for (index_t j = 0; j < keys; ++j) {
      norms[j] = std::sqrt(norms[j]);
      lost_[j] = std::sqrt(lost_[j]) + unseen;
    }
  }

  [[nodiscard]] bool is_empty() const noexcept { return words_.size() == 0; }

  /// The residual that `correlation` refers to, with the queries' factors in it.
  void set_weighted_residual(const vector& weighted) {
    simd::split_for_halves(weighted.data(), weighted.size(), weights_.data());
  }
  /// Φ̃_:j · r; key `next` is fetched meanwhile.
  [[nodiscard]] float correlation(index_t j, index_t next) const noexcept {
    const index_t width = words_.cols();
    return simd::half_dot(words_.data() + j * width, weights_.data(), width,
                          words_.data() + next * width);
  }
  /// ‖Φ_:j − Φ̃_:j‖, and what its squares may have missed.
  [[nodiscard]] float lost(index_t j) const noexcept { return lost_[j]; }

 private:
  matrix_of<std::uint32_t> words_;
  vector lost_;
  vector weights_;
};

/// Whether the memory cap has space for columns in bf16, beside those in fp32 where they are
/// stored.
inline bool may_hold_halves(index_t queries, index_t keys, bool has_floats,
                            index_t memory_cap) noexcept {
  const double bytes =
      float_bytes(simd::half_words(queries), keys) + (has_floats ? float_bytes(queries, keys) : 0);
  return bytes <= static_cast<double>(memory_cap);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
