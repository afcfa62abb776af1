// SPDX-License-Identifier: MIT
// A pointer that does not say where it points.
#include <metal_stdlib>
using namespace metal;

inline float first_of(const float* x) { return x[0]; }

kernel void planted(device float* y [[buffer(0)]]) { y[0] = 1.0f; }
