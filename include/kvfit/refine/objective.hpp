// SPDX-License-Identifier: MIT
/// What refinement lowers, with its gradient: errors of output and mass over compact keys and
/// biases, values fitted anew at every point.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/linalg/detail/solver_bytes.hpp"
#include "kvfit/linalg/solve_positive_definite.hpp"
#include "kvfit/refine/batch.hpp"
#include "kvfit/simd/accumulate.hpp"
#include "kvfit/simd/product.hpp"
#include "kvfit/simd/residuals.hpp"
#include "kvfit/simd/softmax.hpp"
#include "kvfit/simd/transpose.hpp"

namespace kvfit::inline KVFIT_ISA {

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
template <class = void>
class attention_objective {
 public:
  /// `original`: C₀, t × d_v (where values are tied, its size alone counts). It and every batch
  /// must outlive this.
  attention_objective(const objective_settings& settings, const matrix& original)
      : settings_(settings), original_(original) {}

  void use(const refine_batch& batch) {
    batch_ = &batch;
    weights_.resize(original_.rows() * batch.log_mass.size());
    if (settings_.soft_cap > 0) slopes_.resize(weights_.size());
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

  template <class Body>
  void for_panels(Body body) const {
    const index_t n = batch_->log_mass.size();
    for (index_t first = 0; first < n; first += refine_panel) {
      body(first, std::min(refine_panel, n - first));
    }
  }

  [[nodiscard]] index_t rows() const noexcept { return original_.rows(); }
  /// The weights of a panel: rows() × count, rows `count` apart.
  [[nodiscard]] float* weights(index_t first) noexcept { return weights_.data() + first * rows(); }

  /// X and M.
  void attend(const matrix& keys, const vector& bias) {
    relative_mass_.resize(batch_->log_mass.size());
    for_panels([&](index_t first, index_t count) {
      float* x = weights(first);
      simd::multiply({keys.data(), keys.cols(), 1},
                     {batch_->queries_across.data() + first * keys.cols(), count}, {x, count},
                     rows(), count, keys.cols());
      if (settings_.soft_cap > 0) cap(x, slopes_.data() + first * rows(), count);
      for (index_t l = 0; l < rows(); ++l) {
        float* row = x + l * count;
        if (batch_->added_across.size() > 0) {
          Eigen::Map<Eigen::RowVectorXf>(row, count) +=
              batch_->added_across.row(l).segment(first, count);
        }
        simd::scale_and_add(row, 1, bias[l], count);
      }
      mass_.assign(static_cast<std::size_t>(count), 0);
      simd::exp_shifted_columns(x, count, rows(), count, batch_->log_mass.data() + first,
                                mass_.data());
      shares_.resize(count);
      for (index_t i = 0; i < count; ++i) {
        const double sum = mass_[static_cast<std::size_t>(i)];
        relative_mass_[first + i] = sum;
        shares_[i] = sum > 0 ? static_cast<float>(1 / sum) : 0.0F;
      }
      for (index_t l = 0; l < rows(); ++l)
        simd::multiply_each(x + l * count, shares_.data(), count);
    });
  }

  /// Logits to capped ones; `slopes` gets the derivative.
  void cap(float* x, float* slopes, index_t count) const {
    const float inverse = 1 / settings_.soft_cap;
    for (index_t k = 0; k < rows() * count; ++k) {
      const float bent = std::tanh(x[k] * inverse);
      x[k] = settings_.soft_cap * bent;
      slopes[k] = 1 - bent * bent;
    }
  }

  /// C, fitted or read; false where it is not finite.
  bool set_values(const matrix& keys) {
    if (!settings_.tied_from) return fit_values();
    values_ = keys.middleCols(*settings_.tied_from, original_.cols());
    return values_.allFinite();
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
      const double lambda = share * ridge + std::numeric_limits<double>::min();
      system_ = moments_;
      system_.rightCols(width) += lambda * original_.cast<double>();
      system_.diagonal().array() += lambda;
      if (!linalg::solve_positive_definite(system_, moments_.cols() - width, width)) continue;
      values_ = system_.rightCols(width).cast<float>();
      return values_.allFinite();
    }
    return false;
  }

  /// X F² Xᵀ (its upper triangle), rounded up to whole registers, and X F² O beside it.
  void sum_moments() {
    const index_t t = rows();
    const index_t width = original_.cols();
    const auto whole = [](index_t x) { return x / simd::lanes * simd::lanes; };
    const index_t square = whole(t + simd::lanes - 1);
    const index_t columns = square + width;
    moments_.setZero(t, columns);
    sums_.resize(t, columns);
    weighted_.setZero(refine_panel, square);
    constexpr index_t fold = 4;  // panels summed in fp32
    const index_t n = batch_->log_mass.size();
    for_panels([&](index_t first, index_t count) {
      const float* x = weights(first);
      factors_ = batch_->inverse_length.segment(first, count).cwiseAbs2();
      simd::transpose_scaled(x, count, factors_.data(), count, t, weighted_.data(), square);
      const index_t place = first / refine_panel % fold;
      const auto mode = place == 0 ? simd::product_mode::assign : simd::product_mode::add;
      simd::multiply({x, count, 1}, {batch_->weighted_output.row(first).data(), width},
                     {sums_.data() + square, columns}, t, width, count, mode);
      constexpr index_t strip = 24;
      for (index_t top = 0; top < t; top += strip) {
        const index_t from = whole(top);
        simd::multiply({x + top * count, count, 1}, {weighted_.data() + from, square},
                       {sums_.row(top).data() + from, columns}, std::min(strip, t - top),
                       square - from, count, mode);
      }
      if (place == fold - 1 || first + count == n) {
        for (index_t l = 0; l < t; ++l) {
          const index_t from = whole(l / strip * strip);
          moments_.row(l).tail(columns - from) += sums_.row(l).tail(columns - from).cast<double>();
        }
      }
    });
  }

