// SPDX-License-Identifier: MIT
#include <string>
#include <type_traits>
#include <vector>

#include "compact/entry_point.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/compact/memory_plan.hpp"
#include "support/catch.hpp"

/// A user's own policies, in the user's own namespace, found beside their types.
namespace a_users_own {

struct every_other {
  kvfit::index_t start = 0;
};

kvfit::score_options wanted_scores(const every_other&) {
  return {.importance = kvfit::importance_kind::none};
}

kvfit::result<kvfit::selected_rows> select(const every_other& policy,
                                           const kvfit::selection_problem& problem) {
  if (policy.start > 1) {
    return kvfit::error{kvfit::errc::invalid_option, "every_other.start", policy.start, 1};
  }
  kvfit::selected_rows chosen;
  for (kvfit::index_t row = problem.cache.keys.rows() - 1; row >= 0; --row) {  // compact() sorts
    const bool is_mine = row % 2 == policy.start;
    if (is_mine && static_cast<kvfit::index_t>(chosen.positions.size()) < problem.budget) {
      chosen.positions.push_back(row);
      chosen.weights.push_back(static_cast<double>(row + 1));
    }
  }
  return chosen;
}

/// The selection's weights, halved.
struct halved {};

kvfit::result<kvfit::bias_fit> fit_bias(const halved&, const kvfit::bias_problem& problem) {
  kvfit::bias_fit fit;
  for (const double weight : problem.selection_weights) fit.weights.push_back(weight / 2);
  return fit;
}

struct negated {};

kvfit::result<kvfit::values_fit> fit_values(const negated&, const kvfit::values_problem& problem) {
  return kvfit::values_fit{.values = -*problem.original};
}

/// The same selection, saying what it takes.
struct measured : every_other {};

void declare(kvfit::workspace& space, const measured&, const kvfit::head_sizes& sizes) {
  space.count(kvfit::grown_bytes(kvfit::double_bytes(2, sizes.budget)));
  space.count(1e9);
}

/// Gradient methods are kvfit's own, whatever stands beside a type.
struct descending {};

[[maybe_unused]] kvfit::gradient_report descend_gradient(const descending&, const void*, float,
                                                         void*, const kvfit::stop_when&) {
  return {};
}

static_assert(!std::is_constructible_v<kvfit::any_gradient, descending>);
static_assert(std::is_constructible_v<kvfit::any_gradient, kvfit::no_gradient>);

static_assert(kvfit::selection_policy<every_other> && kvfit::bias_policy<halved> &&
              kvfit::values_policy<negated>);

}  // namespace a_users_own

using namespace kvfit_test;

namespace {

kvfit::compact_options users(kvfit::index_t budget, kvfit::index_t start) {
  return {.budget = budget,
          .selection = a_users_own::every_other{start},
          .bias = a_users_own::halved{},
          .values = a_users_own::negated{}};
}

}  // namespace

TEST_CASE("compact runs a user's own selection, bias and values", "[compact][policy]") {
  const head made = make_head(1, {.queries = 20, .keys = 10});
  const kvfit::compact_options options = users(3, 1);
  const auto c = kvfit::compact(made.cache(), made.queries, options);
  REQUIRE(c);
  CHECK(c->positions == std::vector<kvfit::index_t>{5, 7, 9});
  for (kvfit::index_t j = 0; j < 3; ++j) {
    const kvfit::index_t row = c->positions[static_cast<std::size_t>(j)];
    CHECK(c->bias[j] == Approx(std::log(static_cast<double>(row + 1) / 2)));
    CHECK(c->values.row(j) == -made.values.row(row));
  }
  CHECK_FALSE(c->report.is_values_fitted);
  CHECK(c->report.dead_keys == 0);
}

TEST_CASE("a user's error comes out as it is", "[compact][policy]") {
  const head made = make_head(1, {.queries = 20, .keys = 10});
  const kvfit::compact_options options = users(3, 7);
  const auto c = kvfit::compact(made.cache(), made.queries, options);
  REQUIRE_FALSE(c);
  CHECK(c.error().code == kvfit::errc::invalid_option);
  CHECK(c.error().argument == "every_other.start");
  CHECK(c.error().actual == 7);
}

TEST_CASE("protected rows and the identity hold for a user's policies too", "[compact][policy]") {
  const head made = make_head(1, {.queries = 20, .keys = 10});
  kvfit::compact_options options = users(4, 0);
  options.protect.first = 2;
  const auto c = kvfit::compact(made.cache(), made.queries, options);
  REQUIRE(c);
  CHECK(c->positions == std::vector<kvfit::index_t>{0, 1, 6, 8});
  CHECK(c->values.row(0) == made.values.row(0));
  CHECK(c->values.row(3) == -made.values.row(8));
  options.budget = 10;
  const auto all = kvfit::compact(made.cache(), made.queries, options);
  REQUIRE(all);
  CHECK(same_numbers(all->values, made.values));
}

TEST_CASE("a user's policy counts in the estimate where it says what it takes",
          "[compact][policy]") {
  const kvfit::compaction_sizes sizes{.keys = 50, .depth = 8, .width = 8, .query_rows = {40}};
  const kvfit::compact_options options = users(5, 0);
  const auto silent = kvfit::planned_memory(sizes, options);
  REQUIRE(silent);
  CHECK_FALSE(silent->is_complete);
  CHECK(silent->needed < 10000000);
  kvfit::compact_options telling{
      .budget = 5, .selection = a_users_own::measured{}, .values = kvfit::values::copy{}};
  const auto told = kvfit::planned_memory(sizes, telling);
  REQUIRE(told);
  CHECK(told->is_complete);
  CHECK(told->needed > 1000000000);
  telling.memory.cap = 500000000;
  CHECK(kvfit::planned_memory(sizes, telling).error().code == kvfit::errc::memory_cap_exceeded);
}
