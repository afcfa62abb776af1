// SPDX-License-Identifier: MIT
/// Householder QR of a tall matrix in fp32, nearly all of it matrix products.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstddef>

#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/linalg/detail/strips.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/simd/batch.hpp"
#include "kvfit/simd/product.hpp"

namespace kvfit::linalg {
inline namespace KVFIT_ISA {
namespace detail {

/// A = Q R for A n × t, n ≥ t, columns no longer than some 1e15 and not much shorter than 1.
///
/// Strips of 48 columns, I − V T Vᵀ at a time (Schreiber & Van Loan 1989); inside a strip panels of
/// 16 columns, one pass over the rows for each column. Threads share the strips to the right of one
/// that is done, and who takes the next one factors it as well, so that nobody waits for it. Every
/// strip meets the same reflections in the same order, whoever takes it; products that enter a sum
/// are fused by name, so that no compiler has a choice in one place and another one in another: the
/// bytes are the same. Sums run over 256 rows at most before they are added up, so that rounding
/// grows with the root of n/256 + 256 and not of n.
/// Cost 2·n·t² − 2/3·t³ flops; allocates (n + t)·t floats and O(n + t).
class strip_qr {
 public:
  strip_qr() = default;
  strip_qr(index_t rows, index_t cols) {
    assert(rows >= cols);
    allocate_buffers(*this, rows, cols);
    std::fill_n(r_.data(), r_.size(), 0.0F);
    std::fill_n(t_.data(), t_.size(), 0.0F);
  }

  void declare(workspace& space, index_t rows, index_t cols) {
    rows_ = rows;
    columns_.declare(space, rows, cols);
    space.add(r_, cols, cols);
    space.add(t_, (cols + strip_width - 1) / strip_width * strip_width, strip_width);
    space.add(panel_, rows, panel_width);
  }

  [[nodiscard]] index_t rows() const noexcept { return rows_; }

  /// `fill(first, width, to)` writes the `width` columns of A from column `first` on, their rows 48
  /// apart; on any thread.
  template <class Fill>
  void factor(Fill fill, const executor_ref& executor = {}) {
    const auto n = static_cast<double>(rows_);
    const executor_ref threads =
        executor.for_work(n * static_cast<double>(columns_.cols() * strip_width));
    const index_t strips = (columns_.cols() + strip_width - 1) / strip_width;
    threads.run(strips, [&](index_t strip) noexcept {
      const index_t first = strip * strip_width;
      fill(first, columns_.width(first), columns_.strip(first));
      if (strip == 0) factor_strip(0);
    });
    for (index_t done = 0; done + strip_width < columns_.cols(); done += strip_width) {
      const index_t next = done + strip_width;
      threads.run(strips - next / strip_width, [&](index_t ahead) noexcept {
        const index_t first = next + ahead * strip_width;
        reflect_strip(done, first);
        if (first == next) factor_strip(first);
      });
    }
  }

  /// R, t × t; 0 below the diagonal.
  [[nodiscard]] const kvfit::matrix& r() const noexcept { return r_; }

  /// B ← QᵀB, B n × cols.
  void apply_transposed(float* b, index_t stride, index_t cols) const noexcept {
    for (index_t at = 0; at < cols; at += group) {
      for (index_t first = 0; first < columns_.cols(); first += strip_width) {
        reflect(whole(first), b + first * stride + at, stride, (std::min)(group, cols - at), true);
      }
    }
  }

  /// B ← Q B, B n × cols.
  void apply(float* b, index_t stride, index_t cols) const noexcept {
    const index_t last = (columns_.cols() - 1) / strip_width * strip_width;
    for (index_t at = 0; at < cols; at += group) {
      for (index_t first = last; first >= 0; first -= strip_width) {
        reflect(whole(first), b + first * stride + at, stride, (std::min)(group, cols - at), false);
      }
    }
  }

 private:
  static constexpr index_t panel_width = 16;
  static constexpr index_t group = 96;      // columns reflected at a time
  static constexpr index_t sum_rows = 256;  // rows summed up at a time
  static_assert(panel_width % simd::lanes == 0);

  /// What a strip's reflections make of a group of columns, on the way; on the stack of who does
  /// it, 18 KB each.
  struct group_sums {
    std::array<float, static_cast<std::size_t>(strip_width* group)> numbers;

    [[nodiscard]] float* row(index_t i) noexcept { return numbers.data() + i * group; }
  };

  /// I − V T Vᵀ: V `rows` × `width` with rows 48 apart, T upper triangular with rows 48 apart.
  struct reflections {
    const float* v = nullptr;
    const float* t = nullptr;
    index_t rows = 0;
    index_t width = 0;
  };

  [[nodiscard]] reflections whole(index_t first) const noexcept {
    return {columns_.strip(first) + first * strip_width, t_.data() + first * strip_width,
            rows_ - first, columns_.width(first)};
  }

  /// out = VᵀC, `width` × cols, C having as many rows as V.
  static void project(const reflections& by, const float* c, index_t stride, index_t cols,
                      group_sums& out, group_sums& part) noexcept {
    for (index_t top = 0; top < by.rows; top += sum_rows) {
      group_sums& to = top == 0 ? out : part;
      simd::multiply({by.v + top * strip_width, 1, strip_width}, {c + top * stride, stride},
                     {to.row(0), group}, by.width, cols, (std::min)(sum_rows, by.rows - top));
      if (top == 0) continue;
      for (index_t i = 0; i < by.width; ++i) {
        float* sum = out.row(i);
        const float* more = part.row(i);
        for (index_t j = 0; j < cols; ++j) sum[j] += more[j];
      }
    }
  }

  /// C ← (I − V TᵀVᵀ) C, or with T for Tᵀ.
  static void reflect(const reflections& by, float* c, index_t stride, index_t cols,
                      bool is_transposed) noexcept {
    group_sums sums;
    group_sums part;
    project(by, c, stride, cols, sums, part);
    simd::multiply({by.t, is_transposed ? 1 : strip_width, is_transposed ? strip_width : 1},
                   {sums.row(0), group}, {part.row(0), group}, by.width, cols, by.width);
    simd::multiply({by.v, strip_width, 1}, {part.row(0), group}, {c, stride}, by.rows, cols,
                   by.width, simd::product_mode::subtract);
  }

  /// Applies the reflections of the strip `done` to the one that begins with column `first`, whose
  /// rows of R are then final.
  void reflect_strip(index_t done, index_t first) noexcept {
    const index_t width = columns_.width(first);
    float* strip = columns_.strip(first);
    reflect(whole(done), strip + done * strip_width, strip_width, width, true);
    for (index_t i = done; i < done + strip_width; ++i) {
      std::copy_n(strip + i * strip_width, width, r_.data() + i * r_.cols() + first);
    }
  }

  /// T of reflections whose lengths are in `tau` (LAPACK's larft), from VᵀV.
  static void form_t(const reflections& of, const float* tau, float* t) noexcept {
    group_sums sums;
    group_sums part;
    project(of, of.v, strip_width, of.width, sums, part);
    for (index_t j = 0; j < of.width; ++j) {
      for (index_t i = 0; i < j; ++i) {
        float sum = 0;
        for (index_t k = i; k < j; ++k) sum = std::fma(t[i * strip_width + k], sums.row(k)[j], sum);
        t[i * strip_width + j] = -tau[j] * sum;
      }
      t[j * strip_width + j] = tau[j];
    }
  }

  void factor_strip(index_t first) noexcept {
    const index_t width = columns_.width(first);
    std::array<float, strip_width> tau{};
    float* strip = columns_.strip(first);
    float* t = t_.data() + first * strip_width;
    for (index_t done = 0; done < width; done += panel_width) {
      const index_t count = (std::min)(panel_width, width - done);
      const index_t top = first + done;
      float* v = strip + top * strip_width + done;
      factor_panel(v, rows_ - top, count, tau.data() + done);
      // Rows of R that are final, out; above V's diagonal of ones come zeros.
      for (index_t i = 0; i < count; ++i) {
        std::copy(panel_.data() + i * panel_width + i, panel_.data() + i * panel_width + count,
                  r_.data() + (top + i) * r_.cols() + top + i);
      }
      const index_t rest = width - done - count;
      if (rest > 0) {
        float* corner = t + done * strip_width + done;
        const reflections by{v, corner, rows_ - top, count};
        form_t(by, tau.data() + done, corner);
        reflect(by, v + count, strip_width, rest, true);
        for (index_t i = 0; i < count; ++i) {
          std::copy_n(v + i * strip_width + count, rest,
                      r_.data() + (top + i) * r_.cols() + top + count);
        }
      }
      for (index_t i = first; i < top; ++i) {
        std::fill_n(strip + i * strip_width + done, count, 0.0F);
      }
    }
    form_t(whole(first), tau.data(), t);
  }

  /// Reflections of `count` ≤ 16 columns, m rows of them 48 apart at `v`: V with its ones and zeros
  /// in their place, R in the upper triangle of panel_.
  void factor_panel(float* v, index_t m, index_t count, float* tau) noexcept {
    float* p = panel_.data();
    for (index_t i = 0; i < m; ++i) {
      std::copy_n(v + i * strip_width, count, p + i * panel_width);
      std::fill_n(p + i * panel_width + count, panel_width - count, 0.0F);
    }
    std::array<float, panel_width> along = column_products(p, m);
    std::array<float, panel_width> taken{};
    for (index_t j = 0; j < count; ++j) {
      float* head = p + j * panel_width;
      const float alpha = head[j];
      const float outside =
          along[static_cast<std::size_t>(j)];  // squared length below the diagonal
      taken.fill(0.0F);
      float inverse = 0;
      tau[j] = 0;
      if (outside > 0) {
        const float length = std::sqrt(std::fma(alpha, alpha, outside));
        const float beta = alpha > 0 ? -length : length;
        inverse = 1 / (alpha - beta);
        tau[j] = (beta - alpha) / beta;
        for (index_t c = j + 1; c < count; ++c) {
          const auto at = static_cast<std::size_t>(c);
          const float correlation = std::fma(along[at], inverse, head[c]);
          taken[at] = tau[j] * correlation;
          head[c] = std::fma(-tau[j], correlation, head[c]);
        }
        head[j] = beta;
      }
      along = reflect_panel(p, m, j, inverse, taken);
    }
    for (index_t i = 0; i < m; ++i) {
      for (index_t c = 0; c < count; ++c) {
        v[i * strip_width + c] = i > c ? p[i * panel_width + c] : (i == c ? 1.0F : 0.0F);
      }
    }
  }

  static constexpr std::size_t panel_batches = panel_width / simd::lanes;
  using panel_row = std::array<simd::batch, panel_batches>;

  static panel_row load_row(const float* x) noexcept {
    panel_row out;
    for (std::size_t b = 0; b < panel_batches; ++b) {
      out[b] = simd::load(x + static_cast<index_t>(b) * simd::lanes);
    }
    return out;
  }
  static void store_row(float* y, const panel_row& x) noexcept {
    for (std::size_t b = 0; b < panel_batches; ++b) {
      simd::store(y + static_cast<index_t>(b) * simd::lanes, x[b]);
    }
  }

  /// Σ_{i ≥ 1} p_i0 p_i: column 0 with every column, below the diagonal.
  static std::array<float, panel_width> column_products(const float* p, index_t m) noexcept {
    return sum_rows_of(1, m, [p](index_t i, panel_row& sum) {
      const simd::batch factor(p[i * panel_width]);
      const panel_row row = load_row(p + i * panel_width);
      for (std::size_t b = 0; b < panel_batches; ++b) {
        sum[b] = simd::multiply_add(factor, row[b], sum[b]);
      }
    });
  }

  /// Rows below j: v_i = p_ij · inverse takes p_ij's place, p_i −= v_i · taken. Returns what
  /// `column_products` says of column j + 1 then: one pass for both.
  static std::array<float, panel_width> reflect_panel(
      float* p, index_t m, index_t j, float inverse,
      const std::array<float, panel_width>& taken) noexcept {
    panel_row minus = load_row(taken.data());
    for (auto& part : minus) part = -part;
    const index_t next = (std::min)(j + 1, panel_width - 1);
    const auto update = [&](index_t i) {
      float* at = p + i * panel_width;
      const float v = at[j] * inverse;
      const simd::batch factor(v);
      panel_row row = load_row(at);
      for (std::size_t b = 0; b < panel_batches; ++b) {
        row[b] = simd::multiply_add(factor, minus[b], row[b]);
      }
      store_row(at, row);
      at[j] = v;
      return row;
    };
    if (j + 1 < m) (void)update(j + 1);
    return sum_rows_of(j + 2, m, [&](index_t i, panel_row& sum) {
      const panel_row row = update(i);
      const simd::batch factor(p[i * panel_width + next]);
      for (std::size_t b = 0; b < panel_batches; ++b) {
        sum[b] = simd::multiply_add(factor, row[b], sum[b]);
      }
    });
  }

  /// Σ of step(i, sum) over first ≤ i < last, in sums of 256 rows, even and odd ones apart.
  template <class Step>
  static std::array<float, panel_width> sum_rows_of(index_t first, index_t last,
                                                    Step step) noexcept {
    panel_row total;
    total.fill(simd::batch(0.0F));
    for (index_t top = first; top < last; top += sum_rows) {
      const index_t end = (std::min)(top + sum_rows, last);
      panel_row even = total;
      panel_row odd = total;
      even.fill(simd::batch(0.0F));
      odd.fill(simd::batch(0.0F));
      index_t i = top;
      for (; i + 1 < end; i += 2) {
        step(i, even);
        step(i + 1, odd);
      }
      if (i < end) step(i, even);
      for (std::size_t b = 0; b < panel_batches; ++b) total[b] = total[b] + (even[b] + odd[b]);
    }
    std::array<float, panel_width> out{};
    store_row(out.data(), total);
    return out;
  }

  index_t rows_ = 0;
  strips<float> columns_;
  kvfit::matrix r_;
  kvfit::matrix t_;      // of each strip, 48 × 48, one below the other
  kvfit::matrix panel_;  // the panel in work, its rows side by side
};

}  // namespace detail
}  // namespace KVFIT_ISA
}  // namespace kvfit::linalg
