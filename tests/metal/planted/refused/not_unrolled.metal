// SPDX-License-Identifier: MIT
// A loop of as many rounds as an argument says can't be unrolled before it runs.
#include <metal_stdlib>
using namespace metal;

kernel void planted(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
                    constant int& n [[buffer(2)]]) {
  float sum = 0.0f;
  _Pragma("clang loop unroll(full)")
  for (int k = 0; k < n; ++k) sum += x[k];
  y[0] = sum;
}
