// SPDX-License-Identifier: MIT
#include "kvfit/attention/state.hpp"

#include <array>
#include <bit>
#include <cstdint>

#include "attention/samples.hpp"

namespace kvfit_test {

using kvfit::attention_state;
using kvfit::merge;
using kvfit::state_from_log_mass;

namespace {

constexpr std::size_t state_width = 3;
constexpr float no_number = std::numeric_limits<float>::quiet_NaN();
constexpr float infinite = std::numeric_limits<float>::infinity();

/// A state that owns its output.
struct owned {
  explicit owned(float max = hidden, float mass = 0, std::array<float, state_width> y = {})
      : output(y), max_(max), mass_(mass) {}
  owned(const owned&) = default;

  [[nodiscard]] attention_state state() { return {max_, mass_, output}; }
  /// This and `other` together.
  [[nodiscard]] owned with(owned other) const {
    owned sum = *this;
    attention_state into = sum.state();
    merge(into, other.state());
    sum.max_ = into.max;
    sum.mass_ = into.mass;
    return sum;
  }
  [[nodiscard]] float max() const { return max_; }
  [[nodiscard]] float mass() const { return mass_; }
  [[nodiscard]] float log_mass() const { return attention_state{max_, mass_, {}}.log_mass(); }

  std::array<float, state_width> output;

