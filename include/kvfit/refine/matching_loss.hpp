// SPDX-License-Identifier: MIT
/// What the published gradient methods lower, with its gradient.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/linalg/detail/strips.hpp"
#include "kvfit/refine/batch.hpp"
#include "kvfit/refine/gradient_keys.hpp"
#include "kvfit/simd/accumulate.hpp"
#include "kvfit/simd/product.hpp"
#include "kvfit/simd/soft_cap.hpp"
#include "kvfit/simd/softmax.hpp"
#include "kvfit/simd/transpose.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// A compact cache as one vector: keys row by row, biases, and values row by row where they count.
struct point_layout {
  index_t rows = 0;   ///< t
  index_t depth = 0;  ///< d_k
  index_t width = 0;  ///< d_v; 0 where values are no variables

  [[nodiscard]] index_t bias() const noexcept { return rows * depth; }
  [[nodiscard]] index_t values() const noexcept { return rows * (depth + 1); }
  [[nodiscard]] index_t size() const noexcept { return rows * (depth + 1 + width); }
};

/// What a `matching_loss` works in.
class matching_buffers {
 public:
  void declare(workspace& space, const point_layout& layout, bool is_capped) {
    space.add(rounded_, layout.size());
    space.add_vectors(many_times(layout.rows, refine_panel), weights_, pull_);
    if (is_capped) space.add(slopes_, many_times(layout.rows, refine_panel));
    space.add_vectors(refine_panel, shifts_, per_query_, squares_, along_, sums_);
    space.add(ones_, refine_panel, 1, 1.0F);
    space.add_vectors(many_times(layout.width, refine_panel), error_, error_down_);
    space.add(keys_part_, layout.rows, layout.depth);
    space.add(values_part_, layout.rows, layout.width);
  }

 protected:
  vector rounded_;  // the variables
  vector weights_;  // X of a panel, queries across, like all that follow
  vector slopes_;   // of the soft-cap
  vector pull_;
  vector shifts_;  // the largest logits, then one over the sums
  vector per_query_;
  std::vector<double> sums_;
  vector error_;
  vector error_down_;  // queries down
  vector squares_;
  vector along_;
  std::vector<float> ones_;
  matrix keys_part_;
  matrix values_part_;
};

/// The losses of `gradient_loss` (their λ and μ as there) on a batch of n queries that see a key.
/// With X the softmax of the logits over the compact keys (t × n, keys down), e_i = ô_i − o_i and
/// Δ_i = LSE'_i − LSE_i,
///
///     ∂/∂s_li = X_li [ 2 e_i·(c_l − ô_i) / (n d_v) + 2 μ Δ_i / n ]        (log_mass: μ = 1 alone)
///     ∂/∂c_l = Σ_i X_li 2 e_i / (n d_v),   ∂/∂k'_l = Σ_i ∂/∂s_li q_i,   ∂/∂β_l = Σ_i ∂/∂s_li
///
/// plus 2 λ times the variable; ∂/∂k'_l times the slope of the soft-cap. A query that sees none of
/// the compact keys counts no Δ_i, which no variable can change.
///
/// Variables are rounded to fp32; sums within a panel of queries are fp32, over panels double.
/// Cost n · t · (2 d_k + 3 d_v) multiply-adds (log_mass: 2 d_k) and n · t exponentials. Memory:
/// a few panels of t · `refine_panel` floats, allocated once.
class matching_loss : private matching_buffers {
 public:
  /// `batch` must outlive this; `rows`: t; `soft_cap`: of the logits, 0 for none.
  matching_loss(const gradient_keys& settings, const refine_batch& batch, index_t rows,
                float soft_cap)
      : batch_(batch),
        has_output_(settings.loss == gradient_loss::joint),
        layout_{rows, batch.queries.cols(), has_output_ ? batch.weighted_output.cols() : 0},
        mass_weight_(has_output_ ? settings.mass_weight : 1),
        penalty_(settings.penalty),
        soft_cap_(soft_cap),
        seen_(count_seen(batch)) {
    allocate_buffers(static_cast<matching_buffers&>(*this), layout_, soft_cap > 0);
  }

  [[nodiscard]] const point_layout& layout() const noexcept { return layout_; }

  /// The loss at `x`, and its gradient, both of `layout().size()` numbers. Infinite or NaN where
  /// numbers overflow; the gradient then means nothing.
  double operator()(const Eigen::VectorXd& x, Eigen::VectorXd& gradient) {
    double squares = 0;
    for (index_t k = 0; k < layout_.size(); ++k) {
      rounded_[k] = static_cast<float>(x[k]);
      squares += static_cast<double>(rounded_[k]) * static_cast<double>(rounded_[k]);
    }
    // Squares of fp32 numbers do not overflow a double.
    if (!std::isfinite(squares)) return std::numeric_limits<double>::infinity();
    for (index_t k = 0; k < layout_.size(); ++k) {
      gradient[k] = 2 * penalty_ * static_cast<double>(rounded_[k]);
    }
    double mass = 0;
    double output = 0;
    const index_t n = batch_.log_mass.size();
    for (index_t first = 0; first < n; first += refine_panel) {
      const index_t count = (std::min)(refine_panel, n - first);
      mass += attend(first, count);
      if (has_output_) {
        output += compare_output(first, count, gradient);
      } else {
        std::fill_n(pull_.data(), layout_.rows * count, 0.0F);
      }
      add_slopes(first, count, gradient);
    }
    const double outputs = static_cast<double>(std::max<index_t>(layout_.width, 1));
    return output / (seen_ * outputs) + mass_weight_ * mass / seen_ + penalty_ * squares;
  }

