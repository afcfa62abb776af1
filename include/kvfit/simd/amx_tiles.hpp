// SPDX-License-Identifier: MIT
/// The tile registers of AMX, where compiler, CPU and system have them: whether they may be used,
/// and the instructions on them.
///
/// Architecture and tile format: Intel 64 and IA-32 Architectures Software Developer's Manual,
/// volume 1, chapter 18; the permission: Linux, Documentation/arch/x86/xstate.rst.
#pragma once

#include <cstddef>

#include "kvfit/core/config.hpp"

#if defined(__AMX_BF16__) && defined(__AMX_TILE__) && defined(__x86_64__) && defined(__linux__)
#define KVFIT_SIMD_AMX

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace kvfit::simd {
inline namespace KVFIT_ISA {
namespace detail {

#if defined(KVFIT_SIMD_AMX)

/// Whether CPU and system have tiles of bf16, and the system lets this process use them. To be
/// asked again costs a system call and changes nothing.
inline bool may_use_amx() noexcept {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  constexpr unsigned has_saved_state = 1U << 27U;  // leaf 1, ECX: OSXSAVE
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & has_saved_state) == 0) return false;
  constexpr unsigned has_tiles = 1U << 22U | 1U << 24U;  // leaf 7, EDX: AMX-BF16, AMX-TILE
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & has_tiles) != has_tiles) return false;
  unsigned low = 0;
  unsigned high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned saves_tiles = 1U << 17U | 1U << 18U;  // XCR0: TILECFG, TILEDATA
  if ((low & saves_tiles) != saves_tiles) return false;
  constexpr long ask_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long tile_data = 18;           // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, ask_permission, tile_data) == 0;
}

/// The eight tile registers. Their numbers are part of the instructions, and g++ wants them spelt.
struct amx_tiles {
  static void configure(const void* shapes) noexcept { _tile_loadconfig(shapes); }
  static void release() noexcept { _tile_release(); }

  template <int Tile>
  static void zero() noexcept {
    if constexpr (Tile == 0) _tile_zero(0);
    if constexpr (Tile == 1) _tile_zero(1);
    if constexpr (Tile == 2) _tile_zero(2);
    if constexpr (Tile == 3) _tile_zero(3);
  }
  template <int Tile>
  static void load(const void* from, std::size_t stride) noexcept {
    if constexpr (Tile == 0) _tile_loadd(0, from, stride);
    if constexpr (Tile == 1) _tile_loadd(1, from, stride);
    if constexpr (Tile == 2) _tile_loadd(2, from, stride);
    if constexpr (Tile == 3) _tile_loadd(3, from, stride);
    if constexpr (Tile == 4) _tile_loadd(4, from, stride);
    if constexpr (Tile == 5) _tile_loadd(5, from, stride);
    if constexpr (Tile == 6) _tile_loadd(6, from, stride);
    if constexpr (Tile == 7) _tile_loadd(7, from, stride);
  }
  template <int Tile>
  static void store(void* to, std::size_t stride) noexcept {
    if constexpr (Tile == 0) _tile_stored(0, to, stride);
    if constexpr (Tile == 1) _tile_stored(1, to, stride);
    if constexpr (Tile == 2) _tile_stored(2, to, stride);
    if constexpr (Tile == 3) _tile_stored(3, to, stride);
  }
  /// Sums of tile 2x + y grow by the products of tiles 4 + x and 6 + y.
  template <int X, int Y>
  static void add() noexcept {
    if constexpr (X == 0 && Y == 0) _tile_dpbf16ps(0, 4, 6);
    if constexpr (X == 0 && Y == 1) _tile_dpbf16ps(1, 4, 7);
    if constexpr (X == 1 && Y == 0) _tile_dpbf16ps(2, 5, 6);
    if constexpr (X == 1 && Y == 1) _tile_dpbf16ps(3, 5, 7);
  }
};

#else

inline constexpr bool may_use_amx() noexcept {
  return false;
}

#endif

}  // namespace detail
}  // namespace KVFIT_ISA
}  // namespace kvfit::simd