 private:
  float max_;
  float mass_;
};

bool same(const owned& a, const owned& b) {
  return a.max() == b.max() && a.mass() == b.mass() && a.output == b.output;
}

void check_same_but_rounding(const owned& a, const owned& b) {
  // Two merges: three roundings of the mass and four of an output, each relative.
  constexpr double bound = 16 * fp32_rounding;
  INFO("bound " << bound);
  CHECK(std::abs(a.log_mass() - b.log_mass()) <=
        bound * (1 + std::abs(static_cast<double>(b.log_mass()))));
  for (std::size_t k = 0; k < state_width; ++k) {
    CAPTURE(k, a.output[k], b.output[k]);
    CHECK(std::abs(a.output[k] - b.output[k]) <= bound * 10);  // values up to 10
  }
}

std::vector<owned> states() {
  return {owned(),
          owned(0, 1, {1, 2, 3}),
          owned(2.5F, 17.25F, {-3, 0.5F, 9}),
          owned(-4, 3, {7, -7, 0.125F}),
          owned(200, 1.5F, {1, 0, -1}),
          owned(-200, 2, {10, 10, 10}),
          owned(1e30F, 1, {2, 2, 2}),
          owned(-1e30F, 5, {-2, 2, -2})};
}

}  // namespace

TEST_CASE("Merging two states by hand", "[attention][state]") {
  const owned merged = owned(0, 1, {4, 0, 0}).with(owned(std::log(3.0F), 1, {8, -4, 0}));
  constexpr double rounding = 4 * fp32_rounding;
  CHECK(merged.max() == std::log(3.0F));
  CHECK(merged.mass() == Approx(4.0 / 3).epsilon(rounding));
  CHECK(merged.log_mass() == Approx(std::log(4.0)).epsilon(rounding));
  CHECK(merged.output[0] == Approx(7).epsilon(rounding));
  CHECK(merged.output[1] == Approx(-3).epsilon(rounding));
  CHECK(merged.output[2] == 0.0F);
}

TEST_CASE("The empty state is neutral on either side", "[attention][state]") {
  for (const owned& a : states()) {
    CAPTURE(a.max(), a.mass());
    CHECK(same(a.with(owned()), a));
    CHECK(same(owned().with(a), a));
  }
}

TEST_CASE("Merging is commutative", "[attention][state]") {
  for (const owned& a : states()) {
    for (const owned& b : states()) {
      CAPTURE(a.max(), b.max());
      const owned ab = a.with(b);
      const owned ba = b.with(a);
      CHECK(ab.max() == std::max(a.max(), b.max()));
      if (a.mass() == 0 && b.mass() == 0) {
        CHECK(same(ab, owned()));
      } else {
        check_same_but_rounding(ab, ba);
      }
    }
  }
}

TEST_CASE("Merging is associative up to rounding", "[attention][state]") {
  const std::vector<owned> all = states();
  for (const owned& a : all) {
    for (const owned& b : all) {
      for (const owned& c : all) {
        if (a.mass() == 0 && b.mass() == 0 && c.mass() == 0) continue;
        CAPTURE(a.max(), b.max(), c.max());
        check_same_but_rounding(a.with(b).with(c), a.with(b.with(c)));
      }
    }
  }
}

TEST_CASE("Two empty states stay empty and hold no NaN", "[attention][state]") {
  const owned nothing = owned().with(owned());
  CHECK(nothing.max() == hidden);
  CHECK(nothing.mass() == 0.0F);
  CHECK(nothing.log_mass() == hidden);
  CHECK(nothing.output == std::array<float, state_width>{});
}

TEST_CASE("§9.4 states ±200 apart merge to the heavier one", "[attention][state]") {
  const owned low(-200, 2, {10, 10, 10});
  const owned high(200, 1.5F, {1, 0, -1});
  CHECK(same(low.with(high), high));
  CHECK(same(high.with(low), high));
}

TEST_CASE("Equal outputs stay as they are, whatever the masses", "[attention][state]") {
  const owned merged = owned(1, 3, {5, -6, 0.1F}).with(owned(-1, 40, {5, -6, 0.1F}));
  CHECK(merged.output[0] == Approx(5).epsilon(4 * fp32_rounding));
  CHECK(merged.output[1] == Approx(-6).epsilon(4 * fp32_rounding));
  CHECK(merged.output[2] == Approx(0.1F).epsilon(4 * fp32_rounding));
}

TEST_CASE("A state of one key has its logit as log-mass", "[attention][state]") {
  for (const float logit : {-1e4F, -1.0F, 0.0F, 3.25F, 1e4F}) {
    CHECK(attention_state{logit, 1, {}}.log_mass() == logit);
  }
}

TEST_CASE("A state from log-mass and output merges like the one it was made of",
          "[attention][state]") {
  owned a(2.5F, 17.25F, {-3, 0.5F, 9});
  const owned b(3, 2, {1, 2, 3});
  owned bare(a.log_mass(), 1, a.output);
  const auto from_kernel = state_from_log_mass(a.log_mass(), a.output);
  REQUIRE(from_kernel.has_value());
  const attention_state made = *from_kernel;
  CHECK(made.max == bare.max());
  CHECK(made.mass == bare.mass());
  CHECK(made.output.data() == a.output.data());
  CHECK(made.log_mass() == a.log_mass());
  check_same_but_rounding(bare.with(b), a.with(b));

  const auto none = state_from_log_mass(hidden, a.output);
  REQUIRE(none.has_value());
  CHECK(none->mass == 0.0F);
  CHECK(none->log_mass() == hidden);
}

TEST_CASE("C: an empty state whose output a kernel left unwritten gives way to the finite one",
          "[attention][state]") {
  const std::array<float, state_width> unwritten = {no_number, infinite, -infinite};
  const owned finite(2.5F, 17.25F, {-3, -0.0F, 9});
  const auto bits_of = [](const owned& state) {
    std::array<std::uint32_t, state_width> bits = {};
    for (std::size_t k = 0; k < state_width; ++k)
      bits[k] = std::bit_cast<std::uint32_t>(state.output[k]);
    return bits;
  };
  for (const float empty_max : {hidden, 0.0F}) {  // the mass alone says that it is empty
    CAPTURE(empty_max);
    const owned empty(empty_max, 0, unwritten);
    for (const owned& sum : {empty.with(finite), finite.with(empty)}) {
      CHECK(sum.max() == finite.max());
      CHECK(sum.mass() == finite.mass());
      CHECK(bits_of(sum) == bits_of(finite));
    }
    CHECK(empty.with(empty).output == std::array<float, state_width>{});
    CHECK(empty.with(empty).mass() == 0.0F);
  }
}

TEST_CASE("C: a log-sum-exp of +infinity means no keys only where the caller says so",
          "[attention][state]") {
  std::array<float, state_width> unwritten = {no_number, infinite, 3};
  const auto refused = state_from_log_mass(infinite, unwritten);
  REQUIRE_FALSE(refused.has_value());
  CHECK(refused.error().code == kvfit::errc::non_finite);
  CHECK(refused.error().argument == "log_mass");
  CHECK(unwritten[2] == 3.0F);  // nothing was written

  const auto empty = state_from_log_mass(infinite, unwritten, kvfit::empty_log_mass::any_infinity);
  REQUIRE(empty.has_value());
  CHECK(empty->mass == 0.0F);
  CHECK(empty->log_mass() == hidden);
  CHECK(unwritten == std::array<float, state_width>{});

  for (const auto mark :
       {kvfit::empty_log_mass::negative_infinity, kvfit::empty_log_mass::any_infinity}) {
    std::array<float, state_width> output = {1, 2, 3};
    const auto nan_mass = state_from_log_mass(no_number, output, mark);
    REQUIRE_FALSE(nan_mass.has_value());
    CHECK(nan_mass.error().message() == "non_finite: log_mass (is NaN)");
    for (const float bad : {no_number, infinite, -infinite}) {
      output[1] = bad;
      const auto bad_output = state_from_log_mass(0, output, mark);
      REQUIRE_FALSE(bad_output.has_value());
      CHECK(bad_output.error().message() == "non_finite: output: 0, column 1");
    }
  }
}

}  // namespace kvfit_test
