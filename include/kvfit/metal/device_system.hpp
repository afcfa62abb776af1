// SPDX-License-Identifier: MIT
/// A least-squares problem on the GPU: its Gram matrix in fp32, the Cholesky factor, and solves.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>

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
  /// Copies X twice (once transposed) and Y. Holds 8 (n + t) (t + m) bytes.
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
        for (index_t i = top; i < (std::min)(top + block, n); ++i) {
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

  /// After `factor_and_solve`: the least share of a column's square that the columns before it
  /// leave unexplained.
  [[nodiscard]] double smallest_pivot() const {
    double least = 1;
    for (index_t j = 0; j < t_; ++j) {
      const auto pivot = static_cast<double>(factor_.as<float>()[j * t_ + j]);
      least = (std::min)(least, pivot * pivot / static_cast<double>(gram()[j * t_ + j]));
    }
    return least;
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

}  // namespace KVFIT_ISA
}  // namespace kvfit::metal
