// SPDX-License-Identifier: MIT
/// How exactly the two products of full attention are taken.
#pragma once

#include <cstdint>

namespace kvfit {

/// What the factors of K Qᵀ and of exp(S)ᵀ V are rounded to. Sums are fp32 in any case, and so are
/// exponentials, maxima and masses.
///
/// u = 2⁻⁸ is what rounding to bf16 is off by at most, relatively. With a = a₁ + a₂ + …, a₁ the
/// rounded a and a₂ the rounded rest, a product of m terms is off by at most
///
///     fp32                                                  m · 2⁻²⁴ · Σ|a b|
///     bf16x3   a b ≈ a₂ b₁ + a₁ b₂ + a₁ b₁    (3.1 u² + 12 m · 2⁻²⁴) · Σ|a b|
///     bf16     a b ≈ a₁ b₁                   (2.01 u + 4 m · 2⁻²⁴) · Σ|a b|
///
/// On Linux, code compiled for AMX asks the system to let the process use its tiles when bf16 is
/// first wanted; the permission lasts as long as the process, whose signal stacks must then be
/// larger.
enum class precision_kind : std::uint8_t { fp32, bf16x3, bf16 };

}  // namespace kvfit
