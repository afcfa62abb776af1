// SPDX-License-Identifier: MIT
// One test for each guard of compact/memory_plan.hpp that no other test needs.
#include <string_view>
#include <vector>

#include "kvfit/compact/memory_plan.hpp"
#include "support/catch.hpp"

namespace kvfit_test {

using kvfit::errc;
using kvfit::index_t;

namespace {

kvfit::compaction_sizes plannable() {
  kvfit::compaction_sizes sizes;
  sizes.keys = 100;
  sizes.depth = 8;
  sizes.width = 6;
  sizes.query_rows = {40, 40};
  return sizes;
}

void check_not_planned(const kvfit::compaction_sizes& sizes, const kvfit::compact_options& options,
                       errc code, std::string_view argument) {
  const auto plan = kvfit::planned_memory(sizes, options);
  REQUIRE_FALSE(plan);
  INFO(plan.error().message());
  CHECK(plan.error().code == code);
  CHECK(plan.error().argument == argument);
}

}  // namespace

TEST_CASE("O: sizes that no inputs have are not planned for", "[compact][memory][guards]") {
  using sizes_t = kvfit::compaction_sizes;
  constexpr index_t beyond = (index_t{1} << 53U) + 1;
  const kvfit::compact_options options{.budget = 10};
  REQUIRE(kvfit::planned_memory(plannable(), options));
  for (const auto& [part, name] : {std::pair{&sizes_t::keys, "keys"},
                                   {&sizes_t::depth, "depth"},
                                   {&sizes_t::width, "width"}}) {
    for (const index_t none : {index_t{0}, index_t{-1}}) {
      sizes_t sizes = plannable();
      sizes.*part = none;
      check_not_planned(sizes, options, errc::empty_input, name);
    }
    sizes_t sizes = plannable();
    sizes.*part = beyond;
    check_not_planned(sizes, options, errc::invalid_option, name);
  }
  sizes_t unasked = plannable();
  unasked.query_rows.clear();
  check_not_planned(unasked, options, errc::empty_input, "query_rows");
  unasked.query_rows = {40, 0};
  check_not_planned(unasked, options, errc::empty_input, "query_rows");
  unasked.query_rows = {beyond - 1, 1};  // either is within the limit, their sum is not
  check_not_planned(unasked, options, errc::invalid_option, "query_rows");
}

TEST_CASE("O: rows that are hidden are rows, and no more than there are",
          "[compact][memory][guards]") {
  const kvfit::compact_options options{.budget = 10};
  kvfit::compaction_sizes sizes = plannable();
  sizes.order.hidden_first = 30;
  sizes.order.hidden_last = 30;
  sizes.order.hidden_between = 20;
  CHECK(kvfit::planned_memory(sizes, options));
  sizes.order.hidden_between = 41;
  check_not_planned(sizes, options, errc::invalid_option, "order");
  sizes.order.hidden_between = -1;
  check_not_planned(sizes, options, errc::invalid_option, "order");
}

TEST_CASE("O: a plan refuses rules and budgets as compact() does", "[compact][memory][guards]") {
  kvfit::compact_options options{.budget = 10};
  options.rule.soft_cap = -1;
  CHECK_FALSE(kvfit::planned_memory(plannable(), options));
  options.rule = {};
  options.rule.window = -1;
  CHECK_FALSE(kvfit::planned_memory(plannable(), options));
  options.rule = {};
  options.protect = {.first = 5, .last = 4};
  CHECK(kvfit::planned_memory(plannable(), options));
  options.protect.last = 5;  // nothing is left to choose
  CHECK(kvfit::planned_memory(plannable(), options).error().code == errc::budget_out_of_range);
}

}  // namespace kvfit_test
