// SPDX-License-Identifier: MIT
#include "kvfit/queries/sampler.hpp"

#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "support/catch.hpp"

namespace kvfit_test {

using kvfit::nucleus;
using kvfit::token;

namespace {

/// Logits of probabilities 0.5, 0.3, 0.15, 0.05, in another order, and one that is never drawn.
const std::vector<float> four = {std::log(0.15F), std::log(0.5F),
                                 -std::numeric_limits<float>::infinity(), std::log(0.05F),
                                 std::log(0.3F)};

std::map<token, double> frequencies(const nucleus& settings, int draws = 20000) {
  kvfit::random_source random(11);
  std::map<token, double> counts;
  for (int i = 0; i < draws; ++i) {
    const auto drawn = kvfit::sample(settings, four, random);
    REQUIRE(drawn);
    counts[*drawn] += 1.0 / draws;
  }
  return counts;
}

}  // namespace

TEST_CASE("draws follow the probabilities, sharpened by the temperature", "[queries][sampler]") {
  // The standard deviation of a frequency is at most 0.5/√20000 = 0.0035.
  auto plain = frequencies({.temperature = 1, .top_p = 1, .top_k = 0});
  CHECK(plain[1] == Approx(0.5).margin(0.018));
  CHECK(plain[4] == Approx(0.3).margin(0.018));
  CHECK(plain[0] == Approx(0.15).margin(0.018));
  CHECK(plain[3] == Approx(0.05).margin(0.018));
  CHECK(plain.count(2) == 0);
  auto sharp = frequencies({.temperature = 0.5, .top_p = 1, .top_k = 0});
  const double sum = 0.25 + 0.09 + 0.0225 + 0.0025;
  CHECK(sharp[1] == Approx(0.25 / sum).margin(0.018));
  CHECK(sharp[4] == Approx(0.09 / sum).margin(0.018));
}

TEST_CASE("only the likeliest are drawn from", "[queries][sampler]") {
  auto two = frequencies({.temperature = 1, .top_p = 1, .top_k = 2});
  CHECK(two.size() == 2);
  CHECK(two[1] == Approx(0.625).margin(0.018));
  CHECK(frequencies({.temperature = 1, .top_p = 0.5, .top_k = 0}, 500).size() == 1);
  CHECK(frequencies({.temperature = 1, .top_p = 0.51, .top_k = 0}, 500).size() == 2);
  CHECK(frequencies({.temperature = 1, .top_p = 0.9, .top_k = 0}, 2000).size() == 3);
  CHECK(frequencies({.temperature = 0, .top_p = 1, .top_k = 0}, 500).size() == 1);
}

TEST_CASE("greedy takes the first of the likeliest, and nothing where there are no numbers",
          "[queries][sampler]") {
  kvfit::random_source random(1);
  const float nan = std::nanf("");
  CHECK(kvfit::sample(kvfit::greedy{}, std::vector<float>{1, nan, 3, 3}, random) == token{2});
  CHECK(kvfit::sample(nucleus{}, std::vector<float>{nan, 1}, random) == token{1});
  CHECK_FALSE(kvfit::sample(nucleus{}, std::vector<float>{nan, nan}, random).has_value());
  CHECK_FALSE(kvfit::sample(kvfit::greedy{}, {}, random).has_value());
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(kvfit::sample(nucleus{}, std::vector<float>{0, infinity, 5}, random) == token{1});
}

}  // namespace kvfit_test
