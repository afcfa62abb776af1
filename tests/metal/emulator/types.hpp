// SPDX-License-Identifier: MIT
/// Metal's scalar and vector types: half, bfloat, vec<T, N> with swizzles, and their arithmetic.
///
/// Arithmetic on half and bfloat rounds every result to nearest even, as hardware does: it is done
/// in fp32, which has more than twice their digits, so that rounding twice is rounding once.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "metal/emulator/engine.hpp"

namespace metal_emulator {

// ---- half and bfloat ----------------------------------------------------------------------------

[[nodiscard]] inline std::uint16_t half_bits(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<std::uint16_t>(sign | 0x7E00u);   // NaN
  if (magnitude >= 0x477FF000u) return static_cast<std::uint16_t>(sign | 0x7C00u);  // to infinity
  if (magnitude < 0x38800000u) {  // below the least normal number, 2^-14
    // Adding 0.5 leaves the fraction, in units of 2^-24, rounded in the last bits.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3F000000u));
  }
  const std::uint32_t odd = (magnitude >> 13) & 1u;
  return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000u + 0xFFFu + odd) >> 13));
}

[[nodiscard]] inline float half_value(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000u) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1Fu;
  const std::uint32_t fraction = bits & 0x3FFu;
  if (exponent == 0x1Fu) return std::bit_cast<float>(sign | 0x7F800000u | (fraction << 13));
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (fraction << 13));
}

[[nodiscard]] inline std::uint16_t bfloat_bits(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) {
    return static_cast<std::uint16_t>((bits >> 16) | 0x40u);  // NaN stays NaN
  }
  return static_cast<std::uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

