// SPDX-License-Identifier: MIT
// A method of the thread's own memory called on an object in constant memory.
#include <metal_stdlib>
using namespace metal;

struct state {
  float x;
  void set() { x = 1.0f; }
};

kernel void planted(constant state& s [[buffer(0)]]) { s.set(); }
