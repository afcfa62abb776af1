// SPDX-License-Identifier: MIT
// What of the language the emulator knows, each result written to its own element.
#include <metal_stdlib>
using namespace metal;

constant float table[3] = {1.5, 2.5, 3.5};

struct pair {
  float first;
  int second;
};

inline void add_to(device float& y, thread const float& x) { y += x; }
inline float first_of(threadgroup float (&tile)[2][4]) { return tile[0][0]; }
template <typename T>
inline float read(device const T* p, uint i) {
  return float(p[i]);
}
inline void twice(thread float (&x)[2]) {
  for (int i = 0; i < 2; ++i) x[i] *= 2;
}

kernel void speak(device float* y [[buffer(0)]], device half* h [[buffer(1)]],
                  device pair* pairs [[buffer(2)]], device float4* v [[buffer(3)]]) {
  threadgroup float tile[2][4], other[2];
  threadgroup int number;
  uint k = 0;
  // Vectors.
  float4 a = float4(1, 2, 3, 4);
  a.xy = a.yx;                   // 2 1 3 4
  a.w += a.z;                    // w = 7
  y[k++] = a.x;                  // 0: 2
  y[k++] = a.w;                  // 1: 7
  y[k++] = dot(a.xyz, float3(1)); // 2: 6
  y[k++] = (a * 2.0 - 1.0f).y;   // 3: 1
  y[k++] = any(a > 6.0f) ? 1 : 0;  // 4: 1
  y[k++] = float(sizeof(float3)) + float(sizeof(packed_float3));  // 5: 28
  v[0] = float4(half4(0.1h));
  v[0].y = 5;
  v[0].z += 1;
  y[k++] = v[0].y;               // 6: 5
  // half and bfloat.
  half u = half(2049.0f);        // a tie, to even
  y[k++] = u;                    // 7: 2048
  y[k++] = 1.0h / 3.0h;          // 8: 0.333251953125
  y[k++] = float(bfloat(1.00390625f) + bfloat(0.0f));  // 9: 1, a tie to even
  h[0] = 1.0f;
  h[0] += 0.5h;
  y[k++] = h[0] * 2.0f;          // 10: 3
  y[k++] = read(h, 0);           // 11: 1.5
  // Bits, selection.
  y[k++] = float(as_type<uint>(1.0f) >> 23);  // 12: 127
  y[k++] = select(1.0f, 2.0f, true);          // 13: 2
  y[k++] = isnan(NAN) && isinf(-INFINITY) ? 1 : 0;  // 14: 1
  // Literals are fp32: 0.1 is not the double.
  y[k++] = 0.1 == 0.1f ? 1 : 0;  // 15: 1
  // Constants, structs, references.
  y[k++] = table[1];             // 16: 2.5
  pairs[0] = pair{3.0f, 4};
  const pair p = pairs[0];
  y[k++] = p.first + p.second;   // 17: 7
  device const pair* reader = pairs;
  y[k++] = reader->first;        // 18: 3
  y[k] = 1;
  const float two = 2;
  add_to(y[k], two);             // 19: 3
  ++k;
  tile[0][0] = 9;
  other[1] = 2;
  number = 3;
  number += 4;
  y[k++] = first_of(tile) + other[1] + number;  // 20: 18
  float both[2] = {1, 2};
  twice(both);
  y[k++] = both[0] + both[1];    // 21: 6
  device float* const at = y + k;
  *at = 8;                       // 22: 8
  y[++k] = float(at - y);        // 23: 22
  y[++k] = metal::precise::exp(0.0f) + fast::max(1.0f, 2.0f);  // 24: 3
  y[++k] = float(popcount(7u) + clz(1u) + ctz(8u));  // 25: 37
  y[++k] = clamp(5.0f, 0.0f, 1.0f) + fma(2.0f, 3.0f, 4.0f);  // 26: 11
  y[++k] = float(ulong(1) << 40 > 0xFFFFFFFFul);     // 27: 1
}
