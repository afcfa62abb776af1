// SPDX-License-Identifier: MIT
// Device memory handed to a function of threadgroup memory.
#include <metal_stdlib>
using namespace metal;

inline float first_of(threadgroup const float* x) { return x[0]; }

kernel void planted(device const float* x [[buffer(0)]], device float* y [[buffer(1)]]) {
  y[0] = first_of(x);
}
