// SPDX-License-Identifier: MIT
/// OMP whose columns lie on the GPU: correlations and arg-max there, the growing factor on the CPU.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/attention/mass_row.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/metal/attention_parts.hpp"
#include "kvfit/metal/guarded_device.hpp"
#include "kvfit/metal/kernels/shared/gather_arguments.h"
#include "kvfit/metal/kernels/shared/pursuit_arguments.h"
#include "kvfit/selection/omp.hpp"

namespace kvfit::metal {
inline namespace KVFIT_ISA {

/// What `detail::omp_search` asks of its columns, by the GPU. All T × n of them are made once and
/// stay there; the CPU reads those that were picked where they lie. A round is one command buffer.
class device_columns {
 public:
  /// `problem` must outlive it. Holds 4 n · T bytes, 25 T, and a copy of the head's queries and of
  /// its keys where they can't be shared.
  static result<device_columns> make(guarded_device& on, const selection::omp& policy,
                                     const selection_problem& problem) {
    device_columns out(on, policy, problem);
    const std::lock_guard<std::mutex> guard(on.mutex);
    if (const auto ok = out.gather(*on.gpu, problem); !ok) return ok.error();
    if (const auto ok = out.set_divisors(*on.gpu, policy.norm_power); !ok) return ok.error();
    return out;
  }

  [[nodiscard]] index_t queries() const noexcept { return target_.size(); }
  [[nodiscard]] index_t keys() const noexcept { return keys_; }
  [[nodiscard]] const vector& target() const noexcept { return target_; }
  [[nodiscard]] bool is_at_hand() const noexcept { return true; }

  result<std::span<const index_t>> best(const vector& residual, std::span<const char> open,
                                        index_t count) {
    count = (std::min)(count, keys_);
    rows_.clear();
    if (count <= 0) return std::span<const index_t>(rows_);
    const std::lock_guard<std::mutex> guard(on_->mutex);
    device& gpu = *on_->gpu;
    std::copy_n(residual.data(), queries(), residual_.as<float>());
    std::copy_n(open.data(), keys_, open_.as<char>());
    if (count > most_) {
      most_ = count;
      auto parts = allocate_elements<kernels::ranked_key>(gpu, parts_ * count);
      if (!parts) return parts.error();
      part_best_ = std::move(*parts);
      auto best = allocate_elements<kernels::ranked_key>(gpu, count);
      if (!best) return best.error();
      best_ = std::move(*best);
    }
    batch commands(gpu);
    if (const auto ok = add_round(commands, count); !ok) return ok.error();
    if (const auto ok = commands.run(); !ok) return ok.error();
    const auto* found = best_.as<kernels::ranked_key>();
    for (index_t k = 0; k < count && found[k].row >= 0; ++k) rows_.push_back(found[k].row);
    return std::span<const index_t>(rows_);
  }

  [[nodiscard]] result<matrix> columns(std::span<const index_t> rows) const {
    const index_t n = queries();
    matrix out(static_cast<index_t>(rows.size()), n);
    for (index_t k = 0; k < out.rows(); ++k) {
      const float* from = columns_.as<float>() + rows[static_cast<std::size_t>(k)] * n;
      std::copy_n(from, n, out.data() + k * n);
    }
    return out;
  }

 private:
  static constexpr index_t rows_per_part = 2048;  // of candidates

  device_columns(guarded_device& on, const selection::omp& policy, const selection_problem& problem)
      : on_(&on),
        keys_(problem.cache.keys.rows()),
        parts_(tiles(keys_, rows_per_part)),
        is_absolute_(policy.absolute),
        target_(problem.queries.rows()),
        factors_(static_cast<std::size_t>(problem.queries.rows())) {
    for (index_t i = 0; i < target_.size(); ++i) {
      const mass_row row = weighted_mass_row(*problem.scores, i, policy.weighting);
      factors_[static_cast<std::size_t>(i)] = row.factor;
      target_[i] = row.target;
    }
  }

  result<void> gather(device& gpu, const selection_problem& problem) {
    const index_t n = queries();
    const auto placed = place_queries(gpu, problem.queries, problem.rule);
    if (!placed) return placed.error();
    const auto head = place_head(gpu, problem.cache, problem.queries, *placed, problem.rule, false);
    if (!head) return head.error();
    const vector& max = problem.scores->max;
    auto shifts = copy_of(gpu, std::span<const float>(max.data(), static_cast<std::size_t>(n)));
    if (!shifts) return shifts.error();
    auto factors = copy_of(gpu, std::span<const float>(factors_));
    if (!factors) return factors.error();
    struct wanted {
      buffer* to;
      index_t numbers;
    };
    for (const wanted& one :
         {wanted{&columns_, keys_ * n}, wanted{&residual_, n}, wanted{&divisors_, keys_},
          wanted{&correlations_, keys_}, wanted{&scores_, keys_}, wanted{&open_, keys_}}) {
      auto made = allocate_elements<float>(gpu, one.numbers);
      if (!made) return made.error();
      *one.to = std::move(*made);
    }
    std::vector<binding> bound = head->bindings(*placed);
    bound.push_back({kernels::gather_buffer_shifts, &*shifts});
    bound.push_back({kernels::gather_buffer_factors, &*factors});
    bound.push_back({kernels::gather_buffer_columns, &columns_});
    const kernels::gather_arguments arguments = {head->logits, 0, 0, n};
    batch commands(gpu);
    const auto ok =
        commands.add(head->kernel(gpu, "gather"), arguments, kernels::buffer_arguments,
                     std::span<const binding>(bound),
                     {tiles(n, kernels::query_tile), tiles(keys_, kernels::key_tile), 1});
    if (!ok) return ok;
    return commands.run();
  }

  /// (‖Φ_:j‖ + 1e-12)^power, as the CPU has it; nothing for a power of 0.
  result<void> set_divisors(device& gpu, double power) {
    if (power == 0) return {};
    has_divisors_ = true;
    const kernels::length_arguments arguments = {0, queries(), 0, static_cast<std::int32_t>(keys_),
                                                 static_cast<std::int32_t>(queries())};
    batch commands(gpu);
    const auto ok = commands.add(
        {"joint", "squared_lengths"}, arguments, kernels::length_buffer_arguments,
        {{kernels::length_buffer_rows, &columns_}, {kernels::length_buffer_lengths, &divisors_}},
        {tiles(keys_, kernels::keys_per_group), 1, 1});
    if (!ok) return ok;
    if (const auto ran = commands.run(); !ran) return ran;
    auto* const numbers = divisors_.as<float>();
    for (index_t j = 0; j < keys_; ++j) {
      numbers[j] = std::pow(std::sqrt(numbers[j]) + 1e-12F, static_cast<float>(power));
    }
    return {};
  }

  result<void> add_round(batch& to, index_t count) const {
    kernels::correlation_arguments arguments{};
    arguments.column_stride = queries();
    arguments.keys = static_cast<std::int32_t>(keys_);
    arguments.queries = static_cast<std::int32_t>(queries());
    arguments.flags = kernels::correlation_open |
                      (is_absolute_ ? kernels::correlation_absolute : 0U) |
                      (has_divisors_ ? kernels::correlation_divisors : 0U);
    const auto correlated =
        to.add({"correlation", "correlate"}, arguments, kernels::correlation_buffer_arguments,
               {{kernels::correlation_buffer_columns, &columns_},
                {kernels::correlation_buffer_residual, &residual_},
                {kernels::correlation_buffer_divisors, &divisors_},
                {kernels::correlation_buffer_open, &open_},
                {kernels::correlation_buffer_correlations, &correlations_},
                {kernels::correlation_buffer_scores, &scores_}},
               {tiles(keys_, kernels::keys_per_group), 1, 1});
    if (!correlated) return correlated;
    to.next();
    kernels::best_arguments ranked{};
    ranked.candidates = static_cast<std::int32_t>(keys_);
    ranked.candidates_per_part = static_cast<std::int32_t>(rows_per_part);
    ranked.count = static_cast<std::int32_t>(count);
    const auto by_part = to.add(
        {"correlation", "best_rows"}, ranked, kernels::best_buffer_arguments,
        {{kernels::best_buffer_candidates, &scores_}, {kernels::best_buffer_best, &part_best_}},
        {parts_, 1, 1});
    if (!by_part) return by_part;
    to.next();
    ranked.candidates = static_cast<std::int32_t>(parts_ * count);
    ranked.candidates_per_part = ranked.candidates;
    return to.add(
        {"correlation", "best_of_parts"}, ranked, kernels::best_buffer_arguments,
        {{kernels::best_buffer_candidates, &part_best_}, {kernels::best_buffer_best, &best_}},
        {1, 1, 1});
  }

  guarded_device* on_;
  index_t keys_;
  index_t parts_;
  index_t most_ = 0;  // rows that there is memory for
  bool is_absolute_;
  bool has_divisors_ = false;
  vector target_;
  std::vector<float> factors_;
  std::vector<index_t> rows_;
  buffer columns_;
  buffer residual_;
  buffer divisors_;
  buffer correlations_;
  buffer scores_;
  buffer open_;
  buffer part_best_;
  buffer best_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::metal
