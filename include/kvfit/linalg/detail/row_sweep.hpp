// SPDX-License-Identifier: MIT
/// Products of a few fp32 rows with vectors in double: what matrix-vector steps are made of.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <type_traits>

#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/simd/batch.hpp"
#include "kvfit/simd/batch64.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {
namespace detail {

/// Rows taken together, so that the vectors are read once for all of them.
inline constexpr index_t sweep_rows = 4;

/// `Rows` rows of `cols` floats, `stride` apart.
template <std::size_t Rows>
struct row_group {
  static constexpr std::size_t rows = Rows;

  const float* data = nullptr;
  index_t stride = 0;
  index_t cols = 0;

  [[nodiscard]] const float* row(std::size_t r) const noexcept {
    return data + static_cast<index_t>(r) * stride;
  }

  /// Each row times x.
  [[nodiscard]] std::array<double, Rows> times(const double* x) const noexcept {
    std::array<simd::batch64, Rows> sums;
    sums.fill(simd::batch64(0.0));
    index_t j = 0;
    for (; j + simd::lanes64 <= cols; j += simd::lanes64) {
      const simd::batch64 factor = simd::load(x + j);
      for (std::size_t r = 0; r < Rows; ++r) {
        sums[r] = simd::multiply_add(simd::load_widened(row(r) + j), factor, sums[r]);
      }
    }
    if (j < cols) {
      const simd::batch64 factor = simd::load_first(x + j, cols - j, 0.0);
      for (std::size_t r = 0; r < Rows; ++r) {
        sums[r] =
            simd::multiply_add(simd::load_widened_first(row(r) + j, cols - j), factor, sums[r]);
      }
    }
    std::array<double, Rows> out{};
    for (std::size_t r = 0; r < Rows; ++r) out[r] = simd::sum(sums[r]);
    return out;
  }

  /// Each row times each of `Many` vectors, `apart` doubles apart: row r's product with the v-th at
  /// r · Many + v, as if taken alone.
  template <index_t Many>
  [[nodiscard]] std::array<double, Rows* static_cast<std::size_t>(Many)> times(
      const double* x, index_t apart) const noexcept {
    constexpr auto many = static_cast<std::size_t>(Many);
    std::array<simd::batch64, Rows * many> sums;
    sums.fill(simd::batch64(0.0));
    const auto add = [&](auto load_row, auto load_vector) {
      std::array<simd::batch64, many> factors;
      for (std::size_t v = 0; v < many; ++v) {
        factors[v] = load_vector(x + static_cast<index_t>(v) * apart);
      }
      for (std::size_t r = 0; r < Rows; ++r) {
        const simd::batch64 part = load_row(row(r));
        for (std::size_t v = 0; v < many; ++v) {
          simd::batch64& sum = sums[r * many + v];
          sum = simd::multiply_add(part, factors[v], sum);
        }
      }
    };
    index_t j = 0;
    for (; j + simd::lanes64 <= cols; j += simd::lanes64) {
      add([&](const float* at) { return simd::load_widened(at + j); },
          [&](const double* at) { return simd::load(at + j); });
    }
    if (j < cols) {
      add([&](const float* at) { return simd::load_widened_first(at + j, cols - j); },
          [&](const double* at) { return simd::load_first(at + j, cols - j, 0.0); });
    }
    std::array<double, Rows * many> out{};
    for (std::size_t k = 0; k < out.size(); ++k) out[k] = simd::sum(sums[k]);
    return out;
  }