[[nodiscard]] inline float bfloat_value(std::uint16_t bits) {
  return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

template <class T>
concept number = std::is_arithmetic_v<T>;

struct half {
  std::uint16_t bits;
  half() = default;
  template <number T>
  half(T x) : bits(half_bits(static_cast<float>(x))) {}
  operator float() const { return half_value(bits); }
  template <number T>
  requires(!std::same_as<T, float>) explicit operator T() const {
    return static_cast<T>(half_value(bits));
  }
};

struct bfloat {
  std::uint16_t bits;
  bfloat() = default;
  template <number T>
  bfloat(T x) : bits(bfloat_bits(static_cast<float>(x))) {}
  operator float() const { return bfloat_value(bits); }
  template <number T>
  requires(!std::same_as<T, float>) explicit operator T() const {
    return static_cast<T>(bfloat_value(bits));
  }
};

template <class T>
concept small_float = std::same_as<T, half> || std::same_as<T, bfloat>;
template <class T>
concept scalar = number<T> || small_float<T>;

// ---- What an expression is worth ----------------------------------------------------------------

template <class T, int N>
struct vec;
template <class T, int N, int... I>
struct swizzle;
template <class T, int N>
struct packed_vec;

// Expressions may be numbers, vectors, or stand for memory (pointers.hpp) or for components. Each
// is first turned into the value it stands for; arithmetic is defined on values alone.

template <class T>
struct value_trait {};
template <scalar T>
struct value_trait<T> {
  using type = T;
};
template <class T, int N>
struct value_trait<vec<T, N>> {
  using type = vec<T, N>;
};
template <class T, int N, int... I>
struct value_trait<swizzle<T, N, I...>> {
  using type = vec<T, int(sizeof...(I))>;
};
template <class T, int N>
struct value_trait<packed_vec<T, N>> {
  using type = vec<T, N>;
};

template <class A>
using value_t = typename value_trait<std::remove_cvref_t<A>>::type;
template <class A>
concept operand = requires {
  typename value_t<A>;
};

/// An expression worth a vector of N components, of whatever type.
template <class A, int N>
inline constexpr bool is_vec_of = false;
template <class T, int N>
inline constexpr bool is_vec_of<vec<T, N>, N> = true;
template <class A, int N>
concept vector_operand = operand<A> && is_vec_of<value_t<A>, N>;

// ---- Vectors ------------------------------------------------------------------------------------

/// Some components of a vector, in some order: v.xy, v.wzyx. Assignable if no component repeats.
template <class T, int N, int... I>
struct swizzle {
  T data[N];
  operator vec<T, int(sizeof...(I))>() const { return {data[I]...}; }
  swizzle& operator=(const vec<T, int(sizeof...(I))>& v) {
    int from = 0;
    ((data[I] = v[from++]), ...);
    return *this;
  }
  swizzle& operator=(const swizzle& other) {
    return *this = static_cast<vec<T, int(sizeof...(I))>>(other);
  }
};

inline std::size_t vector_index(std::int64_t i, int n) {
  if (i < 0 || i >= n) {
    raise(fault_kind::out_of_range,
          "accesses component " + std::to_string(i) + " of a vector of " + std::to_string(n));
  }
  return static_cast<std::size_t>(i);
}

// Two to four components, each list of names with those of colours beside it.
#define METAL_EMULATOR_PAIRS2(N)  \
  swizzle<T, N, 0, 0> xx;         \
  swizzle<T, N, 0, 1> xy, rg;     \
  swizzle<T, N, 1, 0> yx, gr;     \
  swizzle<T, N, 1, 1> yy;         \
  swizzle<T, N, 0, 0, 0> xxx;     \
  swizzle<T, N, 1, 1, 1> yyy;     \
  swizzle<T, N, 0, 0, 0, 0> xxxx; \
  swizzle<T, N, 1, 1, 1, 1> yyyy; \
  swizzle<T, N, 0, 1, 0, 1> xyxy;
#define METAL_EMULATOR_PAIRS3(N)   \
  METAL_EMULATOR_PAIRS2(N)         \
  swizzle<T, N, 0, 2> xz;          \
  swizzle<T, N, 1, 2> yz;          \
  swizzle<T, N, 2, 0> zx;          \
  swizzle<T, N, 2, 1> zy;          \
  swizzle<T, N, 2, 2> zz;          \
  swizzle<T, N, 0, 1, 2> xyz, rgb; \
  swizzle<T, N, 2, 1, 0> zyx;      \
  swizzle<T, N, 1, 2, 0> yzx;      \
  swizzle<T, N, 2, 0, 1> zxy;      \
  swizzle<T, N, 2, 2, 2> zzz;      \
  swizzle<T, N, 2, 2, 2, 2> zzzz;
#define METAL_EMULATOR_PAIRS4(N)        \
  METAL_EMULATOR_PAIRS3(N)              \
  swizzle<T, N, 0, 3> xw;               \
  swizzle<T, N, 1, 3> yw;               \
  swizzle<T, N, 2, 3> zw, ba;           \
  swizzle<T, N, 3, 2> wz;               \
  swizzle<T, N, 3, 0> wx;               \
  swizzle<T, N, 3, 1> wy;               \
  swizzle<T, N, 3, 3> ww;               \
  swizzle<T, N, 1, 2, 3> yzw;           \
  swizzle<T, N, 0, 1, 2, 3> xyzw, rgba; \
  swizzle<T, N, 3, 2, 1, 0> wzyx;       \
  swizzle<T, N, 2, 3, 0, 1> zwxy;       \
  swizzle<T, N, 1, 0, 3, 2> yxwz;       \
  swizzle<T, N, 3, 3, 3, 3> wwww;

template <class T>
struct alignas(2 * sizeof(T)) vec<T, 2> {
  __extension__ union {
    T data[2];
    __extension__ struct { T x, y; };
    __extension__ struct { T r, g; };
    METAL_EMULATOR_PAIRS2(2)
  };
  vec() = default;
  vec(const vec& v) : data{v.data[0], v.data[1]} {}
  template <scalar S>
  vec(S s) : data{T(s), T(s)} {}
  vec(T a, T b) : data{a, b} {}
  template <vector_operand<2> A>
  explicit vec(const A& from) {
    const value_t<A> v = from;
    for (int i = 0; i < 2; ++i) data[i] = T(v.data[i]);
  }
  vec& operator=(const vec& v) {
    data[0] = v.data[0], data[1] = v.data[1];
    return *this;
  }
  T& operator[](std::int64_t i) { return data[vector_index(i, 2)]; }
  const T& operator[](std::int64_t i) const { return data[vector_index(i, 2)]; }
};

template <class T>
struct alignas(4 * sizeof(T)) vec<T, 3> {
  __extension__ union {
    T data[3];
    __extension__ struct { T x, y, z; };
    __extension__ struct { T r, g, b; };
    METAL_EMULATOR_PAIRS3(3)
  };
  vec() = default;
  vec(const vec& v) : data{v.data[0], v.data[1], v.data[2]} {}
  template <scalar S>
  vec(S s) : data{T(s), T(s), T(s)} {}
  vec(T a, T b_, T c) : data{a, b_, c} {}
  vec(const vec<T, 2>& a, T c) : data{a.data[0], a.data[1], c} {}
  vec(T a, const vec<T, 2>& c) : data{a, c.data[0], c.data[1]} {}
  template <vector_operand<3> A>
  explicit vec(const A& from) {
    const value_t<A> v = from;
    for (int i = 0; i < 3; ++i) data[i] = T(v.data[i]);
  }
  vec& operator=(const vec& v) {
    for (int i = 0; i < 3; ++i) data[i] = v.data[i];
    return *this;
  }
  T& operator[](std::int64_t i) { return data[vector_index(i, 3)]; }
  const T& operator[](std::int64_t i) const { return data[vector_index(i, 3)]; }
};

template <class T>
struct alignas(4 * sizeof(T)) vec<T, 4> {
  __extension__ union {
    T data[4];
    __extension__ struct { T x, y, z, w; };
    __extension__ struct { T r, g, b, a; };
    METAL_EMULATOR_PAIRS4(4)
  };
  vec() = default;
  vec(const vec& v) : data{v.data[0], v.data[1], v.data[2], v.data[3]} {}
  template <scalar S>
  vec(S s) : data{T(s), T(s), T(s), T(s)} {}
  vec(T p, T q, T u, T v) : data{p, q, u, v} {}
  vec(const vec<T, 2>& p, const vec<T, 2>& q) : data{p.data[0], p.data[1], q.data[0], q.data[1]} {}
  vec(const vec<T, 2>& p, T u, T v) : data{p.data[0], p.data[1], u, v} {}
  vec(T p, T q, const vec<T, 2>& u) : data{p, q, u.data[0], u.data[1]} {}
  vec(const vec<T, 3>& p, T v) : data{p.data[0], p.data[1], p.data[2], v} {}
  vec(T p, const vec<T, 3>& q) : data{p, q.data[0], q.data[1], q.data[2]} {}
  template <vector_operand<4> A>
  explicit vec(const A& from) {
    const value_t<A> v = from;
    for (int i = 0; i < 4; ++i) data[i] = T(v.data[i]);
  }
  vec& operator=(const vec& v) {
    for (int i = 0; i < 4; ++i) data[i] = v.data[i];
    return *this;
  }
  T& operator[](std::int64_t i) { return data[vector_index(i, 4)]; }
  const T& operator[](std::int64_t i) const { return data[vector_index(i, 4)]; }
};

#undef METAL_EMULATOR_PAIRS2
#undef METAL_EMULATOR_PAIRS3
#undef METAL_EMULATOR_PAIRS4

/// As many components without padding between vectors: packed_float3 has 12 bytes.
template <class T, int N>
struct packed_vec {
  T data[N];
  packed_vec() = default;
  packed_vec(const vec<T, N>& v) {
    for (int i = 0; i < N; ++i) data[i] = v.data[i];
  }
  operator vec<T, N>() const {
    vec<T, N> v;
    for (int i = 0; i < N; ++i) v.data[i] = data[i];
    return v;
  }
  T& operator[](std::int64_t i) { return data[vector_index(i, N)]; }
  const T& operator[](std::int64_t i) const { return data[vector_index(i, N)]; }
};

template <class T>
struct vector_trait {
  static constexpr int size = 1;
  using element = T;
};
template <class T, int N>
struct vector_trait<vec<T, N>> {
  static constexpr int size = N;
  using element = T;
};
template <class T>
inline constexpr bool is_vector = vector_trait<T>::size > 1;
template <class T>
using element_t = typename vector_trait<T>::element;

/// An operand for which C++ has no arithmetic of its own, or would find several.
template <class A>
concept emulated_operand = operand<A> &&(is_vector<value_t<A>> || small_float<value_t<A>>);

template <class A, class B>
struct common_trait;
template <class T, int N, class U, int M>
requires(N == M && std::same_as<T, U>) struct common_trait<vec<T, N>, vec<U, M>> {
  using type = vec<T, N>;
};
template <class T, int N, scalar S>
struct common_trait<vec<T, N>, S> {
  using type = vec<T, N>;
};
template <class T, int N, scalar S>
struct common_trait<S, vec<T, N>> {
  using type = vec<T, N>;
};
template <number A, number B>
struct common_trait<A, B> {
  using type = decltype(A{} + B{});
};
template <small_float A>
struct common_trait<A, A> {
  using type = A;
};
template <small_float A, number B>
struct common_trait<A, B> {
  using type = std::conditional_t<std::is_integral_v<B>, A, B>;
};
template <number A, small_float B>
struct common_trait<A, B> {
  using type = std::conditional_t<std::is_integral_v<A>, B, A>;
};
template <>
struct common_trait<half, bfloat> {
  using type = float;
};
template <>
struct common_trait<bfloat, half> {
  using type = float;
};
template <class A, class B>
using common_t = typename common_trait<value_t<A>, value_t<B>>::type;

/// In what arithmetic on T is done before it is rounded back.
template <class T>
using wide_t = std::conditional_t<small_float<T>, float, T>;

template <class T>
inline T component(const T& x, int) {
  return x;
}
template <class T, int N>
inline T component(const vec<T, N>& x, int i) {
  return x.data[i];
}

/// f on each component; a scalar operand stands for all components.
template <class R, class F, class... A>
inline R map(F f, const A&... a) {
  if constexpr (is_vector<R>) {
    R r;
    for (int i = 0; i < vector_trait<R>::size; ++i) {
      r.data[i] = static_cast<element_t<R>>(f(component(a, i)...));
    }
    return r;
  } else {
    return static_cast<R>(f(a...));
  }
}

template <class C>
struct boolean_trait {
  using type = bool;
};
template <class T, int N>
struct boolean_trait<vec<T, N>> {
  using type = vec<bool, N>;
};

#define METAL_EMULATOR_ARITHMETIC(op)                                                        \
  template <operand A, operand B>                                                            \
  requires(emulated_operand<A> || emulated_operand<B>) inline auto operator op(const A& a,   \
                                                                               const B& b) { \
    using C = common_t<A, B>;                                                                \
    using E = element_t<C>;                                                                  \
    return map<C>(                                                                           \
        [](E x, E y) {                                                                       \
          return static_cast<E>(static_cast<wide_t<E>>(x) op static_cast<wide_t<E>>(y));     \
        },                                                                                   \
        C(static_cast<value_t<A>>(a)), C(static_cast<value_t<B>>(b)));                       \
  }                                                                                          \
  template <class T, int N, operand B>                                                       \
  inline vec<T, N>& operator op##=(vec<T, N>& a, const B& b) {                               \
    return a = a op b;                                                                       \
  }                                                                                          \
  template <class T, int N, int... I, operand B>                                             \
  inline swizzle<T, N, I...>& operator op##=(swizzle<T, N, I...>& a, const B& b) {           \
    return a = a op b;                                                                       \
  }
