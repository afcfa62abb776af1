// SPDX-License-Identifier: MIT
/// Attention over blocks of a cache on the GPU, for one head or for many in one command buffer.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/attention/attend.hpp"
#include "kvfit/attention/check.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/metal/attention_parts.hpp"
#include "kvfit/view/check.hpp"

namespace kvfit::metal {

/// `kvfit::attend` of one KV head, as it is asked of a GPU.
struct attend_request {
  query_set queries;
  std::span<const kv_block> blocks;  ///< must outlive the call
  logit_rule rule = {};
  attend_options options = {};
  /// False: numbers of keys and values are not read beforehand. Those that are not finite are found
  /// in what is computed of them, and give the same errors, but for keys that causality or a window
  /// hides from whole tiles of queries: these are not read at all.
  bool checks_numbers = true;
};

}  // namespace kvfit::metal

namespace kvfit::metal {
inline namespace KVFIT_ISA {

/// `empty_input` or `null_data` of rows that are not there.
inline result<void> check_memory(const row_view& rows, const char* argument) {
  if (rows.rows() > 0 && rows.cols() > 0 && rows.is_backed()) return {};
  return check_view(rows, argument);  // refuses before it reads
}

/// `check_cache` without reading the numbers of keys and values.
inline result<void> check_block_sizes(const kv_block& cache, const query_set& queries) {
  if (const auto ok = check_memory(cache.keys, "keys"); !ok) return ok;
  if (const auto ok = check_memory(cache.values, "values"); !ok) return ok;
  return check_beside_rows(cache, queries);
}

/// One head's attention on its way through a batch.
class attend_job {
 public:
  static result<std::unique_ptr<attend_job>> make(device& on, const query_set& queries,
                                                  std::span<const kv_block> blocks,
                                                  const logit_rule& rule) {
    std::unique_ptr<attend_job> out(new attend_job);
    auto placed = place_queries(on, queries, rule);
    if (!placed) return placed.error();
    out->queries_ = std::move(*placed);
    for (const kv_block& block : blocks) {
      auto head = place_head(on, block, queries, out->queries_, rule, true);
      if (!head) return head.error();
      out->heads_.push_back(std::move(*head));
    }
    const auto has_sink = [](const query_block& block) {
      return block.sink_logit != -std::numeric_limits<float>::infinity();
    };
    std::vector<float> sinks;
    if (std::any_of(queries.blocks().begin(), queries.blocks().end(), has_sink)) {
      sinks = sinks_of(queries, out->queries_);
    }
    auto pass = attention_pass::make(on, out->queries_, out->heads_, sinks);
    if (!pass) return pass.error();
    out->pass_.emplace(std::move(*pass));
    return out;
  }

  [[nodiscard]] const attention_pass& pass() const noexcept { return *pass_; }

  /// After the run; none where a query met a number that is not finite.
  [[nodiscard]] std::optional<attention_output> fetch() const {
    const attention_results& from = pass_->results();
    if (from.has_faults()) return std::nullopt;
    attention_output out{matrix(from.queries, from.width), vector(from.queries)};
    std::copy_n(from.outputs.as<float>(), out.output.size(), out.output.data());
    std::copy_n(from.log_mass.as<float>(), from.queries, out.log_mass.data());
    return out;
  }

 private:
  attend_job() = default;

  placed_queries queries_;
  std::vector<placed_head> heads_;
  std::optional<attention_pass> pass_;
};

/// A request that was checked: its blocks that have rows.
struct checked_attention {
  const attend_request* request = nullptr;
  std::vector<kv_block> blocks;
};

/// Attention of several heads in one command buffer, waited for once; none for a head with a number
/// that is not finite, which the CPU turns into an error. T and n below `largest_count`.
inline result<std::vector<std::optional<attention_output>>> attend_heads(
    device& on, std::span<const checked_attention> heads) {
  std::vector<std::unique_ptr<attend_job>> jobs;
  for (const checked_attention& head : heads) {
    auto job = attend_job::make(on, head.request->queries, head.blocks, head.request->rule);
    if (!job) return job.error();
    jobs.push_back(std::move(*job));
  }
  batch commands(on);
  for (const auto& job : jobs) {
    if (const auto ok = job->pass().attend(on, commands); !ok) return ok.error();
  }
  commands.next();
  for (const auto& job : jobs) {
    if (const auto ok = job->pass().merge(commands); !ok) return ok.error();
  }
  if (const auto ok = commands.run(); !ok) return ok.error();
  std::vector<std::optional<attention_output>> out;
  for (const auto& job : jobs) out.push_back(job->fetch());
  return out;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::metal
