// SPDX-License-Identifier: MIT
// Simdgroup matrices and the lanes that hold them.
#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

constant bool mended [[function_constant(0)]];

// z = x y of n x n matrices, n a multiple of 8; one simdgroup for each tile.
template <typename T, bool TransposeY>
kernel void multiply_tiles(device const T* x [[buffer(0)]], device const T* y [[buffer(1)]],
                           device float* z [[buffer(2)]], constant uint& n [[buffer(3)]],
                           uint2 tile [[threadgroup_position_in_grid]]) {
  simdgroup_float8x8 sum = simdgroup_float8x8(0);
  for (uint k = 0; k < n; k += 8) {
    simdgroup_matrix<T, 8, 8> a, b;
    simdgroup_load(a, x + tile.y * 8 * n + k, n);
    if (TransposeY) {
      simdgroup_load(b, y + tile.x * 8 * n + k, n, ulong2(0), true);
    } else {
      simdgroup_load(b, y, n, ulong2(tile.x * 8, k));
    }
    simdgroup_multiply_accumulate(sum, a, b, sum);
  }
  simdgroup_store(sum, z + tile.y * 8 * n + tile.x * 8, n);
}
template [[host_name("multiply_tiles_float")]] kernel decltype(multiply_tiles<float, false>)
    multiply_tiles<float, false>;
template [[host_name("multiply_tiles_half")]] kernel decltype(multiply_tiles<half, false>)
    multiply_tiles<half, false>;
template [[host_name("multiply_tiles_transposed")]] kernel decltype(multiply_tiles<float, true>)
    multiply_tiles<float, true>;

// z = x y of 8 x 8 matrices with the elements put in and taken out by hand. Not mended, lanes are
// taken to hold the matrix row by row.
kernel void multiply_by_thread_elements(device const float* x [[buffer(0)]],
                                        device const float* y [[buffer(1)]],
                                        device float* z [[buffer(2)]],
                                        ushort lane [[thread_index_in_simdgroup]]) {
  const ushort quad = lane / 4;
  const ushort row = mended ? (quad & 4) + (lane / 2) % 4 : lane / 4;
  const ushort column = mended ? (quad & 2) * 2 + (lane % 2) * 2 : (lane % 4) * 2;
  simdgroup_float8x8 a, b, c;
  a.thread_elements() = float2(x[row * 8 + column], x[row * 8 + column + 1]);
  b.thread_elements()[0] = y[row * 8 + column];
  b.thread_elements()[1] = y[row * 8 + column + 1];
  simdgroup_multiply(c, a, b);
  z[row * 8 + column] = c.thread_elements()[0];
  z[row * 8 + column + 1] = c.thread_elements()[1];
}

// Half of the simdgroup names another tile.
kernel void load_from_two_places(device const float* x [[buffer(0)]], device float* z [[buffer(2)]],
                                 uint lane [[thread_index_in_simdgroup]]) {
  simdgroup_float8x8 a;
  simdgroup_load(a, x + (mended || lane < 16 ? 0 : 64), 8);
  simdgroup_store(a, z, 8);
}

// Every kind of exchange between lanes; y[k * 32 + lane] is the k-th.
kernel void exchanges(device const float* x [[buffer(0)]], device float* y [[buffer(1)]],
                      uint lane [[thread_index_in_simdgroup]]) {
  const float v = x[lane];
  const uint n = 32;
  y[0 * n + lane] = simd_sum(v);
  y[1 * n + lane] = simd_max(v);
  y[2 * n + lane] = simd_min(v);
  y[3 * n + lane] = simd_shuffle(v, 31 - lane);
  y[4 * n + lane] = simd_shuffle_xor(v, 5);
  y[5 * n + lane] = simd_shuffle_down(v, 3);
  y[6 * n + lane] = simd_shuffle_up(v, 3);
  y[7 * n + lane] = simd_broadcast(v, 7);
  y[8 * n + lane] = simd_broadcast_first(v);
  y[9 * n + lane] = simd_prefix_inclusive_sum(v);
  y[10 * n + lane] = simd_prefix_exclusive_sum(v);
  y[11 * n + lane] = simd_all(v >= 0.0f) ? 1.0f : 0.0f;
  y[12 * n + lane] = simd_any(v > 1000.0f) ? 1.0f : 0.0f;
  y[13 * n + lane] = float(uint(simd_vote::vote_t(simd_ballot(lane < 3))));
  y[14 * n + lane] = float(simd_or(1u << lane) == 0xFFFFFFFFu);
  y[15 * n + lane] = simd_product(lane == 3 ? 2.0f : 1.0f);
}