METAL_EMULATOR_ARITHMETIC(+)
METAL_EMULATOR_ARITHMETIC(-)
METAL_EMULATOR_ARITHMETIC(*)
METAL_EMULATOR_ARITHMETIC(/)
METAL_EMULATOR_ARITHMETIC(%)
METAL_EMULATOR_ARITHMETIC(&)
METAL_EMULATOR_ARITHMETIC(|)
METAL_EMULATOR_ARITHMETIC(^)
METAL_EMULATOR_ARITHMETIC(<<)
METAL_EMULATOR_ARITHMETIC(>>)
#undef METAL_EMULATOR_ARITHMETIC

#define METAL_EMULATOR_ASSIGNMENT(op)             \
  template <small_float T, operand B>             \
  inline T& operator op##=(T& a, const B& b) {    \
    return a = T(static_cast<wide_t<T>>(a op b)); \
  }
METAL_EMULATOR_ASSIGNMENT(+)
METAL_EMULATOR_ASSIGNMENT(-)
METAL_EMULATOR_ASSIGNMENT(*)
METAL_EMULATOR_ASSIGNMENT(/)
#undef METAL_EMULATOR_ASSIGNMENT

#define METAL_EMULATOR_COMPARISON(op)                                                        \
  template <operand A, operand B>                                                            \
  requires(emulated_operand<A> || emulated_operand<B>) inline auto operator op(const A& a,   \
                                                                               const B& b) { \
    using C = common_t<A, B>;                                                                \
    using E = element_t<C>;                                                                  \
    return map<typename boolean_trait<C>::type>(                                             \
        [](E x, E y) { return static_cast<wide_t<E>>(x) op static_cast<wide_t<E>>(y); },     \
        C(static_cast<value_t<A>>(a)), C(static_cast<value_t<B>>(b)));                       \
  }
