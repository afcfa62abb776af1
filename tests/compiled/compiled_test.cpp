// SPDX-License-Identifier: MIT
#include "kvfit/compact/compiled.hpp"

#include <cmath>
#include <cstddef>
#include <cstring>
#include <string>

#include "kvfit/attention/attend.hpp"
#include "kvfit/attention/compare.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/core/active_isa.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "kvfit/presets.hpp"
#include "support/catch.hpp"
#include "support/random_matrix.hpp"

using namespace kvfit_test;

namespace {

struct case_head {
  kvfit::matrix keys = random_matrix(96, 13, 1);
  kvfit::matrix values = random_matrix(96, 9, 2);
  kvfit::matrix queries = random_matrix(70, 13, 3, 1.5F);

  [[nodiscard]] kvfit::kv_block cache() const { return {.keys = keys, .values = values}; }
};

kvfit::compacted fit_on(const kvfit::compiled::entry_points& path, const case_head& head,
                        const kvfit::compact_options& options,
                        const kvfit::executor_ref& threads = {}) {
  auto fitted =
      path.compact->call(head.cache(), kvfit::query_set(head.queries), options, {}, threads);
  INFO(path.isa);
  REQUIRE(fitted);
  return kvfit::compiled::from_plain(std::move(*fitted));
}

double output_error(const case_head& head, const kvfit::compacted& fitted) {
  const auto full = kvfit::attend(kvfit::query_set(head.queries), {head.cache()});
  const auto small = kvfit::attend(kvfit::query_set(head.queries), {fitted.block()});
  REQUIRE(full);
  REQUIRE(small);
  return (full->output - small->output).norm() / full->output.norm();
}

bool same_bytes(const kvfit::matrix& a, const kvfit::matrix& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("the paths are those this machine can run, the best first, the plain one last",
          "[compiled]") {
  const auto paths = kvfit::compiled::available();
  REQUIRE_FALSE(paths.empty());
  CHECK(kvfit::active_isa() == paths.front().isa);
  for (const auto& path : paths) {
    INFO(path.isa);
    CHECK_FALSE(path.isa.empty());
    CHECK(path.compact != nullptr);
  }
#if defined(__x86_64__) && !defined(__AVX__)
  // Compiled for any x86-64, this program still finds what the CPU has beyond that.
  CHECK(paths.back().isa.starts_with("sse"));
#if defined(KVFIT_TEST_ALL_PATHS)
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  CHECK(paths.size() ==
        std::size_t{1} + (has_avx2 ? 1U : 0U) + (__builtin_cpu_supports("avx512vl") ? 1U : 0U));
  if (has_avx2) CHECK(paths[paths.size() - 2].isa == "avx2_fma_f16c");
  if (__builtin_cpu_supports("avx512vl")) CHECK(paths.front().isa == "avx512_fma_f16c");
#endif
#endif
}

TEST_CASE("every path keeps the same rows and fits them alike", "[compiled]") {
  const case_head head;
  const auto name = GENERATE("highest_attention", "omp", "default", "refined");
  INFO(name);
  const auto options = kvfit::presets::find(name)->make(24);
  const auto paths = kvfit::compiled::available();
  const auto plain = fit_on(paths.back(), head, options);
  REQUIRE(plain.keys.rows() == 24);
  const double error = output_error(head, plain);
  CHECK(error < 0.9);
  for (const auto& path : paths) {
    INFO(path.isa);
    const auto fitted = fit_on(path, head, options);
    CHECK(fitted.positions == plain.positions);
    CHECK(fitted.key_positions == plain.key_positions);
    CHECK(fitted.report.seconds.total > 0);
    CHECK(std::abs(output_error(head, fitted) - error) < 0.01 * error);
    const auto again = fit_on(path, head, options);
    CHECK(same_bytes(again.keys, fitted.keys));
    CHECK(same_bytes(again.values, fitted.values));
    CHECK(same_bytes(again.bias, fitted.bias));
  }
}

TEST_CASE("compact() takes the best path and gives its bytes", "[compiled]") {
  const case_head head;
  const auto fitted = kvfit::compact(head.keys, head.values, head.queries, {.budget = 10});
  REQUIRE(fitted);
  const auto direct = fit_on(kvfit::compiled::available().front(), head, {.budget = 10});
  CHECK(fitted->positions == direct.positions);
  CHECK(same_bytes(fitted->keys, direct.keys));
  CHECK(same_bytes(fitted->values, direct.values));
  CHECK(same_bytes(fitted->bias, direct.bias));
}

TEST_CASE("threads cross the entry point of every path and change no byte", "[compiled][threads]") {
  const case_head head;
  kvfit::thread_pool pool(3);
  for (const auto& path : kvfit::compiled::available()) {
    INFO(path.isa);
    const auto alone = fit_on(path, head, {.budget = 12});
    const auto shared = fit_on(path, head, {.budget = 12}, pool);
    CHECK(shared.report.memory.panels_at_once == 3);
    CHECK(same_bytes(alone.keys, shared.keys));
    CHECK(same_bytes(alone.values, shared.values));
    CHECK(same_bytes(alone.bias, shared.bias));
  }
}

TEST_CASE("errors come through every path with their sizes", "[compiled]") {
  case_head head;
  for (const auto& path : kvfit::compiled::available()) {
    INFO(path.isa);
    const auto none =
        path.compact->call(head.cache(), kvfit::query_set(head.queries), {.budget = 0}, {}, {});
    REQUIRE_FALSE(none);
    CHECK(none.error().argument == "budget");
    const kvfit::matrix narrow = head.queries.leftCols(5);
    const auto shapes =
        path.compact->call(head.cache(), kvfit::query_set(narrow), {.budget = 5}, {}, {});
    REQUIRE_FALSE(shapes);
    CHECK(shapes.error().code == kvfit::errc::shape_mismatch);
    CHECK(shapes.error().actual == 5);
    CHECK(shapes.error().expected == 13);
    const kvfit::stop_when late{.deadline = std::chrono::steady_clock::now()};
    const auto stopped =
        path.compact->call(head.cache(), kvfit::query_set(head.queries), {.budget = 5}, late, {});
    REQUIRE_FALSE(stopped);
    CHECK(stopped.error().code == kvfit::errc::cancelled);
  }
}
