// SPDX-License-Identifier: MIT
/// Runs the kernels of attention on emulated heads, and the same in double.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "kvfit/metal/kernels/shared/attention_arguments.h"
#include "metal/kernels/head.hpp"
#include "support/catch.hpp"

namespace kernel_tests {

using metal_emulator::call;
using metal_emulator::counts;
using metal_emulator::order;
using metal_emulator::outcome;

constexpr std::uint32_t threads = kernels::group_threads;

inline const std::vector<dtype> all_types = {dtype::fp32, dtype::fp16, dtype::bf16};
/// Endings of kernels with simdgroup matrices and with plain tiles.
inline const std::vector<std::string> both_tiles = {"", "_plain"};

/// What is known of the queries of a head, or of a head of several blocks.
struct query_results {
  std::vector<float> max;
  std::vector<float> mass;
  std::vector<float> log_mass;
  std::vector<std::uint32_t> faults;
  std::vector<float> output;  ///< n × d_v
  counts cost;                ///< of the kernel before the merge
};

inline std::uint32_t tiles(int count, int size) {
  return static_cast<std::uint32_t>(kernels::tiles_of(count, size));
}

inline const outcome& checked(const outcome& run) {
  INFO(run.error.message);
  REQUIRE(run.ok());
  return run;
}

template <class T>
std::vector<T> copy_of(buffer& from) {
  const auto all = from.as<T>();
  return {all.begin(), all.end()};
}

/// `merge_states` for one head.
inline void merge(query_results& into, buffer& states, buffer* part_outputs,
                  kernels::merge_arguments rule, std::vector<float> sinks, const order& how) {
  const auto n = static_cast<std::size_t>(rule.queries);
  buffer max = buffer::output<float>(n);
  buffer mass = buffer::output<float>(n);
  buffer log_mass = buffer::output<float>(n);
  buffer faults = buffer::output<std::uint32_t>(n);
  buffer output = buffer::output<float>(n * static_cast<std::size_t>(rule.width));
  buffer sink_memory = buffer::of(sinks);
  rule.flags |= sinks.empty() ? 0U : kernels::merge_sinks;
  rule.flags |= part_outputs == nullptr ? 0U : kernels::merge_outputs;
  rule.output_row_stride = rule.width;
  call kernel("merge_states");
  kernel.memory(kernels::merge_buffer_states, states)
      .memory(kernels::merge_buffer_max, max)
      .memory(kernels::merge_buffer_mass, mass)
      .memory(kernels::merge_buffer_log_mass, log_mass)
      .memory(kernels::merge_buffer_faults, faults)
      .bytes(kernels::merge_buffer_arguments, rule);
  if (part_outputs != nullptr) {
    kernel.memory(kernels::merge_buffer_part_outputs, *part_outputs)
        .memory(kernels::merge_buffer_outputs, output);
  } else {
    kernel.absent(kernels::merge_buffer_part_outputs).absent(kernels::merge_buffer_outputs);
  }
  if (sinks.empty()) {
    kernel.absent(kernels::merge_buffer_sinks);
  } else {
    kernel.memory(kernels::merge_buffer_sinks, sink_memory);
  }
  checked(kernel.groups({static_cast<std::uint32_t>(n), 1, 1}, {threads, 1, 1}, how));
  into.max = copy_of<float>(max);
  into.mass = copy_of<float>(mass);
  into.log_mass = copy_of<float>(log_mass);
  into.faults = copy_of<std::uint32_t>(faults);
  if (part_outputs != nullptr) into.output = copy_of<float>(output);
}

/// `score_pass`, then with `has_output` `output`, in parts of the keys.
inline query_results run_score(head& on, const std::string& tile_kind, int keys_per_part,
                               bool has_output = false, const order& how = {}) {
  query_results out;
  const int n = on.rows();
  const std::uint32_t parts = tiles(on.spec.keys, keys_per_part);
  buffer states = buffer::output<kernels::query_state>(static_cast<std::size_t>(n) * parts);
  {
    const kernels::score_arguments rule{on.logits, 0, keys_per_part, 0};
    call kernel(on.kernel("score_pass", tile_kind));
    on.bind(kernel);
    kernel.bytes(kernels::buffer_arguments, rule).memory(kernels::score_buffer_states, states);
    out.cost =
        checked(kernel.groups({tiles(n, kernels::query_tile), parts, 1}, {threads, 1, 1}, how))
            .cost;
  }
  kernels::merge_arguments merged{};
  merged.queries = n;
  merged.block_rows = on.spec.block_rows;
  merged.parts = static_cast<std::int32_t>(parts);
  merged.output_parts = merged.parts;
  merged.width = on.spec.width;
  merge(out, states, nullptr, merged, {}, how);
  if (!has_output) return out;

  const std::uint32_t slices = tiles(on.spec.width, kernels::value_tile);
  buffer max = buffer::of(out.max);
  buffer part_outputs = buffer::output<float>(static_cast<std::size_t>(n * on.spec.width) * parts);
  const kernels::output_arguments rule{on.logits, on.value_rule, 0,
                                       0,         keys_per_part, static_cast<std::int32_t>(slices)};
  call kernel(on.kernel("output", tile_kind));
  on.bind(kernel);
  kernel.bytes(kernels::buffer_arguments, rule)
      .memory(kernels::output_buffer_values, *on.value_memory)
      .memory(kernels::output_buffer_max, max)
      .memory(kernels::output_buffer_part_outputs, part_outputs);
  out.cost = checked(kernel.groups({tiles(n, kernels::query_tile), parts * slices, 1},
                                   {threads, 1, 1}, how))
                 .cost;
  merged.flags = kernels::merge_one_shift;
  merge(out, states, &part_outputs, merged, {}, how);
  return out;
}

/// `attention` over blocks with the same queries, each in parts of the keys, and sinks.
inline query_results run_attention(const std::vector<head*>& blocks, const std::string& tile_kind,
                                   int keys_per_part, const std::vector<float>& sinks = {},
                                   const order& how = {}) {
  query_results out;
  head& first = *blocks[0];
  const int n = first.rows();
  const int width = first.spec.width;
  const std::uint32_t slices = tiles(width, kernels::value_tile);
  std::uint32_t all_parts = 0;
  for (const head* block : blocks) all_parts += tiles(block->spec.keys, keys_per_part);
  buffer states = buffer::output<kernels::query_state>(static_cast<std::size_t>(n) * all_parts);
  buffer part_outputs = buffer::output<float>(static_cast<std::size_t>(n * width) * all_parts);
  std::int64_t part = 0;
  for (head* block : blocks) {
    const std::uint32_t parts = tiles(block->spec.keys, keys_per_part);
    const kernels::attention_arguments rule{block->logits, block->value_rule,
                                            part * n,      part * n * width,
                                            keys_per_part, static_cast<std::int32_t>(slices)};
    call kernel(block->kernel("attention", tile_kind));
    block->bind(kernel);
    kernel.bytes(kernels::buffer_arguments, rule)
        .memory(kernels::attention_buffer_values, *block->value_memory)
        .memory(kernels::attention_buffer_states, states)
        .memory(kernels::attention_buffer_part_outputs, part_outputs);
    out.cost = checked(kernel.groups({tiles(n, kernels::query_tile), parts * slices, 1},
                                     {threads, 1, 1}, how))
                   .cost;
    part += parts;
  }
  kernels::merge_arguments merged{};
  merged.queries = n;
  merged.block_rows = first.spec.block_rows;
  merged.parts = static_cast<std::int32_t>(all_parts);
  merged.output_parts = merged.parts;
  merged.width = width;
  merge(out, states, &part_outputs, merged, sinks, how);
  return out;
}

// ---- In double
// ------------------------------------------------------------------------------------

struct query_truth {
  std::vector<double> max;
  std::vector<double> log_mass;
  matrix output;
};

inline query_truth truth_of(const std::vector<head*>& blocks,
                            const std::vector<float>& sinks = {}) {
  const head& first = *blocks[0];
  const int n = first.rows();
  const int width = first.spec.width;
  query_truth out{{}, {}, matrix(n, width)};
  for (int r = 0; r < n; ++r) {
    const double sink =
        sinks.empty()
            ? -infinity
            : static_cast<double>(sinks[static_cast<std::size_t>(r / first.spec.block_rows)]);
    double max = sink;
    for (const head* block : blocks) {
      for (int j = 0; j < block->spec.keys; ++j) max = std::max(max, block->logit(r, j));
    }
    out.max.push_back(max);
    if (max == -infinity) {
      out.log_mass.push_back(-infinity);
      continue;
    }
    double mass = std::exp(sink - max);
    for (const head* block : blocks) {
      for (int j = 0; j < block->spec.keys; ++j) {
        const double weight = std::exp(block->logit(r, j) - max);
        if (weight == 0) continue;
        mass += weight;
        for (int c = 0; c < width; ++c) out.output(r, c) += weight * block->values(j, c);
      }
    }
    out.log_mass.push_back(max + std::log(mass));
    for (int c = 0; c < width; ++c) out.output(r, c) /= mass;
  }
  return out;
}

/// Log masses within 1e-5, outputs within 1e-4, no faults, and −∞ and 0 where nothing is seen.
inline void check_results(const query_results& got, const query_truth& truth, bool has_output) {
  const std::size_t n = truth.max.size();
  REQUIRE(got.max.size() == n);
  double worst_mass = 0;
  double worst_output = 0;
  for (std::size_t r = 0; r < n; ++r) {
    INFO("query " << r);
    CHECK(got.faults[r] == 0);
    if (truth.max[r] == -infinity) {
      CHECK(got.max[r] == -std::numeric_limits<float>::infinity());
      CHECK(got.log_mass[r] == -std::numeric_limits<float>::infinity());
      CHECK(got.mass[r] == 0);
    } else {
      const double error = std::abs(static_cast<double>(got.log_mass[r]) - truth.log_mass[r]);
      CHECK(error <= 1e-5);
      worst_mass = std::max(worst_mass, error);
      CHECK(std::abs(static_cast<double>(got.max[r]) - truth.max[r]) <= 1e-5);
      CHECK(std::log(static_cast<double>(got.mass[r])) + static_cast<double>(got.max[r]) ==
            Approx(truth.log_mass[r]).margin(1e-5));
    }
    if (!has_output) continue;
    const int width = truth.output.cols;
    for (int c = 0; c < width; ++c) {
      const auto at = r * static_cast<std::size_t>(width) + static_cast<std::size_t>(c);
      const double error =
          std::abs(static_cast<double>(got.output[at]) - truth.output(static_cast<int>(r), c));
      if (!(error <= 1e-4)) {
        INFO("column " << c);
        CHECK(error <= 1e-4);
      }
      worst_output = std::max(worst_output, error);
      if (truth.max[r] == -infinity) CHECK(got.output[at] == 0);
    }
  }
  INFO("worst errors: log mass " << worst_mass << ", output " << worst_output);
  CHECK(worst_mass <= 1e-5);
  CHECK(worst_output <= 1e-4);
}

}  // namespace kernel_tests
