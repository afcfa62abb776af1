// SPDX-License-Identifier: MIT
// Everything that can fail on a device: a typed error, and nothing of the caller's touched.
#include <chrono>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "metal/host/fixture.hpp"

using namespace host_tests;

namespace {

/// One call with its inputs, which must stay as they are.
struct small_problem {
  kvfit::matrix keys;
  kvfit::matrix values;
  kvfit::matrix queries;

  explicit small_problem(unsigned seed = 1) {
    std::mt19937 draw(seed);
    keys = random_matrix(draw, 90, 16);
    values = random_matrix(draw, 90, 16);
    queries = random_matrix(draw, 70, 16);
  }

  /// "" or the error, of a method that uses every stage of the GPU.
  [[nodiscard]] std::string compact(const char* method) const {
    auto gpu = kvfit::metal::executor::make(all_on_gpu());
    if (!gpu) return std::string(name(gpu.error().code));
    const auto preset = kvfit::presets::find(method);
    const auto fitted = kvfit::metal::compact(*gpu, keys, values, queries, preset->make(8));
    return fitted ? "" : std::string(name(fitted.error().code));
  }
  [[nodiscard]] std::string attend() const {
    auto gpu = kvfit::metal::executor::make(all_on_gpu());
    if (!gpu) return std::string(name(gpu.error().code));
    const auto found = kvfit::metal::attend(*gpu, queries, {{.keys = keys, .values = values}});
    return found ? "" : std::string(name(found.error().code));
  }
};

const std::vector<std::function<std::string(const small_problem&)>> calls = {
    [](const small_problem& p) { return p.compact("highest_attention"); },
    [](const small_problem& p) { return p.compact("omp"); },
    [](const small_problem& p) { return p.compact("zero_bias"); },
    [](const small_problem& p) { return p.attend(); },
};

}  // namespace

TEST_CASE("A system without a usable GPU is no_device", "[metal][host][errors]") {
  const fresh start;
  const auto refuses = [] {
    const auto gpu = kvfit::metal::executor::make();
    REQUIRE(!gpu);
    CHECK(gpu.error().code == kvfit::errc::no_device);
    failures() = {};
  };
  failures().no_device = true;
  refuses();
  failures().no_queue = true;
  refuses();
  failures().unified_memory = false;
  refuses();
  CHECK(kvfit::metal::executor::make());
}

TEST_CASE("Sizes that are no sizes are refused when an executor is made", "[metal][host][errors]") {
  const fresh start;
  auto options = all_on_gpu();
  options.from.fit_from = -1;
  CHECK(kvfit::metal::executor::make(options).error().code == kvfit::errc::invalid_option);
  for (const double wait : {0.0, -1.0, 1e6, std::numeric_limits<double>::quiet_NaN()}) {
    options = all_on_gpu();
    options.device.longest_wait = wait;
    CHECK(kvfit::metal::executor::make(options).error().code == kvfit::errc::invalid_option);
  }
  options = all_on_gpu();
  options.device.share_from = -1;
  CHECK(kvfit::metal::executor::make(options).error().code == kvfit::errc::invalid_option);
}

TEST_CASE("Shaders that do not compile, lack a kernel or make no pipeline are shader_failed",
          "[metal][host][errors]") {
  const fresh start;
  const small_problem problem;
  const small_problem same = problem;
  for (const auto& call : calls) {
    failures().library = true;
    CHECK(call(problem) == "shader_failed");
    failures() = {};
    for (const char* kernel : {"attention_fp32_fp32", "merge_states"}) {
      failures().function = kernel;
      CHECK(call(problem) == "shader_failed");
      failures() = {};
      failures().pipeline = kernel;
      CHECK(call(problem) == "shader_failed");
      failures() = {};
    }
    failures().threads_per_group = 96;  // registers for no more
    CHECK(call(problem) == "shader_failed");
    failures() = {};
    CHECK(call(problem).empty());
  }
  CHECK(problem.keys == same.keys);
  CHECK(problem.values == same.values);
  CHECK(problem.queries == same.queries);
}

TEST_CASE("Whichever buffer the device has no memory for, the call is out_of_memory",
          "[metal][host][errors]") {
  const fresh start;
  const small_problem problem;
  for (const auto& call : calls) {
    activity() = {};
    REQUIRE(call(problem).empty());
    const std::uint64_t needed = activity().buffers;
    REQUIRE(needed > 5);
    for (std::uint64_t made = 0; made < needed; made += 1 + made / 24) {
      const std::int64_t live = live_objects();
      activity() = {};
      failures().buffers = made;
      // Memory that can't be shared is copied, which may be all that was missing.
      const std::string outcome = call(problem);
      CHECK((outcome == "out_of_memory" || outcome.empty()));
      if (made + 4 < needed) CHECK(outcome == "out_of_memory");
      CHECK(live_objects() == live);
    }
    failures() = {};
    failures().max_buffer_length = 100;
    CHECK(call(problem) == "out_of_memory");
    failures() = {};
  }
}

TEST_CASE("A command buffer's fault, time-out or want of memory is its own error, whichever it is",
          "[metal][host][errors]") {
  const fresh start;
  const small_problem problem;
  const small_problem same = problem;
  for (const auto& call : calls) {
    activity() = {};
    REQUIRE(call(problem).empty());
    const std::uint64_t needed = activity().command_buffers;
    REQUIRE(needed >= 1);
    for (std::uint64_t run = 0; run < needed; ++run) {
      for (const auto& [code, wanted] :
           {std::pair{1, "device_fault"}, std::pair{2, "device_timeout"},
            std::pair{8, "out_of_memory"}}) {
        activity() = {};
        failures().command_buffers = run;
        failures().command_buffer_code = code;
        CHECK(call(problem) == wanted);
        failures() = {};
      }
    }
  }
  CHECK(problem.keys == same.keys);
  CHECK(problem.values == same.values);
  CHECK(problem.queries == same.queries);
}

TEST_CASE("A call gives up on a GPU that hangs, and the executor works again once it has ended",
          "[metal][host][errors]") {
  const fresh start;
  auto options = all_on_gpu();
  options.device.longest_wait = 0.05;
  const kvfit::metal::executor gpu = gpu_with(options);
  const auto attend = [&](const small_problem& p) {
    return kvfit::metal::attend(gpu, p.queries, {{.keys = p.keys, .values = p.values}});
  };
  const auto compact = [&](const small_problem& p, const char* method) {
    return kvfit::metal::compact(gpu, p.keys, p.values, p.queries,
                                 kvfit::presets::find(method)->make(8));
  };
  const small_problem same;
  const auto wanted = attend(same);
  REQUIRE(wanted);
  for (const char* method : {"highest_attention", "omp"}) REQUIRE(compact(same, method));
  const std::int64_t idle = live_objects();  // with all pipelines made
  for (const char* method : {"", "highest_attention", "omp"}) {
    INFO(method);
    failures().hangs = true;
    {
      // The inputs end before the GPU begins, and so does all that the call made.
      const small_problem problem;
      const auto begin = std::chrono::steady_clock::now();
      const kvfit::errc code =
          *method == 0 ? attend(problem).error().code : compact(problem, method).error().code;
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
      CHECK(code == kvfit::errc::device_timeout);
      CHECK(taken.count() >= 0.05);
      CHECK(taken.count() < 30);
      CHECK(problem.keys == same.keys);
      CHECK(problem.values == same.values);
      CHECK(problem.queries == same.queries);
      // What hangs is not waited for again: nothing more is committed behind it.
      const auto committed = activity().command_buffers;
      const auto next = attend(problem);
      REQUIRE(!next);
      CHECK(next.error().code == kvfit::errc::device_timeout);
      CHECK(next.error().message().find("earlier work") != std::string::npos);
      CHECK(activity().command_buffers == committed);
    }
    metal_emulator::release_commands();
    const auto again = attend(same);
    REQUIRE(again);
    CHECK(again->output == wanted->output);
    CHECK(live_objects() == idle);
  }
  // With a limit nothing of the caller's may be what the GPU still works on.
  CHECK(!kvfit::metal::share(*gpu.state().gpu, same.keys.data(), same.keys.size() * 4));
}

TEST_CASE("Bad inputs of compact on the GPU are refused as the CPU refuses them",
          "[metal][host][errors]") {
  const fresh start;
  const kvfit::metal::executor gpu = gpu_with(all_on_gpu());
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<std::function<void(small_problem&, kvfit::compact_options&)>> faults = {
      [&](small_problem& p, kvfit::compact_options&) { p.keys(80, 2) = nan; },
      [&](small_problem& p, kvfit::compact_options&) {
        p.values(3, 15) = std::numeric_limits<float>::infinity();
      },
      [&](small_problem& p, kvfit::compact_options&) { p.queries(69, 0) = nan; },
      [](small_problem& p, kvfit::compact_options&) { p.queries.resize(0, 16); },
      [](small_problem& p, kvfit::compact_options&) { p.values.conservativeResize(89, 16); },
      [](small_problem&, kvfit::compact_options& o) { o.budget = 0; },
      [](small_problem&, kvfit::compact_options& o) { o.rule.soft_cap = -1; },
      [](small_problem& p, kvfit::compact_options&) {
        p.keys.row(5) *= 1e30F;
        p.queries.row(7) *= 1e30F;
      },
      [](small_problem& p, kvfit::compact_options& o) {  // nobody sees anything
        o.rule.causal = true;
        p.queries.conservativeResize(1, 16);
        o.rule.window = 1;
      },
      [](small_problem&, kvfit::compact_options& o) { o.memory.cap = 10; },
  };
  for (std::size_t k = 0; k < faults.size(); ++k) {
    for (const char* method : {"highest_attention", "omp"}) {
      INFO(k << ", " << method);
      small_problem problem;
      kvfit::compact_options options = kvfit::presets::find(method)->make(8);
      faults[k](problem, options);
      kvfit::query_block block{kvfit::row_view(problem.queries)};
      if (k == 8) block.first_position = -10;
      const kvfit::kv_block cache{.keys = problem.keys, .values = problem.values};
      const auto wanted = kvfit::compact(cache, block, options);
      const auto found = kvfit::metal::compact(gpu, cache, block, options);
      REQUIRE(!wanted);
      REQUIRE(!found);
      CHECK(found.error().message() == wanted.error().message());
    }
  }
}

TEST_CASE("A call on the GPU that is asked to stop is cancelled", "[metal][host][errors]") {
  const fresh start;
  const small_problem problem;
  const kvfit::metal::executor gpu = gpu_with(all_on_gpu());
  kvfit::cancellation wish;
  wish.request();
  const auto found = kvfit::metal::compact(gpu, problem.keys, problem.values, problem.queries,
                                           kvfit::presets::find("omp")->make(8), {.cancel = &wish});
  REQUIRE(!found);
  CHECK(found.error().code == kvfit::errc::cancelled);
  CHECK(activity().command_buffers == 0);
}
