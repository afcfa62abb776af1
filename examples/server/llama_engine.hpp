// SPDX-License-Identifier: MIT
/// The server's engine over libllama: a context a slot, all of one model.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "llama_cpp/session.hpp"
#include "server/engine.hpp"
#include "server/query_ring.hpp"

namespace server {

struct llama_engine_options {
  index_t slots = 2;
  llama_cpp::session_options session = {};  ///< of each slot; one sequence
  /// Queries of each head that a fit is made of: the last that the slot asked.
  index_t queries = 1024;
};

/// What llama.cpp can't hold of a compact cache: the biases of its rows, which take cells 0 … t − 1
/// of their slot, and where their keys stand.
struct compact_rows {
  struct head {
    std::vector<float> bias;         ///< natural log
    std::vector<index_t> positions;  ///< of the keys' rotations
  };
  struct layer {
    index_t number = 0;
    std::vector<head> heads;  ///< KV heads, all of t rows
  };
  index_t rows = 0;  ///< t
  std::vector<layer> layers;
};

/// Every slot has a context of its own, so that its cells, biases and queries are its own, too.
///
/// **Queries.** A fit needs no reading of its own: the queries of what the slot reads and says are
/// kept as they are asked, and some of them are held out for the gate.
///
/// **Rows.** All heads keep as many rows, for the layers of llama.cpp share their cells. Protected
/// rows are the first and last of the cache.
///
/// **Positions.** With L the trained length and H = L / 2: once the next token would stand at H + t
/// or beyond, a compaction to t rows closes up. Rows that stand before H stay; all others, and what
/// is read from then on, move H positions back. So a conversation never runs out of positions while
/// it is compacted at L / 2 rows at most. What moved keeps its distances; rows that stayed are H
/// positions nearer to it than they were, and fits know nothing of that. Kept queries go. Needs
/// rotations that the graph shows, of every layer (`closes_up`).
class llama_engine final : public engine {
 public:
  /// `bad_request` for models and settings that can't be served, by name: ALiBi, whose biases are
  /// bound to positions, and positions of several numbers, among them.
  static outcome<std::unique_ptr<llama_engine>> open(const std::filesystem::path& model,
                                                     const llama_engine_options& options);

  [[nodiscard]] std::string model() const override { return name_; }
  [[nodiscard]] std::string rule() const override { return rule_; }
  [[nodiscard]] index_t slots() const override { return static_cast<index_t>(slots_.size()); }
  [[nodiscard]] index_t row_bytes() const override { return row_bytes_; }
  [[nodiscard]] outcome<std::vector<token>> tokens_of(std::string_view text,
                                                      bool is_start) const override;
  [[nodiscard]] std::string text_of(token each) const override;
  [[nodiscard]] bool ends(token each) const override;

  outcome<std::vector<float>> decode(index_t slot, std::span<const token> tokens,
                                     index_t position) override;
  [[nodiscard]] index_t rows(index_t slot) const override { return of(slot).rows; }
  [[nodiscard]] index_t space(index_t slot) const override;
  void clear(index_t slot) override;

  /// llama.cpp's own bytes of the sequence, and in front of them what it can't hold. Little-endian,
  /// 64 bits each but for the biases (fp32): version (1), tokens read, next position, rows, t,
  /// layers; of each number, heads; of each t biases, t positions; bytes of the sequence; these.
  outcome<std::vector<std::byte>> read_state(index_t slot) override;
  done put_state(index_t slot, std::span<const std::byte> state) override;

  outcome<std::unique_ptr<cache_snapshot>> snapshot(index_t slot) override;
  outcome<std::unique_ptr<small_cache>> fit(const cache_snapshot& from,
                                            const compaction_request& how,
                                            const kvfit::stop_when& stop) const override;
  done apply(index_t slot, const small_cache& small) override;

  [[nodiscard]] index_t trained_length() const { return slots_.front().of->trained_length(); }
  /// Whether conversations may go on beyond the trained length.
  [[nodiscard]] bool closes_up() const noexcept { return closes_up_; }

 private:
  struct served {
    std::unique_ptr<llama_cpp::session> of;
    query_ring queries;
    index_t logical = 0;  ///< tokens read
    index_t next = 0;     ///< where the next one stands
    index_t rows = 0;     ///< cells
    compact_rows compact = {};
  };
  struct taken;
  struct fitted;

  llama_engine() = default;
  done learn();
  [[nodiscard]] served& of(index_t slot) { return slots_[static_cast<std::size_t>(slot)]; }
  [[nodiscard]] const served& of(index_t slot) const {
    return slots_[static_cast<std::size_t>(slot)];
  }
  static std::vector<std::byte> written(const served& at, std::span<const std::byte> sequence);
  done put_whole(served& to, std::span<const std::byte> state) const;

  std::vector<served> slots_;
  llama_engine_options options_;
  std::string name_;
  std::string rule_;
  llama_cpp::state_form form_ = {};
  index_t row_bytes_ = 0;
  bool closes_up_ = false;
};

}  // namespace server
