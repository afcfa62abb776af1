// SPDX-License-Identifier: MIT
#include <cmath>
#include <string>
#include <vector>

#include "kvfit/metal/kernels/shared/factor_arguments.h"
#include "kvfit/metal/kernels/shared/product_arguments.h"
#include "metal/kernels/attention_runs.hpp"
#include "support/catch.hpp"

namespace {

using namespace kernel_tests;

/// A matrix in memory, `gap` numbers between its rows, which are NaN.
buffer in_memory(const matrix& from, std::int64_t gap) {
  const std::int64_t stride = from.cols + gap;
  buffer out(static_cast<std::size_t>(4 * stride * from.rows));
  for (float& x : out.as<float>()) x = std::numeric_limits<float>::quiet_NaN();
  for (int i = 0; i < from.rows; ++i) {
    for (int j = 0; j < from.cols; ++j) put(out, dtype::fp32, stride * i + j, from(i, j));
  }
  return out;
}

matrix from_memory(buffer& from, int rows, int cols, std::int64_t gap) {
  matrix out(rows, cols);
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < cols; ++j) {
      out(i, j) =
          static_cast<double>(from.as<float>()[static_cast<std::size_t>((cols + gap) * i + j)]);
    }
  }
  return out;
}

std::vector<float> some_factors(int count) {
  std::vector<float> out;
  for (int k = 0; k < count; ++k) out.push_back(0.5F + 0.25F * static_cast<float>(k % 5));
  return out;
}

void check_gram(int rows, int depth, bool is_scaled) {
  INFO(rows << " columns of " << depth << (is_scaled ? ", scaled" : ""));
  std::mt19937 draw(5);
  const matrix a = random_matrix(draw, rows, depth);
  const std::vector<float> factors = some_factors(depth);
  buffer left = in_memory(a, 3);
  buffer factor_memory = buffer::of(factors);
  for (const std::string& kind : both_tiles) {
    buffer out = buffer::output<float>(static_cast<std::size_t>(rows * (rows + 2)));
    kernels::product_arguments rule{};
    rule.left_row_stride = depth + 3;
    rule.out_row_stride = rows + 2;
    rule.rows = rows;
    rule.depth = depth;
    rule.flags = is_scaled ? kernels::product_scaled : 0U;
    call kernel("gram" + kind);
    kernel.memory(kernels::product_buffer_left, left)
        .memory(kernels::product_buffer_factors, factor_memory)
        .memory(kernels::product_buffer_out, out)
        .bytes(kernels::product_buffer_arguments, rule);
    const outcome run = kernel.groups(
        {tiles(rows, kernels::key_tile), tiles(rows, kernels::query_tile), 1}, {threads, 1, 1});
    checked(run);
    // Tiles that touch the lower triangle read their rows and their columns once.
    std::uint64_t read = 0;
    for (int row = 0; row < rows; row += kernels::query_tile) {
      for (int col = 0; col <= std::min(row + kernels::query_tile, rows) - 1;
           col += kernels::key_tile) {
        read += static_cast<std::uint64_t>(std::min(kernels::query_tile, rows - row) +
                                           std::min(kernels::key_tile, rows - col));
      }
    }
    CHECK(run.cost.buffers.at(kernels::product_buffer_left).loaded_bytes ==
          read * static_cast<std::uint64_t>(depth) * 4);
    CHECK(run.cost.buffers.at(kernels::product_buffer_out).stored_bytes ==
          static_cast<std::uint64_t>(rows * rows) * 4);

    const matrix got = from_memory(out, rows, rows, 2);
    for (int i = 0; i < rows; ++i) {
      for (int j = 0; j < rows; ++j) {
        double want = 0;
        double size_i = 0;
        double size_j = 0;
        for (int k = 0; k < depth; ++k) {
          const double f =
              is_scaled ? static_cast<double>(factors[static_cast<std::size_t>(k)]) : 1.0;
          want += a(i, k) * a(j, k) * f * f;
          size_i += a(i, k) * a(i, k) * f * f;
          size_j += a(j, k) * a(j, k) * f * f;
        }
        CHECK(std::abs(got(i, j) - want) <= 2e-6 * std::sqrt(size_i * size_j));
        CHECK(got(i, j) == got(j, i));
      }
    }
  }
}

TEST_CASE("gram equals the oracle at odd sizes, with and without factors", "[metal][gram]") {
  for (const bool is_scaled : {false, true}) {
    check_gram(1, 1, is_scaled);
    check_gram(33, 20, is_scaled);
    check_gram(65, 131, is_scaled);
    check_gram(97, 300, is_scaled);
  }
}

TEST_CASE("gram: sums of many terms keep fp32's digits", "[metal][gram]") {
  check_gram(3, 20000, false);
}

void check_moments(int rows, int cols, int depth, std::uint32_t flags) {
  INFO(rows << " x " << cols << " of " << depth << ", flags " << flags);
  std::mt19937 draw(6);
  const matrix a = random_matrix(draw, rows, depth);
  const matrix b = random_matrix(draw, depth, cols);
  const matrix c = random_matrix(draw, rows, cols);
  const std::vector<float> factors = some_factors(depth);
  buffer left = in_memory(a, 1);
  buffer right = in_memory(b, 2);
  buffer factor_memory = buffer::of(factors);
  for (const std::string& kind : both_tiles) {
    buffer out = in_memory(c, 5);
    kernels::product_arguments rule{};
    rule.left_row_stride = depth + 1;
    rule.right_row_stride = cols + 2;
    rule.out_row_stride = cols + 5;
    rule.rows = rows;
    rule.cols = cols;
    rule.depth = depth;
    rule.flags = flags;
    call kernel("moments" + kind);
    kernel.memory(kernels::product_buffer_left, left)
        .memory(kernels::product_buffer_right, right)
        .memory(kernels::product_buffer_factors, factor_memory)
        .memory(kernels::product_buffer_out, out)
        .bytes(kernels::product_buffer_arguments, rule);
    const outcome run = kernel.groups(
        {tiles(cols, kernels::key_tile), tiles(rows, kernels::query_tile), 1}, {threads, 1, 1});
    checked(run);
    CHECK(run.cost.buffers.at(kernels::product_buffer_left).loaded_bytes ==
          tiles(cols, kernels::key_tile) * static_cast<std::uint64_t>(rows * depth) * 4);
    CHECK(run.cost.buffers.at(kernels::product_buffer_right).loaded_bytes ==
          tiles(rows, kernels::query_tile) * static_cast<std::uint64_t>(depth * cols) * 4);
    CHECK(run.cost.buffers.at(kernels::product_buffer_out).stored_bytes ==
          static_cast<std::uint64_t>(rows * cols) * 4);

    const matrix got = from_memory(out, rows, cols, 5);
    for (int i = 0; i < rows; ++i) {
      for (int j = 0; j < cols; ++j) {
        double want = 0;
        double size = 1;
        for (int k = 0; k < depth; ++k) {
          const double f = (flags & kernels::product_scaled) != 0
                               ? static_cast<double>(factors[static_cast<std::size_t>(k)])
                               : 1.0;
          want += a(i, k) * b(k, j) * f * f;
          size += std::abs(a(i, k) * b(k, j) * f * f);
        }
        if ((flags & kernels::product_subtract) != 0) want = c(i, j) - want;
        CHECK(std::abs(got(i, j) - want) <= 2e-6 * size);
      }
    }
  }
}

TEST_CASE("moments equal the oracle at odd sizes, assigned and subtracted", "[metal][gram]") {
  for (const std::uint32_t flags : {0U, kernels::product_scaled, kernels::product_subtract}) {
    check_moments(1, 1, 1, flags);
    check_moments(33, 17, 40, flags);
    check_moments(40, 129, 65, flags);
    check_moments(7, 3, 500, flags);
  }
}

// ---- Cholesky
// -------------------------------------------------------------------------------------

struct factored {
  matrix factor;  ///< lower triangle
  matrix below;   ///< L⁻¹ B
  matrix solved;  ///< (L Lᵀ)⁻¹ B
  int failed = -1;
};

/// A + ridge I = L Lᵀ and both solves, step by step as the host dispatches them.
factored run_factor(const matrix& a, const matrix& b, float ridge, const std::string& kind,
                    const order& how = {}) {
  const int t = a.rows;
  buffer memory = in_memory(a, 3);
  buffer right = in_memory(b, 1);
  buffer failed = buffer::of(std::vector<std::int32_t>{-1});
  kernels::factor_arguments rule{};
  rule.matrix_row_stride = t + 3;
  rule.right_row_stride = b.cols + 1;
  rule.size = t;
  rule.cols = b.cols;
  rule.ridge = ridge;
  const auto step = [&](const std::string& name, int first, std::uint32_t x, std::uint32_t y,
                        bool has_right) {
    if (x == 0 || y == 0) return;
    const bool is_tiled = name.rfind("update", 0) == 0;
    call kernel(is_tiled ? name + kind : name);
    kernel.memory(kernels::factor_buffer_matrix, memory)
        .memory(kernels::factor_buffer_failed, failed)
        .bytes(kernels::factor_buffer_arguments, rule)
        .bytes(kernels::factor_buffer_first, std::int32_t{first});
    if (has_right) kernel.memory(kernels::factor_buffer_right, right);
    checked(kernel.groups({x, y, 1}, {threads, 1, 1}, how));
  };
  constexpr int block = kernels::factor_block_size;
  for (int first = 0; first < t; first += block) {
    const int below = std::max(t - first - block, 0);
    step("factor_block", first, 1, 1, false);
    step("solve_panel", first, tiles(below, kernels::group_threads), 1, false);
    step("update_trailing", first, tiles(below, kernels::key_tile),
         tiles(below, kernels::query_tile), false);
  }
  factored out;
  const std::uint32_t column_tiles = tiles(b.cols, kernels::key_tile);
  for (int first = 0; first < t; first += block) {
    const int below = std::max(t - first - block, 0);
    step("solve_lower_block", first, tiles(b.cols, kernels::group_threads), 1, true);
    step("update_below", first, column_tiles, tiles(below, kernels::query_tile), true);
  }
  out.below = from_memory(right, t, b.cols, 1);
  for (int first = (t - 1) / block * block; first >= 0; first -= block) {
    step("solve_upper_block", first, tiles(b.cols, kernels::group_threads), 1, true);
    step("update_above", first, column_tiles, tiles(first, kernels::query_tile), true);
  }
  out.solved = from_memory(right, t, b.cols, 1);
  out.factor = from_memory(memory, t, t, 3);
  out.failed = failed.as<std::int32_t>()[0];
  return out;
}

