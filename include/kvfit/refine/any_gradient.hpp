// SPDX-License-Identifier: MIT
/// A published gradient method in the place of refinement, or none.
#pragma once

#include <concepts>

#include "kvfit/attention/head_sizes.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/policy_handle.hpp"
#include "kvfit/core/workspace.hpp"
#include "kvfit/parallel/stop.hpp"
#include "kvfit/refine/gradient_keys.hpp"

namespace kvfit {

/// No gradient method: the default.
struct no_gradient {};

/// What runs a gradient method (refine/gradient_descent.hpp): `batch` is a `refine_batch`, `point`
/// the `compact_point` that moves, both of the instruction set that calls.
struct gradient_functions {
  gradient_report (*descend)(const void* policy, const void* batch, float soft_cap, void* point,
                             const stop_when& stop);
  double (*bytes)(const void* policy, const head_sizes& sizes, bool is_capped);

  template <class P>
  static constexpr bool runs = std::same_as<P, gradient_keys>&& requires(const P& policy,
                                                                         const stop_when& stop) {
    descend_gradient(policy, nullptr, 0.0F, nullptr, stop);
  };
  template <class P, class Isa>
  static const gradient_functions* of() noexcept {
    static constexpr gradient_functions table = {
        .descend = [](const void* p, const void* batch, float soft_cap, void* point,
                      const stop_when& stop) -> gradient_report {
          return descend_gradient(*static_cast<const P*>(p), batch, soft_cap, point, stop);
        },
        .bytes = [](const void* p, const head_sizes& sizes, bool is_capped) -> double {
          workspace space;
          declare(space, *static_cast<const P*>(p), sizes, is_capped);
          return space.most();
        },
    };
    return &table;
  }
};

/// `no_gradient` unless `gradient_keys` are given, which need refine/gradient_descent.hpp.
using any_gradient = policy_handle<gradient_functions, no_gradient, gradient_keys>;

}  // namespace kvfit
