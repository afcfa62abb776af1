// SPDX-License-Identifier: MIT
/// Metal's standard library as declarations in C++ for OpenCL. Nothing is run: clang checks types,
/// above all address spaces, of every shader against it. The translator refuses pointers and
/// references without an address space, so that OpenCL's generic one serves nothing but `this` and
/// the copies of structs.
#pragma once

#pragma OPENCL EXTENSION cl_khr_fp16 : enable

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef unsigned long size_t;
typedef long ptrdiff_t;
typedef signed char int8_t;
typedef uchar uint8_t;
typedef short int16_t;
typedef ushort uint16_t;
typedef int int32_t;
typedef uint uint32_t;
typedef long int64_t;
typedef ulong uint64_t;

// Words that OpenCL keeps for itself and Metal does not.
#define local metal_local
#define global metal_global
#define generic metal_generic
#define pipe metal_pipe
#define uniform metal_uniform

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define FLT_MAX 3.402823466e+38f
#define FLT_MIN 1.175494351e-38f
#define FLT_EPSILON 1.192092896e-07f
#define MAXFLOAT FLT_MAX
#define HALF_MAX 65504.0h
#define INT_MAX 2147483647
#define UINT_MAX 4294967295u
#define M_PI_F 3.14159265358979323846f
#define METAL_FUNC inline

#define METAL_VECTORS(T)                                  \
  typedef T T##2 __attribute__((ext_vector_type(2)));     \
  typedef T T##3 __attribute__((ext_vector_type(3)));     \
  typedef T T##4 __attribute__((ext_vector_type(4)));     \
  struct packed_##T##2 { T data[2]; operator T##2() const; }; \
  struct packed_##T##3 { T data[3]; operator T##3() const; }; \
  struct packed_##T##4 { T data[4]; operator T##4() const; };
METAL_VECTORS(char)
METAL_VECTORS(uchar)
METAL_VECTORS(short)
METAL_VECTORS(ushort)
METAL_VECTORS(int)
METAL_VECTORS(uint)
METAL_VECTORS(long)
METAL_VECTORS(ulong)
METAL_VECTORS(half)
METAL_VECTORS(float)
#undef METAL_VECTORS

/// A vector made of its components, or of other vectors.
template <typename V, typename... A>
V metal_make(A... components);

/// OpenCL has no bfloat; here it is a type that fp32 is converted from and to.
struct bfloat {
  ushort bits;
  bfloat() = default;
  bfloat(float x);
  bfloat(const bfloat&) = default;
  bfloat(const __constant bfloat&) = default;
  bfloat& operator=(const bfloat&) = default;
  operator float() const;
  operator float() const __constant;
};

// OpenCL's own atomic types have the same names.
#define atomic_int metal_atomic_int
#define atomic_uint metal_atomic_uint
#define atomic_float metal_atomic_float
#define memory_order_relaxed metal_memory_order_relaxed

