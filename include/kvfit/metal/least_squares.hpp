// SPDX-License-Identifier: MIT
/// Least squares on the GPU by the Gram matrix in fp32, its Cholesky factor, and corrections.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/metal/attention_parts.hpp"
#include "kvfit/metal/batch.hpp"
#include "kvfit/metal/kernels/shared/factor_arguments.h"
#include "kvfit/metal/kernels/shared/product_arguments.h"

namespace kvfit::metal {

/// Columns that a factor takes at most; more belong to the CPU.
inline constexpr index_t largest_factor = 4096;

}  // namespace kvfit::metal

namespace kvfit::metal {
inline namespace KVFIT_ISA {

/// X (n × t) and Y (n × m) on the GPU, and what is made of them. The caller guards the device.
class device_system {
 public:
  /// Copies X twice (once transposed) and Y. Holds 8 n · t + 8 t² + 12 n · m bytes.
  static result<device_system> make(device& on, const matrix& x, const matrix& y) {
    device_system out(x.rows(), x.cols(), y.cols());
    struct wanted {
      buffer* to;
      index_t numbers;
    };
    const index_t n = out.n_;
    const index_t t = out.t_;
    const index_t m = out.m_;
    for (const wanted& one :
         {wanted{&out.rows_, n * t}, wanted{&out.columns_, n * t}, wanted{&out.target_, n * m},
          wanted{&out.missing_, n * m}, wanted{&out.gram_, t * t}, wanted{&out.factor_, t * t},
          wanted{&out.right_, t * m}, wanted{&out.found_, t * m}, wanted{&out.failed_, 1}}) {
      auto made = allocate_elements<float>(on, one.numbers);
      if (!made) return made.error();
      *one.to = std::move(*made);
    }
    std::copy_n(x.data(), n * t, out.rows_.as<float>());
    std::copy_n(y.data(), n * m, out.target_.as<float>());
    float* const columns = out.columns_.as<float>();
    constexpr index_t block = 32;
    for (index_t top = 0; top < n; top += block) {
      for (index_t j = 0; j < t; ++j) {
        for (index_t i = top; i < std::min(top + block, n); ++i) {
          columns[j * n + i] = x.data()[i * t + j];
        }
      }
    }
    return out;
  }

  /// XᵀX and XᵀY, in fp32 with runs of 128 products.
  result<void> form(device& on) {
    batch commands(on);
    if (const auto ok = add_gram(on, commands); !ok) return ok;
    if (const auto ok = add_moments(on, commands, target_); !ok) return ok;
    return commands.run();
  }
  /// After `form`: t × t.
  [[nodiscard]] const float* gram() const { return gram_.as<float>(); }
  /// After `form` t × m: XᵀY; after `solve`, what was solved for.
  [[nodiscard]] const float* right() const { return right_.as<float>(); }

  /// After `form`: G = L Lᵀ, and with it G C = XᵀY in place of XᵀY. False where a pivot is not
  /// above 0: then L and C mean nothing.
  result<bool> factor_and_solve(device& on) {
    std::memcpy(factor_.as<float>(), gram(), static_cast<std::size_t>(t_ * t_) * sizeof(float));
    *failed_.as<std::int32_t>() = -1;
    batch commands(on);
    if (const auto ok = add_factor(on, commands); !ok) return ok.error();
    if (const auto ok = add_solve(on, commands); !ok) return ok.error();
    if (const auto ok = commands.run(); !ok) return ok.error();
    return *failed_.as<std::int32_t>() < 0;
  }

  /// After `factor_and_solve`: what `right()` is to be corrected by where C (t × m) is what it
  /// stands at: G⁻¹ Xᵀ(Y − X C), the residual in fp32.
  result<void> correct(device& on, const matrix& c) {
    std::copy_n(c.data(), t_ * m_, found_.as<float>());
    std::memcpy(missing_.as<float>(), target_.as<float>(),
                static_cast<std::size_t>(n_ * m_) * sizeof(float));
    batch commands(on);
    kernels::product_arguments arguments{};
    arguments.left_row_stride = t_;
    arguments.right_row_stride = m_;
    arguments.out_row_stride = m_;
    arguments.rows = static_cast<std::int32_t>(n_);
    arguments.cols = static_cast<std::int32_t>(m_);
    arguments.depth = static_cast<std::int32_t>(t_);
    arguments.flags = kernels::product_subtract;
    const auto ok =
        commands.add({"gram", on.tiled("moments")}, arguments, kernels::product_buffer_arguments,
                     {{kernels::product_buffer_left, &rows_},
                      {kernels::product_buffer_right, &found_},
                      {kernels::product_buffer_out, &missing_}},
                     {tiles(m_, kernels::key_tile), tiles(n_, kernels::query_tile), 1});
    if (!ok) return ok;
    commands.next();
    if (const auto made = add_moments(on, commands, missing_); !made) return made;
    commands.next();
    if (const auto solved = add_solve(on, commands); !solved) return solved;
    return commands.run();
  }

 private:
  device_system(index_t n, index_t t, index_t m) : n_(n), t_(t), m_(m) {}

  result<void> add_gram(device& on, batch& to) const {
    kernels::product_arguments arguments{};
    arguments.left_row_stride = n_;
    arguments.out_row_stride = t_;
    arguments.rows = static_cast<std::int32_t>(t_);
    arguments.depth = static_cast<std::int32_t>(n_);
    return to.add(
        {"gram", on.tiled("gram")}, arguments, kernels::product_buffer_arguments,
        {{kernels::product_buffer_left, &columns_}, {kernels::product_buffer_out, &gram_}},
        {tiles(t_, kernels::key_tile), tiles(t_, kernels::query_tile), 1});
  }

  /// right = Xᵀ `of`.
  result<void> add_moments(device& on, batch& to, const buffer& of) const {
    kernels::product_arguments arguments{};
    arguments.left_row_stride = n_;
    arguments.right_row_stride = m_;
    arguments.out_row_stride = m_;
    arguments.rows = static_cast<std::int32_t>(t_);
    arguments.cols = static_cast<std::int32_t>(m_);
    arguments.depth = static_cast<std::int32_t>(n_);
    return to.add({"gram", on.tiled("moments")}, arguments, kernels::product_buffer_arguments,
                  {{kernels::product_buffer_left, &columns_},
                   {kernels::product_buffer_right, &of},
                   {kernels::product_buffer_out, &right_}},
                  {tiles(m_, kernels::key_tile), tiles(t_, kernels::query_tile), 1});
  }

  /// One kernel of cholesky.metal for the block of columns from `first` on.
  result<void> add_step(batch& to, std::string name, index_t first,
                        const group_grid& groups) const {
    if (groups.x <= 0 || groups.y <= 0 || groups.z <= 0) return {};
    kernels::factor_arguments arguments{};
    arguments.matrix_row_stride = t_;
    arguments.right_row_stride = m_;
    arguments.size = static_cast<std::int32_t>(t_);
    arguments.cols = static_cast<std::int32_t>(m_);
    const auto set = to.set_number(static_cast<std::int32_t>(first), kernels::factor_buffer_first);
    if (!set) return set;
    const auto ok =
        to.add({"cholesky", std::move(name)}, arguments, kernels::factor_buffer_arguments,
               {{kernels::factor_buffer_matrix, &factor_},
                {kernels::factor_buffer_right, &right_},
                {kernels::factor_buffer_failed, &failed_}},
               groups);
    to.next();
    return ok;
  }

  result<void> add_factor(device& on, batch& to) const {
    constexpr index_t block = kernels::factor_block_size;
    for (index_t first = 0; first < t_; first += block) {
      const index_t below = t_ - first - block;
      if (const auto ok = add_step(to, "factor_block", first, {}); !ok) return ok;
      const auto panel = add_step(to, "solve_panel", first,
                                  {tiles(std::max<index_t>(below, 0), kernels::group_threads)});
      if (!panel) return panel;
      if (below <= 0) break;
      const auto rest =
          add_step(to, on.tiled("update_trailing"), first,
                   {tiles(below, kernels::key_tile), tiles(below, kernels::query_tile), 1});
      if (!rest) return rest;
    }
    return {};
  }

  /// G C = right, in its place.
  result<void> add_solve(device& on, batch& to) const {
    constexpr index_t block = kernels::factor_block_size;
    const index_t across = tiles(m_, kernels::group_threads);
    for (index_t first = 0; first < t_; first += block) {
      if (const auto ok = add_step(to, "solve_lower_block", first, {across}); !ok) return ok;
      const index_t below = std::max<index_t>(t_ - first - block, 0);
      const auto rest =
          add_step(to, on.tiled("update_below"), first,
                   {tiles(m_, kernels::key_tile), tiles(below, kernels::query_tile), 1});
      if (!rest) return rest;
    }
    for (index_t first = (t_ - 1) / block * block; first >= 0; first -= block) {
      if (const auto ok = add_step(to, "solve_upper_block", first, {across}); !ok) return ok;
      const auto rest =
          add_step(to, on.tiled("update_above"), first,
                   {tiles(m_, kernels::key_tile), tiles(first, kernels::query_tile), 1});
      if (!rest) return rest;
    }
    return {};
  }

  index_t n_;
  index_t t_;
  index_t m_;
  buffer rows_;
  buffer columns_;
  buffer target_;
  buffer missing_;
  buffer gram_;
  buffer factor_;
  buffer right_;
  buffer found_;
  buffer failed_;
};

/// C = argmin ‖X C − Y‖ and the Gram matrix it was found by.
struct device_solution {
  matrix coefficients;  ///< t × m
  matrix gram;          ///< t × t
};

/// Least squares for n ≥ t, t ≤ `largest_factor`, of finite numbers. Nothing where the columns of X
/// are too near to dependent for fp32: corrections (Björck 1987) do not fall by four each, or are
/// not below 1e-4 of the answer after six. Waits once for the products, once for the factor and
/// once a correction.
inline result<std::optional<device_solution>> solve_least_squares(device& on, const matrix& x,
                                                                  const matrix& y) {
  auto system = device_system::make(on, x, y);
  if (!system) return system.error();
  if (const auto ok = system->form(on); !ok) return ok.error();
  const auto is_factored = system->factor_and_solve(on);
  if (!is_factored) return is_factored.error();
  if (!*is_factored) return std::optional<device_solution>();
  const index_t t = x.cols();
  const index_t m = y.cols();
  // The length of X C as if columns were orthogonal.
  const auto length_of = [&](const float* c) {
    double sum = 0;
    for (index_t j = 0; j < t; ++j) {
      const auto scale = static_cast<double>(system->gram()[j * t + j]);
      for (index_t k = 0; k < m; ++k) {
        const auto entry = static_cast<double>(c[j * m + k]);
        sum += scale * entry * entry;
      }
    }
    return std::sqrt(sum);
  };
  device_solution out;
  out.coefficients = Eigen::Map<const matrix>(system->right(), t, m);
  double before = 1;
  for (int step = 0; step < 6; ++step) {
    if (const auto ok = system->correct(on, out.coefficients); !ok) return ok.error();
    const double length = length_of(out.coefficients.data());
    const double share = length > 0 ? length_of(system->right()) / length : 0;
    if (!(share < 0.25 * before)) break;
    for (index_t k = 0; k < t * m; ++k) out.coefficients.data()[k] += system->right()[k];
    // What a correction leaves of an error is about its share.
    if (share < (step == 0 ? 3e-3 : 1e-4)) {
      out.gram = Eigen::Map<const matrix>(system->gram(), t, t);
      return std::optional<device_solution>(std::move(out));
    }
    before = share;
  }
  return std::optional<device_solution>();
}

/// Bytes of the device and of the host that `solve_least_squares` holds at most.
inline double solve_least_squares_bytes(index_t n, index_t t, index_t m) noexcept {
  const auto product = [](index_t a, index_t b) {
    return 4.0 * static_cast<double>(a) * static_cast<double>(b);
  };
  return 2 * product(n, t) + 3 * product(t, t) + 2 * product(n, m) + 4 * product(t, m);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::metal
