// SPDX-License-Identifier: MIT
#include "kvfit/core/random.hpp"

#include <algorithm>
#include <array>

#include "support/catch.hpp"

namespace kvfit_test {

using kvfit::random_source;

TEST_CASE("§9.28 random numbers are SplitMix64's, on every platform", "[core][random]") {
  random_source random(1234567);  // the published test vector
  for (const std::uint64_t expected :
       {6457827717110365317U, 3203168211198807973U, 9817491932198370423U, 4593380528125082431U,
        16408922859458223821U}) {
    CHECK(random.next() == expected);
  }
}

TEST_CASE("§9.28 equal seeds give equal numbers, other seeds others", "[core][random]") {
  random_source a(7);
  random_source b(7);
  random_source c(8);
  int same_as_c = 0;
  for (int i = 0; i < 100; ++i) {
    const std::uint64_t x = a.next();
    CHECK(x == b.next());
    same_as_c += x == c.next() ? 1 : 0;
  }
  CHECK(same_as_c == 0);
}

TEST_CASE("Bounded numbers stay in bounds and favour none", "[core][random]") {
  const std::uint64_t bound =
      GENERATE(std::uint64_t{1}, std::uint64_t{2}, std::uint64_t{6}, std::uint64_t{7});
  CAPTURE(bound);
  constexpr int draws = 60'000;
  std::array<int, 7> count{};
  random_source random(bound);
  std::uint64_t largest = 0;
  for (int i = 0; i < draws; ++i) {
    const std::uint64_t x = random.below(bound);
    largest = std::max(largest, x);
    if (x < bound) ++count[x];
  }
  CHECK(largest == bound - 1);
  // Binomial: five standard deviations, and the seed is fixed.
  const double share = 1.0 / static_cast<double>(bound);
  const double spread = 5 * std::sqrt(draws * share * (1 - share));
  INFO("spread " << spread);
  for (std::size_t x = 0; x < bound; ++x) {
    CHECK(std::abs(count[x] - draws * share) <= spread);
  }
}

TEST_CASE("Draws beyond the last multiple of the bound are redrawn", "[core][random]") {
  // 2^64 mod (2^63 + 1) is 2^63 − 1: about every second draw is rejected.
  const std::uint64_t bound = (std::uint64_t{1} << 63U) + 1;
  const std::uint64_t reject = (std::uint64_t{1} << 63U) - 1;
  random_source random(3);
  random_source raw(3);
  int redrawn = 0;
  for (int i = 0; i < 200; ++i) {
    std::uint64_t expected = raw.next();
    while (expected < reject) {
      expected = raw.next();
      ++redrawn;
    }
    REQUIRE(random.below(bound) == expected % bound);
  }
  CHECK(redrawn > 100);
}

TEST_CASE("Uniform numbers lie in the unit interval with mean 1/2 and variance 1/12",
          "[core][random]") {
  random_source random(11);
  constexpr int draws = 100'000;
  double lowest = 1;
  double highest = 0;
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < draws; ++i) {
    const double x = random.uniform();
    lowest = std::min(lowest, x);
    highest = std::max(highest, x);
    sum += x;
    squares += (x - 0.5) * (x - 0.5);
  }
  CHECK(lowest >= 0);
  CHECK(highest < 1);
  const double spread = 5 / std::sqrt(12.0 * draws);
  INFO("spread " << spread);
  CHECK(std::abs(sum / draws - 0.5) <= spread);
  CHECK(std::abs(squares / draws - 1.0 / 12) <= spread);
}

static_assert(random_source(1234567).next() == 6457827717110365317U);  // also at compile time

}  // namespace kvfit_test
