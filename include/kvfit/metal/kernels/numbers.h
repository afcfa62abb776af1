// SPDX-License-Identifier: MIT
/// Numbers as shaders meet them: tests that hold whatever the compiler assumes of infinities, and
/// sums whose error does not grow with their length.
#pragma once

#include <metal_stdlib>

#include "shared/language.h"

#if defined(__METAL_VERSION__) && !defined(KVFIT_METAL_EMULATOR)
#define KVFIT_UNROLL _Pragma("clang loop unroll(full)")
#else
#define KVFIT_UNROLL
#endif

namespace kvfit {
namespace kernels {

inline bool is_nan(float x) {
  return (as_type<uint>(x) & 0x7FFFFFFFu) > 0x7F800000u;
}

inline bool is_finite(float x) {
  return (as_type<uint>(x) & 0x7F800000u) != 0x7F800000u;
}

/// Whether x is −∞: a hidden key.
inline bool is_hidden(float x) {
  return as_type<uint>(x) == 0xFF800000u;
}

inline float minus_infinity() {
  return as_type<float>(0xFF800000u);
}

inline float quiet_nan() {
  return as_type<float>(0x7FC00000u);
}

/// A running sum and what rounding has left of it (Knuth's two-sum). Needs arithmetic that is not
/// reassociated: shaders are compiled without fast math.
struct long_sum {
  float sum;
  float rest;

  void clear() {
    sum = 0;
    rest = 0;
  }
  void add(float x) {
    const float total = sum + x;
    const float part = total - sum;
    rest += (sum - (total - part)) + (x - part);
    sum = total;
  }
  void multiply(float factor) {
    sum *= factor;
    rest *= factor;
  }
  float value() const { return sum + rest; }
};

}  // namespace kernels
}  // namespace kvfit
