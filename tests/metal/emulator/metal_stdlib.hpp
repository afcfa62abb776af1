// SPDX-License-Identifier: MIT
/// Metal's standard library for the emulator: what a translated .metal file is compiled with.
///
/// How a shader is run
/// -------------------
/// kvfit_metal_translate (translate.cpp) rewrites a preprocessed .metal file as C++: pointers with
/// an address space become checked pointers, threadgroup variables are shared by the threads of a
/// threadgroup, kernels register themselves by name. The .metal file itself stays what Apple's
/// compiler takes. `kvfit_metal_shaders(TARGET FILES…)` in CMake does all of it.
///
/// A kernel test
/// -------------
///     #include "metal/emulator/emulator.hpp"
///     using namespace metal_emulator;
///
///     buffer x = buffer::of<float>(values);          // or buffer::of(std::span<const T>)
///     buffer y = buffer::output<float>(n);           // reading it before it is written is a fault
///     for (const order& o : orders()) {              // forward, backward, shuffled
///       const outcome run = call("scale_float")      // the kernel's name, or its host_name
///                               .memory(0, x)        // [[buffer(0)]]; an offset in bytes may
///                               follow .memory(1, y) .bytes(2, params)    // a struct, as setBytes
///                               .threadgroup(0, 1024)  // [[threadgroup(0)]]
///                               .constant(0, true)     // [[function_constant(0)]]
///                               .threads({n, 1, 1}, {64, 1, 1}, o);  // or .groups(groups, …)
///       INFO(name_of(o) << ": " << run.error.message);
///       REQUIRE(run.ok());
///       y.as<float>()[0]; run.cost.buffers.at(0).loaded_bytes; run.cost.barriers;
///     }
///
/// What is found: out-of-range indices, misaligned accesses, reads of memory that nobody wrote,
/// writes to constant memory, races (threadgroup and device memory, also across threadgroups),
/// barriers and simdgroup operations that not all threads reach, too much threadgroup memory.
///
/// What is supported
/// -----------------
/// - Scalars, half, bfloat, vectors of 2 to 4 with swizzles, packed vectors, as_type, select.
///   Literals without a suffix are fp32, as in Metal; double is refused.
/// - device, constant, threadgroup, thread pointers and references; arrays of threadgroup memory in
///   kernels; pointers passed on to functions and kept in structs; (device float4*) casts and
///   reinterpret_cast. A pointer to a pointer is not.
/// - Templates with `template [[host_name("n")]] kernel …;` in both spellings; function constants.
/// - simd_* operations, simdgroup barriers, simdgroup_matrix<T, 8, 8>, atomics.
///
/// Stricter than Metal, on purpose
/// -------------------------------
/// - simd_* and simdgroup_* operations must be reached by all threads of the simdgroup.
/// - `auto x = p[i]` through a pointer that may write names the place, not its value: write the
///   type instead.
/// - A struct in memory is read and written whole; `p->member` and `p[i].member` read through a
///   pointer to const. Components of vectors can be written one by one.
/// - min(), max() and the like take operands of one type, where Metal finds others ambiguous.
/// - A read of memory that nobody has written is a fault even if its value is not used.
///
/// A second opinion
/// ----------------
/// Every shader is also parsed by clang as C++ for OpenCL (opencl/prelude.h), which checks address
/// spaces; a pointer or reference without one is refused. There, `thread const T&` binds to a
/// variable and not to a temporary. A host's calls of metal-cpp are answered by Metal/Metal.hpp.
#pragma once

#include <bit>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "metal/emulator/pointers.hpp"

// ---- Names at global scope ----------------------------------------------------------------------

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
using metal_emulator::bfloat;
using metal_emulator::half;

#define METAL_EMULATOR_VECTORS(T)                         \
  using T##2 = metal_emulator::vec<T, 2>;                 \
  using T##3 = metal_emulator::vec<T, 3>;                 \
  using T##4 = metal_emulator::vec<T, 4>;                 \
  using packed_##T##2 = metal_emulator::packed_vec<T, 2>; \
  using packed_##T##3 = metal_emulator::packed_vec<T, 3>; \
  using packed_##T##4 = metal_emulator::packed_vec<T, 4>;
namespace metal {
METAL_EMULATOR_VECTORS(bool)
METAL_EMULATOR_VECTORS(char)
METAL_EMULATOR_VECTORS(uchar)
METAL_EMULATOR_VECTORS(short)
METAL_EMULATOR_VECTORS(ushort)
METAL_EMULATOR_VECTORS(int)
METAL_EMULATOR_VECTORS(uint)
METAL_EMULATOR_VECTORS(long)
METAL_EMULATOR_VECTORS(ulong)
METAL_EMULATOR_VECTORS(half)
METAL_EMULATOR_VECTORS(bfloat)
METAL_EMULATOR_VECTORS(float)
using metal_emulator::vec;
using std::int16_t, std::int32_t, std::int64_t, std::int8_t;
using std::size_t, std::ptrdiff_t;
using std::uint16_t, std::uint32_t, std::uint64_t, std::uint8_t;
}  // namespace metal
#undef METAL_EMULATOR_VECTORS

#define METAL_FUNC inline
#define METAL_ALIGN(n) alignas(n)
#ifndef MAXFLOAT
#define MAXFLOAT FLT_MAX
#endif
#define M_PI_F 3.14159265358979323846f
#define M_E_F 2.71828182845904523536f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LN2_F 0.69314718055994530942f
#define M_SQRT2_F 1.41421356237309504880f
#define HALF_MAX (std::numeric_limits<metal_emulator::half>::max())

