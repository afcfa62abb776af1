// SPDX-License-Identifier: MIT
/// Score passes of several heads of a cache in one command buffer.
#pragma once

#include <algorithm>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/attention/score_request.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/metal/guarded_device.hpp"
#include "kvfit/metal/score.hpp"
#include "kvfit/metal/score_runner.hpp"

namespace kvfit::metal {
inline namespace KVFIT_ISA {

/// A request that outlives the call that made it, and memory for its results.
struct kept_request {
  std::vector<query_block> blocks;
  std::vector<row_view> masks;
  std::vector<float> bias;
  std::vector<index_t> positions;
  std::vector<block_origin> origins;
  kv_block cache;
  logit_rule rule;
  score_options options;
  std::vector<float> numbers;
  bool is_done = false;

  explicit kept_request(const score_request& from)
      : blocks(from.queries.blocks().begin(), from.queries.blocks().end()),
        masks(from.cache.masks.begin(), from.cache.masks.end()),
        bias(from.cache.bias.begin(), from.cache.bias.end()),
        positions(from.cache.positions.begin(), from.cache.positions.end()),
        origins(from.origins.begin(), from.origins.end()),
        cache(from.cache),
        rule(from.rule),
        options(from.options) {
    cache.masks = masks;
    cache.bias = bias;
    cache.positions = positions;
  }
  kept_request(const kept_request&) = delete;  // its views point into it
  kept_request& operator=(const kept_request&) = delete;
  ~kept_request() = default;

  /// The request, its results to go to `numbers`.
  [[nodiscard]] score_request request() {
    const query_set queries{std::span<const query_block>(blocks)};
    const auto n = static_cast<std::size_t>(queries.rows());
    const auto keys = static_cast<std::size_t>(cache.keys.rows());
    const auto width = static_cast<std::size_t>(cache.values.cols());
    numbers.resize(n * (3 + width) + keys);
    score_target to;
    to.max = numbers.data();
    to.mass = to.max + n;
    to.log_mass = to.mass + n;
    if (options.outputs) to.output = to.log_mass + n;
    if (options.importance != importance_kind::none) to.importance = to.log_mass + n * (1 + width);
    return {cache, queries, rule, options, origins, {}, to};
  }

  /// Copies the results to where `to` wants them.
  void fetch(const score_target& to) const {
    std::size_t n = 0;
    for (const query_block& block : blocks) n += static_cast<std::size_t>(block.rows.rows());
    const std::size_t width = static_cast<std::size_t>(cache.values.cols());
    const float* from = numbers.data();
    for (float* out : {to.max, to.mass, to.log_mass}) {
      std::copy_n(from, n, out);
      from += n;
    }
    if (to.output != nullptr && options.outputs) std::copy_n(from, n * width, to.output);
    if (to.importance != nullptr) {
      std::copy_n(from + n * width, static_cast<std::size_t>(cache.keys.rows()), to.importance);
    }
  }
};

/// Scores heads in groups of `group_size`. `record(head, runner)` is to begin the compaction of a
/// head with this runner, which keeps the request and ends the call with `cancelled`; it is called
/// for all heads of a group when the first of them asks.
template <class Record>
class group_scores {
 public:
  static constexpr std::size_t group_size = 16;

  group_scores(guarded_device& on, std::size_t heads, Record record)
      : on_(on), record_(std::move(record)), slots_(heads), is_scored_(heads / group_size + 1) {
    for (std::size_t i = 0; i < heads; ++i) {
      slots_[i].of = this;
      slots_[i].head = i;
    }
  }
  group_scores(const group_scores&) = delete;  // runners point to it
  group_scores& operator=(const group_scores&) = delete;
  ~group_scores() = default;

  /// The runner of one head's compaction; its first request is the one that was recorded.
  [[nodiscard]] score_runner runner(std::size_t head) noexcept {
    return {&slots_[head], [](void* owner, const score_request& request) -> result<bool> {
              auto& slot = *static_cast<slot_of_head*>(owner);
              return slot.of->run(slot, request);
            }};
  }

 private:
  struct slot_of_head {
    group_scores* of = nullptr;
    std::size_t head = 0;
    std::unique_ptr<kept_request> kept;
    bool is_used = false;
  };

  result<bool> run(slot_of_head& slot, const score_request& request) {
    std::unique_ptr<kept_request> kept;
    {
      const std::lock_guard<std::mutex> guard(mutex_);
      if (!slot.is_used) {
        if (const auto ok = score_group(slot.head / group_size); !ok) return ok.error();
        slot.is_used = true;
        kept = std::move(slot.kept);
      }
    }
    if (kept == nullptr || request.to.exponentials != nullptr) {
      return run_score_pass(&on_, request);
    }
    if (kept->is_done) kept->fetch(request.to);
    return kept->is_done;
  }

  result<void> score_group(std::size_t group) {
    if (is_scored_[group]) return {};
    is_scored_[group] = true;
    std::vector<kept_request*> wanted;
    std::vector<score_request> requests;
    const std::size_t end = (std::min)((group + 1) * group_size, slots_.size());
    for (std::size_t i = group * group_size; i < end; ++i) {
      slot_of_head& slot = slots_[i];
      record_(i, score_runner{this, &keep});
      slot.kept = std::move(recorded_);
      if (slot.kept == nullptr) continue;
      requests.push_back(slot.kept->request());
      wanted.push_back(slot.kept.get());
    }
    if (requests.empty()) return {};
    const std::lock_guard<std::mutex> guard(on_.mutex);
    const auto is_done = score_heads(*on_.gpu, requests);
    if (!is_done) return is_done.error();
    for (std::size_t k = 0; k < wanted.size(); ++k) {
      wanted[k]->is_done = (*is_done)[k];
      ++(wanted[k]->is_done ? on_.counts.score_passes : on_.counts.handed_over);
    }
    return {};
  }

  /// Keeps a request that the GPU takes, and ends the call.
  static result<bool> keep(void* owner, const score_request& request) {
    auto& of = *static_cast<group_scores*>(owner);
    // Where exponentials are wanted, memory for a second copy of them is not.
    if (takes_scores(of.on_.from, request) && request.to.exponentials == nullptr) {
      of.recorded_ = std::make_unique<kept_request>(request);
    }
    return error{errc::cancelled, "score pass", error::none, error::none, "recorded"};
  }

  guarded_device& on_;
  Record record_;
  std::mutex mutex_;
  std::vector<slot_of_head> slots_;
  std::vector<bool> is_scored_;
  std::unique_ptr<kept_request> recorded_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::metal
