// SPDX-License-Identifier: MIT
// The address of a local variable kept as a device pointer.
#include <metal_stdlib>
using namespace metal;

kernel void planted(device float* y [[buffer(0)]]) {
  float mine = 1.0f;
  device float* p = &mine;
  y[0] = p[0];
}