namespace metal {

using ::bfloat;

template <typename T>
__local T& threadgroup_variable();

template <typename T, int N>
struct vector_of;
template <typename T>
struct vector_of<T, 2> {
  typedef T type __attribute__((ext_vector_type(2)));
};
template <typename T>
struct vector_of<T, 3> {
  typedef T type __attribute__((ext_vector_type(3)));
};
template <typename T>
struct vector_of<T, 4> {
  typedef T type __attribute__((ext_vector_type(4)));
};
template <>
struct vector_of<bfloat, 2> {
  struct type {
    bfloat x, y;
    bfloat& operator[](int i);
  };
};
template <typename T, int N>
using vec = typename vector_of<T, N>::type;

template <typename A, typename B>
struct is_same {
  static constexpr __constant bool value = false;
};
template <typename A>
struct is_same<A, A> {
  static constexpr __constant bool value = true;
};
template <typename A, typename B>
constexpr __constant bool is_same_v = is_same<A, B>::value;
template <bool C, typename A, typename B>
struct conditional {
  using type = A;
};
template <typename A, typename B>
struct conditional<false, A, B> {
  using type = B;
};
template <bool C, typename A, typename B>
using conditional_t = typename conditional<C, A, B>::type;
template <bool C, typename T = void>
struct enable_if {};
template <typename T>
struct enable_if<true, T> {
  using type = T;
};
template <bool C, typename T = void>
using enable_if_t = typename enable_if<C, T>::type;

template <typename T>
struct numeric_limits {
  static constexpr T max();
  static constexpr T lowest();
  static constexpr T min();
  static constexpr T infinity();
  static constexpr T quiet_NaN();
  static constexpr T epsilon();
};

template <typename To, typename From>
To as_type(From from);

#define METAL_UNARY(name) \
  template <typename T>   \
  T name(T x);
#define METAL_BINARY(name) \
  template <typename T>    \
  T name(T x, T y);
#define METAL_TERNARY(name) \
  template <typename T>     \
  T name(T x, T y, T z);
#define METAL_MATHEMATICS                                                                      \
  METAL_UNARY(exp) METAL_UNARY(exp2) METAL_UNARY(exp10) METAL_UNARY(log) METAL_UNARY(log2)     \
  METAL_UNARY(log10) METAL_UNARY(sqrt) METAL_UNARY(rsqrt) METAL_UNARY(sin) METAL_UNARY(cos)    \
  METAL_UNARY(tan) METAL_UNARY(sinh) METAL_UNARY(cosh) METAL_UNARY(tanh) METAL_UNARY(floor)    \
  METAL_UNARY(ceil) METAL_UNARY(round) METAL_UNARY(rint) METAL_UNARY(trunc) METAL_UNARY(fract) \
  METAL_UNARY(fabs) METAL_UNARY(abs) METAL_UNARY(sign) METAL_UNARY(saturate)                   \
  METAL_BINARY(pow) METAL_BINARY(powr) METAL_BINARY(fmod) METAL_BINARY(fmax)                   \
  METAL_BINARY(fmin) METAL_BINARY(max) METAL_BINARY(min) METAL_BINARY(atan2)                   \
  METAL_BINARY(copysign) METAL_BINARY(fdim)                                                    \
  METAL_TERNARY(fma) METAL_TERNARY(clamp) METAL_TERNARY(mix) METAL_TERNARY(max3)               \
  METAL_TERNARY(min3)
METAL_MATHEMATICS
namespace precise {
METAL_MATHEMATICS
}
namespace fast {
METAL_MATHEMATICS
}
METAL_UNARY(popcount)
METAL_UNARY(clz)
METAL_UNARY(ctz)
METAL_BINARY(mulhi)
template <typename T>
T select(T a, T b, bool condition);
template <typename T>
T ldexp(T x, int n);
template <typename T>
bool isnan(T x);
template <typename T>
bool isinf(T x);
template <typename T>
bool isfinite(T x);
template <typename T>
bool signbit(T x);
template <typename T>
bool any(T x);
template <typename T>
bool all(T x);
float dot(float2 x, float2 y);
float dot(float3 x, float3 y);
float dot(float4 x, float4 y);
half dot(half2 x, half2 y);
half dot(half3 x, half3 y);
half dot(half4 x, half4 y);

enum class mem_flags : uint { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };
constexpr mem_flags operator|(mem_flags a, mem_flags b) {
  return static_cast<mem_flags>(static_cast<uint>(a) | static_cast<uint>(b));
}
void threadgroup_barrier(mem_flags flags);
void simdgroup_barrier(mem_flags flags);

METAL_UNARY(simd_sum)
METAL_UNARY(simd_product)
METAL_UNARY(simd_max)
METAL_UNARY(simd_min)
METAL_UNARY(simd_and)
METAL_UNARY(simd_or)
METAL_UNARY(simd_xor)
METAL_UNARY(simd_broadcast_first)
METAL_UNARY(simd_prefix_inclusive_sum)
METAL_UNARY(simd_prefix_exclusive_sum)
#define METAL_SHUFFLE(name) \
  template <typename T>     \
  T name(T x, ushort lane);
METAL_SHUFFLE(simd_shuffle)
METAL_SHUFFLE(simd_shuffle_xor)
METAL_SHUFFLE(simd_shuffle_down)
METAL_SHUFFLE(simd_shuffle_up)
METAL_SHUFFLE(simd_shuffle_rotate_down)
METAL_SHUFFLE(simd_shuffle_rotate_up)
METAL_SHUFFLE(simd_broadcast)
bool simd_all(bool x);
bool simd_any(bool x);
bool simd_is_first();
struct simd_vote {
  using vote_t = ulong;
  explicit simd_vote(vote_t votes);
  explicit operator vote_t() const;
};
simd_vote simd_ballot(bool x);

template <typename T, int Columns, int Rows>
struct simdgroup_matrix {
  simdgroup_matrix() = default;
  explicit simdgroup_matrix(float diagonal);
  explicit simdgroup_matrix(int diagonal);
  vec<T, 2>& thread_elements();
  vec<T, 2> elements;
};
using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;
using simdgroup_half8x8 = simdgroup_matrix<half, 8, 8>;
using simdgroup_bfloat8x8 = simdgroup_matrix<bfloat, 8, 8>;
template <typename T, int C, int R>
simdgroup_matrix<T, C, R> make_filled_simdgroup_matrix(T x);
#define METAL_MATRIX_MEMORY(space)                                                      \
  template <typename T, int C, int R>                                                   \
  void simdgroup_load(simdgroup_matrix<T, C, R>& m, const space T* p, ulong stride = C, \
                      ulong2 origin = ulong2{}, bool transpose = false);                \
  template <typename T, int C, int R>                                                   \
  void simdgroup_store(const simdgroup_matrix<T, C, R>& m, space T* p, ulong stride = C, \
                       ulong2 origin = ulong2{}, bool transpose = false);
METAL_MATRIX_MEMORY(__global)
METAL_MATRIX_MEMORY(__local)
#undef METAL_MATRIX_MEMORY
template <typename D, typename A, typename B, typename C>
void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d, simdgroup_matrix<A, 8, 8> a,
                                   simdgroup_matrix<B, 8, 8> b, simdgroup_matrix<C, 8, 8> c);
