// SPDX-License-Identifier: MIT
/// One number of all that ranks must have in common, so that a difference is found before it hurts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>
#include <variant>
#include <vector>

#include "kvfit/cache/cache_options.hpp"
#include "kvfit/core/config.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// FNV-1a of 64 bits (Fowler, Noll and Vo). Good against mistakes, not against malice.
class digest {
 public:
  [[nodiscard]] std::uint64_t value() const noexcept { return value_; }

  template <class... Values>
  void add(const Values&... values) noexcept {
    (add_one(values), ...);
  }

  /// What decides about rows and is no policy's own. with_lists: curves and rows of heads as well,
  /// which are a rank's own where it has a shard.
  void add_options(const cache_options& options, bool with_lists) noexcept {
    add(options.budget, options.shares.index(), options.limits.at_least, options.limits.max_ratio,
        options.skip, options.fallback, options.memory);
    std::visit([&](const auto& shares) { add_shares(shares, with_lists); }, options.shares);
    const auto& head = options.head;
    add(head.rule.scale, head.rule.soft_cap, head.rule.causal, head.rule.window);
    add(head.protect.first, head.protect.last, head.protect.rows, head.replace_dead_keys);
    add(head.queries.held_out, head.queries.per_row, head.queries.at_least);
    add(head.tied_values_from, head.keep_better_values, head.storage.rows, head.storage.bias);
    add(head.precision, head.memory.selection, head.memory.cap);
  }

 private:
  /// Numbers alone: the padding of a structure may differ where its fields do not.
  template <class Number>
  requires(std::is_arithmetic_v<Number> ||
           std::is_enum_v<Number>) void add_one(Number number) noexcept {
    unsigned char bytes[sizeof(Number)];
    std::memcpy(bytes, &number, sizeof(Number));
    for (const unsigned char byte : bytes) value_ = (value_ ^ byte) * 0x100000001b3U;
  }
  template <class T>
  void add_one(const std::optional<T>& value) noexcept {
    add(value.has_value());
    if (value) add(*value);
  }
  template <class T>
  void add_one(const std::vector<T>& list) noexcept {
    add(list.size());
    for (const T& one : list) add(one);
  }
  void add_one(const head_share& of) noexcept { add(of.id.layer, of.id.head, of.share); }
  void add_one(const influence_point& of) noexcept { add(of.rows, of.loss); }
  void add_one(const influence_curve& of) noexcept { add(of.points); }
  void add_one(const dynamic_programming& exact) noexcept { add(exact.step, exact.memory); }

  void add_shares(const budgets::uniform&, bool) noexcept {}
  void add_shares(const budgets::pyramid& by, bool) noexcept { add(by.last_share); }
  void add_shares(const budgets::given& by, bool) noexcept { add(by.missing, by.shares); }
  void add_shares(const budgets::influence& by, bool with_lists) noexcept {
    add(by.exact);
    if (with_lists) add(by.curves);
  }
  void add_ranking(const selection::highest_attention& by) noexcept {
    add(by.importance, by.pooling, by.pooling_width, by.window);
  }
  void add_shares(const budgets::global_ranking& by, bool) noexcept { add_ranking(by.by); }
  void add_shares(const budgets::layer_ranking& by, bool) noexcept {
    add_ranking(by.by);
    add(by.safeguard);
  }
  void add_shares(const budgets::rows& by, bool with_lists) noexcept {
    if (with_lists) add(by.each);
  }

  std::uint64_t value_ = 0xcbf29ce484222325U;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
