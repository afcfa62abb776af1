// SPDX-License-Identifier: MIT
// The reference kernel, the score pass and the comparison of their results through the library.
#include "kvfit/attention/compiled.hpp"

#include <chrono>
#include <cmath>
#include <vector>

#include "cache/cache_case.hpp"
#include "compiled/beside_header_only.hpp"
#include "compiled/header_only.hpp"
#include "kvfit/attention/attend.hpp"
#include "kvfit/attention/compare.hpp"
#include "kvfit/attention/score_pass.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/need_error.hpp"
#include "support/random_matrix.hpp"

using namespace kvfit_test;
using kvfit::index_t;
using kvfit::compiled::entry_points;

namespace {

struct two_blocks {
  kvfit::matrix keys = random_matrix(90, 13, 1);
  kvfit::matrix values = random_matrix(90, 9, 2);
  kvfit::matrix live_keys = random_matrix(21, 13, 4);
  kvfit::matrix live_values = random_matrix(21, 9, 5);
  kvfit::matrix queries = random_matrix(70, 13, 3, 1.5F);
  std::vector<float> bias = std::vector<float>(90, 0.25F);
  std::vector<kvfit::kv_block> blocks = {{.keys = keys, .values = values, .bias = bias},
                                         {.keys = live_keys, .values = live_values}};
  kvfit::logit_rule rule{.soft_cap = 20};

  two_blocks() = default;
  two_blocks(const two_blocks&) = delete;  // views point into it
  two_blocks& operator=(const two_blocks&) = delete;
  ~two_blocks() = default;
};

kvfit::attention_output attend_on(const entry_points& path, const two_blocks& given) {
  kvfit::attention_output out;
  REQUIRE(path.attention->attend(given.queries, given.blocks, given.rule, {},
                                 kvfit::detail::owner_of(out)));
  return out;
}

kvfit::attention_scores score_on(const entry_points& path, const two_blocks& given,
                                 const kvfit::score_options& options) {
  kvfit::attention_scores out;
  REQUIRE(path.attention->score_pass(given.blocks[0], given.queries, given.rule, options, {}, {},
                                     kvfit::detail::owner_of(out)));
  return out;
}

/// All that a score pass can return.
kvfit::score_options everything() {
  return {.importance = kvfit::importance_kind::mean,
          .pooling = kvfit::pooling_kind::average,
          .pooling_width = 3,
          .keep_exponentials = 1 << 20};
}

bool same_output(const kvfit::attention_output& a, const kvfit::attention_output& b) {
  return same_bytes(a.output, b.output) && same_bytes(a.log_mass, b.log_mass);
}

bool same_scores(const kvfit::attention_scores& a, const kvfit::attention_scores& b) {
  return same_bytes(a.max, b.max) && same_bytes(a.mass, b.mass) &&
         same_bytes(a.log_mass, b.log_mass) && same_bytes(a.output, b.output) &&
         same_bytes(a.importance, b.importance) && same_bytes(a.exponentials, b.exponentials) &&
         same_bytes(a.shift, b.shift);
}

}  // namespace

TEST_CASE("attend() takes the best path, and every path gives nearly the same output",
          "[compiled][attend]") {
  const two_blocks given;
  const auto here = kvfit::attend(given.queries, given.blocks, given.rule);
  REQUIRE(here);
  CHECK(same_output(*here, attend_on(kvfit::compiled::available().front(), given)));
  const auto there = header_only::attend(given.queries, given.blocks, given.rule, {});
  REQUIRE(there);
  for (const entry_points& path : kvfit::compiled::available()) {
    INFO(path.isa);
    const auto found = attend_on(path, given);
    REQUIRE(found.output.rows() == 70);
    REQUIRE(found.output.cols() == 9);
    CHECK(difference(found.output, there->output) < 1e-5);
    CHECK(difference(found.log_mass, there->log_mass) < 1e-5);
  }
}

TEST_CASE("score_pass() takes the best path, and every path gives nearly the same scores",
          "[compiled][score_pass]") {
  const two_blocks given;
  const auto here = kvfit::score_pass(given.blocks[0], given.queries, given.rule, everything());
  REQUIRE(here);
  CHECK(same_scores(*here, score_on(kvfit::compiled::available().front(), given, everything())));
  const auto there =
      header_only::score_pass(given.blocks[0], given.queries, given.rule, everything(), {});
  REQUIRE(there);
  for (const entry_points& path : kvfit::compiled::available()) {
    INFO(path.isa);
    const auto found = score_on(path, given, everything());
    REQUIRE(found.exponentials.rows() == 90);
    REQUIRE(found.exponentials.cols() == 70);
    CHECK(difference(found.exponentials, there->exponentials) < 1e-5);
    CHECK(difference(found.importance, there->importance) < 1e-5);
    CHECK(difference(found.output, there->output) < 1e-5);
    CHECK(difference(found.log_mass, there->log_mass) < 1e-5);
  }
}

