// SPDX-License-Identifier: MIT
/// The score pass on the GPU, for one head or for many in one command buffer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/attention/origin.hpp"
#include "kvfit/attention/score_request.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/metal/attention_parts.hpp"
#include "kvfit/metal/kernels/shared/gather_arguments.h"
#include "kvfit/metal/kernels/shared/importance_arguments.h"

namespace kvfit::metal {
inline namespace KVFIT_ISA {

/// One head's score pass on its way through a batch: placed, then four steps with a barrier between
/// each, then fetched. `request` must outlive it.
class score_job {
 public:
  static result<std::unique_ptr<score_job>> make(device& on, const score_request& request) {
    std::unique_ptr<score_job> out(new score_job(request));
    auto queries = place_queries(on, request.queries, request.rule);
    if (!queries) return queries.error();
    out->queries_ = std::move(*queries);
    const bool has_outputs = request.to.output != nullptr;
    auto head =
        place_head(on, request.cache, request.queries, out->queries_, request.rule, has_outputs);
    if (!head) return head.error();
    out->head_ = std::move(*head);
    auto pass = attention_pass::make(on, out->queries_, std::span(&out->head_, 1), {}, has_outputs);
    if (!pass) return pass.error();
    out->pass_.emplace(std::move(*pass));
    if (const auto ok = out->place_importance(on); !ok) return ok.error();
    if (const auto ok = out->place_exponentials(on); !ok) return ok.error();
    return out;
  }

  static constexpr int steps = 4;
  /// What step `step` of 0 … steps − 1 dispatches.
  result<void> add_step(device& on, batch& to, int step) const {
    switch (step) {
      case 0:
        return pass_->attend(on, to);
      case 1:
        return pass_->merge(to);
      case 2:
        if (const auto ok = add_exponentials(on, to); !ok) return ok;
        return add_importance(on, to);
      default:
        return finish_importance(to);
    }
  }

  /// After the run: whether a query met a number that is not finite. Then nothing is fetched.
  [[nodiscard]] bool has_faults() const { return pass_->results().has_faults(); }

  /// After the run: copies the results to where the request wants them.
  void fetch() const {
    const attention_results& from = pass_->results();
    const score_target& to = request_.to;
    std::copy_n(from.max.as<float>(), from.queries, to.max);
    std::copy_n(from.mass.as<float>(), from.queries, to.mass);
    std::copy_n(from.log_mass.as<float>(), from.queries, to.log_mass);
    if (to.output != nullptr) {
      std::copy_n(from.outputs.as<float>(), from.queries * from.width, to.output);
    }
    if (to.importance != nullptr) {
      std::copy_n(importance_.as<float>(), request_.cache.keys.rows(), to.importance);
    }
    if (to.exponentials == nullptr) return;
    std::copy_n(from.max.as<float>(), from.queries, to.shift);
    if (!columns_.is_shared) {
      std::copy_n(columns_.as<float>(), from.queries * request_.cache.keys.rows(), to.exponentials);
    }
  }

 private:
  explicit score_job(const score_request& request) : request_(request) {}

  [[nodiscard]] bool wants_importance() const noexcept { return request_.to.importance != nullptr; }

  result<void> place_importance(device& on) {
    if (!wants_importance()) return {};
    const index_t keys = request_.cache.keys.rows();
    const auto blocks = request_.queries.blocks();
    const std::vector<index_t> last = last_rows(blocks, request_.origins, request_.options.window);
    observed_count_ = std::accumulate(last.begin(), last.end(), index_t{0});
    if (request_.options.window > 0) {
      const std::vector<char> flags =
          latest_queries(blocks, request_.origins, request_.options.window);
      auto made = copy_of(on, std::span<const char>(flags));
      if (!made) return made.error();
      observed_ = std::move(*made);
    }
    cut_ = cut_parts(queries_.count, kernels::query_tile, tiles(keys, kernels::key_tile));
    auto parts = allocate_elements<float>(on, cut_.parts * keys);
    if (!parts) return parts.error();
    parts_ = std::move(*parts);
    auto importance = allocate_elements<float>(on, keys);
    if (!importance) return importance.error();
    importance_ = std::move(*importance);
    return {};
  }

  result<void> place_exponentials(device& on) {
    if (request_.to.exponentials == nullptr) return {};
    const index_t numbers = queries_.count * request_.cache.keys.rows();
    columns_ = share(on, request_.to.exponentials, numbers * index_t{sizeof(float)});
    if (!columns_) {
      auto made = allocate_elements<float>(on, numbers);
      if (!made) return made.error();
      columns_ = std::move(*made);
    }
    const std::vector<float> ones(static_cast<std::size_t>(queries_.count), 1.0F);
    auto made = copy_of(on, std::span<const float>(ones));
    if (!made) return made.error();
    factors_ = std::move(*made);
    return {};
  }

  result<void> add_exponentials(device& on, batch& to) const {
    if (!columns_) return {};
    const index_t keys = request_.cache.keys.rows();
    const kernels::gather_arguments arguments = {
        head_.logits, 0, columns_.first_byte / index_t{sizeof(float)}, queries_.count};
    std::vector<binding> bound = head_.bindings(queries_);
    bound.push_back({kernels::gather_buffer_shifts, &pass_->results().max});
    bound.push_back({kernels::gather_buffer_factors, &factors_});
    bound.push_back({kernels::gather_buffer_columns, &columns_});
    return to.add(head_.kernel(on, "gather"), arguments, kernels::buffer_arguments,
                  std::span<const binding>(bound),
                  {tiles(queries_.count, kernels::query_tile), tiles(keys, kernels::key_tile), 1});
  }

  result<void> add_importance(device& on, batch& to) const {
    if (!wants_importance()) return {};
    const kernels::importance_arguments arguments = {head_.logits,
                                                     0,
                                                     0,
                                                     0,
                                                     static_cast<std::int32_t>(cut_.each),
                                                     static_cast<int>(request_.options.importance),
                                                     observed_ ? 1 : 0,
                                                     0};
    std::vector<binding> bound = head_.bindings(queries_);
    bound.push_back({kernels::importance_buffer_max, &pass_->results().max});
    bound.push_back({kernels::importance_buffer_mass, &pass_->results().mass});
    if (observed_) bound.push_back({kernels::importance_buffer_observed, &observed_});
    bound.push_back({kernels::importance_buffer_parts, &parts_});
    return to.add(head_.kernel(on, "importance"), arguments, kernels::buffer_arguments,
                  std::span<const binding>(bound),
                  {tiles(request_.cache.keys.rows(), kernels::key_tile), cut_.parts, 1});
  }

  result<void> finish_importance(batch& to) const {
    if (!wants_importance()) return {};
    const auto keys = static_cast<std::int32_t>(request_.cache.keys.rows());
    const kernels::finish_importance_arguments arguments = {
        0,
        0,
        keys,
        static_cast<std::int32_t>(cut_.parts),
        static_cast<std::int32_t>(observed_count_),
        static_cast<int>(request_.options.importance),
        static_cast<int>(request_.options.pooling),
        static_cast<std::int32_t>(request_.options.pooling_width)};
    return to.add({"finish_importance", "finish_importance"}, arguments,
                  kernels::finish_importance_buffer_arguments,
                  {{kernels::finish_importance_buffer_parts, &parts_},
                   {kernels::finish_importance_buffer_importance, &importance_}},
                  {tiles(keys, kernels::group_threads), 1, 1});
  }

  const score_request& request_;
  placed_queries queries_;
  placed_head head_;
  std::optional<attention_pass> pass_;
  part_sizes cut_;
  index_t observed_count_ = 0;
  buffer observed_;
  buffer parts_;
  buffer importance_;
  buffer factors_;
  buffer columns_;
};

static_assert(static_cast<int>(importance_kind::mean) == kernels::importance_mean &&
              static_cast<int>(importance_kind::rms) == kernels::importance_rms &&
              static_cast<int>(importance_kind::max) == kernels::importance_max &&
              static_cast<int>(pooling_kind::none) == kernels::pooling_none &&
              static_cast<int>(pooling_kind::average) == kernels::pooling_average &&
              static_cast<int>(pooling_kind::max) == kernels::pooling_max);

/// Score passes of several heads in one command buffer, waited for once. `is_done[k]`: whether the
/// results of request k were written; not where a product or an output is not finite, which the CPU
/// turns into an error. Where the call fails nothing is written but exponentials.
///
/// Requests must have been checked, T and n below `largest_count`. Copies n × d_k numbers of
/// queries (fp32), bias, positions and masks, and keys and values where they can't be shared
/// (`place_rows`). Holds (16 + 4 d_v) n · p bytes for p parts of the keys (`cut_parts`).
inline result<std::vector<bool>> score_heads(device& on, std::span<const score_request> requests) {
  std::vector<std::unique_ptr<score_job>> jobs;
  for (const score_request& request : requests) {
    auto job = score_job::make(on, request);
    if (!job) return job.error();
    jobs.push_back(std::move(*job));
  }
  batch commands(on);
  for (int step = 0; step < score_job::steps; ++step) {
    for (const auto& job : jobs) {
      if (const auto ok = job->add_step(on, commands, step); !ok) return ok.error();
    }
    commands.next();
  }
  if (const auto ok = commands.run(); !ok) return ok.error();
  std::vector<bool> is_done;
  for (const auto& job : jobs) {
    is_done.push_back(!job->has_faults());
    if (is_done.back()) job->fetch();
  }
  return is_done;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::metal
