// SPDX-License-Identifier: MIT
/// Any policy that ships with kvfit, chosen at run time.
#pragma once

#include <variant>

#include "kvfit/bias/nnls.hpp"
#include "kvfit/bias/zero.hpp"
#include "kvfit/selection/expected_attention.hpp"
#include "kvfit/selection/fixed.hpp"
#include "kvfit/selection/highest_attention.hpp"
#include "kvfit/selection/joint.hpp"
#include "kvfit/selection/omp.hpp"
#include "kvfit/values/copy.hpp"
#include "kvfit/values/least_squares.hpp"

namespace kvfit {

/// The first alternative of each is the default.
using any_selection = std::variant<selection::joint, selection::omp, selection::highest_attention,
                                   selection::expected_attention, selection::first, selection::last,
                                   selection::random, selection::given>;
using any_bias = std::variant<bias::nnls, bias::zero, bias::from_selection>;
using any_values = std::variant<values::least_squares, values::copy>;

}  // namespace kvfit

namespace kvfit::selection::inline KVFIT_ISA {

template <class = void>
inline score_options wanted_scores(const any_selection& policy) {
  return std::visit([](const auto& chosen) { return wanted_scores(chosen); }, policy);
}

template <class = void>
inline result<selected_rows> select(const any_selection& policy, const selection_problem& problem) {
  return std::visit([&](const auto& chosen) { return select(chosen, problem); }, policy);
}

template <class = void>
inline bool may_replace(const any_selection& policy) {
  return std::visit(
      [](const auto& chosen) {
        using kvfit::may_replace;  // else one without its own would become the variant again
        return may_replace(chosen);
      },
      policy);
}

template <class = void>
inline bool refines_by_default(const any_selection& policy) {
  return std::visit(
      [](const auto& chosen) {
        using kvfit::refines_by_default;
        return refines_by_default(chosen);
      },
      policy);
}

template <class = void>
inline double select_bytes(const any_selection& policy, const head_sizes& sizes) {
  return std::visit([&](const auto& chosen) { return select_bytes(chosen, sizes); }, policy);
}

static_assert(selection_policy<any_selection>);

}  // namespace kvfit::selection::inline KVFIT_ISA

namespace kvfit::bias::inline KVFIT_ISA {

template <class = void>
inline result<bias_fit> fit_bias(const any_bias& policy, const bias_problem& problem) {
  return std::visit([&](const auto& chosen) { return fit_bias(chosen, problem); }, policy);
}

template <class = void>
inline double fit_bias_bytes(const any_bias& policy, const head_sizes& sizes) {
  return std::visit([&](const auto& chosen) { return fit_bias_bytes(chosen, sizes); }, policy);
}

static_assert(bias_policy<any_bias>);

}  // namespace kvfit::bias::inline KVFIT_ISA

namespace kvfit::values::inline KVFIT_ISA {

template <class = void>
inline result<values_fit> fit_values(const any_values& policy, const values_problem& problem) {
  return std::visit([&](const auto& chosen) { return fit_values(chosen, problem); }, policy);
}

template <class = void>
inline bool fits_values(const any_values& policy) {
  return std::visit(
      [](const auto& chosen) {
        using kvfit::fits_values;
        return fits_values(chosen);
      },
      policy);
}

template <class = void>
inline double fit_values_bytes(const any_values& policy, const head_sizes& sizes) {
  return std::visit([&](const auto& chosen) { return fit_values_bytes(chosen, sizes); }, policy);
}

static_assert(values_policy<any_values>);

}  // namespace kvfit::values::inline KVFIT_ISA
