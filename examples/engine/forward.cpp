// SPDX-License-Identifier: MIT
#include "engine/forward.hpp"

#include <utility>

#include "kvfit/attention/attend.hpp"

namespace llama {

namespace {

using kvfit::errc;
using kvfit::error;

result<void> check_past(const model& engine, const kvfit::cache_view& past) {
  const auto layers = static_cast<index_t>(past.layers.size());
  if (layers == 0) return {};
  if (layers != engine.layers()) {
    return error{errc::shape_mismatch, "past", layers, engine.layers(), "layers"};
  }
  for (index_t l = 0; l < layers; ++l) {
    const kvfit::cache_layer& layer = past.layers[static_cast<std::size_t>(l)];
    const auto heads = static_cast<index_t>(layer.heads.size());
    if (heads != engine.shape(l).kv_heads || layer.number != l) {
      return error{errc::shape_mismatch, "past", heads, engine.shape(l).kv_heads,
                   "KV heads of layer " + std::to_string(layer.number)};
    }
  }
  return {};
}

/// Attention of one layer: outputs of all query heads.
result<std::vector<matrix>> attend_layer(const kvfit::layer_shape& shape,
                                         const std::vector<matrix>& queries,
                                         std::span<const kvfit::kv_block> past,
                                         const live_cache& live, index_t layer) {
  const index_t group = shape.query_heads / shape.kv_heads;
  const index_t count = queries.front().rows();
  kvfit::logit_rule rule = shape.rule;
  rule.causal = true;
  std::vector<matrix> outputs;
  for (index_t h = 0; h < shape.kv_heads; ++h) {
    std::vector<kvfit::query_block> asked;
    for (index_t g = 0; g < group; ++g) {
      asked.emplace_back(queries[static_cast<std::size_t>(h * group + g)], live.next_position());
    }
    std::vector<kvfit::kv_block> blocks = {live.block(layer, h)};
    if (!past.empty() && past[static_cast<std::size_t>(h)].keys.rows() > 0) {
      blocks.push_back(past[static_cast<std::size_t>(h)]);
    }
    auto attended = kvfit::attend(std::span<const kvfit::query_block>(asked), blocks, rule);
    if (!attended) return attended.error();
    for (index_t g = 0; g < group; ++g) {
      outputs.emplace_back(attended->output.middleRows(g * count, count));
    }
  }
  return outputs;
}

result<matrix> read_through(const model& engine, matrix hidden, const kvfit::cache_view& past,
                            live_cache& live, captured_queries* captured) {
  for (index_t l = 0; l < engine.layers(); ++l) {
    auto rows = engine.project(l, hidden, live.next_position());
    if (!rows) return rows.error();
    live.append(l, *rows);
    const auto heads = past.layers.empty()
                           ? std::span<const kvfit::kv_block>()
                           : std::span(past.layers[static_cast<std::size_t>(l)].heads);
    auto outputs = attend_layer(engine.shape(l), rows->queries, heads, live, l);
    if (!outputs) return outputs.error();
    if (captured != nullptr) captured->push_back(std::move(rows->queries));
    if (const auto ok = engine.finish(l, *outputs, hidden); !ok) return ok.error();
  }
  live.keep(hidden.rows());
  return hidden;
}

}  // namespace

result<matrix> forward(const model& engine, std::span<const token> tokens,
                       const kvfit::cache_view& past, live_cache& live,
                       captured_queries* captured) {
  if (const auto ok = check_past(engine, past); !ok) return ok.error();
  auto hidden = engine.embed(tokens);
  if (!hidden) return hidden.error();
  const index_t held = live.length();
  auto read = read_through(engine, std::move(*hidden), past, live, captured);
  if (!read) live.cut_to(held);
  return read;
}

kvfit::cache_view past_of(const kvfit::compacted_cache& compact) {
  kvfit::cache_view made;
  for (const kvfit::compacted_layer& layer : compact.layers) {
    kvfit::cache_layer seen{.number = layer.number};
    for (std::size_t h = 0; h + 1 < layer.offsets.size(); ++h) {
      seen.heads.push_back(layer.block(h));
    }
    made.layers.push_back(std::move(seen));
  }
  return made;
}

}  // namespace llama
