// SPDX-License-Identifier: MIT
#include "kvfit/attention/rope_scaling.hpp"

#include <limits>
#include <numbers>

#include "attention/samples.hpp"
#include "kvfit/attention/rope.hpp"

namespace kvfit_test {

using kvfit::rope;
namespace rope_scaling = kvfit::rope_scaling;

namespace {

std::vector<double> frequencies_of(const rope& rotation, index_t width) {
  REQUIRE(check_rope(rotation, width));
  return rope_frequencies(rotation, width);
}

double plain_frequency(double base, index_t pair, index_t dims) {
  return std::exp(-2.0 * static_cast<double>(pair) / static_cast<double>(dims) * std::log(base));
}

/// YaRN by turns: the pair index at which a wave turns `turns` times over the trained length is
/// found by bisection, not by its formula.
double pair_with_turns(double turns, double base, index_t dims, double length) {
  double low = -4.0 * static_cast<double>(dims);
  double high = 4.0 * static_cast<double>(dims);
  for (int step = 0; step < 200; ++step) {
    const double middle = (low + high) / 2;
    const double frequency = std::pow(base, -2 * middle / static_cast<double>(dims));
    (length * frequency / (2 * std::numbers::pi) > turns ? low : high) = middle;
  }
  return (low + high) / 2;
}

std::string field_of_rope(const rope& rotation, index_t width = 8) {
  const auto ok = check_rope(rotation, width);
  return ok ? "" : ok.error().argument;
}

}  // namespace

TEST_CASE("Position interpolation is the rotation at a fraction of the position",
          "[attention][rope]") {
  const rope scaled{.base = 10000, .dims = 16, .scaling = rope_scaling::linear{4}};
  const rope plain{.base = 10000, .dims = 16};
  kvfit::matrix stretched = random_matrix(1, 20, 1);
  kvfit::matrix near = stretched;
  kvfit::row_rotation(scaled, 20, 4 * 250).turn(stretched.data());
  kvfit::row_rotation(plain, 20, 250).turn(near.data());
  CHECK((stretched - near).cwiseAbs().maxCoeff() <= 1e-6F);
}

TEST_CASE("YaRN keeps what turns often, interpolates what hardly turns, and blends between",
          "[attention][rope]") {
  struct model {
    double base, factor, length;
    index_t dims;
    bool rounds;
  };
  // Qwen's and GPT-OSS' settings, and small ones whose borders reach beyond the pairs.
  for (const model& m : {model{1e6, 4, 32768, 128, true},
                         {150000, 32, 4096, 64, false},
                         {10000, 8, 100, 16, true},
                         {10000, 8, 4e9, 16, true}}) {
    CAPTURE(m.base, m.length, m.dims);
    const rope rotation{
        .base = m.base,
        .scaling = rope_scaling::yarn{
            .factor = m.factor, .original_positions = m.length, .rounds = m.rounds}};
    const auto found = frequencies_of(rotation, m.dims);
    REQUIRE(found.size() == static_cast<std::size_t>(m.dims / 2));
    double low = pair_with_turns(32, m.base, m.dims, m.length);
    double high = pair_with_turns(1, m.base, m.dims, m.length);
    if (m.rounds) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, static_cast<double>(m.dims) - 1);
    for (index_t i = 0; i < m.dims / 2; ++i) {
      const auto at = static_cast<double>(i);
      const double theta = plain_frequency(m.base, i, m.dims);
      const double interpolated = theta / m.factor;
      double expected = theta;
      if (at >= high) {
        expected = interpolated;
      } else if (at > low) {
        expected = theta + (interpolated - theta) * (at - low) / (high - low);
      }
      CHECK(found[static_cast<std::size_t>(i)] == Approx(expected).epsilon(1e-9));
    }
  }
}