  /// y += Σ_r factors_r · row_r.
  void add_to(double* y, const std::array<double, Rows>& factors) const noexcept {
    index_t j = 0;
    for (; j + simd::lanes64 <= cols; j += simd::lanes64) {
      simd::batch64 sum = simd::load(y + j);
      for (std::size_t r = 0; r < Rows; ++r) {
        sum = simd::multiply_add(simd::batch64(factors[r]), simd::load_widened(row(r) + j), sum);
      }
      simd::store(y + j, sum);
    }
    if (j == cols) return;
    simd::batch64 sum = simd::load_first(y + j, cols - j, 0.0);
    for (std::size_t r = 0; r < Rows; ++r) {
      sum = simd::multiply_add(simd::batch64(factors[r]),
                               simd::load_widened_first(row(r) + j, cols - j), sum);
    }
    simd::store_first(y + j, sum, cols - j);
  }
};

/// Calls `use(group, i)` for all rows in order, four at a time and the last ones singly.
template <class Use>
void for_row_groups(const float* data, index_t stride, index_t rows, index_t cols, Use use) {
  index_t i = 0;
  for (; i + sweep_rows <= rows; i += sweep_rows) {
    use(row_group<static_cast<std::size_t>(sweep_rows)>{data + i * stride, stride, cols}, i);
  }
  for (; i < rows; ++i) use(row_group<1>{data + i * stride, stride, cols}, i);
}

/// y += Σ_i factors_i · row_i.
inline void add_rows(const float* data, index_t stride, index_t rows, index_t cols,
                     const double* factors, double* y) noexcept {
  for_row_groups(data, stride, rows, cols, [=](const auto& group, index_t i) {
    std::array<double, std::remove_cvref_t<decltype(group)>::rows> own{};
    std::copy_n(factors + i, own.size(), own.begin());
    group.add_to(y, own);
  });
}

/// `body(first, count)` for rows of `cols` numbers each that are read or made one by one, which
/// takes as long as some dozens of products do.
template <class Body>
void over_rows(const executor_ref& threads, index_t rows, index_t cols, Body body) {
  constexpr index_t piece = 128;
  over_pieces(threads.for_work(32.0 * static_cast<double>(rows) * static_cast<double>(cols)), rows,
              piece, body);
}

/// Whether all entries are numbers: 0 · x is not 0 for the others.
inline bool all_finite(const float* data, index_t stride, index_t rows, index_t cols) noexcept {
  simd::batch sums(0.0F);
  const simd::batch zero(0.0F);
  for (index_t i = 0; i < rows; ++i) {
    const float* row = data + i * stride;
    index_t j = 0;
    for (; j + simd::lanes <= cols; j += simd::lanes) {
      sums = simd::multiply_add(simd::load(row + j), zero, sums);
    }
    if (j < cols) sums = simd::multiply_add(simd::load_first(row + j, cols - j, 0.0F), zero, sums);
  }
  return simd::sum(sums) == 0.0F;
}

/// The same, shared by `threads`.
inline bool all_finite(const float* data, index_t stride, index_t rows, index_t cols,
                       const executor_ref& threads) {
  std::atomic<bool> are_finite{true};
  over_rows(threads, rows, cols, [&](index_t first, index_t count) noexcept {
    if (!all_finite(data + first * stride, stride, count, cols)) are_finite = false;
  });
  return are_finite;
}

/// largest_j ← max(largest_j, |x_j|).
inline void keep_largest(const float* x, index_t size, float* largest) noexcept {
  const auto taken = [](simd::batch value, simd::batch known) {
    return simd::larger(-value, simd::larger(value, known));
  };
  index_t j = 0;
  for (; j + simd::lanes <= size; j += simd::lanes) {
    simd::store(largest + j, taken(simd::load(x + j), simd::load(largest + j)));
  }
  for (; j < size; ++j) largest[j] = (std::max)(largest[j], std::abs(x[j]));
}

/// y_j = x_j · factors_j.
inline void multiply_each(const float* x, const float* factors, index_t size, float* y) noexcept {
  index_t j = 0;
  for (; j + simd::lanes <= size; j += simd::lanes) {
    simd::store(y + j, simd::load(x + j) * simd::load(factors + j));
  }
  for (; j < size; ++j) y[j] = x[j] * factors[j];
}

}  // namespace detail
}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