  objective_value differentiate(matrix& keys_gradient, vector& bias_gradient) {
    const index_t t = rows();
    const index_t depth = batch_->queries.cols();
    const double seen = std::max(1.0, static_cast<double>(batch_->sees.sum()));
    keys_gradient.setZero(t, depth);
    bias_gradient.setZero(t);
    objective_value value;
    value.total = 0;
    for_panels([&](index_t first, index_t count) {
      const float* x = weights(first);
      pull_.setZero(count);
      slope_.setZero(t, count);
      if (has_output()) {
        value.output += output_slope(x, first, count, seen);
        if (settings_.tied_from) add_value_slope(x, count, keys_gradient);
      }
      for (index_t i = 0; i < count; ++i) {
        const double sees = batch_->sees[first + i];
        const double missing = relative_mass_[first + i] - 1;
        const double soft = settings_.mass_softness;
        const double root = std::sqrt(missing * missing + soft * soft);
        value.mass += sees * (root - soft);
        pull_[i] += static_cast<float>(settings_.mass_weight * sees * missing / root *
                                       relative_mass_[first + i] / seen);
      }
      for (index_t l = 0; l < t; ++l) {
        auto row = slope_.row(l).array();
        row = (row + pull_.transpose().array()) *
              Eigen::Map<const Eigen::RowVectorXf>(x + l * count, count).array();
        bias_gradient[l] += row.sum();
        if (settings_.soft_cap > 0) {
          row *= Eigen::Map<const Eigen::RowVectorXf>(slopes_.data() + first * t + l * count, count)
                     .array();
        }
      }
      simd::multiply({slope_.data(), count, 1}, {batch_->queries.data() + first * depth, depth},
                     {keys_gradient.data(), depth}, t, depth, count, simd::product_mode::add);
    });
    value.output /= seen;
    value.mass /= seen;
    value.total = settings_.output_weight * value.output + settings_.mass_weight * value.mass;
    return value;
  }

  /// A panel's share of the output error; the errors' slopes along the logits, before they are
  /// weighted by X, go to `slope_` (by key) and `pull_` (the same for all keys).
  double output_slope(const float* x, index_t first, index_t count, double seen) {
    const index_t t = rows();
    const index_t width = original_.cols();
    const float* output = batch_->output_across.data() + first * width;
    error_.resize(width, count);
    simd::multiply({values_.data(), 1, width}, {x, count}, {error_.data(), count}, width, count, t);
    // g = factor (o − ô), with ‖o − ô‖² and (o − ô)·o beside.
    const auto weights = batch_->inverse_length.segment(first, count).cwiseAbs2();
    factors_ = static_cast<float>(-2 * settings_.output_weight / seen) * weights;
    squares_.resize(count);
    along_.resize(count);
    simd::scaled_residuals(output, error_.data(), count, width, count, factors_.data(),
                           squares_.data(), along_.data());
    pull_.array() -= factors_.array() * (along_ - squares_).array();
    const double sum = weights.cwiseProduct(squares_).template cast<double>().sum();
    simd::multiply({values_.data(), width, 1}, {error_.data(), count}, {slope_.data(), count}, t,
                   count, width);
    return sum;
  }

  /// ∂J/∂c_l of a panel, which `output_slope` has just looked at, onto the columns that are c_l.
  void add_value_slope(const float* x, index_t count, matrix& keys_gradient) {
    const index_t width = original_.cols();
    error_down_ = error_.transpose();
    simd::multiply({x, count, 1}, {error_down_.data(), width},
                   {keys_gradient.data() + *settings_.tied_from, keys_gradient.cols()}, rows(),
                   width, count, simd::product_mode::add);
  }

  objective_settings settings_;
  const matrix& original_;
  const refine_batch* batch_ = nullptr;
  vector weights_;  // X, panel by panel
  vector slopes_;   // of the soft-cap
  Eigen::VectorXd relative_mass_;
  std::vector<double> mass_;
  vector shares_;
  matrix weighted_;
  matrix sums_;
  double_matrix moments_;
  double_matrix system_;
  matrix values_;
  matrix error_;       // o − ô, then g; queries across
  matrix error_down_;  // g, queries down
  vector factors_;
  vector squares_;
  vector along_;
  vector pull_;
  matrix slope_;
};

/// Bytes of an `attention_objective` on batches of `taken` queries.
inline double objective_bytes(const head_sizes& sizes, index_t taken, bool is_capped,
                              bool is_tied) noexcept {
  const index_t t = sizes.budget;
  if (is_tied) {
    return float_bytes(is_capped ? 2 : 1, t, taken) + double_bytes(taken) +
           float_bytes(refine_panel, 2 * sizes.width + t + 8) + float_bytes(t, sizes.width);
  }
  const index_t square = t + simd::lanes;
  const index_t columns = square + sizes.width;
  return float_bytes(is_capped ? 2 : 1, t, taken) + double_bytes(taken) +
         float_bytes(refine_panel, square + sizes.width + t + 8) + float_bytes(t, columns) +
         double_bytes(2, t, columns) + float_bytes(t, sizes.width) +
         linalg::detail::triangular_bytes(t, std::max(t, sizes.width));
}

}  // namespace kvfit::inline KVFIT_ISA