// ---- What the functions below are made of -------------------------------------------------------

namespace metal_emulator {

template <class T>
inline constexpr bool is_real = std::is_same_v<T, float> || small_float<T>;

template <class A, class... B>
inline constexpr bool one_type = (... && (std::is_same_v<value_t<A>, value_t<B>> ||
                                          (is_vector<value_t<A>> &&
                                           std::is_same_v<element_t<value_t<A>>, value_t<B>>)));

/// Of floating point, the one that is a number, as fmax; Metal promises no more.
template <class T>
inline T larger(T x, T y) {
  if constexpr (is_real<T>) {
    return T(std::fmax(static_cast<float>(x), static_cast<float>(y)));
  } else {
    return x < y ? y : x;
  }
}
template <class T>
inline T smaller(T x, T y) {
  if constexpr (is_real<T>) {
    return T(std::fmin(static_cast<float>(x), static_cast<float>(y)));
  } else {
    return y < x ? y : x;
  }
}

/// The value of one operand in every lane.
template <class V>
class lane_values {
 public:
  lane_values(const V& mine, const char* operation, site where)
      : mine_(mine), operation_(operation), lanes_(lanes()), slots_(nullptr) {
    static_assert(sizeof(V) <= exchange_bytes);
    slots_ = exchange(&mine, sizeof(V), operation, where);
  }
  [[nodiscard]] uint size() const { return lanes_; }
  [[nodiscard]] V operator[](uint lane) const {
    if (lane >= lanes_) {
      raise(fault_kind::out_of_range, std::string(operation_) + " reads lane " +
                                          std::to_string(lane) + " of " + std::to_string(lanes_));
    }
    V v;
    std::memcpy(static_cast<void*>(&v), slots_[lane].bytes, sizeof(V));
    return v;
  }
  /// Halves are combined with halves, then quarters with quarters, the same in every lane.
  template <class F>
  [[nodiscard]] V reduce(F f) const {
    V v[simd_width];
    for (uint l = 0; l < lanes_; ++l) v[l] = (*this)[l];
    for (uint step = simd_width / 2; step > 0; step /= 2) {
      for (uint l = 0; l < step && l + step < lanes_; ++l) v[l] = V(f(v[l], v[l + step]));
    }
    return v[0];
  }
  [[nodiscard]] const V& mine() const { return mine_; }

 private:
  V mine_;
  const char* operation_;
  uint lanes_;
  const exchange_slot* slots_;
};

/// Apple's lane layout: a lane holds two neighbours of a row of the 8 x 8 matrix.
struct matrix_layout {
  [[nodiscard]] static constexpr uint row(uint lane) {
    return (lane >> 4 & 1u) * 4 + (lane >> 2 & 1u) * 2 + (lane >> 1 & 1u);
  }
  [[nodiscard]] static constexpr uint column(uint lane) {
    return (lane >> 3 & 1u) * 4 + (lane & 1u) * 2;
  }
  [[nodiscard]] static constexpr uint lane(uint row, uint column) {
    return (row >> 2) << 4 | (column >> 2) << 3 | (row >> 1 & 1u) << 2 | (row & 1u) << 1 |
           (column >> 1 & 1u);
  }
};

/// A matrix in memory as every lane must name it alike.
template <class P>
inline void check_uniform(const P& p, ulong stride, bool transpose, const char* operation,
                          site where) {
  struct place_in_memory {
    const allocation* memory;
    std::int64_t offset;
    ulong stride;
    ulong transpose;
  };
  const place_in_memory mine{p.memory(), p.offset(), stride, transpose ? 1u : 0u};
  if (lanes() != simd_width) {
    raise(fault_kind::bad_launch,
          std::string(operation) + " in a simdgroup of " + std::to_string(lanes()) + " threads");
  }
  const exchange_slot* slots = exchange(&mine, sizeof(mine), operation, where);
  place_in_memory first{};
  std::memcpy(&first, slots[0].bytes, sizeof(first));
  if (first.memory != mine.memory || first.offset != mine.offset || first.stride != mine.stride ||
      first.transpose != mine.transpose) {
    raise(fault_kind::divergence, std::string(operation) + " (" + where.file + ":" +
                                      std::to_string(where.line) +
                                      ") with a pointer or stride that differs from lane 0's");
  }
}

inline std::int64_t matrix_offset(ulong stride, const vec<ulong, 2>& origin, bool transpose,
                                  uint e) {
  const uint row = matrix_layout::row(lane()), column = matrix_layout::column(lane()) + e;
  if (transpose) {
    if (origin.x != 0 || origin.y != 0) {
      raise(fault_kind::bad_launch, "a transposed matrix with an origin: add it to the pointer");
    }
    return static_cast<std::int64_t>(column * stride + row);
  }
  return static_cast<std::int64_t>((origin.y + row) * stride + origin.x + column);
}

template <class T>
struct same_type {
  using type = T;
};
template <class T>
using as_given = typename same_type<T>::type;

}  // namespace metal_emulator

