// SPDX-License-Identifier: MIT
/// What refinement lowers, with its gradient: errors of output and mass over compact keys and
/// biases, values fitted anew at every point.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/linalg/detail/strips.hpp"
#include "kvfit/linalg/solve_positive_definite.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/refine/batch.hpp"
#include "kvfit/simd/accumulate.hpp"
#include "kvfit/simd/product.hpp"
#include "kvfit/simd/residuals.hpp"
#include "kvfit/simd/soft_cap.hpp"
#include "kvfit/simd/softmax.hpp"
#include "kvfit/simd/transpose.hpp"
#include "kvfit/view/check.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

struct objective_settings {
  double output_weight = 1;  ///< 0: the values are left out
  double mass_weight = 0.6;
  double mass_softness = 0.05;
  float soft_cap = 0;  ///< of the logits; 0: none
  /// The values are the keys' columns from this one on; none: they are fitted.
  std::optional<index_t> tied_from = {};
};

/// J and its parts at one point.
struct objective_value {
  double total = std::numeric_limits<double>::infinity();
  double output = 0;  ///< mean_i f_i² ‖o_i − ô_i‖²
  double mass = 0;    ///< mean_i h(ŷ_i / y_i − 1)
};

/// What an `attention_objective` works in.
class objective_buffers {
 public:
  /// t rows, batches of n queries.
  void declare(workspace& space, index_t t, index_t width, index_t n, bool is_capped,
               bool is_tied) {
    space.add(weights_, many_times(t, n));
    if (is_capped) space.add(slopes_, many_times(t, n));
    space.add(relative_mass_, n);
    space.count(float_bytes(t, width));  // values, which are empty until they are fitted
    space.add(slope_, t, refine_panel);
    space.add(error_, width, refine_panel);
    space.add_vectors(refine_panel, shares_, factors_, squares_, along_, pull_);
    if (is_tied) {
      space.add(error_down_, refine_panel, width);
      space.add(ones_, refine_panel, 1, 1.0F);
      return;
    }
    const index_t square = whole_registers(t + simd::lanes - 1);
    space.add(weighted_, refine_panel, square);
    space.add_matrices(t, square + width, sums_, moments_, system_);
  }

 protected:
  static constexpr index_t whole_registers(index_t x) noexcept {
    return x / simd::lanes * simd::lanes;
  }

  vector weights_;  // X, panel by panel
  vector slopes_;   // of the soft-cap
  std::vector<double> relative_mass_;
  vector shares_;
  matrix weighted_;  // X F² of a panel, queries down, whole registers
  matrix sums_;
  double_matrix moments_;  // X F² Xᵀ, rounded up to whole registers, and X F² O beside it
  double_matrix system_;
  matrix values_;
  matrix error_;       // o − ô, then g; queries across
  matrix error_down_;  // g, queries down
  std::vector<float> ones_;
  vector factors_;
  vector squares_;
  vector along_;
  vector pull_;
  matrix slope_;
};

/// J(K', β) of `refinement` on a batch. With L = K' Qᵀ + β (t × n, keys down and queries across),
/// E = exp(L − ln y), M = Σ_l E_l (the relative mass), X = E / M:
///
///     C = argmin ‖F (Xᵀ C − O)‖² + λ ‖C − C₀‖²                  (normal equations, in double)
///     ∂J/∂L_li = X_li [ g_i·(c_l − ô_i) + μ h'(M_i − 1) M_i ] / n,   g_i = 2 ω f_i² (ô_i − o_i)
///
/// ω and μ the weights of output and mass, n the queries that see a key. By the envelope theorem
/// that is the gradient of J with C following along, but for λ (1e-6 of the mean diagonal):
/// variable projection (Golub & Pereyra 1973).
///
/// Where values are tied, C is not fitted but read from K': c_l are its columns a … a + d_v − 1.
/// Their gradient has both parts, and nothing is solved (nor t/2 to be paid below):
///
///     ∂J/∂k'_l = Σ_i ∂J/∂L_li q_i,   on those columns plus ∂J/∂c_l = Σ_i X_li g_i / n
///
/// Cost n · t · (2 d_k + 3 d_v + t/2) multiply-adds and n · t exponentials. Memory: t · n floats
/// (twice with a soft-cap), one panel, a few t · (d_v + t) doubles.
class attention_objective : private objective_buffers {
 public:
  /// `original`: C₀, t × d_v (where values are tied, its size alone counts). It and every batch
  /// must outlive this. `threads` share the rows of every product: same bytes.
  attention_objective(const objective_settings& settings, const matrix& original,
                      const executor_ref& threads = {})
      : settings_(settings), original_(original), threads_(threads) {}

