// SPDX-License-Identifier: MIT
/// One number of all that ranks must have in common, so that a difference is found before it hurts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <variant>

#include "kvfit/cache/cache_options.hpp"
#include "kvfit/core/config.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// FNV-1a of 64 bits (Fowler, Noll and Vo). Good against mistakes, not against malice.
class digest {
 public:
  /// Numbers alone: the padding of a structure may differ where its fields do not.
  template <class Number>
  requires(std::is_arithmetic_v<Number> ||
           std::is_enum_v<Number>) void add(Number number) noexcept {
    unsigned char bytes[sizeof(Number)];
    std::memcpy(bytes, &number, sizeof(Number));
    for (const unsigned char byte : bytes) {
      value_ = (value_ ^ byte) * 0x100000001b3U;
    }
  }

  template <class Number>
  void add_list(std::span<const Number> numbers) noexcept {
    add(numbers.size());
    for (const Number& number : numbers) add(number);
  }

  [[nodiscard]] std::uint64_t value() const noexcept { return value_; }

 private:
  std::uint64_t value_ = 0xcbf29ce484222325U;
};

inline void add_shares(digest& to, const budgets::uniform&, bool) noexcept {
  to.add(0);
}

inline void add_shares(digest& to, const budgets::pyramid& shares, bool) noexcept {
  to.add(shares.last_share);
}

inline void add_shares(digest& to, const budgets::given& shares, bool) noexcept {
  to.add(shares.missing);
  to.add(shares.shares.size());
  for (const head_share& share : shares.shares) {
    to.add(share.id.layer);
    to.add(share.id.head);
    to.add(share.share);
  }
}

inline void add_shares(digest& to, const budgets::influence& shares, bool with_lists) noexcept {
  to.add(shares.exact.has_value());
  if (shares.exact) {
    to.add(shares.exact->step);
    to.add(shares.exact->memory);
  }
  if (!with_lists) return;
  for (const influence_curve& curve : shares.curves) {
    to.add(curve.points.size());
    for (const influence_point& point : curve.points) {
      to.add(point.rows);
      to.add(point.loss);
    }
  }
}

inline void add_shares(digest& to, const budgets::global_ranking& shares, bool) noexcept {
  to.add(shares.by.importance);
  to.add(shares.by.pooling);
  to.add(shares.by.pooling_width);
  to.add(shares.by.window);
}

inline void add_shares(digest& to, const budgets::rows& shares, bool with_lists) noexcept {
  if (with_lists) to.add_list(std::span(shares.each));
}

/// What decides about rows and is no policy's own. with_lists: curves and rows of heads as well,
/// which are a rank's own where it has a shard.
inline void add_options(digest& to, const cache_options& options, bool with_lists) noexcept {
  to.add(options.budget);
  to.add(options.shares.index());
  std::visit([&](const auto& shares) { add_shares(to, shares, with_lists); }, options.shares);
  to.add(options.limits.at_least);
  to.add(options.limits.max_ratio);
  to.add_list(std::span(options.skip));
  to.add(options.fallback);
  const auto& head = options.head;
  to.add(head.rule.scale.has_value());
  to.add(head.rule.scale.value_or(0));
  to.add(head.rule.soft_cap);
  to.add(head.rule.causal);
  to.add(head.rule.window);
  to.add(head.protect.first);
  to.add(head.protect.last);
  to.add_list(std::span(head.protect.rows));
  to.add(head.replace_dead_keys);
  to.add(head.queries.held_out);
  to.add(head.queries.per_row);
  to.add(head.queries.at_least);
  to.add(head.tied_values_from.value_or(-1));
  to.add(head.keep_better_values);
  to.add(head.storage.rows);
  to.add(head.storage.bias);
  to.add(head.precision);
  to.add(head.memory.selection);
  to.add(head.memory.cap.value_or(-1));
  to.add(options.memory.value_or(-1));
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