namespace metal {

namespace emu = metal_emulator;
using std::conditional_t, std::enable_if_t, std::is_same_v, std::is_same, std::enable_if;
using std::is_floating_point_v, std::is_integral_v, std::true_type, std::false_type,
    std::integral_constant, std::remove_cv_t, std::remove_reference_t;
using std::numeric_limits;

// ---- Bits ---------------------------------------------------------------------------------------

template <class To, emu::operand A>
inline To as_type(const A& a) {
  const emu::value_t<A> from = a;
  static_assert(sizeof(To) == sizeof(from), "as_type keeps the size");
  To to;
  std::memcpy(static_cast<void*>(&to), static_cast<const void*>(&from), sizeof(To));
  return to;
}

// ---- Mathematics --------------------------------------------------------------------------------
// ---------------------------------------------------------------------------------- Of fp32; half
// and bfloat are rounded once.

#define METAL_EMULATOR_UNARY(name, formula)                                    \
  template <emu::operand A>                                                    \
  inline emu::value_t<A> name(const A& a) {                                    \
    static_assert(emu::is_real<emu::element_t<emu::value_t<A>>>,               \
                  #name " is of float, half or bfloat");                       \
    return emu::map<emu::value_t<A>>([](float x) -> float { return formula; }, \
                                     static_cast<emu::value_t<A>>(a));         \
  }
METAL_EMULATOR_UNARY(exp, std::exp(x))
METAL_EMULATOR_UNARY(exp2, std::exp2(x))
METAL_EMULATOR_UNARY(exp10, std::pow(10.0f, x))
METAL_EMULATOR_UNARY(log, std::log(x))
METAL_EMULATOR_UNARY(log2, std::log2(x))
METAL_EMULATOR_UNARY(log10, std::log10(x))
METAL_EMULATOR_UNARY(sqrt, std::sqrt(x))
METAL_EMULATOR_UNARY(rsqrt, 1.0f / std::sqrt(x))
METAL_EMULATOR_UNARY(sin, std::sin(x))
METAL_EMULATOR_UNARY(cos, std::cos(x))
METAL_EMULATOR_UNARY(tan, std::tan(x))
METAL_EMULATOR_UNARY(sinh, std::sinh(x))
METAL_EMULATOR_UNARY(cosh, std::cosh(x))
METAL_EMULATOR_UNARY(tanh, std::tanh(x))
METAL_EMULATOR_UNARY(atan, std::atan(x))
METAL_EMULATOR_UNARY(floor, std::floor(x))
METAL_EMULATOR_UNARY(ceil, std::ceil(x))
METAL_EMULATOR_UNARY(round, std::round(x))
METAL_EMULATOR_UNARY(rint, std::nearbyint(x))
METAL_EMULATOR_UNARY(trunc, std::trunc(x))
METAL_EMULATOR_UNARY(fract, x - std::floor(x))
METAL_EMULATOR_UNARY(fabs, std::fabs(x))
METAL_EMULATOR_UNARY(sign, std::isnan(x) ? 0.0f : x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x)
METAL_EMULATOR_UNARY(saturate, std::fmin(std::fmax(x, 0.0f), 1.0f))
#undef METAL_EMULATOR_UNARY

#define METAL_EMULATOR_CLASSIFY(name, formula)                                     \
  template <emu::operand A>                                                        \
  inline typename emu::boolean_trait<emu::value_t<A>>::type name(const A& a) {     \
    static_assert(emu::is_real<emu::element_t<emu::value_t<A>>>,                   \
                  #name " is of float, half or bfloat");                           \
    return emu::map<typename emu::boolean_trait<emu::value_t<A>>::type>(           \
        [](float x) -> bool { return formula; }, static_cast<emu::value_t<A>>(a)); \
  }
METAL_EMULATOR_CLASSIFY(isnan, std::isnan(x))
METAL_EMULATOR_CLASSIFY(isinf, std::isinf(x))
METAL_EMULATOR_CLASSIFY(isfinite, std::isfinite(x))
METAL_EMULATOR_CLASSIFY(signbit, std::signbit(x))
#undef METAL_EMULATOR_CLASSIFY

#define METAL_EMULATOR_BINARY(name, formula)                                                    \
  template <emu::operand A, emu::operand B>                                                     \
  inline emu::value_t<A> name(const A& a, const B& b) {                                         \
    static_assert(emu::one_type<A, B>, #name ": operands of two types are ambiguous in Metal"); \
    static_assert(emu::is_real<emu::element_t<emu::value_t<A>>>,                                \
                  #name " is of float, half or bfloat");                                        \
    return emu::map<emu::value_t<A>>([](float x, float y) -> float { return formula; },         \
                                     static_cast<emu::value_t<A>>(a),                           \
                                     static_cast<emu::value_t<B>>(b));                          \
  }
METAL_EMULATOR_BINARY(pow, std::pow(x, y))
METAL_EMULATOR_BINARY(powr, std::pow(x, y))
METAL_EMULATOR_BINARY(fmod, std::fmod(x, y))
METAL_EMULATOR_BINARY(fmax, std::fmax(x, y))
METAL_EMULATOR_BINARY(fmin, std::fmin(x, y))
METAL_EMULATOR_BINARY(atan2, std::atan2(x, y))
METAL_EMULATOR_BINARY(copysign, std::copysign(x, y))
METAL_EMULATOR_BINARY(fdim, std::fdim(x, y))
#undef METAL_EMULATOR_BINARY

template <emu::operand A, emu::operand B>
inline emu::value_t<A> max(const A& a, const B& b) {
  static_assert(emu::one_type<A, B>, "max: operands of two types are ambiguous in Metal");
  using E = emu::element_t<emu::value_t<A>>;
  return emu::map<emu::value_t<A>>([](E x, E y) { return emu::larger<E>(x, y); },
                                   static_cast<emu::value_t<A>>(a),
                                   static_cast<emu::value_t<B>>(b));
}
template <emu::operand A, emu::operand B>
inline emu::value_t<A> min(const A& a, const B& b) {
  static_assert(emu::one_type<A, B>, "min: operands of two types are ambiguous in Metal");
  using E = emu::element_t<emu::value_t<A>>;
  return emu::map<emu::value_t<A>>([](E x, E y) { return emu::smaller<E>(x, y); },
                                   static_cast<emu::value_t<A>>(a),
                                   static_cast<emu::value_t<B>>(b));
}
template <emu::operand A, emu::operand B, emu::operand C>
inline emu::value_t<A> max3(const A& a, const B& b, const C& c) {
  return metal::max(metal::max(a, b), c);
}
template <emu::operand A, emu::operand B, emu::operand C>
inline emu::value_t<A> min3(const A& a, const B& b, const C& c) {
  return metal::min(metal::min(a, b), c);
}
template <emu::operand A, emu::operand B, emu::operand C>
inline emu::value_t<A> clamp(const A& a, const B& low, const C& high) {
  return metal::min(metal::max(a, low), high);
}
template <emu::operand A>
inline emu::value_t<A> abs(const A& a) {
  using E = emu::element_t<emu::value_t<A>>;
  return emu::map<emu::value_t<A>>(
      [](E x) -> E {
        if constexpr (emu::is_real<E>) {
          return E(std::fabs(static_cast<float>(x)));
        } else if constexpr (std::is_signed_v<E>) {
          return x < 0 ? static_cast<E>(-x) : x;
        } else {
          return x;
        }
      },
      static_cast<emu::value_t<A>>(a));
}

/// a b + c, rounded once.
template <emu::operand A, emu::operand B, emu::operand C>
inline emu::value_t<A> fma(const A& a, const B& b, const C& c) {
  static_assert(emu::one_type<A, B, C>, "fma: operands of two types are ambiguous in Metal");
  using E = emu::element_t<emu::value_t<A>>;
  static_assert(emu::is_real<E>, "fma is of float, half or bfloat");
  emu::count_multiply_adds(emu::vector_trait<emu::value_t<A>>::size);
  return emu::map<emu::value_t<A>>(
      [](E x, E y, E z) {
        return E(std::fma(static_cast<float>(x), static_cast<float>(y), static_cast<float>(z)));
      },
      static_cast<emu::value_t<A>>(a), static_cast<emu::value_t<B>>(b),
      static_cast<emu::value_t<C>>(c));
}
template <emu::operand A, emu::operand B, emu::operand C>
inline emu::value_t<A> mix(const A& a, const B& b, const C& t) {
  static_assert(emu::one_type<A, B, C>, "mix: operands of two types are ambiguous in Metal");
  const emu::value_t<A> from = a;
  return from + (static_cast<emu::value_t<B>>(b) - from) * static_cast<emu::value_t<C>>(t);
}
template <emu::operand A, emu::operand B>
inline emu::element_t<emu::value_t<A>> dot(const A& a, const B& b) {
  static_assert(std::is_same_v<emu::value_t<A>, emu::value_t<B>> && emu::is_vector<emu::value_t<A>>,
                "dot is of two vectors of one type");
  using E = emu::element_t<emu::value_t<A>>;
  const emu::value_t<A> x = a;
  const emu::value_t<B> y = b;
  emu::count_multiply_adds(emu::vector_trait<emu::value_t<A>>::size);
  E sum = x.data[0] * y.data[0];
  for (int i = 1; i < emu::vector_trait<emu::value_t<A>>::size; ++i) {
    sum = E(sum + E(x.data[i] * y.data[i]));
  }
  return sum;
}
template <emu::operand A>
inline emu::element_t<emu::value_t<A>> length_squared(const A& a) {
  return metal::dot(a, a);
}
template <emu::operand A>
inline emu::element_t<emu::value_t<A>> length(const A& a) {
  return metal::sqrt(metal::dot(a, a));
}

/// b where the condition holds, a elsewhere.
template <emu::operand A, emu::operand B, emu::operand C>
inline emu::value_t<A> select(const A& a, const B& b, const C& condition) {
  static_assert(emu::one_type<A, B>, "select: operands of two types are ambiguous in Metal");
  using E = emu::element_t<emu::value_t<A>>;
  return emu::map<emu::value_t<A>>([](E x, E y, bool c) { return c ? y : x; },
                                   static_cast<emu::value_t<A>>(a), static_cast<emu::value_t<B>>(b),
                                   static_cast<emu::value_t<C>>(condition));
}
template <emu::operand A>
inline bool any(const A& a) {
  const emu::value_t<A> x = a;
  bool found = false;
  for (int i = 0; i < emu::vector_trait<emu::value_t<A>>::size; ++i) found |= emu::component(x, i);
  return found;
}
template <emu::operand A>
inline bool all(const A& a) {
  const emu::value_t<A> x = a;
  bool every = true;
  for (int i = 0; i < emu::vector_trait<emu::value_t<A>>::size; ++i) every &= emu::component(x, i);
  return every;
}
template <emu::operand A, emu::operand B>
inline emu::value_t<A> ldexp(const A& a, const B& exponent) {
  return emu::map<emu::value_t<A>>([](float x, int n) -> float { return std::ldexp(x, n); },
                                   static_cast<emu::value_t<A>>(a),
                                   static_cast<emu::value_t<B>>(exponent));
}

template <std::integral T>
inline T popcount(T x) {
  return static_cast<T>(std::popcount(static_cast<std::make_unsigned_t<T>>(x)));
}
template <std::integral T>
inline T clz(T x) {
  return static_cast<T>(std::countl_zero(static_cast<std::make_unsigned_t<T>>(x)));
}
template <std::integral T>
inline T ctz(T x) {
  return static_cast<T>(std::countr_zero(static_cast<std::make_unsigned_t<T>>(x)));
}
inline uint mulhi(uint a, uint b) {
  return static_cast<uint>((std::uint64_t{a} * b) >> 32);
}
inline int mulhi(int a, int b) {
  return static_cast<int>((std::int64_t{a} * b) >> 32);
}

// The emulator computes both alike: what a kernel gains by fast:: is not its accuracy.
#define METAL_EMULATOR_VARIANT(space_name)                                                         \
  namespace space_name {                                                                           \
  using metal::atan2, metal::ceil, metal::clamp, metal::cos, metal::exp, metal::exp10,             \
      metal::exp2, metal::fabs, metal::floor, metal::fma, metal::fmax, metal::fmin, metal::fmod,   \
      metal::log, metal::log10, metal::log2, metal::max, metal::min, metal::pow, metal::powr,      \
      metal::rint, metal::round, metal::rsqrt, metal::sin, metal::sqrt, metal::tanh, metal::trunc, \
      metal::sinh, metal::cosh, metal::tan, metal::fract, metal::saturate;                         \
  }
METAL_EMULATOR_VARIANT(fast)
METAL_EMULATOR_VARIANT(precise)
#undef METAL_EMULATOR_VARIANT

// ---- Barriers -----------------------------------------------------------------------------------

enum class mem_flags : unsigned {
  mem_none = emu::order_nothing,
  mem_device = emu::order_device,
  mem_threadgroup = emu::order_threadgroup,
  mem_texture = 4,
};
inline constexpr mem_flags operator|(mem_flags a, mem_flags b) {
  return static_cast<mem_flags>(static_cast<unsigned>(a) | static_cast<unsigned>(b));
}

#define METAL_EMULATOR_HERE ::metal_emulator::site where = {__builtin_FILE(), __builtin_LINE()}

inline void threadgroup_barrier(mem_flags flags, METAL_EMULATOR_HERE) {
  emu::wait_for_threadgroup(static_cast<unsigned>(flags), where);
}
inline void simdgroup_barrier(mem_flags flags, METAL_EMULATOR_HERE) {
  emu::wait_for_simdgroup(static_cast<unsigned>(flags), where);
}

// ---- Simdgroup operations -----------------------------------------------------------------------

#define METAL_EMULATOR_REDUCTION(name, formula)                                     \
  template <emu::operand A>                                                         \
  inline emu::value_t<A> name(const A& a, METAL_EMULATOR_HERE) {                    \
    using V = emu::value_t<A>;                                                      \
    return emu::lane_values<V>(a, #name, where).reduce([](const V& x, const V& y) { \
      return formula;                                                               \
    });                                                                             \
  }
METAL_EMULATOR_REDUCTION(simd_sum, x + y)
METAL_EMULATOR_REDUCTION(simd_product, x* y)
METAL_EMULATOR_REDUCTION(simd_max, metal::max(x, y))
METAL_EMULATOR_REDUCTION(simd_min, metal::min(x, y))
METAL_EMULATOR_REDUCTION(simd_and, x& y)
METAL_EMULATOR_REDUCTION(simd_or, x | y)
METAL_EMULATOR_REDUCTION(simd_xor, x ^ y)
#undef METAL_EMULATOR_REDUCTION

template <emu::operand A>
inline emu::value_t<A> simd_shuffle(const A& a, uint lane, METAL_EMULATOR_HERE) {
  return emu::lane_values<emu::value_t<A>>(a, "simd_shuffle", where)[lane];
}
template <emu::operand A>
inline emu::value_t<A> simd_shuffle_xor(const A& a, uint mask, METAL_EMULATOR_HERE) {
  return emu::lane_values<emu::value_t<A>>(a, "simd_shuffle_xor", where)[emu::lane() ^ mask];
}
/// Lanes without a source keep their value.
template <emu::operand A>
inline emu::value_t<A> simd_shuffle_down(const A& a, uint delta, METAL_EMULATOR_HERE) {
  const emu::lane_values<emu::value_t<A>> all(a, "simd_shuffle_down", where);
  return emu::lane() + delta < all.size() ? all[emu::lane() + delta] : all.mine();
}
template <emu::operand A>
inline emu::value_t<A> simd_shuffle_up(const A& a, uint delta, METAL_EMULATOR_HERE) {
  const emu::lane_values<emu::value_t<A>> all(a, "simd_shuffle_up", where);
  return emu::lane() >= delta ? all[emu::lane() - delta] : all.mine();
}
template <emu::operand A>
inline emu::value_t<A> simd_shuffle_rotate_down(const A& a, uint delta, METAL_EMULATOR_HERE) {
  const emu::lane_values<emu::value_t<A>> all(a, "simd_shuffle_rotate_down", where);
  return all[(emu::lane() + delta) % emu::simd_width];
}
template <emu::operand A>
inline emu::value_t<A> simd_shuffle_rotate_up(const A& a, uint delta, METAL_EMULATOR_HERE) {
  const emu::lane_values<emu::value_t<A>> all(a, "simd_shuffle_rotate_up", where);
  return all[(emu::lane() + emu::simd_width - delta % emu::simd_width) % emu::simd_width];
}
template <emu::operand A>
inline emu::value_t<A> simd_broadcast(const A& a, uint lane, METAL_EMULATOR_HERE) {
  return emu::lane_values<emu::value_t<A>>(a, "simd_broadcast", where)[lane];
}
template <emu::operand A>
inline emu::value_t<A> simd_broadcast_first(const A& a, METAL_EMULATOR_HERE) {
  return emu::lane_values<emu::value_t<A>>(a, "simd_broadcast_first", where)[0];
}
template <emu::operand A>
inline emu::value_t<A> simd_prefix_inclusive_sum(const A& a, METAL_EMULATOR_HERE) {
  const emu::lane_values<emu::value_t<A>> all(a, "simd_prefix_inclusive_sum", where);
  emu::value_t<A> sum = all[0];
  for (uint l = 1; l <= emu::lane(); ++l) sum = emu::value_t<A>(sum + all[l]);
  return sum;
}
template <emu::operand A>
inline emu::value_t<A> simd_prefix_exclusive_sum(const A& a, METAL_EMULATOR_HERE) {
  const emu::lane_values<emu::value_t<A>> all(a, "simd_prefix_exclusive_sum", where);
  emu::value_t<A> sum = emu::value_t<A>(0);
  for (uint l = 0; l < emu::lane(); ++l) sum = emu::value_t<A>(sum + all[l]);
  return sum;
}
inline bool simd_all(bool a, METAL_EMULATOR_HERE) {
  return emu::lane_values<bool>(a, "simd_all", where).reduce([](bool x, bool y) { return x && y; });
}
inline bool simd_any(bool a, METAL_EMULATOR_HERE) {
  return emu::lane_values<bool>(a, "simd_any", where).reduce([](bool x, bool y) { return x || y; });
}
inline bool simd_is_first() {
  return emu::lane() == 0;
}

class simd_vote {
 public:
  using vote_t = std::uint64_t;
  explicit simd_vote(vote_t votes) : votes_(votes) {}
  explicit operator vote_t() const { return votes_; }
  [[nodiscard]] bool any() const { return votes_ != 0; }

 private:
  vote_t votes_;
};
inline simd_vote simd_ballot(bool a, METAL_EMULATOR_HERE) {
  const emu::lane_values<bool> all(a, "simd_ballot", where);
  simd_vote::vote_t votes = 0;
  for (uint l = 0; l < all.size(); ++l) votes |= simd_vote::vote_t{all[l]} << l;
  return simd_vote(votes);
}

// ---- Simdgroup matrices -------------------------------------------------------------------------

template <class T, int Columns, int Rows>
class simdgroup_matrix {
 public:
  static_assert(Columns == 8 && Rows == 8, "simdgroup matrices have 8 rows and columns");
  using storage_type = vec<T, 2>;
  simdgroup_matrix() = default;
  /// A multiple of the identity.
  template <emu::scalar S>
  explicit simdgroup_matrix(S diagonal) {
    const uint l = emu::lane();
    for (uint e = 0; e < 2; ++e) {
      elements_.data[e] =
          emu::matrix_layout::row(l) == emu::matrix_layout::column(l) + e ? T(diagonal) : T(0);
    }
  }
  [[nodiscard]] storage_type& thread_elements() { return elements_; }
  [[nodiscard]] const storage_type& thread_elements() const { return elements_; }

 private:
  storage_type elements_;
};
using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;
using simdgroup_half8x8 = simdgroup_matrix<half, 8, 8>;
using simdgroup_bfloat8x8 = simdgroup_matrix<bfloat, 8, 8>;

template <class T, int C, int R, emu::scalar S = T>
[[nodiscard]] inline simdgroup_matrix<T, C, R> make_filled_simdgroup_matrix(S value) {
  simdgroup_matrix<T, C, R> m;
  m.thread_elements() = vec<T, 2>(T(value), T(value));
  return m;
}

template <class T, int C, int R, emu::space S, class U>
inline void simdgroup_load(simdgroup_matrix<T, C, R>& m, const emu::pointer<S, U>& from,
                           ulong elements_per_row = C, ulong2 origin = ulong2(0),
                           bool transpose = false, METAL_EMULATOR_HERE) {
  static_assert(std::is_same_v<std::remove_const_t<U>, T>,
                "simdgroup_load: the memory holds another type than the matrix");
  emu::check_uniform(from, elements_per_row, transpose, "simdgroup_load", where);
  const emu::pointer<S, const T> source(from.memory(), from.offset());
  for (uint e = 0; e < 2; ++e) {
    m.thread_elements().data[e] =
        source[emu::matrix_offset(elements_per_row, origin, transpose, e)];
  }
}
template <class T, int C, int R, emu::space S>
inline void simdgroup_store(const simdgroup_matrix<T, C, R>& m, const emu::pointer<S, T>& to,
                            ulong elements_per_row = C, ulong2 origin = ulong2(0),
                            bool transpose = false, METAL_EMULATOR_HERE) {
  emu::check_uniform(to, elements_per_row, transpose, "simdgroup_store", where);
  const emu::pointer<S, T> target(to.memory(), to.offset());
  for (uint e = 0; e < 2; ++e) {
    target[emu::matrix_offset(elements_per_row, origin, transpose, e)] =
        m.thread_elements().data[e];
  }
}

/// d = a b + c. Products and their sum are fp32; d is rounded once.
template <class D, class A, class B, class C>
inline void multiply_accumulate(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                const simdgroup_matrix<B, 8, 8>& b,
                                const simdgroup_matrix<C, 8, 8>* c, const char* operation,
                                emu::site where) {
  struct factors {
    vec<A, 2> a;
    vec<B, 2> b;
  };
  if (emu::lanes() != emu::simd_width) {
    emu::raise(emu::fault_kind::bad_launch, std::string(operation) + " in a simdgroup of " +
                                                std::to_string(emu::lanes()) + " threads");
  }
  factors mine{a.thread_elements(), b.thread_elements()};
  const emu::exchange_slot* slots = emu::exchange(&mine, sizeof(mine), operation, where);
  const uint l = emu::lane();
  const uint row = emu::matrix_layout::row(l), column = emu::matrix_layout::column(l);
  float sum[2] = {0.0f, 0.0f};
  if (c != nullptr) {
    sum[0] = static_cast<float>(c->thread_elements().data[0]);
    sum[1] = static_cast<float>(c->thread_elements().data[1]);
  }
  for (uint k = 0; k < 8; ++k) {
    const auto* left =
        reinterpret_cast<const factors*>(slots[emu::matrix_layout::lane(row, k)].bytes);
    const auto* right =
        reinterpret_cast<const factors*>(slots[emu::matrix_layout::lane(k, column)].bytes);
    const float x = static_cast<float>(left->a.data[k % 2]);
    sum[0] += x * static_cast<float>(right->b.data[0]);
    sum[1] += x * static_cast<float>(right->b.data[1]);
  }
  emu::count_multiply_adds(16, true);
  d.thread_elements() = vec<D, 2>(D(sum[0]), D(sum[1]));
}
template <class D, class A, class B, class C>
inline void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d,
                                          const simdgroup_matrix<A, 8, 8>& a,
                                          const simdgroup_matrix<B, 8, 8>& b,
                                          const simdgroup_matrix<C, 8, 8>& c, METAL_EMULATOR_HERE) {
  const simdgroup_matrix<C, 8, 8> before = c;  // d may be c
  metal::multiply_accumulate(d, a, b, &before, "simdgroup_multiply_accumulate", where);
}
template <class D, class A, class B>
inline void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                               const simdgroup_matrix<B, 8, 8>& b, METAL_EMULATOR_HERE) {
  const simdgroup_matrix<D, 8, 8>* nothing = nullptr;
  metal::multiply_accumulate(d, a, b, nothing, "simdgroup_multiply", where);
}

// ---- Atomics ------------------------------------------------------------------------------------

enum memory_order { memory_order_relaxed };

template <class T>
struct atomic {
  T value;
};
using atomic_int = atomic<int>;
using atomic_uint = atomic<uint>;
using atomic_float = atomic<float>;
using atomic_bool = atomic<bool>;

/// Replaces the value by f(value) and returns what it was.
template <emu::access How = emu::access::atomic_update, emu::space S, class T, class F>
inline T atomic_update(const emu::pointer<S, atomic<T>>& p, F f) {
  std::byte* at = emu::checked(p.memory(), p.offset(), sizeof(T), alignof(T), How);
  T before;
  std::memcpy(&before, at, sizeof(T));
  const T after = f(before);
  std::memcpy(at, &after, sizeof(T));
  return before;
}
#define METAL_EMULATOR_FETCH(name, formula)                                              \
  template <emu::space S, class T>                                                       \
  inline T name(const emu::pointer<S, atomic<T>>& p, emu::as_given<T> y, memory_order) { \
    return metal::atomic_update(p, [y](T x) -> T { return formula; });                   \
  }
METAL_EMULATOR_FETCH(atomic_fetch_add_explicit, static_cast<T>(x + y))
METAL_EMULATOR_FETCH(atomic_fetch_sub_explicit, static_cast<T>(x - y))
METAL_EMULATOR_FETCH(atomic_fetch_max_explicit, x < y ? y : x)
METAL_EMULATOR_FETCH(atomic_fetch_min_explicit, y < x ? y : x)
METAL_EMULATOR_FETCH(atomic_fetch_and_explicit, static_cast<T>(x& y))
METAL_EMULATOR_FETCH(atomic_fetch_or_explicit, static_cast<T>(x | y))
METAL_EMULATOR_FETCH(atomic_fetch_xor_explicit, static_cast<T>(x ^ y))
METAL_EMULATOR_FETCH(atomic_exchange_explicit, ((void)x, y))
#undef METAL_EMULATOR_FETCH
template <emu::space S, class T>
inline T atomic_load_explicit(const emu::pointer<S, atomic<T>>& p, memory_order) {
  return metal::atomic_update<emu::access::atomic_load>(p, [](T x) { return x; });
}
template <emu::space S, class T>
inline void atomic_store_explicit(const emu::pointer<S, atomic<T>>& p, emu::as_given<T> y,
                                  memory_order) {
  (void)metal::atomic_update<emu::access::atomic_store>(p, [y](T) { return y; });
}
template <emu::space S, class T>
inline bool atomic_compare_exchange_weak_explicit(const emu::pointer<S, atomic<T>>& p, T* expected,
                                                  emu::as_given<T> desired, memory_order,
                                                  memory_order) {
  const T wanted = *expected;
  *expected = metal::atomic_update(p, [wanted, desired](T x) { return x == wanted ? desired : x; });
  return *expected == wanted;
}

template <class T>
inline bool is_function_constant_defined(const emu::function_constant<T>& c) {
  return c.defined();
}

}  // namespace metal

// ---- Kernels ------------------------------------------------------------------------------------

namespace metal_emulator {

inline allocation* bound_buffer(const parameter& p, std::int64_t& offset) {
  const auto& all = bindings();
  const auto found = all.buffers.find(p.index);
  if (found == all.buffers.end()) {
    raise(fault_kind::bad_launch, "buffer(" + std::to_string(p.index) + ") is not bound");
  }
  const auto at = all.offsets.find(p.index);
  offset = at == all.offsets.end() ? 0 : at->second;
  return found->second;
}

/// What a parameter of type A gets.
template <class A>
struct argument {
  static A make(const parameter& p) {
    const position& at = here();
    const std::string_view name = p.attribute;
    const auto vector = [](const extent& e) { return from_extent(e); };
    const auto number = [](std::uint32_t i) { return from_index(i); };
    if (name == "thread_position_in_grid") {
      extent e;
      for (std::size_t a = 0; a < 3; ++a) {
        e[a] = at.threadgroup[a] * at.full_threads_per_threadgroup[a] + at.thread[a];
      }
      return vector(e);
    }
    if (name == "threadgroup_position_in_grid") return vector(at.threadgroup);
    if (name == "thread_position_in_threadgroup") return vector(at.thread);
    if (name == "threads_per_threadgroup") return vector(at.threads_per_threadgroup);
    if (name == "dispatch_threads_per_threadgroup") return vector(at.full_threads_per_threadgroup);
    if (name == "threads_per_grid") return vector(at.threads_per_grid);
    if (name == "threadgroups_per_grid") return vector(at.threadgroups_per_grid);
    if (name == "thread_index_in_threadgroup") return number(at.index);
    if (name == "thread_index_in_simdgroup") return number(lane());
    if (name == "simdgroup_index_in_threadgroup") return number(simdgroup());
    if (name == "threads_per_simdgroup" || name == "thread_execution_width") {
      return number(simd_width);
    }
    const auto groups_of = [](const extent& e) {
      return static_cast<std::uint32_t>((volume(e) + simd_width - 1) / simd_width);
    };
    if (name == "simdgroups_per_threadgroup") return number(groups_of(at.threads_per_threadgroup));
    if (name == "dispatch_simdgroups_per_threadgroup") {
      return number(groups_of(at.full_threads_per_threadgroup));
    }
    raise(fault_kind::bad_launch, "an argument with the attribute [[" + std::string(name) + "]]");
  }