  void use(const refine_batch& batch) {
    batch_ = &batch;
    allocate_buffers(static_cast<objective_buffers&>(*this), original_.rows(), original_.cols(),
                     batch.log_mass.size(), settings_.soft_cap > 0,
                     settings_.tied_from.has_value());
  }

  /// J at `keys` (t × d_k) and `bias` (t), and the gradients by both.
  objective_value operator()(const matrix& keys, const vector& bias, matrix& keys_gradient,
                             vector& bias_gradient) {
    attend(keys, bias);
    if (has_output() && !set_values(keys)) return {};
    return differentiate(keys_gradient, bias_gradient);
  }

  /// C alone; false where it can't be found because something is not finite.
  bool fit(const matrix& keys, const vector& bias) {
    if (!settings_.tied_from) attend(keys, bias);
    return set_values(keys);
  }

  /// C at the last point at which it was fitted or read.
  [[nodiscard]] const matrix& values() const noexcept { return values_; }

 private:
  [[nodiscard]] bool has_output() const noexcept { return settings_.output_weight > 0; }

  /// Queries of the batch, and those of the panel that starts with number `first`.
  [[nodiscard]] index_t queries() const noexcept { return batch_->log_mass.size(); }
  [[nodiscard]] index_t panel(index_t first) const noexcept {
    return (std::min)(refine_panel, queries() - first);
  }

  [[nodiscard]] index_t rows() const noexcept { return original_.rows(); }
  /// The weights of a panel: rows() × count, rows `count` apart.
  [[nodiscard]] float* weights(index_t first) noexcept { return weights_.data() + first * rows(); }

  /// `body(first, count)` for pieces of all t rows, on all threads; `operations` are those of all.
  template <class Body>
  void over_rows(double operations, Body&& body) const {
    over_pieces(threads_.for_work(operations), rows(), row_piece, body);
  }
  static constexpr index_t row_piece = 96;  ///< whole tiles of a product
  [[nodiscard]] double operations(index_t a, index_t b) const noexcept {
    return static_cast<double>(rows()) * static_cast<double>(a) * static_cast<double>(b);
  }

  /// X and M.
  void attend(const matrix& keys, const vector& bias) {
    for (index_t first = 0; first < queries(); first += refine_panel) {
      attend_panel(keys, bias, first, panel(first));
    }
  }

  void attend_panel(const matrix& keys, const vector& bias, index_t first, index_t count) {
    float* const x = weights(first);
    const index_t depth = keys.cols();
    const matrix& added = batch_->added_across;
    over_rows(operations(count, depth), [&](index_t from, index_t many) noexcept {
      float* const part = x + from * count;
      simd::multiply({keys.data() + from * depth, depth, 1},
                     {batch_->queries_across.data() + first * depth, count}, {part, count}, many,
                     count, depth);
      if (settings_.soft_cap > 0) {
        simd::soft_cap(part, slopes_.data() + first * rows() + from * count, settings_.soft_cap,
                       many * count);
      }
      for (index_t l = from; l < from + many; ++l) {
        float* const row = x + l * count;
        if (added.size() > 0) simd::add_each(row, added.data() + l * added.cols() + first, count);
        simd::scale_and_add(row, 1, bias[l], count);
      }
    });
    double* const mass = relative_mass_.data() + first;
    std::fill_n(mass, count, 0.0);
    simd::exp_shifted_columns(x, count, rows(), count, batch_->log_mass.data() + first, mass);
    for (index_t i = 0; i < count; ++i) {
      shares_[i] = mass[i] > 0 ? static_cast<float>(1 / mass[i]) : 0.0F;
    }
    for (index_t l = 0; l < rows(); ++l) simd::multiply_each(x + l * count, shares_.data(), count);
  }

  /// C, fitted or read; false where it is not finite.
  bool set_values(const matrix& keys) {
    if (!settings_.tied_from) return fit_values();
    values_.resize(rows(), original_.cols());
    for (index_t l = 0; l < rows(); ++l) {
      std::copy_n(keys.data() + l * keys.cols() + *settings_.tied_from, original_.cols(),
                  values_.data() + l * original_.cols());
    }
    return has_finite_values();
  }