 private:
  /// Queries that see a key, at least 1.
  static double count_seen(const refine_batch& batch) noexcept {
    double seen = 0;
    for (index_t i = 0; i < batch.sees.size(); ++i) seen += static_cast<double>(batch.sees[i]);
    return (std::max)(1.0, seen);
  }

  [[nodiscard]] const float* keys() const noexcept { return rounded_.data(); }
  [[nodiscard]] const float* values() const noexcept { return rounded_.data() + layout_.values(); }

  /// X of a panel; the slope 2 μ Δ_i / n goes to `per_query_`. Returns Σ_i Δ_i².
  double attend(index_t first, index_t count) {
    const index_t t = layout_.rows;
    const index_t depth = layout_.depth;
    float* x = weights_.data();
    simd::multiply({keys(), depth, 1}, {batch_.queries_across.data() + first * depth, count},
                   {x, count}, t, count, depth);
    if (soft_cap_ > 0) simd::soft_cap(x, slopes_.data(), soft_cap_, t * count);
    std::fill_n(shifts_.data(), count, -std::numeric_limits<float>::infinity());
    for (index_t l = 0; l < t; ++l) {
      float* row = x + l * count;
      if (batch_.added_across.size() > 0) {
        const float* added = batch_.added_across.data() + l * batch_.added_across.cols() + first;
        simd::add_each(row, added, count);
      }
      simd::scale_and_add(row, 1, rounded_[layout_.bias() + l], count);
      simd::keep_larger(shifts_.data(), row, count);
    }
    std::fill_n(sums_.data(), count, 0.0);
    simd::exp_shifted_columns(x, count, t, count, shifts_.data(), sums_.data());
    double squares = 0;
    for (index_t i = 0; i < count; ++i) {
      const double sum = sums_[static_cast<std::size_t>(i)];
      const bool sees = sum != 0 && batch_.sees[first + i] > 0;  // true for NaN, which must show
      const double missing = sees ? static_cast<double>(shifts_[i]) + std::log(sum) -
                                        static_cast<double>(batch_.log_mass[first + i])
                                  : 0.0;
      squares += missing * missing;
      per_query_[i] = static_cast<float>(2 * mass_weight_ * missing / seen_);
      shifts_[i] = sum != 0 ? static_cast<float>(1 / sum) : 0.0F;
    }
    for (index_t l = 0; l < t; ++l) simd::multiply_each(x + l * count, shifts_.data(), count);
    return squares;
  }

  /// A panel's Σ_i ‖e_i‖². The errors' slopes along the logits, before X weighs them, go to `pull_`
  /// (2 e_i·c_l / (n d_v)) and onto `per_query_` (the rest); those along the values to `gradient`.
  double compare_output(index_t first, index_t count, Eigen::VectorXd& gradient) {
    const index_t t = layout_.rows;
    const index_t width = layout_.width;
    const float* output = batch_.output_across.data() + first * width;
    const float* x = weights_.data();
    std::copy_n(output, width * count, error_.data());
    simd::multiply({values(), 1, width}, {x, count}, {error_.data(), count}, width, count, t,
                   simd::product_mode::subtract);  // −e = o − ô
    std::fill_n(squares_.data(), count, 0.0F);
    std::fill_n(along_.data(), count, 0.0F);
    for (index_t k = 0; k < width; ++k) {
      const float* error = error_.data() + k * count;
      simd::add_products(squares_.data(), error, error, count);
      simd::add_products(along_.data(), error, output + k * count, count);
    }
    const double factor = -2 / (seen_ * static_cast<double>(width));  // e is the negative
    double sum = 0;
    for (index_t i = 0; i < count; ++i) {
      const auto square = static_cast<double>(squares_[i]);
      sum += square;
      // e·ô = −(o − ô)·o + ‖o − ô‖²
      per_query_[i] -= static_cast<float>(factor * (static_cast<double>(along_[i]) - square));
    }
    for (index_t k = 0; k < width * count; ++k) error_[k] *= static_cast<float>(factor);
    simd::multiply({values(), width, 1}, {error_.data(), count}, {pull_.data(), count}, t, count,
                   width);
    simd::transpose_scaled(error_.data(), count, ones_.data(), count, width, error_down_.data(),
                           width);
    simd::multiply({x, count, 1}, {error_down_.data(), width}, {values_part_.data(), width}, t,
                   width, count);
    add(values_part_, layout_.values(), gradient);
    return sum;
  }

  /// ∂/∂s of a panel, from `pull_` and `per_query_`, and what it adds to the gradient.
  void add_slopes(index_t first, index_t count, Eigen::VectorXd& gradient) {
    const index_t t = layout_.rows;
    for (index_t l = 0; l < t; ++l) {
      float* const slope = pull_.data() + l * count;
      gradient[layout_.bias() + l] += static_cast<double>(
          simd::add_then_multiply(slope, per_query_.data(), weights_.data() + l * count, count));
      if (soft_cap_ > 0) simd::multiply_each(slope, slopes_.data() + l * count, count);
    }
    simd::multiply({pull_.data(), count, 1},
                   {batch_.queries.data() + first * layout_.depth, layout_.depth},
                   {keys_part_.data(), layout_.depth}, t, layout_.depth, count);
    add(keys_part_, 0, gradient);
  }

  static void add(const matrix& part, index_t at, Eigen::VectorXd& gradient) {
    linalg::detail::add_widened(part.data(), part.size(), gradient.data() + at);
  }

  const refine_batch& batch_;
  bool has_output_;
  point_layout layout_;
  double mass_weight_;
  double penalty_;
  float soft_cap_;
  double seen_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit
