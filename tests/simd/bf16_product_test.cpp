// SPDX-License-Identifier: MIT
#include "kvfit/simd/bf16_product.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "support/catch.hpp"

namespace {

using kvfit::index_t;
using kvfit::simd::pairs_of;
using kvfit::simd::product_mode;
using words = std::vector<std::uint32_t>;
using doubles = std::vector<double>;

float even_of(std::uint32_t word) {
  return std::bit_cast<float>(word << 16U);
}
float odd_of(std::uint32_t word) {
  return std::bit_cast<float>(word & 0xffff0000U);
}
std::size_t at(index_t i) {
  return static_cast<std::size_t>(i);
}

std::vector<float> draw_floats(index_t count, unsigned seed, float spread = 1) {
  std::mt19937_64 bits(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> out(at(count));
  for (float& x : out) x = normal(bits);
  return out;
}

/// What packing promises of one number: nearest bf16, to even; the largest one beyond it.
float nearest_bf16(float x) {
  constexpr float largest = 0x1.fep127F;
  if (std::isnan(x)) return x;
  if (std::abs(x) >= largest) return std::copysign(largest, x);
  const double size = std::max(std::ilogb(x), -126);
  const double unit = std::ldexp(1.0, static_cast<int>(size) - 7);
  return static_cast<float>(std::nearbyint(static_cast<double>(x) / unit) * unit);
}

doubles rounded(const std::vector<float>& x) {
  doubles out;
  for (const float number : x) out.push_back(static_cast<double>(nearest_bf16(number)));
  return out;
}

bool is_packed(float packed, float x) {
  if (std::isnan(x)) return std::isnan(packed);
  if (std::abs(x) < 0x1p-126F && packed == 0) return true;
  return packed == nearest_bf16(x);
}

/// Eight tiles as the manual describes them, so that the loops around them run on any machine. It
/// counts what would be undefined: tiles used before their shapes, memory beyond a row.
struct imagined_tiles {
  static inline std::array<std::array<std::uint32_t, 256>, 8> registers{};
  static inline std::array<std::uint8_t, 64> shapes{};
  static inline int misuses = 0;

  static void configure(const void* table) { std::memcpy(shapes.data(), table, 64); }
  static void release() { shapes = {}; }
  template <int Tile>
  static void see() {
    const auto tile = static_cast<std::size_t>(Tile);
    const bool is_right = shapes[0] == 1 && shapes[16 + 2 * tile] == 64 &&
                          shapes[17 + 2 * tile] == 0 && shapes[48 + tile] == 16;
    if (!is_right) ++misuses;
  }
  template <int Tile>
  static void zero() {
    see<Tile>();
    registers[Tile].fill(0);
  }
  template <int Tile>
  static void load(const void* from, std::size_t stride) {
    see<Tile>();
    for (std::size_t r = 0; r < 16; ++r) {
      std::memcpy(registers[Tile].data() + 16 * r, static_cast<const std::byte*>(from) + r * stride,
                  64);
    }
  }
  template <int Tile>
  static void store(void* to, std::size_t stride) {
    see<Tile>();
    for (std::size_t r = 0; r < 16; ++r) {
      std::memcpy(static_cast<std::byte*>(to) + r * stride, registers[Tile].data() + 16 * r, 64);
    }
  }
  template <int X, int Y>
  static void add() {
    see<4 + X>();
    see<6 + Y>();
    for (std::size_t m = 0; m < 16; ++m) {
      for (std::size_t k = 0; k < 16; ++k) {
        const std::uint32_t a = registers[4 + X][16 * m + k];
        for (std::size_t n = 0; n < 16; ++n) {
          const std::uint32_t b = registers[6 + Y][16 * k + n];
          std::uint32_t& sum = registers[2 * X + Y][16 * m + n];
          float c = std::bit_cast<float>(sum);
          c += even_of(a) * even_of(b);
          c += odd_of(a) * odd_of(b);
          sum = std::bit_cast<std::uint32_t>(c);
        }
      }
    }
  }
};

enum class way { best, floats, tiles };

void multiply_pairs(way how, const kvfit::simd::pair_left_factor& a,
                    const kvfit::simd::pair_row_factor& b, const kvfit::simd::row_target& c,
                    index_t rows, index_t cols, index_t pairs, product_mode mode) {
  using namespace kvfit::simd;
  switch (how) {
    case way::best:
      return pair_multiplier()(a, b, c, rows, cols, pairs, mode);
    case way::floats:
      return detail::multiply_any<detail::widened_pairs>(a, b, c, rows, cols, pairs, mode, {});
    case way::tiles:
      return detail::multiply_by_amx<imagined_tiles>(a, b, c, rows, cols, pairs, mode);
  }
}

/// A product of these sizes, against the same in double: the largest error over its bound. Room
/// around the target must stay as it is.
double check_product(way how, index_t rows, index_t cols, index_t depth, bool is_transposed,
                     product_mode mode) {
  const index_t pairs = pairs_of(depth);
  const auto seed = static_cast<unsigned>(rows * 10007 + cols * 101 + depth);
  const auto a = draw_floats(rows * depth, seed);
  const auto b = draw_floats(depth * cols, seed + 1);
  const doubles exact_a = rounded(a);
  const doubles exact_b = rounded(b);
  // A by rows, or by columns: then its transpose is packed in pairs of rows.
  words left(at(rows * pairs));
  words right(at(pairs * cols));
  std::vector<float> turned(a.size());
  for (index_t i = 0; i < rows; ++i) {
    for (index_t k = 0; k < depth; ++k) turned[at(k * rows + i)] = a[at(i * depth + k)];
  }
  if (is_transposed) {
    kvfit::simd::pack_row_pairs(turned.data(), rows, depth, rows, left.data(), nullptr);
  } else {
    kvfit::simd::pack_rows(a.data(), depth, rows, depth, left.data(), nullptr);
  }
  kvfit::simd::pack_row_pairs(b.data(), cols, depth, cols, right.data(), nullptr);

  const index_t stride = cols + 5;
  const auto before = draw_floats(stride * (rows + 1), seed + 2);
  auto c = before;
  const kvfit::simd::pair_left_factor of_a{left.data(), is_transposed ? 1 : pairs,
                                           is_transposed ? rows : 1};
  multiply_pairs(how, of_a, {right.data(), cols}, {c.data(), stride}, rows, cols, pairs, mode);
  double worst = 0;
  for (index_t i = 0; i <= rows; ++i) {
    for (index_t j = 0; j < stride; ++j) {
      const float found = c[at(i * stride + j)];
      const float old = before[at(i * stride + j)];
      if (i == rows || j >= cols) {
        if (found != old) return std::numeric_limits<double>::infinity();
        continue;
      }
      double sum = mode == product_mode::assign ? 0.0 : static_cast<double>(old);
      double size = std::abs(sum);
      for (index_t k = 0; k < depth; ++k) {
        const double term = exact_a[at(i * depth + k)] * exact_b[at(k * cols + j)];
        sum += term;
        size += std::abs(term);
      }
      const double bound = 4 * static_cast<double>(depth + 1) * 0x1p-24 * size;
      worst = std::max(worst, std::abs(static_cast<double>(found) - sum) / bound);
    }
  }
  return worst;
}

TEST_CASE("numbers are packed in pairs, along rows and across them, with what rounding leaves",
          "[simd][bf16]") {
  constexpr float inf = std::numeric_limits<float>::infinity();
  constexpr float largest = std::numeric_limits<float>::max();
  for (const index_t rows : {1, 2, 5, 6}) {
    for (const index_t cols : {1, 2, 15, 16, 17, 31, 33}) {
      const index_t stride = cols + 3;
      auto x = draw_floats(rows * stride, static_cast<unsigned>(100 * rows + cols), 10);
      const std::vector<float> special = {inf,         -inf,         largest, -largest,
                                          0x1.ffp127F, 0x1p-130F,    -0.0F,   1 + 0x1p-8F,
                                          1 + 0x3p-8F, std::nanf("")};
      for (std::size_t k = 0; k < special.size() && k < x.size(); ++k) {
        x[(7 * k) % x.size()] = special[k];
      }
      const index_t along = pairs_of(cols);
      const index_t down = pairs_of(rows);
      words row_words(at(rows * along + 1), 0xabcdef01U);
      words row_rests(at(rows * along + 1), 0xabcdef01U);
      words pair_words(at(down * cols + 1), 0xabcdef01U);
      words pair_rests(at(down * cols + 1), 0xabcdef01U);
      kvfit::simd::pack_rows(x.data(), stride, rows, cols, row_words.data(), row_rests.data());
      kvfit::simd::pack_row_pairs(x.data(), stride, rows, cols, pair_words.data(),
                                  pair_rests.data());
      bool is_right = true;
      bool has_rests = true;
      const auto see = [&](index_t i, index_t k, std::uint32_t word, std::uint32_t rest,
                           bool is_odd) {
        const float number = is_odd ? odd_of(word) : even_of(word);
        const float left = is_odd ? odd_of(rest) : even_of(rest);
        if (i >= rows || k >= cols) {
          is_right = is_right && number == 0 && left == 0;
          return;
        }
        const float from = x[at(i * stride + k)];
        is_right = is_right && is_packed(number, from);
        if (!std::isfinite(from)) return;
        const double off = static_cast<double>(from) - static_cast<double>(number);
        has_rests =
            has_rests && std::abs(off) <= 0x1p-8 * std::abs(static_cast<double>(from)) + 0x1p-126;
        has_rests = has_rests && is_packed(left, static_cast<float>(off));
      };
      for (index_t i = 0; i < rows; ++i) {
        for (index_t k = 0; k < 2 * along; ++k) {
          see(i, k, row_words[at(i * along + k / 2)], row_rests[at(i * along + k / 2)], k % 2 == 1);
        }
      }
      for (index_t i = 0; i < 2 * down; ++i) {
        for (index_t k = 0; k < cols; ++k) {
          see(i, k, pair_words[at(i / 2 * cols + k)], pair_rests[at(i / 2 * cols + k)], i % 2 == 1);
        }
      }
      CAPTURE(rows, cols);
      CHECK(is_right);
      CHECK(has_rests);
      for (const words* w : {&row_words, &row_rests, &pair_words, &pair_rests}) {
        CHECK(w->back() == 0xabcdef01U);
      }
      words alone = row_words;
      kvfit::simd::pack_rows(x.data(), stride, rows, cols, alone.data(), nullptr);
      CHECK(alone == row_words);
      alone = pair_words;
      kvfit::simd::pack_row_pairs(x.data(), stride, rows, cols, alone.data(), nullptr);
      CHECK(alone == pair_words);
    }
  }
}

TEST_CASE("a product of pairs equals the rounded factors' in double, whichever way it is taken",
          "[simd][bf16]") {
  const auto how = GENERATE(way::best, way::floats, way::tiles);
  const auto mode = GENERATE(product_mode::assign, product_mode::add);
  const bool is_transposed = GENERATE(false, true);
  for (const index_t rows : {1, 7, 8, 16, 17, 33}) {
    for (const index_t cols : {1, 15, 16, 17, 48, 97}) {
      for (const index_t depth : {1, 2, 31, 32, 65}) {
        const double worst = check_product(how, rows, cols, depth, is_transposed, mode);
        CAPTURE(static_cast<int>(how), static_cast<int>(mode), is_transposed, rows, cols, depth);
        if (!(worst <= 1)) CHECK(worst <= 1);  // thousands of checks would take longer than this
      }
    }
  }
  CHECK(check_product(how, 37, 50, 300, is_transposed, mode) <= 1);  // over what tiles keep at hand
  CHECK(check_product(how, 20, 16, 512, is_transposed, mode) <= 1);
  CHECK(imagined_tiles::misuses == 0);
}

TEST_CASE("a product of pairs without rows, columns or depth does what that means",
          "[simd][bf16]") {
  const auto how = GENERATE(way::best, way::floats, way::tiles);
  const words none(64);
  std::vector<float> c = {1, 2, 3, 4};
  const auto before = c;
  const auto call = [&](index_t rows, index_t cols, index_t pairs, product_mode mode) {
    multiply_pairs(how, {none.data(), 1, 1}, {none.data(), 2}, {c.data(), 2}, rows, cols, pairs,
                   mode);
  };
  call(0, 2, 3, product_mode::assign);
  call(2, 0, 3, product_mode::assign);
  call(2, 2, 0, product_mode::add);
  CHECK(c == before);
  call(2, 2, 0, product_mode::assign);
  CHECK(c == std::vector<float>(4, 0.0F));
}

TEST_CASE("an element of a product of pairs has the same bytes wherever it stands",
          "[simd][bf16]") {
  const auto how = GENERATE(way::best, way::floats, way::tiles);
  constexpr index_t rows = 45;
  constexpr index_t cols = 70;
  constexpr index_t pairs = 40;
  const auto a = draw_floats(rows * 2 * pairs, 1);
  const auto b = draw_floats(2 * pairs * cols, 2);
  words left(at(rows * pairs));
  words right(at(pairs * cols));
  kvfit::simd::pack_rows(a.data(), 2 * pairs, rows, 2 * pairs, left.data(), nullptr);
  kvfit::simd::pack_row_pairs(b.data(), cols, 2 * pairs, cols, right.data(), nullptr);
  std::vector<float> whole(at(rows * cols));
  multiply_pairs(how, {left.data(), pairs, 1}, {right.data(), cols}, {whole.data(), cols}, rows,
                 cols, pairs, product_mode::assign);
  bool is_same = true;
  for (const index_t i : {0, 13, 44}) {
    for (const index_t j : {0, 5, 16, 47, 69}) {
      float one = 0;
      multiply_pairs(how, {left.data() + i * pairs, pairs, 1}, {right.data() + j, cols}, {&one, 1},
                     1, 1, pairs, product_mode::assign);
      is_same = is_same && one == whole[at(i * cols + j)];
    }
  }
  CHECK(is_same);
}

TEST_CASE("three products of pairs come near to fp32, one within what rounding takes",
          "[simd][bf16]") {
  const auto how = GENERATE(way::best, way::floats, way::tiles);
  constexpr index_t rows = 33;
  constexpr index_t cols = 40;
  constexpr index_t depth = 127;
  constexpr index_t pairs = pairs_of(depth);
  const auto a = draw_floats(rows * depth, 5);
  const auto b = draw_floats(depth * cols, 6);
  words left(at(rows * pairs));
  words left_rests = left;
  words right(at(pairs * cols));
  words right_rests = right;
  kvfit::simd::pack_rows(a.data(), depth, rows, depth, left.data(), left_rests.data());
  kvfit::simd::pack_row_pairs(b.data(), cols, depth, cols, right.data(), right_rests.data());
  std::vector<float> one(at(rows * cols));
  std::vector<float> three(at(rows * cols));
  const auto take = [&](const words& x, const words& y, std::vector<float>& to, product_mode mode) {
    multiply_pairs(how, {x.data(), pairs, 1}, {y.data(), cols}, {to.data(), cols}, rows, cols,
                   pairs, mode);
  };
  take(left, right, one, product_mode::assign);
  take(left_rests, right, three, product_mode::assign);
  take(left, right_rests, three, product_mode::add);
  take(left, right, three, product_mode::add);
  constexpr double u = 0x1p-8;
  double worst_one = 0;
  double worst_three = 0;
  for (index_t i = 0; i < rows; ++i) {
    for (index_t j = 0; j < cols; ++j) {
      double sum = 0;
      double size = 0;
      for (index_t k = 0; k < depth; ++k) {
        const double term =
            static_cast<double>(a[at(i * depth + k)]) * static_cast<double>(b[at(k * cols + j)]);
        sum += term;
        size += std::abs(term);
      }
      const auto off = [&](const std::vector<float>& found) {
        return std::abs(static_cast<double>(found[at(i * cols + j)]) - sum) / size;
      };
      worst_one = std::max(worst_one, off(one));
      worst_three = std::max(worst_three, off(three));
    }
  }
  CHECK(worst_one <= 2.01 * u + 4 * depth * 0x1p-24);
  CHECK(worst_three <= 3.1 * u * u + 12 * depth * 0x1p-24);
  CHECK(worst_one > 1e-4);  // it was rounded at all
  CHECK(worst_three < 1e-2 * worst_one);
}

}  // namespace
