// SPDX-License-Identifier: MIT
// A write to constant memory.
#include <metal_stdlib>
using namespace metal;

kernel void planted(constant float* x [[buffer(0)]]) { x[0] = 1.0f; }
