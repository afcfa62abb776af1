// SPDX-License-Identifier: MIT
/// A model whose every token is a byte, and whose next one follows from all rows of its cache: what
/// it says shows whether a cache is what it was. What goes wrong is set by the test.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <limits>
#include <thread>
#include <utility>

#include "kvfit/io/crc32c.hpp"
#include "server/engine.hpp"

namespace server_test {

using server::done;
using server::failure;
using server::fault;
using server::index_t;
using server::outcome;
using server::token;

struct fake_faults {
  std::atomic<bool> says_nan = false;
  std::atomic<bool> fails_decode = false;
  std::atomic<bool> fails_fit = false;
  std::atomic<bool> fails_apply = false;
  std::atomic<bool> holds_fit = false;  ///< until it is false again, or the server stops
  std::atomic<double> error = 0.01;     ///< of a fit, held out
  std::atomic<int> decode_ms = 0;
  std::atomic<server::index_t> most_rows = server::index_t{1} << 40;  ///< of a slot
};

class fake_engine final : public server::engine {
 public:
  fake_engine(index_t slots, std::shared_ptr<fake_faults> faults)
      : rows_(static_cast<std::size_t>(slots)), faults_(std::move(faults)) {}

  std::string model() const override { return "fake"; }
  std::string rule() const override { return "scale 1"; }
  index_t slots() const override { return static_cast<index_t>(rows_.size()); }
  index_t row_bytes() const override { return 4; }
  outcome<std::vector<token>> tokens_of(std::string_view text, bool) const override {
    std::vector<token> made;
    for (const char c : text) made.push_back(static_cast<unsigned char>(c));
    return made;
  }
  std::string text_of(token each) const override { return {static_cast<char>(each)}; }
  bool ends(token each) const override { return each == 256; }

  outcome<std::vector<float>> decode(index_t slot, std::span<const token> tokens,
                                     index_t) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(faults_->decode_ms));
    if (faults_->fails_decode) return failure{fault::engine, "decode"};
    auto& rows = of(slot);
    rows.insert(rows.end(), tokens.begin(), tokens.end());
    std::vector<float> logits(257, 0);
    kvfit::crc32c sum;
    sum.add(std::as_bytes(std::span(rows)));
    logits[97 + sum.value() % 26] = 1;
    if (faults_->says_nan) logits[3] = std::numeric_limits<float>::quiet_NaN();
    return logits;
  }
  index_t rows(index_t slot) const override {
    return static_cast<index_t>(rows_[static_cast<std::size_t>(slot)].size());
  }
  index_t space(index_t slot) const override {
    return std::max<index_t>(0, faults_->most_rows - rows(slot));
  }
  void clear(index_t slot) override { of(slot).clear(); }
  outcome<std::vector<std::byte>> read_state(index_t slot) override {
    const auto bytes = std::as_bytes(std::span(of(slot)));
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  }
  done put_state(index_t slot, std::span<const std::byte> state) override {
    if (state.size() % sizeof(token) != 0) return failure{fault::bad_state, "no whole rows"};
    std::vector<token> rows(state.size() / sizeof(token));
    if (!rows.empty()) std::memcpy(rows.data(), state.data(), state.size());
    of(slot) = std::move(rows);
    return server::nothing{};
  }

  outcome<std::unique_ptr<server::cache_snapshot>> snapshot(index_t slot) override {
    auto made = std::make_unique<taken>();
    made->rows = of(slot);
    return std::unique_ptr<server::cache_snapshot>(std::move(made));
  }
  /// First and last rows.
  outcome<std::unique_ptr<server::small_cache>> fit(const server::cache_snapshot& from,
                                                    const server::compaction_request& how,
                                                    const kvfit::stop_when& stop) const override {
    while (faults_->holds_fit && !stop.is_due()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (stop.is_due()) return failure{fault::cancelled, "stopped"};
    if (faults_->fails_fit) return failure{fault::engine, "fit"};
    const auto& rows = static_cast<const taken&>(from).rows;
    auto made = std::make_unique<fitted>();
    const index_t last = how.target - how.protect_first;
    made->rows.assign(rows.begin(), rows.begin() + how.protect_first);
    made->rows.insert(made->rows.end(), rows.end() - last, rows.end());
    made->report = {.method = how.method,
                    .rows_before = static_cast<index_t>(rows.size()),
                    .rows_after = static_cast<index_t>(made->rows.size()),
                    .held_out_error = faults_->error};
    return std::unique_ptr<server::small_cache>(std::move(made));
  }
  done apply(index_t slot, const server::small_cache& small) override {
    if (faults_->fails_apply) return failure{fault::engine, "apply"};
    of(slot) = static_cast<const fitted&>(small).rows;
    return server::nothing{};
  }

 private:
  struct taken final : server::cache_snapshot {
    std::vector<token> rows;
  };
  struct fitted final : server::small_cache {
    std::vector<token> rows;
  };
  std::vector<token>& of(index_t slot) { return rows_[static_cast<std::size_t>(slot)]; }

  std::vector<std::vector<token>> rows_;
  std::shared_ptr<fake_faults> faults_;
};

}  // namespace server_test
