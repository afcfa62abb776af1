// SPDX-License-Identifier: MIT
/// The last queries of every layer, remembered for the next round of a rolling cache.
#pragma once

#include <algorithm>
#include <compare>
#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/attention/check.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/view/load.hpp"

namespace kvfit {

/// Queries with memory of their own: what a round running elsewhere can be given.
struct owned_queries {
  std::vector<matrix> memory;
  std::vector<std::vector<index_t>> positions;  ///< tables, of layers whose rows need one
  /// Refers to `memory` and `positions`, and goes on doing so when all are moved.
  cache_queries queries;

  owned_queries() = default;
  owned_queries(owned_queries&&) = default;
  owned_queries& operator=(owned_queries&&) = default;
  owned_queries(const owned_queries&) = delete;  // the copy's queries would be the original's
  owned_queries& operator=(const owned_queries&) = delete;
  ~owned_queries() = default;
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

/// A ring of the last `capacity` rows of each query head: an engine gives the queries it has
/// made anyway, and gives a round what the text has lately asked for.
///
/// Holds capacity · d_k floats a query head and capacity positions, from its layer's first `record`
/// on, and no more.
///
///     recent_queries last(512);
///     last.record(layer, blocks);          // after each forward pass: one block a query head
///     auto asked = last.copy();            // for round->run(asked->queries, pool)
///
/// Where several layers read one layer's keys and values, the queries of each are remembered for
/// themselves, and each is an entry of `copy`:
///
///     last.record(3, blocks);              // layer 3's own
///     last.record(3, blocks_of_7, 7);      // those of layer 7, which reads the cache of layer 3
class recent_queries {
 public:
  /// capacity ≥ 1 rows a head; fewer are taken for 1.
  explicit recent_queries(index_t capacity) : capacity_(std::max<index_t>(capacity, 1)) {}

  [[nodiscard]] index_t capacity() const noexcept { return capacity_; }
  /// Rows remembered of each head of a layer that reads its own cache.
  [[nodiscard]] index_t rows(index_t layer) const noexcept { return rows(layer, layer); }
  /// Rows remembered of each head of layer `reader`, which reads the cache of `layer`.
  [[nodiscard]] index_t rows(index_t layer, index_t reader) const noexcept {
    const auto at = rings_.find({layer, reader});
    return at == rings_.end() ? 0 : at->second.rows;
  }

  /// The queries of some tokens, in the order of the text: one block a query head, all at the same
  /// positions, be they counted or looked up in a table (`query_block::positions`), which is not
  /// kept. Positions are remembered as they are, several rows at one included. A first row that
  /// stands before the last one remembered begins the text anew: what was remembered of the layer
  /// goes.
  ///
  /// layer: whose keys and values they read. reader: the layer that asks; another one than `layer`
  /// where layers share a cache.
  /// Errors, with nothing changed: those of `check_queries`; `shape_mismatch` for blocks of other
  /// numbers, widths or lengths than the layer's; `invalid_position` for blocks at other places and
  /// rows out of order;
  /// `out_of_memory`.
  result<void> record(index_t layer, std::span<const query_block> heads, index_t reader) {
    return detail::catch_bad_alloc("recent_queries", [&]() -> result<void> {
      if (heads.empty()) return error{errc::empty_input, "heads", 0, error::none, {}};
      if (const auto ok = check_heads({layer, reader}, heads); !ok) return ok;
      auto at = rings_.find({layer, reader});
      if (at == rings_.end()) {
        ring fresh;
        for (const query_block& head : heads) {
          fresh.memory.emplace_back(capacity_, head.rows.cols());
        }
        fresh.positions.resize(static_cast<std::size_t>(capacity_));
        at = rings_.emplace(ring_name{layer, reader}, std::move(fresh)).first;
      }
      add(at->second, heads);
      return {};
    });
  }

  /// The same of a layer that reads its own cache.
  result<void> record(index_t layer, std::span<const query_block> heads) {
    return record(layer, heads, layer);
  }

  /// Forgets the last queries that stand at `next_position` or later: the text ends before them.
  /// Rows at that very position that stay in the text (a part of an image) are forgotten, too.
  void truncate(index_t next_position) noexcept {
    for (auto& [name, of] : rings_) {
      while (of.rows > 0 && of.position(of.rows - 1, capacity_) >= next_position) --of.rows;
    }
  }

  void clear() noexcept { rings_.clear(); }

