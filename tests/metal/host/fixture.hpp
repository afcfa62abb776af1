// SPDX-License-Identifier: MIT
/// What tests of the Metal unit's host side share: a device that works, captured heads, errors.
#pragma once

#include <Metal/Metal.hpp>
#include <cstdint>
#include <filesystem>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#ifndef KVFIT_METAL
#define KVFIT_METAL
#endif
#include "kvfit/attention/attend.hpp"
#include "kvfit/attention/compare.hpp"
#include "kvfit/attention/fidelity.hpp"
#include "kvfit/io/capture.hpp"
#include "kvfit/metal/executor.hpp"
#include "kvfit/presets.hpp"
#include "support/catch.hpp"

namespace host_tests {

#if defined(KVFIT_TEST_ON_DEVICE)

struct fresh {
  fresh() = default;
  fresh(const fresh&) = delete;
  fresh& operator=(const fresh&) = delete;
  ~fresh() {}  // so that it is used
};
inline std::string last_fault() {
  return {};
}

#else

using metal_emulator::activity;
using metal_emulator::failures;
using metal_emulator::live_objects;

/// Every test begins with a device that works, and ends with as many objects as it began with and
/// without a call that Metal's validation layer refuses.
struct fresh {
  fresh() : live(live_objects()) {
    failures() = {};
    activity() = {};
  }
  fresh(const fresh&) = delete;
  fresh& operator=(const fresh&) = delete;
  ~fresh() {
    failures() = {};
    CHECK(live_objects() == live);
    CHECK(activity().misuses == std::vector<std::string>{});
  }
  std::int64_t live;
};

/// What went wrong in a kernel, where something did.
inline std::string last_fault() {
  return activity().last_fault.message;
}

#endif

/// Every stage on the GPU, whatever its size.
inline kvfit::metal::executor_options all_on_gpu(bool has_matrices = true) {
  return {.from = {.score_from = 0, .attend_from = 0, .select_from = 0, .fit_from = 0},
          .device = {.share_from = 0, .uses_simdgroup_matrices = has_matrices}};
}

inline kvfit::metal::executor gpu_with(const kvfit::metal::executor_options& options) {
  auto made = kvfit::metal::executor::make(options);
  REQUIRE(made);
  return std::move(*made);
}

inline kvfit::matrix random_matrix(std::mt19937& draw, kvfit::index_t rows, kvfit::index_t cols,
                                   float size = 1) {
  std::normal_distribution<float> normal(0, size);
  kvfit::matrix out(rows, cols);
  for (kvfit::index_t k = 0; k < out.size(); ++k) out.data()[k] = normal(draw);
  return out;
}

/// Some of a captured head's keys and queries: few enough for an emulator.
struct captured_head {
  kvfit::kv_block cache;
  std::vector<kvfit::query_block> queries;
  std::vector<kvfit::query_block> test_queries;
  kvfit::logit_rule rule;

  [[nodiscard]] kvfit::query_set set() const { return std::span(queries); }
};

class captured_heads {
 public:
  captured_heads()
      : capture_(kvfit::read_capture(std::filesystem::path(KVFIT_TEST_DATA_DIR) /
                                     "tinybooks.safetensors")) {
    REQUIRE(capture_);
  }

  /// Head `head` of the layer at `place`: `keys` first rows, every `step`-th query.
  [[nodiscard]] captured_head at(std::size_t place, kvfit::index_t head, kvfit::index_t keys,
                                 kvfit::index_t step) const {
    const kvfit::capture_layer& layer = capture_->layers[place];
    captured_head out;
    out.cache = {.keys = layer.keys(head).middle_rows(0, keys),
                 .values = layer.values(head).middle_rows(0, keys)};
    for (const kvfit::row_view& rows : layer.queries(head)) {
      out.queries.emplace_back(rows.every_row(0, step));
    }
    for (const kvfit::row_view& rows : layer.test_queries(head)) {
      out.test_queries.emplace_back(rows);
    }
    out.rule.scale = capture_->scale;
    return out;
  }

 private:
  kvfit::result<kvfit::capture> capture_;
};

/// Errors of a compact head on its test queries, by the CPU.
inline kvfit::fidelity held_out_errors(const captured_head& head, const kvfit::compacted& fitted) {
  const kvfit::query_set queries{std::span<const kvfit::query_block>(head.test_queries)};
  const auto full = kvfit::attend(queries, {head.cache}, head.rule);
  REQUIRE(full);
  const auto found = kvfit::attend(queries, {fitted.block()}, head.rule);
  REQUIRE(found);
  return kvfit::compare(full->output, full->log_mass, found->output, found->log_mass);
}

}  // namespace host_tests
