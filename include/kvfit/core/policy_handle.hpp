// SPDX-License-Identifier: MIT
/// A policy whose type is chosen at run time: one of a known list, or a caller's own.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>
#include <variant>

#include "kvfit/core/config.hpp"

namespace kvfit {

template <class P, class... Known>
concept is_one_of = (std::same_as<P, Known> || ...);

template <class First, class... Rest>
struct first_type {
  using type = First;
};

template <class P, class... Known>
concept is_first_of = std::same_as<P, typename first_type<Known...>::type>;

/// Holds the settings of a policy and the functions that run it.
///
/// `Functions` is a struct of function pointers that take the settings as `const void*`, with
/// `template <class P> static constexpr bool runs` (whether this file has seen P's functions) and
/// `template <class P, class Isa> static const Functions* of()`.
///
/// A handle made of a policy P compiles P's functions in that file, and no other policy's. Where
/// kvfit::compiled is linked it compiles none of the known ones: the library has them. Default
/// constructed, it is the first of the list, whose functions `compact()` has in any case. Include a
/// policy's header before its first use: whether its functions have been seen is decided once in a
/// file.
template <class Functions, class... Known>
class policy_handle {
 public:
  policy_handle() = default;

  /// `policy`: of a known type whose header (`kvfit/selection/omp.hpp`, say) is included, or a
  /// caller's own.
  template <class Policy, class Isa = isa_tag>
  requires(!std::same_as<Policy, policy_handle> &&
           ((is_one_of<Policy, Known...> && Isa::links_library) || is_first_of<Policy, Known...> ||
            Functions::template runs<Policy>))
      policy_handle(Policy policy) {  // NOLINT(google-explicit-constructor): it is meant to convert
    if constexpr (!(is_one_of<Policy, Known...> && Isa::links_library)) {
      functions_ = functions_where_seen<Policy, Isa>();  // `compact()` has those of the first
    }
    if constexpr (is_one_of<Policy, Known...>) {
      settings_.template emplace<Policy>(std::move(policy));
    } else {
      settings_ = std::make_shared<const Policy>(std::move(policy));
    }
  }

  /// The policy's settings where it is a P of the list, else null.
  template <class P>
  [[nodiscard]] P* get_if() noexcept {
    return std::get_if<P>(&settings_);
  }
  template <class P>
  [[nodiscard]] const P* get_if() const noexcept {
    return std::get_if<P>(&settings_);
  }
  template <class P>
  [[nodiscard]] bool holds() const noexcept {
    return std::holds_alternative<P>(settings_);
  }

  /// Whether the settings are a P that is equal to `other`.
  template <class P>
  [[nodiscard]] bool equals(const P& other) const {
    const P* const held = get_if<P>();
    return held != nullptr && *held == other;
  }

  /// Null where the policy is one of the list that no file of this instruction set has compiled.
  [[nodiscard]] const Functions* functions() const noexcept { return functions_; }
  /// What the functions are called with.
  [[nodiscard]] const void* settings() const noexcept {
    const void* at = nullptr;
    ((at = holds<Known>() ? static_cast<const void*>(get_if<Known>()) : at), ...);
    return at != nullptr ? at : std::get_if<own>(&settings_)->get();
  }
  /// Place in the list.
  [[nodiscard]] std::size_t index() const noexcept { return settings_.index(); }
  /// The functions of the whole list, null for those that have none; all must have been seen.
  template <class Isa>
  [[nodiscard]] static std::array<const Functions*, sizeof...(Known)> known_functions() noexcept {
    return {functions_where_seen<Known, Isa>()...};
  }
  /// The same policy; where it is one of the list, with functions of the calling file, which has
  /// seen the whole list.
  template <class Isa = isa_tag>
  [[nodiscard]] policy_handle bound() const {
    policy_handle out = *this;
    if (index() < sizeof...(Known)) out.functions_ = known_functions<Isa>()[index()];
    return out;
  }

 private:
  template <class P, class Isa>
  static const Functions* functions_where_seen() noexcept {
    if constexpr (Functions::template runs<P>) {
      return Functions::template of<P, Isa>();
    } else {
      return nullptr;
    }
  }

  using own = std::shared_ptr<const void>;

  std::variant<Known..., own> settings_;
  const Functions* functions_ = nullptr;
};

}  // namespace kvfit
