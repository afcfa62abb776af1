// SPDX-License-Identifier: MIT
/// What the server needs of a model: slots that read tokens, and caches that can be made smaller.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvfit/parallel/stop.hpp"
#include "server/failure.hpp"

namespace server {

using index_t = std::int64_t;
using token = std::int32_t;

struct compaction_request {
  index_t target = 0;  ///< rows of the cache to be left, protected ones among them
  std::string method = "default";
  index_t protect_first = 0;   ///< rows that stay as they are: the system prompt
  index_t protect_recent = 0;  ///< the same of the last rows
};

struct compaction_report {
  std::string method = {};
  index_t rows_before = 0;
  index_t rows_after = 0;
  /// Relative rms error of outputs on queries that nothing is fitted to, a mean of heads. Methods
  /// may choose rows by these queries, too.
  double held_out_error = 0;
  double seconds = 0;
};

/// A cache as it stood, readable from another thread while the engine goes on.
class cache_snapshot {
 public:
  virtual ~cache_snapshot() = default;
};

/// A smaller cache that is not in place yet.
class small_cache {
 public:
  virtual ~small_cache() = default;
  compaction_report report;
};

/// One model with several slots, numbered from 0. One thread calls it, but for what is marked
/// *any thread*. Nothing throws.
class engine {
 public:
  virtual ~engine() = default;

  [[nodiscard]] virtual std::string model() const = 0;  ///< any thread; what states are bound to
  [[nodiscard]] virtual std::string rule() const = 0;   ///< any thread; of attention, likewise
  [[nodiscard]] virtual index_t slots() const = 0;      ///< any thread
  [[nodiscard]] virtual index_t row_bytes() const = 0;  ///< any thread; of one token's cache

  /// Any thread. `is_start`: of a conversation, which may begin with a token of its own.
  [[nodiscard]] virtual outcome<std::vector<token>> tokens_of(std::string_view text,
                                                              bool is_start) const = 0;
  /// Any thread. May end within a character of several bytes.
  [[nodiscard]] virtual std::string text_of(token each) const = 0;
  [[nodiscard]] virtual bool ends(token each) const = 0;  ///< any thread

  /// Reads tokens at `position` on; the logits of the last.
  virtual outcome<std::vector<float>> decode(index_t slot, std::span<const token> tokens,
                                             index_t position) = 0;
  /// Rows that the slot's cache has.
  [[nodiscard]] virtual index_t rows(index_t slot) const = 0;
  /// Tokens that the slot can still read as it is: its cells and the model's positions may end.
  [[nodiscard]] virtual index_t space(index_t slot) const = 0;
  virtual void clear(index_t slot) = 0;

  virtual outcome<std::vector<std::byte>> read_state(index_t slot) = 0;
  /// Whole or not at all: after a failure the slot has what it had.
  virtual done put_state(index_t slot, std::span<const std::byte> state) = 0;

  virtual outcome<std::unique_ptr<cache_snapshot>> snapshot(index_t slot) = 0;
  /// Any thread, beside all other calls.
  virtual outcome<std::unique_ptr<small_cache>> fit(const cache_snapshot& of,
                                                    const compaction_request& how,
                                                    const kvfit::stop_when& stop) const = 0;
  /// Whole or not at all. Nothing was read into the slot since the snapshot.
  virtual done apply(index_t slot, const small_cache& small) = 0;
};

}  // namespace server
