// SPDX-License-Identifier: MIT
/// Keys and values of the tokens read so far: owned, growing, every layer and KV head.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "kvfit/cache/cache_view.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/queries/engine.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// The uncompacted cache of an engine: layer l holds `rows(l)` rows a KV head, and row r stands at
/// `first_position() + r`. Layers may differ in length while tokens are on their way through.
///
/// Memory: 4 (d_k + d_v) bytes a row and KV head, at most twice that, for it grows by doubling.
/// What `block` and `view` refer to is gone after the next `append`.
class live_cache {
 public:
  live_cache() = default;

  /// No rows yet; the first one will stand at `first_position`.
  explicit live_cache(std::span<const layer_shape> shapes, index_t first_position = 0)
      : first_position_(first_position) {
    layers_.reserve(shapes.size());
    for (const layer_shape& shape : shapes) {
      const auto heads = static_cast<std::size_t>(shape.kv_heads);
      layers_.push_back({shape, 0, std::vector<matrix>(heads, matrix(0, shape.key_size)),
                         std::vector<matrix>(heads, matrix(0, shape.value_size))});
    }
  }

  [[nodiscard]] index_t layers() const noexcept { return static_cast<index_t>(layers_.size()); }
  [[nodiscard]] index_t heads(index_t layer) const noexcept { return at(layer).shape.kv_heads; }
  [[nodiscard]] index_t first_position() const noexcept { return first_position_; }
  [[nodiscard]] index_t rows(index_t layer) const noexcept { return at(layer).rows; }

  /// The rows of some more tokens. They must have the layer's sizes, and each other's length
  /// (asserted). A failed allocation leaves the layer as long as it was.
  void append(index_t layer, const layer_rows& more) {
    layer_memory& memory = at(layer);
    assert(more.keys.size() == memory.keys.size() && more.values.size() == memory.values.size());
    const index_t count = more.keys.front().rows();
    for (std::size_t h = 0; h < memory.keys.size(); ++h) {
      put(more.keys[h], memory.rows, memory.keys[h]);
      put(more.values[h], memory.rows, memory.values[h]);
    }
    memory.rows += count;
  }

  /// Forgets all but the first `rows` ≥ 0 rows of one layer, or of all. Memory is kept for later
  /// rows.
  void truncate(index_t layer, index_t rows) noexcept {
    at(layer).rows = std::clamp<index_t>(rows, 0, at(layer).rows);
  }
  void truncate(index_t rows) noexcept {
    for (index_t l = 0; l < layers(); ++l) truncate(l, rows);
  }

  /// One KV head to attend over, by reference.
  [[nodiscard]] kv_block block(index_t layer, index_t head) const& noexcept {
    const layer_memory& memory = at(layer);
    const auto h = static_cast<std::size_t>(head);
    return {.keys = row_view(memory.keys[h]).middle_rows(0, memory.rows),
            .values = row_view(memory.values[h]).middle_rows(0, memory.rows),
            .first_position = first_position_};
  }
  kv_block block(index_t layer, index_t head) const&& = delete;  // it would refer to what is gone

  /// The whole cache, by reference: layer l is number l, with the engine's rule and rotation.
  [[nodiscard]] cache_view view() const& {
    cache_view all;
    for (index_t l = 0; l < layers(); ++l) {
      const layer_shape& shape = at(l).shape;
      cache_layer layer{
          .number = l, .kind = shape.kind, .rule = shape.rule, .rotation = shape.rotation};
      for (index_t h = 0; h < shape.kv_heads; ++h) layer.heads.push_back(block(l, h));
      all.layers.push_back(std::move(layer));
    }
    return all;
  }
  cache_view view() const&& = delete;

 private:
  struct layer_memory {
    layer_shape shape;
    index_t rows = 0;
    std::vector<matrix> keys;  // a KV head each; rows beyond `rows` are spare
    std::vector<matrix> values;
  };

  static void put(const matrix& more, index_t rows, matrix& memory) {
    assert(more.cols() == memory.cols());
    const index_t needed = rows + more.rows();
    if (memory.rows() < needed) {
      memory.conservativeResize((std::max)(needed, 2 * memory.rows()), memory.cols());
    }
    memory.middleRows(rows, more.rows()) = more;
  }

  [[nodiscard]] layer_memory& at(index_t layer) noexcept {
    assert(layer >= 0 && layer < layers());
    return layers_[static_cast<std::size_t>(layer)];
  }
  [[nodiscard]] const layer_memory& at(index_t layer) const noexcept {
    assert(layer >= 0 && layer < layers());
    return layers_[static_cast<std::size_t>(layer)];
  }

  index_t first_position_ = 0;
  std::vector<layer_memory> layers_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit
