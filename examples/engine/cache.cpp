// SPDX-License-Identifier: MIT
#include "engine/cache.hpp"

#include <utility>

namespace llama {

live_cache::live_cache(const model& of, index_t first_position) : first_position_(first_position) {
  for (index_t l = 0; l < of.layers(); ++l) {
    shapes_.push_back(of.shape(l));
    layers_.emplace_back(static_cast<std::size_t>(shapes_.back().kv_heads));
  }
}

const live_cache::head_memory& live_cache::at(index_t layer, index_t head) const {
  return layers_[static_cast<std::size_t>(layer)][static_cast<std::size_t>(head)];
}

kvfit::kv_block live_cache::block(index_t layer, index_t head) const {
  const kvfit::layer_shape& shape = shapes_[static_cast<std::size_t>(layer)];
  const head_memory& memory = at(layer, head);
  const index_t rows = static_cast<index_t>(memory.keys.size()) / shape.key_size;
  return {.keys = {memory.keys.data(), rows, shape.key_size},
          .values = {memory.values.data(), rows, shape.value_size},
          .first_position = first_position_};
}

kvfit::cache_view live_cache::view() const {
  kvfit::cache_view made;
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    kvfit::cache_layer layer{.number = static_cast<index_t>(l),
                             .kind = shapes_[l].kind,
                             .rule = shapes_[l].rule,
                             .rotation = shapes_[l].rotation};
    for (index_t h = 0; h < shapes_[l].kv_heads; ++h) {
      layer.heads.push_back(block(static_cast<index_t>(l), h));
    }
    made.layers.push_back(std::move(layer));
  }
  return made;
}

void live_cache::append(index_t layer, const kvfit::layer_rows& rows) {
  auto& heads = layers_[static_cast<std::size_t>(layer)];
  for (std::size_t h = 0; h < heads.size(); ++h) {
    const auto put = [](const matrix& from, std::vector<float>& to) {
      to.insert(to.end(), from.data(), from.data() + from.size());
    };
    put(rows.keys[h], heads[h].keys);
    put(rows.values[h], heads[h].values);
  }
}

void live_cache::cut_to(index_t length) {
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    for (head_memory& memory : layers_[l]) {
      const auto keep = [&](std::vector<float>& numbers, index_t width) {
        const auto wanted = static_cast<std::size_t>(length * width);
        if (numbers.size() > wanted) numbers.resize(wanted);
      };
      keep(memory.keys, shapes_[l].key_size);
      keep(memory.values, shapes_[l].value_size);
    }
  }
  if (length_ > length) length_ = length;
}

}  // namespace llama
