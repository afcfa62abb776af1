// SPDX-License-Identifier: MIT
// Two types in one call, which Metal finds ambiguous.
#include <metal_stdlib>
using namespace metal;

kernel void planted(device float* y [[buffer(0)]]) { y[0] = fma(y[0], 2.0f, 1); }