  /// All rows remembered, the oldest first, at their positions: an entry a layer and reader; those
  /// without any are left out.
  [[nodiscard]] result<owned_queries> copy() const {
    return detail::catch_bad_alloc("recent_queries", [&]() -> result<owned_queries> {
      owned_queries out;
      std::size_t matrices = 0;
      for (const auto& [name, of] : rings_) matrices += of.memory.size();
      out.memory.reserve(matrices);
      out.positions.reserve(rings_.size());
      for (const auto& [name, of] : rings_) {
        if (of.rows == 0) continue;
        layer_queries asked{.layer = name.layer, .heads = {}};
        std::vector<index_t> positions;
        bool is_even = true;
        for (index_t i = 0; i < of.rows; ++i) {
          positions.push_back(of.position(i, capacity_));
          is_even = is_even && positions.back() == positions.front() + i;
        }
        const index_t first = is_even ? positions.front() : 0;
        std::span<const index_t> table;
        if (!is_even) table = out.positions.emplace_back(std::move(positions));
        for (std::size_t h = 0; h < of.memory.size(); ++h) {
          matrix& rows = out.memory.emplace_back(of.rows, of.memory[h].cols());
          const index_t straight = (std::min)(of.rows, capacity_ - of.start);
          rows.topRows(straight) = of.memory[h].middleRows(of.start, straight);
          rows.bottomRows(of.rows - straight) = of.memory[h].topRows(of.rows - straight);
          query_block block = of.heads[h];
          block.rows = row_view(rows);
          block.first_position = first;  // or a place in the table
          block.positions = table;
          asked.heads.push_back(block);
        }
        out.queries.push_back(std::move(asked));
      }
      return out;
    });
  }

 private:
  /// Whose cache is read, and by which layer.
  struct ring_name {
    index_t layer = 0;
    index_t reader = 0;
    friend constexpr auto operator<=>(const ring_name&, const ring_name&) = default;
  };

  struct ring {
    std::vector<matrix> memory;      ///< capacity × d_k, one a head
    std::vector<index_t> positions;  ///< capacity, of the same slots
    std::vector<query_block> heads;  ///< what belongs to a head besides rows: slope, sink
    index_t start = 0;               ///< slot of the oldest row
    index_t rows = 0;

    /// Of row i, the oldest being row 0.
    [[nodiscard]] index_t position(index_t i, index_t capacity) const noexcept {
      return positions[static_cast<std::size_t>((start + i) % capacity)];
    }
  };

  result<void> check_heads(const ring_name& name, std::span<const query_block> heads) const {
    const query_block& first = heads.front();
    const std::string where = "layer " + std::to_string(name.reader);
    const auto at = rings_.find(name);
    if (at != rings_.end() && at->second.memory.size() != heads.size()) {
      return error{errc::shape_mismatch, where + ": heads", static_cast<index_t>(heads.size()),
                   static_cast<index_t>(at->second.memory.size()), "as many as before"};
    }
    for (std::size_t h = 0; h < heads.size(); ++h) {
      const query_block& head = heads[h];
      const index_t width = at != rings_.end() ? at->second.memory[h].cols() : head.rows.cols();
      if (const auto ok = check_queries(head, width); !ok) return ok;
      if (head.rows.rows() != first.rows.rows()) {
        return error{errc::shape_mismatch, where + ": queries", head.rows.rows(), first.rows.rows(),
                     "rows must be those of the first head"};
      }
      for (index_t i = 0; i < head.rows.rows(); ++i) {
        if (i > 0 && head.position(i) < head.position(i - 1)) {
          return error{errc::invalid_position, where + ": queries", head.position(i),
                       head.position(i - 1), "rows must be in the order of the text"};
        }
        if (head.position(i) == first.position(i)) continue;
        return error{errc::invalid_position, where + ": queries", head.position(i),
                     first.position(i), "must equal it: heads stand alike"};
      }
    }
    return {};
  }

  void add(ring& to, std::span<const query_block> heads) {
    const query_block& places = heads.front();
    const index_t given = places.rows.rows();
    const bool is_behind = to.rows > 0 && places.position(0) < to.position(to.rows - 1, capacity_);
    if (is_behind) to.rows = 0;
    if (to.rows == 0) to.start = 0;
    const index_t skipped =
        std::max<index_t>(given - capacity_, 0);  // would be written over at once
    for (index_t i = skipped; i < given; ++i) {
      const index_t slot = (to.start + to.rows + i) % capacity_;
      to.positions[static_cast<std::size_t>(slot)] = places.position(i);
      for (std::size_t h = 0; h < heads.size(); ++h) {
        load_row(heads[h].rows, i, to.memory[h].row(slot).data());
      }
    }
    const index_t dropped = std::max<index_t>(to.rows + given - capacity_, 0);
    to.start = (to.start + dropped) % capacity_;
    to.rows = to.rows + given - dropped;
    to.heads.assign(heads.begin(), heads.end());
    for (query_block& head : to.heads) {  // the caller's memory may go
      head.rows = {};
      head.positions = {};
      head.position_step = 1;
    }
  }

  index_t capacity_;
  std::map<ring_name, ring> rings_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit
