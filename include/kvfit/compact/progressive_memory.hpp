// SPDX-License-Identifier: MIT
/// How a progressive call keeps to its cap: what its selection and each of its fits may hold.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "kvfit/compact/compacted.hpp"
#include "kvfit/compact/head_memory.hpp"
#include "kvfit/compact/memory_planner.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/core/workspace.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Shares the cap of `compact_progressive` out: every fit runs beside the results of all others and
/// the order of choice, whichever come first, so that its bytes do not depend on their order.
class progressive_memory {
 public:
  /// `largest`: rows that are ordered.
  progressive_memory(const compaction_sizes& sizes, std::span<const index_t> budgets,
                     index_t largest, std::optional<index_t> cap)
      : sizes_(sizes), cap_(cap) {
    // The order itself, and the rows that options name for a fit, with what is copied of them.
    order_ = grown_bytes(double_bytes(largest)) + double_bytes(6, largest);
    held_ = order_ + grown_bytes(static_cast<double>(sizeof(compacted) * budgets.size()));
    for (const index_t budget : budgets) held_ += result_of(budget);
  }

  /// `options` for the selection alone, under its part of the cap.
  [[nodiscard]] result<compact_options> for_selection(const compact_options& options) const {
    return within(options, order_);
  }
  /// `options` for a fit to `budget` rows, whatever of them it names, under its part of the cap.
  [[nodiscard]] result<compact_options> for_fit(const compact_options& options,
                                                index_t budget) const {
    return within(options, held_ - result_of(budget));
  }

 private:
  /// Options with a cap of what is left beside other things; `memory_cap_exceeded`, of the whole
  /// call, where they can't keep to it.
  result<compact_options> within(compact_options options, double besides) const {
    if (!cap_) return options;
    const auto others = static_cast<index_t>(besides);
    options.memory.cap = std::max<index_t>(*cap_ - others, 0);
    const auto plan = memory_planner(sizes_, options).run();
    if (plan) return options;
    error cause = plan.error();
    cause.actual += others;
    cause.expected = *cap_;
    return cause;
  }

  [[nodiscard]] double result_of(index_t budget) const {
    workspace space;
    declare_compacted(space, (std::min)(budget, sizes_.keys), sizes_.depth, sizes_.width);
    return space.most();
  }

  const compaction_sizes& sizes_;
  std::optional<index_t> cap_;
  double order_ = 0;
  double held_ = 0;  // all results, and what is beside them
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
