// SPDX-License-Identifier: MIT
/// What the compiler was told: the instruction set, whether exceptions exist, what is linked.
///
/// A header-only library is compiled into many object files, and the linker keeps one copy of every
/// inline function. If two of those files were compiled for different instruction sets, the copy it
/// keeps may not run on the smaller machine. So all code of kvfit that computes lives in an inline
/// namespace named after the instruction set:
///
///     namespace kvfit {
///     inline namespace KVFIT_ISA { ... }
///     }
///
/// Callers write `kvfit::compact(...)` and never see it; the linker sees different names for all
/// instruction sets that are told apart below. Plain
/// data (views, options, results, errors) stays in `kvfit` itself and may cross such borders. Eigen
/// has no such protection: do not mix instruction sets among files that share Eigen code.
#pragma once

// A hidden key's logit is −∞, and an input may hold NaN: both must be told from numbers. And exp
// rounds by adding a large number and taking it off again, which regrouped sums would cancel.
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || \
    (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "kvfit can't be compiled with -ffast-math, -fassociative-math or -ffinite-math-only"
#endif

#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
#define KVFIT_HAS_EXCEPTIONS 1
#else
#define KVFIT_HAS_EXCEPTIONS 0
#endif

#define KVFIT_JOIN_(a, b) a##b
#define KVFIT_JOIN(a, b) KVFIT_JOIN_(a, b)

// The name of the instruction set: the widest registers, then what else changes the code of xsimd,
// of simd/ or of a compiler's own vectorisation.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512CD__) && \
    defined(__AVX512DQ__) && defined(__AVX512VL__)
#define KVFIT_ISA_WIDTH avx512
#elif defined(__AVX512F__)
#define KVFIT_ISA_WIDTH avx512f
#elif defined(__AVX2__)
#define KVFIT_ISA_WIDTH avx2
#elif defined(__AVX__)
#define KVFIT_ISA_WIDTH avx
#elif defined(__SSE4_2__)
#define KVFIT_ISA_WIDTH sse42
#elif defined(__SSE4_1__)
#define KVFIT_ISA_WIDTH sse41
#elif defined(__SSSE3__)
#define KVFIT_ISA_WIDTH ssse3
#elif defined(__SSE3__)
#define KVFIT_ISA_WIDTH sse3
#elif defined(__SSE2__) || defined(_M_X64)
#define KVFIT_ISA_WIDTH sse2
#elif defined(__ARM_NEON) || defined(__ARM_NEON__)
#define KVFIT_ISA_WIDTH neon
#else
#define KVFIT_ISA_WIDTH scalar
#endif

#if defined(__FMA__)
#define KVFIT_ISA_FMA _fma
#else
#define KVFIT_ISA_FMA
#endif
#if defined(__F16C__)
#define KVFIT_ISA_F16C _f16c
#else
#define KVFIT_ISA_F16C
#endif
#if defined(__AVX512VBMI__) || defined(__AVX512VBMI2__)
#define KVFIT_ISA_VBMI _vbmi
#else
#define KVFIT_ISA_VBMI
#endif
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
#define KVFIT_ISA_VNNI _vnni
#else
#define KVFIT_ISA_VNNI
#endif
#if defined(__AMX_BF16__) && defined(__AMX_TILE__)
#define KVFIT_ISA_AMX _amx
#else
#define KVFIT_ISA_AMX
#endif
#if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define KVFIT_ISA_BF16 _bf16
#else
#define KVFIT_ISA_BF16
#endif
#if defined(__AVX512FP16__)
#define KVFIT_ISA_FP16 _fp16
#else
#define KVFIT_ISA_FP16
#endif
#if defined(__ARM_FEATURE_SVE)
#define KVFIT_ISA_SVE _sve
#else
#define KVFIT_ISA_SVE
#endif

// Code with and without try blocks differs too, so the two never share a name either.
#if KVFIT_HAS_EXCEPTIONS
#define KVFIT_ISA_THROWS
#else
#define KVFIT_ISA_THROWS _noexcept
#endif

// So does code that calls the compiled library (kvfit::compiled) and code that has all in it.
#if defined(KVFIT_COMPILED)
#define KVFIT_ISA_LINKED _compiled
#else
#define KVFIT_ISA_LINKED
#endif

#define KVFIT_ISA_A KVFIT_JOIN(KVFIT_JOIN(isa_, KVFIT_ISA_WIDTH), KVFIT_ISA_FMA)
#define KVFIT_ISA_B KVFIT_JOIN(KVFIT_JOIN(KVFIT_ISA_A, KVFIT_ISA_F16C), KVFIT_ISA_VBMI)
#define KVFIT_ISA_C KVFIT_JOIN(KVFIT_JOIN(KVFIT_ISA_B, KVFIT_ISA_VNNI), KVFIT_ISA_BF16)
#define KVFIT_ISA_D \
  KVFIT_JOIN(KVFIT_JOIN(KVFIT_JOIN(KVFIT_ISA_C, KVFIT_ISA_AMX), KVFIT_ISA_FP16), KVFIT_ISA_SVE)
#define KVFIT_ISA_E KVFIT_JOIN(KVFIT_ISA_D, KVFIT_ISA_LINKED)
#define KVFIT_ISA KVFIT_JOIN(KVFIT_ISA_E, KVFIT_ISA_THROWS)

namespace kvfit {
inline namespace KVFIT_ISA {
/// Stands for this file's instruction set: a template parameter of what may not be shared with
/// files compiled for another one.
struct isa_tag {
#if defined(KVFIT_COMPILED)
  static constexpr bool links_library = true;
#else
  static constexpr bool links_library = false;
#endif
};
}  // namespace KVFIT_ISA
}  // namespace kvfit
