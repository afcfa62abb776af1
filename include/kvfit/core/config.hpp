// SPDX-License-Identifier: MIT
/// What the compiler was told: the instruction set, and whether exceptions exist.
///
/// A header-only library is compiled into many object files, and the linker keeps one copy of every
/// inline function. If two of those files were compiled for different instruction sets, the copy it
/// keeps may not run on the smaller machine. So all code of kvfit that computes lives in an inline
/// namespace named after the instruction set:
///
///     namespace kvfit::inline KVFIT_ISA { ... }
///
/// Callers write `kvfit::compact(...)` and never see it; the linker sees different names. Plain
/// data (views, options, results, errors) stays in `kvfit` itself and may cross such borders. Eigen
/// has no such protection: do not mix instruction sets among files that share Eigen code.
#pragma once

// A hidden key's logit is −∞, and an input may hold NaN: both must be told from numbers.
#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "kvfit needs infinities and NaN: compile without -ffinite-math-only (part of -ffast-math)"
#endif

#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
#define KVFIT_HAS_EXCEPTIONS 1
#else
#define KVFIT_HAS_EXCEPTIONS 0
#endif

// One name for each set of flags that changes the code of xsimd or of simd/: two sets never share
// one.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512CD__) && \
    defined(__AVX512DQ__) && defined(__AVX512VL__)
#define KVFIT_ISA_NAME avx512
#elif defined(__AVX512F__)
#define KVFIT_ISA_NAME avx512f
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define KVFIT_ISA_NAME avx2_fma
#elif defined(__AVX2__)
#define KVFIT_ISA_NAME avx2
#elif defined(__AVX__) && defined(__FMA__)
#define KVFIT_ISA_NAME avx_fma
#elif defined(__AVX__)
#define KVFIT_ISA_NAME avx
#elif defined(__SSE4_1__)
#define KVFIT_ISA_NAME sse4
#elif defined(__SSE2__) || defined(_M_X64)
#define KVFIT_ISA_NAME sse2
#elif defined(__ARM_NEON) || defined(__ARM_NEON__)
#define KVFIT_ISA_NAME neon
#else
#define KVFIT_ISA_NAME scalar
#endif

#define KVFIT_JOIN_(a, b) a##b
#define KVFIT_JOIN(a, b) KVFIT_JOIN_(a, b)

// Code with and without try blocks differs too, so the two never share a name either.
#if KVFIT_HAS_EXCEPTIONS
#define KVFIT_ISA KVFIT_JOIN(isa_, KVFIT_ISA_NAME)
#else
#define KVFIT_ISA KVFIT_JOIN(KVFIT_JOIN(isa_, KVFIT_ISA_NAME), _noexcept)
#endif
