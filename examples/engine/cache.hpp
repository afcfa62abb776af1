// SPDX-License-Identifier: MIT
/// The live part of a KV cache: rows that are appended as tokens are read.
#pragma once

#include <cstddef>
#include <vector>

#include "engine/model.hpp"
#include "kvfit/cache/cache_view.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/queries/engine.hpp"

namespace llama {

/// Keys and values of tokens at positions first, first + 1, …, every layer and KV head. Alone it is
/// a full cache; behind a compact prefix it is the suffix.
class live_cache {
 public:
  /// Empty; its first row will stand at `first_position`: 0, or the logical length of the prefix.
  explicit live_cache(const model& of, index_t first_position = 0);

  [[nodiscard]] index_t first_position() const noexcept { return first_position_; }
  /// Tokens held in all layers.
  [[nodiscard]] index_t length() const noexcept { return length_; }
  [[nodiscard]] index_t next_position() const noexcept { return first_position_ + length_; }

  /// One head's rows to attend over, by reference until the next `append` or `cut_to`.
  [[nodiscard]] kvfit::kv_block block(index_t layer, index_t head) const;

  /// All of it, the same way: what kvfit compacts.
  [[nodiscard]] kvfit::cache_view view() const;

  /// Puts one layer's new rows behind its own; `keep` makes them count.
  void append(index_t layer, const kvfit::layer_rows& rows);

  /// All layers have been given `count` more rows.
  void keep(index_t count) noexcept { length_ += count; }

  /// Forgets all rows but the first `length`, and those not kept.
  void cut_to(index_t length);

 private:
  struct head_memory {
    std::vector<float> keys;
    std::vector<float> values;
  };
  [[nodiscard]] const head_memory& at(index_t layer, index_t head) const;

  index_t first_position_;
  index_t length_ = 0;
  std::vector<kvfit::layer_shape> shapes_;        ///< one a layer
  std::vector<std::vector<head_memory>> layers_;  ///< one a KV head
};

}  // namespace llama
