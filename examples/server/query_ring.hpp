// SPDX-License-Identifier: MIT
/// The queries that a slot asked last: what its next compact cache is fitted to.
#pragma once

#include <algorithm>
#include <vector>

#include "llama_cpp/graph_tap.hpp"
#include "server/engine.hpp"

namespace server {

/// Of every head the last `capacity` queries, the oldest replaced first.
class query_ring {
 public:
  explicit query_ring(index_t capacity) : capacity_(capacity) {}

  void clear() {
    held_.clear();
    count_ = next_ = 0;
  }
  [[nodiscard]] index_t count() const noexcept { return count_; }

  /// Takes what one read asked: as many queries of every head, of the same heads every time. Where
  /// they are not, nothing is taken and false returned.
  bool add(const llama_cpp::layer_captures& asked) {
    if (asked.empty() || asked.front().heads.empty()) return false;
    const index_t rows = asked.front().heads.front().rows();
    if (held_.empty()) make_space(asked);
    if (!is_like(asked, rows)) return false;
    const index_t first = std::max<index_t>(0, rows - capacity_);
    for (std::size_t l = 0; l < asked.size(); ++l) {
      for (std::size_t h = 0; h < asked[l].heads.size(); ++h) {
        const auto& from = asked[l].heads[h];
        auto& to = held_[l].heads[h];
        for (index_t row = first; row < rows; ++row) {
          to.row((next_ + row - first) % capacity_) = from.row(row);
        }
      }
    }
    next_ = (next_ + rows - first) % capacity_;
    count_ = std::min(capacity_, count_ + rows - first);
    return true;
  }

  /// A copy, in no order.
  [[nodiscard]] llama_cpp::layer_captures queries() const {
    llama_cpp::layer_captures out;
    for (const llama_cpp::layer_capture& from : held_) {
      auto& to = out.emplace_back(llama_cpp::layer_capture{from.layer, from.reader, {}});
      for (const auto& head : from.heads) to.heads.emplace_back(head.topRows(count_));
    }
    return out;
  }

 private:
  void make_space(const llama_cpp::layer_captures& asked) {
    for (const llama_cpp::layer_capture& from : asked) {
      auto& to = held_.emplace_back(llama_cpp::layer_capture{from.layer, from.reader, {}});
      for (const auto& head : from.heads) to.heads.emplace_back(capacity_, head.cols());
    }
  }
  [[nodiscard]] bool is_like(const llama_cpp::layer_captures& asked, index_t rows) const {
    if (asked.size() != held_.size()) return false;
    for (std::size_t l = 0; l < asked.size(); ++l) {
      const auto& to = held_[l];
      if (asked[l].layer != to.layer || asked[l].reader != to.reader ||
          asked[l].heads.size() != to.heads.size()) {
        return false;
      }
      for (std::size_t h = 0; h < to.heads.size(); ++h) {
        const auto& from = asked[l].heads[h];
        if (from.rows() != rows || from.cols() != to.heads[h].cols()) return false;
      }
    }
    return true;
  }

  index_t capacity_;
  index_t count_ = 0;
  index_t next_ = 0;  ///< place of the next one
  llama_cpp::layer_captures held_;
};

}  // namespace server