TEST_CASE("attention through the library has header-only's bytes on the same instruction set",
          "[compiled][attend][score_pass]") {
  const entry_points* const path = path_of_header_only();
  if (path == nullptr) return;
  const two_blocks given;
  const auto there = header_only::attend(given.queries, given.blocks, given.rule, {});
  REQUIRE(there);
  CHECK(same_output(attend_on(*path, given), *there));
  for (const kvfit::score_options& options :
       {everything(), kvfit::score_options{.importance = kvfit::importance_kind::none}}) {
    const auto scores =
        header_only::score_pass(given.blocks[0], given.queries, given.rule, options, {});
    REQUIRE(scores);
    CHECK(same_scores(score_on(*path, given, options), *scores));
  }
  kvfit::attention_output other = *there;
  other.output *= 1.01F;
  other.log_mass.array() += 0.01F;
  const kvfit::fidelity a = header_only::compare(*there, other);
  const kvfit::fidelity b =
      path->attention->compare(there->output, there->log_mass, other.output, other.log_mass);
  CHECK(a.queries == b.queries);
  CHECK(a.output_error == b.output_error);
  CHECK(a.mass_error_max == b.mass_error_max);
  CHECK(a.cosine == b.cosine);
}

TEST_CASE("compare() through the library says what header-only says", "[compiled][compare]") {
  const two_blocks given;
  const auto full = kvfit::attend(given.queries, given.blocks, given.rule);
  const auto part = kvfit::attend(given.queries, {given.blocks[0]}, given.rule);
  REQUIRE(full);
  REQUIRE(part);
  const kvfit::fidelity here =
      kvfit::compare(full->output, full->log_mass, part->output, part->log_mass);
  const kvfit::fidelity there = header_only::compare(*full, *part);
  CHECK(here.queries == 70);
  CHECK(here.output_error > 0);
  CHECK(here.output_error == Approx(there.output_error));
  CHECK(here.output_error_max == Approx(there.output_error_max));
  CHECK(here.mass_error == Approx(there.mass_error));
  CHECK(here.mass_error_max == Approx(there.mass_error_max));
  CHECK(here.cosine == Approx(there.cosine));
  CHECK(here.cosine_min == Approx(there.cosine_min));
}

TEST_CASE("errors of attention come through the library as they are header-only",
          "[compiled][attend][score_pass]") {
  const two_blocks given;
  const kvfit::matrix narrow = random_matrix(70, 5, 9);
  const auto same_error = [](const auto& here, const auto& there) {
    REQUIRE_FALSE(here);
    REQUIRE_FALSE(there);
    CHECK(here.error().message() == there.error().message());
  };
  same_error(kvfit::attend(narrow, given.blocks),
             header_only::attend(narrow, given.blocks, {}, {}));
  same_error(kvfit::attend(given.queries, given.blocks, {}, {.panel = -1}),
             header_only::attend(given.queries, given.blocks, {}, {.panel = -1}));
  same_error(kvfit::score_pass(given.blocks[0], narrow),
             header_only::score_pass(given.blocks[0], narrow, {}, {}, {}));
  const kvfit::stop_when late{.deadline = std::chrono::steady_clock::now()};
  same_error(kvfit::score_pass(given.blocks[0], given.queries, {}, {}, late),
             header_only::score_pass(given.blocks[0], given.queries, {}, {}, late));
}

TEST_CASE("attention through the library holds no more than its estimate",
          "[compiled][attend][score_pass][memory]") {
  if (!can_count) return;
  const two_blocks given;
  const auto sizes = kvfit::sizes_of_head(given.blocks[0], given.queries);
  const auto scoring = count_allocations([&] {
    REQUIRE(kvfit::score_pass(given.blocks[0], given.queries, given.rule, everything()));
  });
  CHECK(static_cast<double>(scoring.peak_bytes) <= kvfit::score_pass_bytes(sizes, everything()));
  const auto attending =
      count_allocations([&] { REQUIRE(kvfit::attend(given.queries, given.blocks, given.rule)); });
  CHECK(static_cast<double>(attending.peak_bytes) <=
        kvfit::attend_bytes(given.queries, given.blocks));
}