 private:
  static A from_extent(const extent& e) {
    if constexpr (is_vector<A>) {
      A v;
      for (std::size_t i = 0; i < std::size_t{vector_trait<A>::size}; ++i) {
        v.data[i] = static_cast<element_t<A>>(e[i]);
      }
      for (std::size_t i = vector_trait<A>::size; i < 3; ++i) refuse_extent(e, i);
      return v;
    } else {
      refuse_extent(e, 1), refuse_extent(e, 2);
      return static_cast<A>(e[0]);
    }
  }
  static void refuse_extent(const extent&, std::size_t) {}
  static A from_index(std::uint32_t i) {
    if constexpr (is_vector<A>) {
      raise(fault_kind::bad_launch, "an index as a vector");
    } else {
      return static_cast<A>(i);
    }
  }
};

template <space S, class T>
struct argument<pointer<S, T>> {
  static pointer<S, T> make(const parameter& p) {
    if constexpr (S == space::threadgroup) {
      return {bindings().threadgroup.at(p.index), 0};
    } else {
      std::int64_t offset = 0;
      allocation* memory = bound_buffer(p, offset);
      return {memory, offset};
    }
  }
};
template <space S, class T>
struct argument<place<S, T>> {
  static place<S, T> make(const parameter& p) {
    std::int64_t offset = 0;
    allocation* memory = bound_buffer(p, offset);
    return {memory, offset};
  }
};
/// `constant T&`: the whole is there when the kernel starts, so it is not counted as traffic.
template <class T>
struct argument<const T&> {
  static const T& make(const parameter& p) {
    std::int64_t offset = 0;
    allocation* memory = bound_buffer(p, offset);
    if (memory == nullptr || offset < 0 || offset + sizeof(T) > memory->size() ||
        static_cast<std::size_t>(offset) % alignof(T) != 0) {
      raise(fault_kind::bad_launch, "buffer(" + std::to_string(p.index) +
                                        ") is too small or misaligned for a struct of " +
                                        std::to_string(sizeof(T)) + " bytes");
    }
    return *reinterpret_cast<const T*>(memory->begin() + offset);
  }
};

template <class... A, std::size_t... I>
inline void call_with(void (*f)(A...), const std::vector<parameter>& p, std::index_sequence<I...>) {
  f(argument<A>::make(p[I])...);
}
template <class... A>
inline void call_with_parameters(void (*f)(A...), const std::vector<parameter>& p) {
  call_with(f, p, std::index_sequence_for<A...>{});
}
/// Runs kernel F for the running thread.
template <auto F>
inline void invoke(const std::vector<parameter>& p) {
  call_with_parameters(F, p);
}

}  // namespace metal_emulator
