// SPDX-License-Identifier: MIT
// Whole compactions of captured heads: stages on the emulated GPU beside all of them on the CPU.
#include <cmath>
#include <string>

#include "kvfit/compact/memory_plan.hpp"
#include "metal/host/fixture.hpp"

using namespace host_tests;

namespace {

void check_near(const char* what, double found, double wanted) {
  INFO(what << ": " << found << " on the GPU, " << wanted << " on the CPU");
  CHECK(std::abs(found - wanted) <= 1e-3 * wanted);
}

/// The preset on both; the GPU's errors within 0.1 % of the CPU's.
kvfit::metal::stage_counts check_method(const captured_head& head, const std::string& method,
                                        kvfit::index_t budget) {
  const auto preset = kvfit::presets::find(method);
  REQUIRE(preset);
  kvfit::compact_options options = preset->make(budget);
  options.rule = head.rule;
  const auto truth = kvfit::compact(head.cache, head.set(), options);
  REQUIRE(truth);
  const kvfit::metal::executor gpu = gpu_with(all_on_gpu());
  const auto found = kvfit::metal::compact(gpu, head.cache, head.set(), options);
  INFO(method << ": " << (found ? "" : found.error().message()) << last_fault());
  REQUIRE(found);
  const kvfit::fidelity wanted = held_out_errors(head, *truth);
  const kvfit::fidelity errors = held_out_errors(head, *found);
  check_near("output error", errors.output_error, wanted.output_error);
  check_near("mass error", errors.mass_error, wanted.mass_error);
  CHECK(found->positions == truth->positions);
  return gpu.counts();
}

}  // namespace

TEST_CASE("highest attention on the GPU has the CPU's errors on captured heads",
          "[metal][host][captured]") {
  const fresh start;
  const captured_heads capture;
  for (std::size_t place = 0; place < 2; ++place) {
    for (kvfit::index_t head = 0; head < 2; ++head) {
      INFO("layer " << place << ", head " << head);
      const auto counts = check_method(capture.at(place, head, 1024, 8), "highest_attention", 51);
      CHECK(counts.score_passes == 1);
      CHECK(counts.fits == 2);
      CHECK(counts.handed_over == 0);
    }
  }
}

TEST_CASE("OMP on the GPU has the CPU's errors on captured heads", "[metal][host][captured]") {
  const fresh start;
  const captured_heads capture;
  for (std::size_t place = 0; place < 2; ++place) {
    for (kvfit::index_t head = 0; head < 2; ++head) {
      INFO("layer " << place << ", head " << head);
      const auto counts = check_method(capture.at(place, head, 1024, 16), "omp", 51);
      CHECK(counts.score_passes == 1);
      CHECK(counts.selections == 1);
      CHECK(counts.fits == 1);
      CHECK(counts.handed_over == 0);
    }
  }
}

TEST_CASE("OMP of four keys a round with divisors on the GPU chooses as the CPU does",
          "[metal][host][captured]") {
  const fresh start;
  const captured_heads capture;
  const captured_head head = capture.at(1, 0, 512, 16);
  kvfit::compact_options options{.budget = 30, .rule = head.rule};
  options.selection = kvfit::selection::omp{.keys_per_round = 4, .refit_interval = 2};
  const auto wanted = kvfit::compact(head.cache, head.set(), options);
  REQUIRE(wanted);
  const kvfit::metal::executor gpu = gpu_with(all_on_gpu());
  const auto found = kvfit::metal::compact(gpu, head.cache, head.set(), options);
  REQUIRE(found);
  CHECK(gpu.counts().selections == 1);
  CHECK(found->positions == wanted->positions);
}

TEST_CASE("the default method on the GPU has the CPU's errors on captured heads",
          "[metal][host][captured]") {
  const fresh start;
  const captured_heads capture;
  for (std::size_t place = 0; place < 2; ++place) {
    for (kvfit::index_t head = 0; head < 2; ++head) {
      INFO("layer " << place << ", head " << head);
      const auto counts = check_method(capture.at(place, head, 1024, 8), "default", 51);
      // Queries fitted on; those held out, for the ranks of rows (a pass for each query head), and
      // to judge.
      CHECK(counts.score_passes == 4);
      CHECK(counts.fits >= 1);
    }
  }
}