  [[nodiscard]] bool has_finite_values() const noexcept {
    return detail::first_non_finite(values_.data(), values_.size()) == values_.size();
  }

  /// C; false where the weights are not finite.
  bool fit_values() {
    const index_t t = rows();
    const index_t width = original_.cols();
    sum_moments();
    double ridge = 0;
    for (index_t l = 0; l < t; ++l) ridge += moments_(l, l) / static_cast<double>(t);
    if (!std::isfinite(ridge)) return false;
    // Sums in fp32 may leave a singular matrix slightly indefinite.
    for (double share = 1e-6; share < 1; share *= 100) {
      const double lambda = share * ridge + (std::numeric_limits<double>::min)();
      system_ = moments_;
      const index_t columns = system_.cols();
      for (index_t l = 0; l < t; ++l) {
        double* const row = system_.data() + l * columns;
        row[l] += lambda;
        const float* const known = original_.data() + l * width;
        for (index_t k = 0; k < width; ++k) {
          row[columns - width + k] += lambda * static_cast<double>(known[k]);
        }
      }
      if (!linalg::solve_positive_definite(system_, columns - width, width, threads_)) continue;
      values_.resize(t, width);
      for (index_t l = 0; l < t; ++l) {
        const double* const row = system_.data() + (l + 1) * columns - width;
        for (index_t k = 0; k < width; ++k) values_(l, k) = static_cast<float>(row[k]);
      }
      return has_finite_values();
    }
    return false;
  }

  /// X F² Xᵀ (its upper triangle), rounded up to whole registers, and X F² O beside it.
  void sum_moments() {
    const index_t t = rows();
    const index_t columns = moments_.cols();
    std::fill_n(moments_.data(), moments_.size(), 0.0);
    std::fill_n(weighted_.data(), weighted_.size(), 0.0F);
    constexpr index_t fold = 4;  // panels summed in fp32
    for (index_t first = 0; first < queries(); first += refine_panel) {
      const index_t place = first / refine_panel % fold;
      const index_t count = panel(first);
      const auto mode = place == 0 ? simd::product_mode::assign : simd::product_mode::add;
      sum_panel(first, count, mode);
      if (place < fold - 1 && first + count < queries()) continue;
      for (index_t l = 0; l < t; ++l) {
        const index_t from = whole_registers(l / moment_strip * moment_strip);
        linalg::detail::add_widened(sums_.data() + l * columns + from, columns - from,
                                    moments_.data() + l * columns + from);
      }
    }
  }

  static constexpr index_t moment_strip = 24;  ///< rows of moments made together
  /// A panel's part of the moments, to `sums_`.
  void sum_panel(index_t first, index_t count, simd::product_mode mode) {
    const index_t t = rows();
    const index_t width = original_.cols();
    const index_t square = weighted_.cols();
    const index_t columns = sums_.cols();
    const float* const x = weights(first);
    for (index_t i = 0; i < count; ++i) {
      const float inverse = batch_->inverse_length[first + i];
      factors_[i] = inverse * inverse;
    }
    simd::transpose_scaled(x, count, factors_.data(), count, t, weighted_.data(), square);
    const double work = operations(count, t / 2 + width);
    over_pieces(threads_.for_work(work), t, moment_strip, [&](index_t top, index_t many) noexcept {
      const index_t from = whole_registers(top);
      float* const sums = sums_.data() + top * columns;
      simd::multiply({x + top * count, count, 1},
                     {batch_->weighted_output.data() + first * width, width},
                     {sums + square, columns}, many, width, count, mode);
      simd::multiply({x + top * count, count, 1}, {weighted_.data() + from, square},
                     {sums + from, columns}, many, square - from, count, mode);
    });
  }

  objective_value differentiate(matrix& keys_gradient, vector& bias_gradient) {
    keys_gradient.resize(rows(), batch_->queries.cols());
    std::fill_n(keys_gradient.data(), keys_gradient.size(), 0.0F);
    bias_gradient.resize(rows());
    std::fill_n(bias_gradient.data(), rows(), 0.0F);
    double seen = 0;
    for (index_t i = 0; i < queries(); ++i) seen += static_cast<double>(batch_->sees[i]);
    seen = (std::max)(1.0, seen);
    objective_value value;
    for (index_t first = 0; first < queries(); first += refine_panel) {
      differentiate_panel(first, panel(first), seen, value, keys_gradient, bias_gradient);
    }
    value.output /= seen;
    value.mass /= seen;
    value.total = settings_.output_weight * value.output + settings_.mass_weight * value.mass;
    return value;
  }