METAL_EMULATOR_COMPARISON(<)
METAL_EMULATOR_COMPARISON(<=)
METAL_EMULATOR_COMPARISON(>)
METAL_EMULATOR_COMPARISON(>=)
METAL_EMULATOR_COMPARISON(==)
METAL_EMULATOR_COMPARISON(!=)
METAL_EMULATOR_COMPARISON(&&)
METAL_EMULATOR_COMPARISON(||)
#undef METAL_EMULATOR_COMPARISON

template <emulated_operand A>
inline auto operator-(const A& a) {
  using V = value_t<A>;
  using E = element_t<V>;
  return map<V>([](E x) { return static_cast<E>(-static_cast<wide_t<E>>(x)); }, static_cast<V>(a));
}
template <emulated_operand A>
inline auto operator+(const A& a) {
  return static_cast<value_t<A>>(a);
}
template <emulated_operand A>
inline auto operator~(const A& a) {
  using V = value_t<A>;
  using E = element_t<V>;
  return map<V>([](E x) { return static_cast<E>(~x); }, static_cast<V>(a));
}
template <emulated_operand A>
inline auto operator!(const A& a) {
  using V = value_t<A>;
  using E = element_t<V>;
  return map<typename boolean_trait<V>::type>(
      [](E x) { return static_cast<wide_t<E>>(x) == wide_t<E>(0); }, static_cast<V>(a));
}

}  // namespace metal_emulator

