// SPDX-License-Identifier: MIT
/// A score pass on the GPU as the CPU library asks for it.
#pragma once

#include <mutex>
#include <span>

#include "kvfit/attention/score_request.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/metal/guarded_device.hpp"
#include "kvfit/metal/score.hpp"

namespace kvfit::metal {
inline namespace KVFIT_ISA {

/// Whether the GPU takes a score pass.
inline bool takes_scores(const placement& from, const score_request& request) noexcept {
  return request.queries.rows() < largest_count && request.cache.keys.rows() < largest_count &&
         attention_work(request.queries, request.cache) >= from.score_from;
}

/// A `score_runner` whose owner is a `guarded_device`: one head, one command buffer.
inline result<bool> run_score_pass(void* owner, const score_request& request) {
  auto& on = *static_cast<guarded_device*>(owner);
  if (!takes_scores(on.from, request)) return false;
  const std::lock_guard<std::mutex> guard(on.mutex);
  const auto is_done = score_heads(*on.gpu, std::span(&request, 1));
  if (!is_done) return is_done.error();
  ++(is_done->front() ? on.counts.score_passes : on.counts.handed_over);
  return is_done->front();
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::metal
