// SPDX-License-Identifier: MIT
/// The instruction set that `compact()` runs on, by name.
#pragma once

#include <string_view>

#include "kvfit/core/config.hpp"

#define KVFIT_STRING_(x) #x
#define KVFIT_STRING(x) KVFIT_STRING_(x)

namespace kvfit::compiled {

/// What the compiled library found on this machine; there only with kvfit::compiled.
[[nodiscard]] std::string_view active_isa() noexcept;

}  // namespace kvfit::compiled

namespace kvfit::detail {

/// "avx2_fma_f16c" of "isa_avx2_fma_f16c".
constexpr std::string_view isa_name(std::string_view of_namespace) noexcept {
  return of_namespace.substr(std::string_view("isa_").size());
}

}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// Names the instruction set that `compact()` runs on: "sse2", "avx2_fma_f16c", "neon" and so on.
///
/// Header-only, that is what this file was compiled for, and the compiler may compute it. With the
/// target kvfit::compiled it is the best of those compiled that the CPU and its system offer. No
/// cost, no allocation.
[[nodiscard]] inline std::string_view active_isa() noexcept {
#if defined(KVFIT_COMPILED)
  return compiled::active_isa();
#else
  return detail::isa_name(KVFIT_STRING(KVFIT_ISA_D));
#endif
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