template <>
class std::numeric_limits<metal_emulator::half> {
 public:
  static constexpr bool is_specialized = true;
  static metal_emulator::half from(std::uint16_t bits) {
    metal_emulator::half h;
    h.bits = bits;
    return h;
  }
  static metal_emulator::half max() { return from(0x7BFF); }
  static metal_emulator::half lowest() { return from(0xFBFF); }
  static metal_emulator::half min() { return from(0x0400); }
  static metal_emulator::half epsilon() { return from(0x1400); }
  static metal_emulator::half infinity() { return from(0x7C00); }
  static metal_emulator::half quiet_NaN() { return from(0x7E00); }
};

template <>
class std::numeric_limits<metal_emulator::bfloat> {
 public:
  static constexpr bool is_specialized = true;
  static metal_emulator::bfloat from(std::uint16_t bits) {
    metal_emulator::bfloat b;
    b.bits = bits;
    return b;
  }
  static metal_emulator::bfloat max() { return from(0x7F7F); }
  static metal_emulator::bfloat lowest() { return from(0xFF7F); }
  static metal_emulator::bfloat min() { return from(0x0080); }
  static metal_emulator::bfloat epsilon() { return from(0x3C00); }
  static metal_emulator::bfloat infinity() { return from(0x7F80); }
  static metal_emulator::bfloat quiet_NaN() { return from(0x7FC0); }
};
