// SPDX-License-Identifier: MIT
/// What a policy may say of its own settings.
#pragma once

#include <variant>

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// Refuses settings outside their documented ranges with `invalid_option`, before anything is
/// computed. A policy P that can be misset has its own `result<void> check_settings(const P&)`
/// beside it; any other is accepted by this one. Handles are not: those who check them include
/// compact/policy_functions.hpp.
template <class Policy>
requires(!requires(const Policy& policy) {
  policy.functions();
}) result<void> check_settings(const Policy&) {
  return {};
}

/// Of a policy chosen at run time, the chosen one's.
template <class... Policies>
result<void> check_settings(const std::variant<Policies...>& policy) {
  return std::visit([](const auto& chosen) { return check_settings(chosen); }, policy);
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
