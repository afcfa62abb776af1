// SPDX-License-Identifier: MIT
/// Memory as the emulated device sees it: allocations whose every access is checked and recorded.
///
/// A record belongs to a granule of four bytes, or fewer where a kernel accesses fewer. It says who
/// wrote and who read last, and in which interval between barriers; from that a race is found on
/// the first run, whatever the order in which threads happened to run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace metal_emulator {

struct traffic;

enum class space : std::uint8_t { device, constant, threadgroup };

[[nodiscard]] const char* name_of(space where);

/// How one thread touches memory. Atomic accesses race only with those that are not atomic.
enum class access : std::uint8_t { load, store, atomic_load, atomic_store, atomic_update };

[[nodiscard]] constexpr bool reads(access how) {
  return how != access::store && how != access::atomic_store;
}
[[nodiscard]] constexpr bool writes(access how) {
  return how != access::load && how != access::atomic_load;
}
[[nodiscard]] constexpr bool is_atomic(access how) {
  return how != access::load && how != access::store;
}

/// Who accessed a granule, and when. Intervals are numbers that only grow: one is taken for each
/// dispatch, each threadgroup and each barrier.
struct granule {
  std::uint32_t write_interval = 0;       ///< 0: never written by a kernel
  std::uint32_t write_simd_interval = 0;  ///< the writer's interval between simdgroup barriers
  std::uint32_t writer = 0;               ///< index of the thread in the grid
  std::uint32_t first_read_interval = 0;  ///< first read in this dispatch
  std::uint32_t first_reader = 0;
  std::uint32_t read_interval = 0;  ///< last read
  std::uint32_t read_simd_interval = 0;
  std::uint32_t reader = 0;
  bool write_was_atomic = false;
  bool read_by_lanes = false;       ///< several lanes of one simdgroup read in this interval
  bool read_by_simdgroups = false;  ///< several simdgroups did
};

/// Records of one page of memory.
struct shadow_page {
  unsigned shift = 2;  ///< a granule has 2^shift bytes
  std::vector<granule> granules;
};

/// A piece of memory that a kernel may access, with a record of its accesses.
class allocation {
 public:
  static constexpr std::size_t page_bytes = 4096;

  /// The memory is the caller's and outlives this.
  allocation(space where, std::string name, std::byte* begin, std::size_t size, bool initialised);

  [[nodiscard]] space where() const { return where_; }
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] std::byte* begin() const { return begin_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  /// Whether bytes that no kernel has written hold something meant to be read.
  [[nodiscard]] bool initialised() const { return initialised_; }
  void rename(std::string name) { name_ = std::move(name); }
  void read_only(bool on) { read_only_ = on; }
  [[nodiscard]] bool read_only() const { return read_only_; }

  /// Where accesses of the running dispatch are counted beside the sums; may be null.
  traffic* counted = nullptr;

 private:
  friend class recorder;
  space where_;
  bool initialised_;
  bool read_only_ = false;
  std::string name_;
  std::byte* begin_;
  std::size_t size_;
  std::vector<std::unique_ptr<shadow_page>> pages_;
};

/// Checks one access of the running thread, counts it and records it. A fault ends the thread: the
/// call does not return then.
std::byte* checked(allocation* memory, std::int64_t offset, std::size_t size, std::size_t alignment,
                   access how);

}  // namespace metal_emulator
