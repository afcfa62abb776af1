// SPDX-License-Identifier: MIT
// What selections list, against what they ask of malloc.
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

namespace {

/// Selects under ever smaller caps on n × T numbers: never more is held than is listed, and never
/// much less. The smaller the `spread` of the keys, the more of them are alike and candidates of
/// one round.
template <class Policy>
void check_memory(const Policy& policy, bool may_recompute, float spread = 1,
                  kvfit::index_t keys = 2500) {
  head made = make_head(21, {.queries = 400, .keys = keys, .depth = 8});
  made.keys *= spread;
  kvfit::score_options wanted = wanted_scores(policy);
  wanted.keep_exponentials = 0;  // as after a score pass under a cap of its own
  const scored_head scored(made.cache(), made.queries, wanted);
  kvfit::selection_problem problem = scored.problem(24);
  const auto free = select(policy, problem);
  REQUIRE(free);
  const kvfit::index_t all = 4 * 400 * keys;
  bool is_recomputed = false;
  double before = 1e30;
  for (const kvfit::index_t cap : {problem.memory_cap, all, all - 1, all / 4, kvfit::index_t{0}}) {
    problem.memory_cap = cap;
    kvfit::workspace space;
    declare(space, policy, kvfit::sizes_of_problem(problem));
    const double listed = space.most();
    kvfit::result<kvfit::selected_rows> chosen = kvfit::error{};
    const auto peak = static_cast<double>(
        count_allocations([&] { chosen = select(policy, problem); }).peak_bytes);
    CAPTURE(cap, peak, listed);
    REQUIRE(chosen);
    CHECK(peak <= listed + kvfit::small_bytes);
    CHECK(listed <= 1.5 * peak + kvfit::small_bytes);
    CHECK(listed <= before);  // a smaller cap takes no more
    before = listed;
    is_recomputed = is_recomputed || chosen->report.recomputed;
    CHECK(chosen->positions.size() == free->positions.size());
    if (cap >= all) CHECK(chosen->positions == free->positions);
  }
  CHECK(is_recomputed == may_recompute);
}

}  // namespace

TEST_CASE("a selection holds no more than it lists, nor much less, whatever its cap",
          "[selection][memory]") {
  if (!can_count) return;
  check_memory(kvfit::selection::omp{}, true);
  check_memory(kvfit::selection::omp{}, true, 0.02F);
  check_memory(kvfit::selection::omp{.keys_per_round = 4, .refit_interval = 2}, true, 0);
  check_memory(kvfit::selection::joint{}, true);
  check_memory(kvfit::selection::joint{.attention_share = 0}, true);
  check_memory(kvfit::selection::joint{.attention_share = 0.75, .sketch = 0}, true);
  // Among 4,000 keys the search looks at 2,048, whose columns it makes once.
  check_memory(kvfit::selection::joint{}, false, 1, 4000);
  check_memory(kvfit::selection::joint{.attention_share = 0, .sketch = 0}, false, 1, 4000);
  check_memory(kvfit::selection::highest_attention{}, false);
  check_memory(kvfit::selection::random{3}, false);
}