TEST_CASE("Llama 3's scaling is its three cases by wavelength", "[attention][rope]") {
  const rope_scaling::llama3 llama{.factor = 32, .low = 1, .high = 4, .original_positions = 8192};
  const auto found = frequencies_of({.base = 500000, .scaling = llama}, 64);
  int kept = 0;
  int divided = 0;
  for (index_t i = 0; i < 32; ++i) {
    const double theta = plain_frequency(500000, i, 64);
    const double wavelength = 2 * std::numbers::pi / theta;
    double expected = 0;
    if (wavelength < 8192.0 / 4) {
      expected = theta;
      ++kept;
    } else if (wavelength > 8192.0) {
      expected = theta / 32;
      ++divided;
    } else {
      const double smooth = (8192 / wavelength - 1) / (4.0 - 1);
      expected = (1 - smooth) * theta / 32 + smooth * theta;
    }
    CAPTURE(i, wavelength);
    CHECK(found[static_cast<std::size_t>(i)] == Approx(expected).epsilon(1e-12));
  }
  CHECK(kept > 5);
  CHECK(divided > 5);
  CHECK(kept + divided < 32);
}

TEST_CASE("Given frequencies are taken as they are, and zeros turn nothing", "[attention][rope]") {
  const rope odd{.dims = 4, .scaling = rope_scaling::given{{0.5, -0.125}}};
  CHECK(frequencies_of(odd, 6) == std::vector<double>{0.5, -0.125});
  kvfit::matrix row = random_matrix(1, 6, 2);
  const kvfit::matrix before = row;
  kvfit::row_rotation(odd, 6, 3).turn(row.data());
  CHECK(row(0, 0) == Approx(before(0, 0) * std::cos(1.5) - before(0, 2) * std::sin(1.5)));
  CHECK(row(0, 3) == Approx(before(0, 1) * std::sin(-0.375) + before(0, 3) * std::cos(-0.375)));
  const rope none{.scaling = rope_scaling::given{std::vector<double>(3, 0.0)}};
  row = before;
  kvfit::row_rotation(none, 6, 77).turn(row.data());
  CHECK(same_bytes(row, before));
}

TEST_CASE("Scalings outside their ranges are refused by name", "[attention][rope]") {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  constexpr double inf = std::numeric_limits<double>::infinity();
  const auto scaled = [](kvfit::any_rope_scaling by) { return rope{.scaling = std::move(by)}; };
  for (const double wrong : {0.0, -1.0, nan, inf}) {
    CAPTURE(wrong);
    CHECK(field_of_rope(scaled(rope_scaling::linear{wrong})) == "rope.scaling.factor");
    CHECK(field_of_rope(scaled(rope_scaling::yarn{.factor = wrong, .original_positions = 8})) ==
          "rope.scaling.factor");
    CHECK(field_of_rope(scaled(rope_scaling::yarn{.factor = 2, .original_positions = wrong})) ==
          "rope.scaling.original_positions");
    CHECK(field_of_rope(scaled(rope_scaling::yarn{
              .factor = 2, .original_positions = 8, .slow = wrong})) == "rope.scaling.slow");
    CHECK(field_of_rope(scaled(rope_scaling::llama3{.factor = wrong})) == "rope.scaling.factor");
    CHECK(field_of_rope(scaled(rope_scaling::llama3{.low = wrong})) == "rope.scaling.low");
    CHECK(field_of_rope(scaled(rope_scaling::llama3{.original_positions = wrong})) ==
          "rope.scaling.original_positions");
  }
  CHECK(field_of_rope(scaled(rope_scaling::yarn{
            .factor = 2, .original_positions = 8, .fast = 1, .slow = 1})) == "rope.scaling.fast");
  CHECK(field_of_rope(scaled(rope_scaling::llama3{.low = 4, .high = 4})) == "rope.scaling.high");
  CHECK(field_of_rope(
            {.base = 1, .scaling = rope_scaling::yarn{.factor = 2, .original_positions = 8}}) ==
        "rope.base");
  const auto short_list = check_rope(scaled(rope_scaling::given{{1, 1, 1}}), 8);
  REQUIRE_FALSE(short_list);
  CHECK(short_list.error().code == kvfit::errc::shape_mismatch);
  CHECK(short_list.error().actual == 3);
  CHECK(short_list.error().expected == 4);
  const auto bad_number = check_rope(scaled(rope_scaling::given{{1, 1, nan, 1}}), 8);
  REQUIRE_FALSE(bad_number);
  CHECK(bad_number.error().actual == 2);
  CHECK(field_of_rope(scaled(rope_scaling::llama3{})).empty());
}

}  // namespace kvfit_test
