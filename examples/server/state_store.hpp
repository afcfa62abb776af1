// SPDX-License-Identifier: MIT
/// Saved slots: one file each, in one folder, written whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/engine.hpp"
#include "server/failure.hpp"

namespace server {

struct saved_slot {
  std::vector<token> tokens;  ///< all that were read, in their order
  std::vector<std::byte> state;
};

struct store_limits {
  std::uint64_t file_bytes = std::uint64_t{1} << 32U;
  std::uint64_t all_bytes = std::uint64_t{1} << 34U;
  std::size_t files = 1024;
};

/// The folder is locked while a store is open: a second one is refused. Little-endian:
///
///     "KVFITSLT"  version (32 bits: 1)  0 (32 bits)  tokens, state bytes, model bytes, rule bytes
///     (64 bits each)  model  rule  tokens (32 bits each)  state  CRC-32C of all before (32 bits)
///
/// The new file is synced, renamed over the old one, and the folder is synced. What a process left
/// behind that was killed while it wrote is removed when the folder is opened. Not for several
/// threads.
class state_store {
 public:
  /// Makes the folder if need be. `storage` where it can't be made, or another store has it.
  static outcome<std::unique_ptr<state_store>> open(const std::filesystem::path& folder,
                                                    std::string model, std::string rule,
                                                    const store_limits& limits = {});
  state_store(const state_store&) = delete;
  state_store& operator=(const state_store&) = delete;
  ~state_store();

  /// `bad_request` for a name that is not 1 to 64 of A–Z, a–z, 0–9, "-" and "_"; `storage` where
  /// the limits or the device take no more: an older state of the name stays then (or, where the
  /// folder alone can't be synced, the new one, which may not last).
  done save(std::string_view name, const saved_slot& slot);
  /// `not_found`; `bad_state` for a file that is damaged or of another version, model or rule.
  [[nodiscard]] outcome<saved_slot> load(std::string_view name) const;
  /// Of all states, sorted.
  [[nodiscard]] std::vector<std::string> names() const;

 private:
  state_store() = default;
  [[nodiscard]] outcome<std::filesystem::path> path_of(std::string_view name) const;

  std::filesystem::path folder_;
  std::string model_;
  std::string rule_;
  store_limits limits_;
  int lock_ = -1;
};

}  // namespace server
