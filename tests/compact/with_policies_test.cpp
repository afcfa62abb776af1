// SPDX-License-Identifier: MIT
#include "kvfit/compact/with_policies.hpp"

#include <type_traits>
#include <variant>

#include "support/catch.hpp"

TEST_CASE("another composition keeps every option that is no policy", "[compact][with_policies]") {
  // None is what it would be by default.
  kvfit::compact_options from{.budget = 77,
                              .rule = {.scale = 0.5F, .causal = true},
                              .selection = kvfit::selection::omp{},
                              .bias = kvfit::bias::zero{},
                              .values = kvfit::values::copy{},
                              .refine = {.steps = 3, .batch = 17},
                              .gradient = kvfit::gradient_keys{.steps = 5},
                              .protect = {.first = 2, .last = 3},
                              .replace_dead_keys = false,
                              .held_out = 0.25,
                              .queries_per_row = 7,
                              .queries_at_least = 11,
                              .keep_better_values = false,
                              .storage = kvfit::dtype::fp16,
                              .bias_storage = kvfit::dtype::bf16,
                              .precision = kvfit::precision_kind::bf16x3,
                              .selection_memory = 13,
                              .memory = 1700};
  const auto to = kvfit::detail::with_policies(from, kvfit::selection::given{{4, 9}},
                                               kvfit::bias::nnls{}, kvfit::values::least_squares{});
  static_assert(std::is_same_v<std::remove_const_t<decltype(to)>,
                               kvfit::compaction<kvfit::selection::given, kvfit::bias::nnls,
                                                 kvfit::values::least_squares>>);
  CHECK(to.selection.positions == std::vector<kvfit::index_t>{4, 9});
  CHECK(to.budget == 77);
  CHECK(to.rule.scale == 0.5F);
  CHECK(to.rule.causal);
  CHECK(to.refine.steps == 3);
  CHECK(to.refine.batch == 17);
  REQUIRE(to.gradient);
  CHECK(to.gradient->steps == 5);
  CHECK(to.protect.first == 2);
  CHECK(to.protect.last == 3);
  CHECK_FALSE(to.replace_dead_keys);
  CHECK(to.held_out == 0.25);
  CHECK(to.queries_per_row == 7);
  CHECK(to.queries_at_least == 11);
  CHECK_FALSE(to.keep_better_values);
  CHECK(to.storage == kvfit::dtype::fp16);
  CHECK(to.bias_storage == kvfit::dtype::bf16);
  CHECK(to.precision == kvfit::precision_kind::bf16x3);
  CHECK(to.selection_memory == 13);
  CHECK(to.memory == 1700);
  // And back, to policies chosen at run time.
  const kvfit::compact_options back =
      kvfit::detail::with_policies<kvfit::any_selection, kvfit::any_bias, kvfit::any_values>(
          to, kvfit::selection::last{}, from.bias, from.values);
  CHECK(std::holds_alternative<kvfit::selection::last>(back.selection));
  CHECK(std::holds_alternative<kvfit::bias::zero>(back.bias));
  CHECK(std::holds_alternative<kvfit::values::copy>(back.values));
  CHECK(back.queries_at_least == 11);
  CHECK(back.memory == 1700);
}
