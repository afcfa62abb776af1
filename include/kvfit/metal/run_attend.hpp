// SPDX-License-Identifier: MIT
/// `metal::attend()`. Include kvfit/metal/executor.hpp.
#pragma once

#include <initializer_list>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/attention/attend_blocks.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/metal/attend.hpp"
#include "kvfit/metal/device_executor.hpp"

namespace kvfit::metal {
inline namespace KVFIT_ISA {

/// What the GPU takes of a call's heads: all of them or none.
inline bool takes_attention(const placement& from, std::span<const checked_attention> heads) {
  double work = 0;
  for (const checked_attention& head : heads) {
    double bytes = 0;
    for (const kv_block& block : head.blocks) {
      if (block.keys.rows() >= largest_count) return false;
      work += attention_work(head.request->queries, block);
      bytes += attention_device_bytes(head.request->queries, block);
    }
    if (head.request->queries.rows() >= largest_count) return false;
    if (bytes > static_cast<double>(
                    head.request->options.memory.value_or((std::numeric_limits<index_t>::max)()))) {
      return false;
    }
  }
  return work >= from.attend_from;
}

/// `kvfit::attend` of several KV heads, in one command buffer: one output a request.
///
/// On the CPU where the work of all together is below `placement::attend_from`, or a request's
/// memory does not hold what the GPU takes (`attention_device_bytes`). Results are those of
/// `kvfit::attend` but for rounding: fp32 throughout, log-masses within 1e-5 and outputs within
/// 1e-4 of it for data of usual size. Errors: those of `kvfit::attend`, of the first request in
/// order that has any, and `out_of_memory`, `shader_failed`, `device_fault`, `device_timeout`.
/// Nothing of the caller's is written.
[[nodiscard]] inline result<std::vector<attention_output>> attend(
    const executor& gpu, std::span<const attend_request> requests) {
  return kvfit::detail::catch_bad_alloc("attend", [&]() -> result<std::vector<attention_output>> {
    std::vector<checked_attention> heads;
    for (const attend_request& one : requests) {
      auto blocks =
          kvfit::detail::check_attention(one.queries, one.blocks, one.rule, one.options,
                                         one.checks_numbers ? &check_cache : &check_block_sizes);
      if (!blocks) return blocks.error();
      heads.push_back({&one, std::move(*blocks)});
    }
    std::vector<checked_attention> filled;
    for (const checked_attention& head : heads) {
      if (!head.blocks.empty()) filled.push_back(head);
    }
    std::vector<std::optional<attention_output>> found;
    guarded_device& state = gpu.state();
    if (!filled.empty() && takes_attention(state.from, filled)) {
      const std::lock_guard<std::mutex> guard(state.mutex);
      auto made = attend_heads(*state.gpu, filled);
      if (!made) return made.error();
      found = std::move(*made);
      for (const auto& one : found) ++(one ? state.counts.attentions : state.counts.handed_over);
    }
    std::vector<attention_output> out;
    std::size_t next = 0;
    for (const checked_attention& head : heads) {
      if (!head.blocks.empty() && next < found.size()) {
        auto& one = found[next++];
        if (one) {
          out.push_back(std::move(*one));
          continue;
        }
      }
      // The CPU's, with the CPU's errors.
      auto one = kvfit::attend(head.request->queries, head.request->blocks, head.request->rule,
                               head.request->options);
      if (!one) return one.error();
      out.push_back(std::move(*one));
    }
    return out;
  });
}

/// The same for one KV head.
[[nodiscard]] inline result<attention_output> attend(const executor& gpu, const query_set& queries,
                                                     std::span<const kv_block> blocks,
                                                     const logit_rule& rule = {},
                                                     const attend_options& options = {}) {
  const attend_request one{queries, blocks, rule, options};
  auto all = attend(gpu, std::span(&one, 1));
  if (!all) return all.error();
  return std::move(all->front());
}

/// The same for blocks written in place.
[[nodiscard]] inline result<attention_output> attend(const executor& gpu, const query_set& queries,
                                                     std::initializer_list<kv_block> blocks,
                                                     const logit_rule& rule = {},
                                                     const attend_options& options = {}) {
  return attend(gpu, queries, std::span<const kv_block>(blocks.begin(), blocks.size()), rule,
                options);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::metal
