// SPDX-License-Identifier: MIT
/// The last queries of every layer, remembered for the next round of a rolling cache.
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/attention/check.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/guarded.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/view/load.hpp"

namespace kvfit {

/// Queries with memory of their own: what a round running elsewhere can be given.
struct owned_queries {
  std::vector<matrix> memory;
  cache_queries queries;  ///< refers to `memory`, and goes on doing so when both are moved

  owned_queries() = default;
  owned_queries(owned_queries&&) = default;
  owned_queries& operator=(owned_queries&&) = default;
  owned_queries(const owned_queries&) = delete;  // the copy's queries would be the original's
  owned_queries& operator=(const owned_queries&) = delete;
  ~owned_queries() = default;
};

}  // namespace kvfit

namespace kvfit::inline KVFIT_ISA {

/// A ring of the last `capacity` rows of each query head: an engine hands over the queries it has
/// made anyway, and gives a round what the text has lately asked for.
///
/// Holds capacity · d_k floats a query head, from its layer's first `record` on, and no more.
///
///     recent_queries last(512);
///     last.record(layer, blocks);          // after each forward pass: one block a query head
///     auto asked = last.copy();            // for round->run(asked->queries, pool)
class recent_queries {
 public:
  /// capacity ≥ 1 rows a head; fewer are taken for 1.
  explicit recent_queries(index_t capacity) : capacity_(std::max<index_t>(capacity, 1)) {}

  [[nodiscard]] index_t capacity() const noexcept { return capacity_; }
  /// Rows remembered of each head of a layer.
  [[nodiscard]] index_t rows(index_t layer) const noexcept {
    const auto at = rings_.find(layer);
    return at == rings_.end() ? 0 : at->second.rows;
  }

  /// The queries of some consecutive tokens: one block a query head, all at the same positions one
  /// apart, be they counted or looked up in a table (`query_block::positions`), which is not kept.
  /// Rows that do not go on where the layer's last ones ended replace them all, as a block has its
  /// rows in one piece of the text.
  ///
  /// Errors, with nothing changed: those of `check_queries`; `shape_mismatch` for blocks of other
  /// numbers, widths or lengths than the layer's; `invalid_position` for blocks at other places;
  /// `out_of_memory`.
  result<void> record(index_t layer, std::span<const query_block> heads) {
    return detail::guard_memory("recent_queries", [&]() -> result<void> {
      if (heads.empty()) return error{errc::empty_input, "heads", 0, error::none, {}};
      if (const auto ok = check_heads(layer, heads); !ok) return ok;
      auto at = rings_.find(layer);
      if (at == rings_.end()) {
        ring fresh;
        for (const query_block& head : heads) {
          fresh.memory.emplace_back(capacity_, head.rows.cols());
        }
        at = rings_.emplace(layer, std::move(fresh)).first;
      }
      add(at->second, heads);
      return {};
    });
  }

  /// Forgets queries of tokens from `length` on: the text ends before them.
  void truncate(index_t length) noexcept {
    for (auto& [layer, of] : rings_) {
      of.rows = std::clamp<index_t>(length - of.first_position, 0, of.rows);
    }
  }

  void clear() noexcept { rings_.clear(); }

  /// All rows remembered, the oldest first, at their positions; layers without any are left out.
  [[nodiscard]] result<owned_queries> copy() const {
    return detail::guard_memory("recent_queries", [&]() -> result<owned_queries> {
      owned_queries out;
      std::size_t matrices = 0;
      for (const auto& [layer, of] : rings_) matrices += of.memory.size();
      out.memory.reserve(matrices);
      for (const auto& [layer, of] : rings_) {
        if (of.rows == 0) continue;
        layer_queries asked{.layer = layer, .heads = {}};
        for (std::size_t h = 0; h < of.memory.size(); ++h) {
          matrix& rows = out.memory.emplace_back(of.rows, of.memory[h].cols());
          const index_t straight = std::min(of.rows, capacity_ - of.start);
          rows.topRows(straight) = of.memory[h].middleRows(of.start, straight);
          rows.bottomRows(of.rows - straight) = of.memory[h].topRows(of.rows - straight);
          query_block block = of.heads[h];
          block.rows = row_view(rows);
          block.first_position = of.first_position;
          asked.heads.push_back(block);
        }
        out.queries.push_back(std::move(asked));
      }
      return out;
    });
  }

 private:
  struct ring {
    std::vector<matrix> memory;      ///< capacity × d_k, one a head
    std::vector<query_block> heads;  ///< what belongs to a head besides rows: slope, sink
    index_t start = 0;               ///< slot of the oldest row
    index_t rows = 0;
    index_t first_position = 0;  ///< of the oldest row
  };

  result<void> check_heads(index_t layer, std::span<const query_block> heads) const {
    const query_block& first = heads.front();
    const std::string where = "layer " + std::to_string(layer);
    const auto at = rings_.find(layer);
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
        if (head.position(i) == first.position(0) + i) continue;
        return error{errc::invalid_position, where + ": queries", head.position(i),
                     first.position(0) + i,
                     "must equal it: heads stand alike, rows one position apart"};
      }
    }
    return {};
  }

  void add(ring& to, std::span<const query_block> heads) {
    const index_t given = heads.front().rows.rows();
    const index_t first = heads.front().position(0);
    if (first != to.first_position + to.rows) to.rows = 0;
    if (to.rows == 0) {
      to.start = 0;
      to.first_position = first;
    }
    const index_t skipped =
        std::max<index_t>(given - capacity_, 0);  // would be written over at once
    for (index_t i = skipped; i < given; ++i) {
      const index_t slot = (to.start + to.rows + i) % capacity_;
      for (std::size_t h = 0; h < heads.size(); ++h) {
        load_row(heads[h].rows, i, to.memory[h].row(slot).data());
      }
    }
    const index_t dropped = std::max<index_t>(to.rows + given - capacity_, 0);
    to.start = (to.start + dropped) % capacity_;
    to.first_position += dropped;
    to.rows = to.rows + given - dropped;
    to.heads.assign(heads.begin(), heads.end());
    for (query_block& head : to.heads) {  // the caller's memory may go
      head.rows = {};
      head.positions = {};
      head.position_step = 1;
    }
  }

  index_t capacity_;
  std::map<index_t, ring> rings_;  ///< by layer number
};

}  // namespace kvfit::inline KVFIT_ISA