TEST_CASE("Attention over a compact captured head on the GPU is the CPU's",
          "[metal][host][captured]") {
  const fresh start;
  const captured_heads capture;
  captured_head head = capture.at(1, 0, 512, 8);
  const auto fitted = kvfit::compact(head.cache, head.set(), {.budget = 50, .rule = head.rule});
  REQUIRE(fitted);
  for (kvfit::query_block& block : head.test_queries) block.rows = block.rows.middle_rows(0, 40);
  const kvfit::query_set queries{std::span<const kvfit::query_block>(head.test_queries)};
  const kvfit::metal::executor gpu = gpu_with(all_on_gpu());
  const auto wanted = kvfit::attend(queries, {fitted->block(), head.cache}, head.rule);
  const auto found = kvfit::metal::attend(gpu, queries, {fitted->block(), head.cache}, head.rule);
  REQUIRE(wanted);
  REQUIRE(found);
  CHECK((found->output - wanted->output).cwiseAbs().maxCoeff() <= 1e-4F);
  CHECK((found->log_mass - wanted->log_mass).cwiseAbs().maxCoeff() <= 1e-5F);
  CHECK(gpu.counts().attentions == 1);
}

TEST_CASE("A stage runs on the GPU from its size on, and on the CPU below", "[metal][host]") {
  const fresh start;
  const captured_heads capture;
  const captured_head head = capture.at(0, 0, 128, 32);
  kvfit::compact_options options = kvfit::presets::find("omp")->make(8);
  options.rule = head.rule;
  const auto counts_with = [&](const kvfit::metal::placement& from) {
    auto how = all_on_gpu();
    how.from = from;
    const kvfit::metal::executor gpu = gpu_with(how);
    REQUIRE(kvfit::metal::compact(gpu, head.cache, head.set(), options));
    return gpu.counts();
  };
  constexpr double never = kvfit::metal::placement::never;
  const auto scored = counts_with({0, never, never, never});
  CHECK(scored.score_passes == 1);
  CHECK(scored.selections + scored.fits == 0);
  const auto selected = counts_with({never, never, 64 * 128 * 8, never});
  CHECK(selected.selections == 1);
  CHECK(selected.score_passes + selected.fits == 0);
  const auto too_small = counts_with({never, never, 64 * 128 * 8 + 1, never});
  CHECK(too_small.selections == 0);
  const auto fitted = counts_with({never, never, never, 64 * 8 * 8});
  CHECK(fitted.fits == 1);
  const auto nothing = counts_with({never, never, never, never});
  CHECK(nothing.score_passes + nothing.selections + nothing.fits == 0);
}

TEST_CASE("A cap counts the GPU's memory: without space for it all runs on the CPU",
          "[metal][host]") {
  const fresh start;
  const captured_heads capture;
  const captured_head head = capture.at(0, 0, 256, 16);
  kvfit::compact_options options = kvfit::presets::find("highest_attention")->make(16);
  options.rule = head.rule;
  const auto plan = kvfit::planned_memory(kvfit::sizes_of(head.cache, head.set()), options);
  REQUIRE(plan);
  options.memory.cap = plan->needed;
  const auto wanted = kvfit::compact(head.cache, head.set(), options);
  REQUIRE(wanted);
  const kvfit::metal::executor gpu = gpu_with(all_on_gpu());
  const auto found = kvfit::metal::compact(gpu, head.cache, head.set(), options);
  REQUIRE(found);
  CHECK(gpu.counts().score_passes + gpu.counts().fits == 0);
  CHECK(found->values == wanted->values);
  CHECK(found->bias == wanted->bias);
  options.memory.cap = plan->needed + (64 << 20);
  REQUIRE(kvfit::metal::compact(gpu, head.cache, head.set(), options));
  CHECK(gpu.counts().score_passes == 1);
  CHECK(gpu.counts().fits == 2);
}

TEST_CASE("A cap counts a copy of the exponentials, which the system may not let be shared",
          "[metal][host]") {
  const fresh start;
  const captured_heads capture;
  const captured_head head = capture.at(0, 0, 256, 16);
  kvfit::compact_options options = kvfit::presets::find("omp_fast")->make(16);
  options.rule = head.rule;
  const kvfit::metal::executor gpu =
      gpu_with({.from = {.score_from = 0,
                         .select_from = kvfit::metal::placement::never,
                         .fit_from = kvfit::metal::placement::never},
                .device = {.share_from = 0, .longest_wait = 60}});
  const auto plan = kvfit::planned_memory(kvfit::sizes_of(head.cache, head.set()), options);
  REQUIRE(plan);
  const double attention = kvfit::metal::attention_device_bytes(head.set(), head.cache);
  const double kept = 4.0 * static_cast<double>(head.set().rows() * head.cache.keys.rows());
  REQUIRE(kvfit::metal::score_device_bytes(head.set(), head.cache, options) == attention + kept);
  const auto passes_under = [&](double beside) {
    const auto before = gpu.counts().score_passes;
    options.memory.cap = plan->needed + static_cast<kvfit::index_t>(beside);
    REQUIRE(kvfit::metal::compact(gpu, head.cache, head.set(), options));
    return gpu.counts().score_passes - before;
  };
  CHECK(passes_under(attention + kept / 2) == 0);
  CHECK(passes_under(attention + kept + 1) >= 1);
}