template <typename D, typename A, typename B>
void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, simdgroup_matrix<A, 8, 8> a,
                        simdgroup_matrix<B, 8, 8> b);

enum memory_order { memory_order_relaxed };
template <typename T>
struct atomic {
  T value;
};
using atomic_int = atomic<int>;
using atomic_uint = atomic<uint>;
using atomic_float = atomic<float>;
#define METAL_FETCH(name, space) \
  template <typename T>          \
  T name(space atomic<T>* p, T x, memory_order);
#define METAL_ATOMICS(space)                        \
  METAL_FETCH(atomic_fetch_add_explicit, space)     \
  METAL_FETCH(atomic_fetch_sub_explicit, space)     \
  METAL_FETCH(atomic_fetch_max_explicit, space)     \
  METAL_FETCH(atomic_fetch_min_explicit, space)     \
  METAL_FETCH(atomic_fetch_and_explicit, space)     \
  METAL_FETCH(atomic_fetch_or_explicit, space)      \
  METAL_FETCH(atomic_fetch_xor_explicit, space)     \
  METAL_FETCH(atomic_exchange_explicit, space)      \
  template <typename T>                             \
  T atomic_load_explicit(space atomic<T>* p, memory_order); \
  template <typename T>                             \
  void atomic_store_explicit(space atomic<T>* p, T x, memory_order);
METAL_ATOMICS(__global)
METAL_ATOMICS(__local)
#undef METAL_ATOMICS
#undef METAL_FETCH

}  // namespace metal
