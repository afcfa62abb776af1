// SPDX-License-Identifier: MIT
/// Runs the threads of a threadgroup as fibres with real barriers, and stops at the first fault.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "metal/emulator/memory.hpp"

namespace metal_emulator {

inline constexpr std::uint32_t simd_width = 32;

using extent = std::array<std::uint32_t, 3>;
[[nodiscard]] constexpr std::uint64_t volume(const extent& e) {
  return std::uint64_t{e[0]} * e[1] * e[2];
}

// ---- What can go wrong --------------------------------------------------------------------------

enum class fault_kind {
  none,
  out_of_range,   ///< an index outside its buffer, array, vector or matrix
  misaligned,     ///< an address that its type does not allow
  uninitialised,  ///< a read of memory that nobody has written
  read_only,      ///< a write to memory that was bound for reading
  race,           ///< two threads, one of them writing, without a barrier between
  divergence,     ///< threads that end, or wait elsewhere, while others wait at a barrier
  bad_launch,     ///< arguments or sizes that the kernel can't be run with
  runaway,        ///< more accesses than the dispatch was allowed
};
[[nodiscard]] const char* name_of(fault_kind kind);

struct fault {
  fault_kind kind = fault_kind::none;
  std::string kernel;
  extent threadgroup{};
  extent thread{};      ///< in its threadgroup
  std::string message;  ///< all of it in words, with the kernel and the thread
};

// ---- What a kernel costs ------------------------------------------------------------------------

struct traffic {
  std::uint64_t loads = 0, stores = 0, atomics = 0;  ///< accesses, one for each thread and element
  std::uint64_t loaded_bytes = 0, stored_bytes = 0;  ///< an atomic update counts in both
};

struct counts {
  traffic device, constant, threadgroup;
  std::map<unsigned, traffic> buffers;     ///< device and constant memory, by index of the argument
  std::uint64_t multiply_adds = 0;         ///< of fma(), dot() and simdgroup matrices, in scalars
  std::uint64_t matrix_multiply_adds = 0;  ///< those of simdgroup matrices alone
  std::uint64_t barriers = 0;              ///< of threadgroups, one for each threadgroup
  std::uint64_t simdgroup_barriers = 0;    ///< one for each simdgroup
  std::uint64_t simdgroup_operations = 0;  ///< simd_sum and others, one for each simdgroup
  std::size_t threadgroup_bytes = 0;       ///< threadgroup memory of one threadgroup, the largest
};

// ---- In which order threads run -----------------------------------------------------------------

/// The order of threadgroups in a grid, and of threads between barriers.
struct order {
  enum class kind { forward, backward, shuffled } how = kind::forward;
  std::uint64_t seed = 0;  ///< of a shuffle; each interval between barriers has its own order
};
[[nodiscard]] std::string name_of(const order& o);

// ---- The running thread -------------------------------------------------------------------------

/// Where the running thread stands; what attributes of kernel arguments ask for.
struct position {
  extent threads_per_grid{};
  extent threadgroups_per_grid{};
  extent threads_per_threadgroup{};  ///< of this threadgroup; less at the edges of a grid
  extent full_threads_per_threadgroup{};
  extent threadgroup{};          ///< in the grid
  extent thread{};               ///< in the threadgroup
  std::uint32_t index = 0;       ///< in the threadgroup
  std::uint32_t grid_index = 0;  ///< a number of its own for each thread of the grid
};

/// A place in a shader's source.
struct site {
  const char* file = "";
  int line = 0;
};

[[nodiscard]] const position& here();

/// Ends the running thread, and with it the dispatch. Does not return.
[[noreturn]] void raise(fault_kind kind, const std::string& what);

/// Memory whose accesses a barrier orders: bits.
enum barrier_scope : unsigned { order_nothing = 0, order_device = 1, order_threadgroup = 2 };

void wait_for_threadgroup(unsigned scope, site where);
void wait_for_simdgroup(unsigned scope, site where);

/// Hands `size` bytes of every lane to every lane. The result is valid up to the next exchange of
/// this thread; bytes of lanes that do not exist are absent: see lane_exists(). All lanes of the
/// simdgroup must come here.
inline constexpr std::size_t exchange_bytes = 64;
struct exchange_slot {
  alignas(16) std::byte bytes[exchange_bytes];
};
[[nodiscard]] const exchange_slot* exchange(const void* mine, std::size_t size,
                                            const char* operation, site where);
[[nodiscard]] std::uint32_t lane();
[[nodiscard]] std::uint32_t lanes();  ///< in this simdgroup; less than 32 in the last one
[[nodiscard]] std::uint32_t simdgroup();

void count_multiply_adds(std::uint64_t n, bool of_matrix = false);

/// Threadgroup memory declared in a kernel, the same for all threads of a threadgroup.
[[nodiscard]] allocation* threadgroup_memory(unsigned declaration, std::size_t size,
                                             const char* name);

/// The bytes of a function constant, or nothing when the dispatch set none.
[[nodiscard]] const std::vector<std::byte>* function_constant_bytes(unsigned index);

// ---- Kernels and their arguments ----------------------------------------------------------------

/// What an argument of a kernel is bound to.
struct parameter {
  enum class kind { buffer, threadgroup, value } what = kind::value;
  unsigned index = 0;          ///< of a buffer or of threadgroup memory
  const char* attribute = "";  ///< of a value: "thread_position_in_grid" and others
};

struct bound_memory {
  std::map<unsigned, allocation*> buffers;
  std::map<unsigned, std::int64_t> offsets;  ///< in bytes, of buffers
  std::map<unsigned, allocation*> threadgroup;
};
[[nodiscard]] const bound_memory& bindings();

struct kernel {
  std::string name;
  std::string file;
  std::vector<parameter> parameters;
  std::uint32_t max_threads = 1024;  ///< [[max_total_threads_per_threadgroup]]
  void (*run)(const std::vector<parameter>&) = nullptr;
};

/// All kernels linked into the program, by name.
[[nodiscard]] std::map<std::string, kernel>& kernels();

struct registrar {
  explicit registrar(kernel k);
};

// ---- Running ------------------------------------------------------------------------------------

struct launch {
  const kernel* which = nullptr;
  std::string name;         ///< as asked for, for messages
  extent grid{1, 1, 1};     ///< in threads
  extent threads{1, 1, 1};  ///< per threadgroup
  std::map<unsigned, allocation*> buffers;
  std::map<unsigned, std::int64_t> offsets;
  std::map<unsigned, std::size_t> threadgroup_sizes;
  std::map<unsigned, std::vector<std::byte>> constants;
  std::uint64_t max_accesses = 0;  ///< 0: no limit
  std::size_t max_threadgroup_bytes = 32768;
};

struct outcome {
  fault error;
  counts cost;
  [[nodiscard]] bool ok() const { return error.kind == fault_kind::none; }
  explicit operator bool() const { return ok(); }
};

[[nodiscard]] outcome run(const launch& what, const order& how);

}  // namespace metal_emulator
