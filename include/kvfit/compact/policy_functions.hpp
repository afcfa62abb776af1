// SPDX-License-Identifier: MIT
/// The functions of the policies in options. A header-only file has those of the defaults and of
/// what it names; where kvfit::compiled is linked, the library has all that kvfit knows.
#pragma once

#include <concepts>

#include "kvfit/bias/any_bias.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/refine/any_gradient.hpp"
#include "kvfit/selection/any_selection.hpp"
#include "kvfit/values/any_values.hpp"

#if defined(KVFIT_COMPILED)
#include "kvfit/core/compiled_entry_points.hpp"
#else
#include "kvfit/bias/nnls.hpp"
#include "kvfit/selection/joint.hpp"
#include "kvfit/values/least_squares.hpp"
#endif

namespace kvfit::detail {
inline namespace KVFIT_ISA {

// A handle without functions of its own holds the default, or a policy that kvfit knows and the
// library runs.
#if defined(KVFIT_COMPILED)
inline const selection_functions& functions_of(const any_selection& policy) {
  if (policy.functions() != nullptr) return *policy.functions();
  return *compiled::available().front().selections[policy.index()];
}
inline const bias_functions& functions_of(const any_bias& policy) {
  if (policy.functions() != nullptr) return *policy.functions();
  return *compiled::available().front().biases[policy.index()];
}
inline const values_functions& functions_of(const any_values& policy) {
  if (policy.functions() != nullptr) return *policy.functions();
  return *compiled::available().front().values[policy.index()];
}
inline const gradient_functions& functions_of(const any_gradient& policy) {
  if (policy.functions() != nullptr) return *policy.functions();
  return *compiled::available().front().gradients[policy.index()];
}
#else
inline const selection_functions& functions_of(const any_selection& policy) {
  if (policy.functions() != nullptr) return *policy.functions();
  return *selection_functions::of<selection::joint, isa_tag>();
}
inline const bias_functions& functions_of(const any_bias& policy) {
  if (policy.functions() != nullptr) return *policy.functions();
  return *bias_functions::of<bias::nnls, isa_tag>();
}
inline const values_functions& functions_of(const any_values& policy) {
  if (policy.functions() != nullptr) return *policy.functions();
  return *values_functions::of<values::least_squares, isa_tag>();
}
/// Not to be asked of `no_gradient`.
inline const gradient_functions& functions_of(const any_gradient& policy) {
  return *policy.functions();
}
#endif

/// `invalid_option` for a policy that nothing here can run: a handle made in a file that links
/// kvfit::compiled, handed to one that does not.
template <class Handle>
result<void> check_functions(const char* which, const Handle& policy) {
  if (isa_tag::links_library || policy.functions() != nullptr || policy.index() == 0) return {};
  return error{errc::invalid_option, which, error::none, error::none,
               "made in a file that links kvfit::compiled, which this one does not"};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

// Templates, so that nothing else is turned into a handle on the way here: a caller's own policy is
// found by these names.

template <std::same_as<any_selection> P>
score_options wanted_scores(const P& policy) {
  return detail::functions_of(policy).scoring(policy.settings());
}
template <std::same_as<any_selection> P>
result<selected_rows> select(const P& policy, const selection_problem& problem) {
  return detail::functions_of(policy).choose(policy.settings(), problem);
}
template <std::same_as<any_selection> P>
result<void> check_settings(const P& policy) {
  return detail::functions_of(policy).check(policy.settings());
}
template <selection_policy P>
requires std::same_as<P, any_selection>
bool may_replace(const P& policy) {
  return detail::functions_of(policy).replaces(policy.settings());
}
template <selection_policy P>
requires std::same_as<P, any_selection>
bool refines_by_default(const P& policy) {
  return detail::functions_of(policy).refines(policy.settings());
}

template <std::same_as<any_bias> P>
result<bias_fit> fit_bias(const P& policy, const bias_problem& problem) {
  return detail::functions_of(policy).fit(policy.settings(), problem);
}
template <std::same_as<any_bias> P>
result<void> check_settings(const P& policy) {
  return detail::functions_of(policy).check(policy.settings());
}

template <std::same_as<any_values> P>
result<values_fit> fit_values(const P& policy, const values_problem& problem) {
  values_fit out;
  values_sink sink{.owner = &out.values,
                   .make = [](void* owner, index_t rows, index_t cols) -> float* {
                     auto& values = *static_cast<matrix*>(owner);
                     values.resize(rows, cols);
                     return values.data();
                   }};
  const auto ok = detail::functions_of(policy).fit(policy.settings(), problem, sink);
  if (!ok) return ok.error();
  out.report = sink.report;
  out.is_fitted = sink.is_fitted;
  return out;
}
template <std::same_as<any_values> P>
result<void> check_settings(const P& policy) {
  return detail::functions_of(policy).check(policy.settings());
}
template <values_policy P>
requires std::same_as<P, any_values>
bool fits_values(const P& policy) {
  return detail::functions_of(policy).fits(policy.settings());
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
