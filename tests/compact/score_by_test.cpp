// SPDX-License-Identifier: MIT
/// Score passes by a runner of the caller's.
#include <algorithm>
#include <cstddef>

#include "kvfit/attention/score_pass.hpp"
#include "kvfit/compact.hpp"
#include "support/catch.hpp"
#include "support/random_matrix.hpp"

namespace {

/// Runs passes on the CPU, or leaves them to it, or fails.
struct own_runner {
  enum class answer { done, left, failed } what = answer::done;
  int calls = 0;

  static kvfit::result<bool> run(void* owner, const kvfit::score_request& request) {
    auto& own = *static_cast<own_runner*>(owner);
    ++own.calls;
    if (own.what == answer::left) return false;
    if (own.what == answer::failed) return kvfit::error{kvfit::errc::device_fault, "mine", 7};
    // The library's pass, where it is linked: of the instruction set that `compact` runs on.
    const auto scores =
        kvfit::score_pass(request.cache, request.queries, request.rule, request.options);
    if (!scores) return scores.error();
    const auto copy = [](const auto& from, float* to) {
      if (to != nullptr) std::copy_n(from.data(), from.size(), to);
    };
    copy(scores->max, request.to.max);
    copy(scores->mass, request.to.mass);
    copy(scores->log_mass, request.to.log_mass);
    copy(scores->output, request.to.output);
    copy(scores->importance, request.to.importance);
    copy(scores->exponentials, request.to.exponentials);
    copy(scores->shift, request.to.shift);
    return true;
  }
};

}  // namespace

TEST_CASE("A runner of the caller's runs the score passes of a compaction, or leaves or ends them",
          "[compact][score_by]") {
  const kvfit::matrix keys = kvfit_test::random_matrix(200, 16, 1);
  const kvfit::matrix values = kvfit_test::random_matrix(200, 16, 2);
  const kvfit::matrix queries = kvfit_test::random_matrix(150, 16, 3);
  kvfit::compact_options options{.budget = 12};
  const auto wanted = kvfit::compact(keys, values, queries, options);
  REQUIRE(wanted);
  own_runner runner;
  options.score_by = {&runner, &own_runner::run};
  for (const auto answer : {own_runner::answer::done, own_runner::answer::left}) {
    runner = {answer};
    const auto found = kvfit::compact(keys, values, queries, options);
    REQUIRE(found);
    CHECK(runner.calls == 3);  // queries fitted on, and those held out: to rank rows, and to judge
    CHECK(found->positions == wanted->positions);
    CHECK(found->keys == wanted->keys);
    CHECK(found->bias == wanted->bias);
    CHECK(found->values == wanted->values);
  }
  runner = {own_runner::answer::failed};
  const auto failed = kvfit::compact(keys, values, queries, options);
  REQUIRE(!failed);
  CHECK(failed.error().message() == kvfit::error{kvfit::errc::device_fault, "mine", 7}.message());
  CHECK(runner.calls == 1);
}