/// Mᵀ M / n, well conditioned: every number of it is an fp32 number.
matrix positive_definite(int t) {
  std::mt19937 draw(8);
  const matrix m = random_matrix(draw, 3 * t + 5, t);
  matrix out(t, t);
  for (int i = 0; i < t; ++i) {
    for (int j = 0; j <= i; ++j) {
      double sum = 0;
      for (int k = 0; k < m.rows; ++k) sum += m(k, i) * m(k, j);
      out(i, j) = out(j, i) = stored(sum / m.rows, dtype::fp32);
    }
  }
  return out;
}

void check_factor(int t, int cols, float ridge) {
  INFO("t = " << t << ", " << cols << " right sides, ridge " << ridge);
  const matrix a = positive_definite(t);
  std::mt19937 draw(9);
  const matrix b = random_matrix(draw, t, cols);
  matrix truth(t, t);
  for (int j = 0; j < t; ++j) {
    for (int i = j; i < t; ++i) {
      double sum = a(i, j) + (i == j ? static_cast<double>(ridge) : 0.0);
      for (int k = 0; k < j; ++k) sum -= truth(i, k) * truth(j, k);
      truth(i, j) = i == j ? std::sqrt(sum) : sum / truth(j, j);
    }
  }
  matrix solved = b;
  matrix below(t, cols);
  for (int c = 0; c < cols; ++c) {
    for (int i = 0; i < t; ++i) {
      for (int k = 0; k < i; ++k) solved(i, c) -= truth(i, k) * solved(k, c);
      below(i, c) = solved(i, c) /= truth(i, i);
    }
    for (int i = t - 1; i >= 0; --i) {
      for (int k = i + 1; k < t; ++k) solved(i, c) -= truth(k, i) * solved(k, c);
      solved(i, c) /= truth(i, i);
    }
  }
  for (const std::string& kind : both_tiles) {
    const factored got = run_factor(a, b, ridge, kind);
    CHECK(got.failed == -1);
    for (int i = 0; i < t; ++i) {
      for (int j = 0; j < t; ++j) {
        if (j > i) {
          CHECK(got.factor(i, j) == a(i, j));  // not touched
        } else {
          CHECK(std::abs(got.factor(i, j) - truth(i, j)) <= 1e-5);
        }
      }
      for (int c = 0; c < cols; ++c) {
        CHECK(std::abs(got.below(i, c) - below(i, c)) <= 1e-4);
        CHECK(std::abs(got.solved(i, c) - solved(i, c)) <= 1e-4 * (1 + std::abs(solved(i, c))));
      }
    }
  }
}

TEST_CASE("Cholesky factors and triangular solves equal the oracle at odd sizes",
          "[metal][cholesky]") {
  check_factor(1, 1, 0);
  check_factor(31, 3, 0);
  check_factor(32, 1, 0);
  check_factor(33, 70, 0);
  check_factor(100, 130, 0);
  check_factor(165, 2, 0.25F);
}

TEST_CASE("Cholesky: the first pivot that is not above 0 ends it, and names its column",
          "[metal][cholesky]") {
  for (const std::string& kind : both_tiles) {
    const matrix right(70, 2, 1.0);
    matrix a = positive_definite(70);
    a(40, 40) = -1;
    CHECK(run_factor(a, right, 0, kind).failed == 40);
    a(5, 5) = std::numeric_limits<double>::quiet_NaN();
    const factored got = run_factor(a, right, 0, kind);
    CHECK(got.failed == 5);
    for (const double x : got.solved.numbers) CHECK(x == 1);  // nothing was solved
    a(5, 5) = infinity;
    CHECK(run_factor(a, right, 0, kind).failed == 5);
    CHECK(run_factor(matrix(3, 3), matrix(3, 1), 0, kind).failed == 0);
    CHECK(run_factor(matrix(3, 3), matrix(3, 1), 1, kind).failed == -1);
  }
}

TEST_CASE("Cholesky gives the same bytes in any order of threads", "[metal][cholesky]") {
  const matrix a = positive_definite(75);
  std::mt19937 draw(9);
  const matrix b = random_matrix(draw, 75, 5);
  for (const std::string& kind : both_tiles) {
    const factored first = run_factor(a, b, 0, kind);
    for (const order& how : metal_emulator::orders()) {
      const factored again = run_factor(a, b, 0, kind, how);
      CHECK((again.factor.numbers == first.factor.numbers));
      CHECK((again.solved.numbers == first.solved.numbers));
    }
  }
}

}  // namespace
