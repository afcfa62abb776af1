// SPDX-License-Identifier: MIT
/// Which of the instruction sets compiled this machine can run. KVFIT_PATHS(X) lists them, the best
/// first; the build writes it.
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <array>
#include <cstddef>

#include "kvfit/core/active_isa.hpp"
#include "kvfit/core/compiled_entry_points.hpp"
#include "paths.hpp"

#define KVFIT_DECLARE(path) \
  extern "C" void kvfit_entry_points_##path(kvfit::compiled::entry_points& into);
KVFIT_PATHS(KVFIT_DECLARE)

namespace {

using kvfit::compiled::entry_points;

// The compiler's own table of the CPU, which also asks whether the system saves the wide registers.
#if defined(__x86_64__)
[[maybe_unused]] bool has_f16c() noexcept {  // not every compiler's table has it
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
[[maybe_unused]] bool has_avx2() noexcept {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}
[[maybe_unused]] bool has_avx512() noexcept {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
[[maybe_unused]] bool has_avx512bf16() noexcept {
  return has_avx512() && __builtin_cpu_supports("avx512bf16");
}
#endif
// What the whole program was compiled for.
[[maybe_unused]] bool has_own() noexcept {
  return true;
}

#define KVFIT_COUNT(path) +1
constexpr std::size_t paths = 0 KVFIT_PATHS(KVFIT_COUNT);

struct runnable {
  std::array<entry_points, paths> each{};
  std::size_t count = 0;

  runnable() noexcept {
#define KVFIT_TAKE(path) \
  if (has_##path()) kvfit_entry_points_##path(each[count++]);
    KVFIT_PATHS(KVFIT_TAKE)
  }
};

}  // namespace

namespace kvfit::compiled {

std::span<const entry_points> available() noexcept {
  static const runnable found;  // never changes: what the CPU is
  return {found.each.data(), found.count};
}

std::string_view active_isa() noexcept {
  return available().front().isa;
}

}  // namespace kvfit::compiled