  /// Adds a panel's part of J (its sums over queries) and of both gradients.
  void differentiate_panel(index_t first, index_t count, double seen, objective_value& value,
                           matrix& keys_gradient, vector& bias_gradient) {
    const index_t t = rows();
    const index_t depth = keys_gradient.cols();
    const float* const x = weights(first);
    std::fill_n(pull_.data(), count, 0.0F);
    if (has_output()) {
      value.output += output_slope(x, first, count, seen);
      if (settings_.tied_from) add_value_slope(x, count, keys_gradient);
    } else {
      std::fill_n(slope_.data(), t * count, 0.0F);
    }
    for (index_t i = 0; i < count; ++i) {
      const double sees = static_cast<double>(batch_->sees[first + i]);
      const double mass = relative_mass_[static_cast<std::size_t>(first + i)];
      const double soft = settings_.mass_softness;
      const double root = std::sqrt((mass - 1) * (mass - 1) + soft * soft);
      value.mass += sees * (root - soft);
      pull_[i] +=
          static_cast<float>(settings_.mass_weight * sees * (mass - 1) / root * mass / seen);
    }
    over_rows(operations(count, depth), [&](index_t from, index_t many) noexcept {
      for (index_t l = from; l < from + many; ++l) {
        float* const row = slope_.data() + l * count;
        bias_gradient[l] += simd::add_then_multiply(row, pull_.data(), x + l * count, count);
        if (settings_.soft_cap > 0) {
          simd::multiply_each(row, slopes_.data() + first * t + l * count, count);
        }
      }
      simd::multiply({slope_.data() + from * count, count, 1},
                     {batch_->queries.data() + first * depth, depth},
                     {keys_gradient.data() + from * depth, depth}, many, depth, count,
                     simd::product_mode::add);
    });
  }

  /// A panel's share of the output error; the errors' slopes along the logits, before they are
  /// weighted by X, go to `slope_` (by key) and `pull_` (the same for all keys).
  double output_slope(const float* x, index_t first, index_t count, double seen) {
    const index_t t = rows();
    const index_t width = original_.cols();
    const float* output = batch_->output_across.data() + first * width;
    constexpr index_t some_columns = 16;  // of the values: rows of the product
    over_pieces(threads_.for_work(operations(count, width)), width, some_columns,
                [&](index_t from, index_t many) noexcept {
                  simd::multiply({values_.data() + from, 1, width}, {x, count},
                                 {error_.data() + from * count, count}, many, count, t);
                });
    // g = factor (o − ô), with ‖o − ô‖² and (o − ô)·o beside.
    const auto factor = static_cast<float>(-2 * settings_.output_weight / seen);
    const float* const inverse = batch_->inverse_length.data() + first;
    for (index_t i = 0; i < count; ++i) factors_[i] = factor * (inverse[i] * inverse[i]);
    simd::scaled_residuals(output, error_.data(), count, width, count, factors_.data(),
                           squares_.data(), along_.data());
    double sum = 0;
    for (index_t i = 0; i < count; ++i) {
      pull_[i] -= factors_[i] * (along_[i] - squares_[i]);
      sum += static_cast<double>(inverse[i] * inverse[i] * squares_[i]);
    }
    over_rows(operations(count, width), [&](index_t from, index_t many) noexcept {
      simd::multiply({values_.data() + from * width, width, 1}, {error_.data(), count},
                     {slope_.data() + from * count, count}, many, count, width);
    });
    return sum;
  }

  /// ∂J/∂c_l of a panel, which `output_slope` has just read, onto the columns that are c_l.
  void add_value_slope(const float* x, index_t count, matrix& keys_gradient) {
    const index_t width = original_.cols();
    simd::transpose_scaled(error_.data(), count, ones_.data(), count, width, error_down_.data(),
                           width);
    simd::multiply({x, count, 1}, {error_down_.data(), width},
                   {keys_gradient.data() + *settings_.tied_from, keys_gradient.cols()}, rows(),
                   width, count, simd::product_mode::add);
  }

  objective_settings settings_;
  const matrix& original_;
  executor_ref threads_;
  const refine_batch* batch_ = nullptr;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit
