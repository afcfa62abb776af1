// SPDX-License-Identifier: MIT
#include "kvfit/selection/select_within.hpp"

#include <algorithm>
#include <vector>

#include "kvfit/selection/fixed.hpp"
#include "kvfit/selection/highest_attention.hpp"
#include "kvfit/selection/joint.hpp"
#include "kvfit/selection/omp.hpp"
#include "selection/heads.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"

using namespace kvfit_test;
using kvfit::errc;

namespace {

/// Selects under ever smaller caps: each is kept, or refused with what would do. The smaller the
/// `spread` of the keys, the more of them are alike and candidates of one round.
template <class Policy>
void check_caps(const Policy& policy, bool may_recompute, float spread = 1) {
  head made = make_head(21, {.queries = 400, .keys = 2500, .depth = 8});
  made.keys *= spread;
  kvfit::score_options wanted = wanted_scores(policy);
  wanted.keep_exponentials = 0;  // as after a score pass under a cap of its own
  const scored_head scored(made.cache(), made.queries, wanted);
  const kvfit::selection_problem problem = scored.problem(24);
  const auto free = select(policy, problem);
  REQUIRE(free);
  const kvfit::index_t enough = kvfit::whole_bytes(
      select_bytes(policy, kvfit::sizes_of_problem(problem)) + kvfit::small_bytes);
  bool is_recomputed = false;
  for (kvfit::index_t cap = enough;; cap -= cap / 4) {
    kvfit::result<kvfit::selected_rows> chosen = kvfit::error{};
    const auto peak =
        count_allocations([&] { chosen = kvfit::select_within(policy, problem, cap); }).peak_bytes;
    CAPTURE(cap, peak);
    if (!chosen) {
      CHECK(chosen.error().code == errc::memory_cap_exceeded);
      CHECK(chosen.error().expected == cap);
      CHECK(chosen.error().actual > cap);
      CHECK(peak < 4096);
      CHECK(kvfit::select_within(policy, problem, chosen.error().actual));
      CHECK_FALSE(kvfit::select_within(policy, problem, chosen.error().actual - 1));
      break;
    }
    CHECK(peak <= cap);
    is_recomputed = is_recomputed || chosen->report.recomputed;
    CHECK(chosen->positions.size() == free->positions.size());
    if (cap == enough) CHECK(chosen->positions == free->positions);
  }
  CHECK(is_recomputed == may_recompute);
}

}  // namespace

TEST_CASE("a selection keeps to a cap on all it holds, or is refused before it begins",
          "[selection][memory]") {
  if (!can_count) return;
  check_caps(kvfit::selection::omp{}, true);
  check_caps(kvfit::selection::omp{}, true, 0.02F);
  check_caps(kvfit::selection::omp{.keys_per_round = 4, .refit_interval = 2}, true, 0);
  check_caps(kvfit::selection::joint{}, true);
  check_caps(kvfit::selection::joint{.attention_share = 0}, true);
  check_caps(kvfit::selection::joint{.attention_share = 0.75, .sketch = 0}, true);
  check_caps(kvfit::selection::joint{.attention_share = 1, .exact_share = 0.5}, false);
  check_caps(kvfit::selection::highest_attention{}, false);
  check_caps(kvfit::selection::random{3}, false);
  const head made = make_head(22);
  const scored_head scored(made.cache(), made.queries);
  CHECK(kvfit::select_within(kvfit::selection::first{}, scored.problem(4), -1).error().code ==
        errc::invalid_option);
  CHECK(kvfit::select_within(kvfit::selection::first{}, scored.problem(0), 1 << 20).error().code ==
        errc::budget_out_of_range);
}
