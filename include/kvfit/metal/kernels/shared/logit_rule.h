// SPDX-License-Identifier: MIT
/// A product of query and key becomes a logit.
#pragma once

#include "language.h"
#include "logit_arguments.h"

namespace kvfit {
namespace kernels {

/// cap(x) = soft_cap · tanh(x / soft_cap), or x where there is no cap.
KVFIT_SHARED float capped(float x, float soft_cap) {
  return soft_cap > 0 ? soft_cap * KVFIT_TANH(x / soft_cap) : x;
}

/// Whether the rule hides a key `back` positions before the query.
KVFIT_SHARED bool is_hidden_by_position(int64_t back, uint32_t flags, int64_t window) {
  return ((flags & logit_causal) != 0 && back < 0) || (window > 0 && back >= window);
}

/// Whether positions matter at all.
KVFIT_SHARED bool has_positions(uint32_t flags, int64_t window) {
  return (flags & (logit_causal | logit_slopes)) != 0 || window > 0;
}

}  // namespace kernels
}  // namespace kvfit
