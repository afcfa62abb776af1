// SPDX-License-Identifier: MIT
/// Attention of some tokens in one layer: over the prefix, and causally over the live rows.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/attention/attend.hpp"
#include "kvfit/cache/heads.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/matrix.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/executor.hpp"
#include "kvfit/queries/cache_prefix.hpp"
#include "kvfit/queries/engine.hpp"
#include "kvfit/queries/live_cache.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Refuses what a layer's `project` must not return: other sizes than its shape and `tokens`.
inline result<void> check_projected(const layer_shape& shape, const layer_rows& rows,
                                    index_t tokens) {
  const auto check = [&](const char* what, const std::vector<matrix>& heads, index_t count,
                         index_t width) -> result<void> {
    if (static_cast<index_t>(heads.size()) != count) {
      return error{errc::shape_mismatch, what, static_cast<index_t>(heads.size()), count,
                   "heads that the engine projected"};
    }
    for (const matrix& head : heads) {
      if (head.rows() != tokens) {
        return error{errc::shape_mismatch, what, head.rows(), tokens,
                     "rows that the engine projected"};
      }
      if (head.cols() != width) {
        return error{errc::shape_mismatch, what, head.cols(), width,
                     "columns that the engine projected"};
      }
    }
    return {};
  };
  if (const auto ok = check("queries", rows.queries, shape.query_heads, shape.key_size); !ok) {
    return ok;
  }
  if (const auto ok = check("keys", rows.keys, shape.kv_heads, shape.key_size); !ok) return ok;
  return check("values", rows.values, shape.kv_heads, shape.value_size);
}

/// One KV head: outputs of the query heads that read it.
inline result<void> attend_head(const layer_shape& shape, std::span<const kv_block> before,
                                const kv_block& live, const layer_rows& rows, index_t position,
                                index_t head, const attend_options& options,
                                std::vector<matrix>& outputs) {
  std::vector<kv_block> blocks;
  for (const kv_block& block : before) {
    if (block.keys.rows() > 0) blocks.push_back(block);
  }
  blocks.push_back(live);
  const index_t group = shape.query_heads / shape.kv_heads;
  std::vector<query_block> queries;
  for (index_t g = 0; g < group; ++g) {
    queries.emplace_back(rows.queries[static_cast<std::size_t>(head * group + g)], position);
  }
  logit_rule rule = shape.rule;
  rule.causal = true;
  const auto y = attend(std::span<const query_block>(queries), blocks, rule, options);
  if (!y) return y.error();
  const index_t tokens = queries.front().rows.rows();
  for (index_t g = 0; g < group; ++g) {
    outputs[static_cast<std::size_t>(head * group + g)] = y->output.middleRows(g * tokens, tokens);
  }
  return {};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// Outputs (n × d_v, one per query head) of n tokens that stand at `position` and after, over the
/// prefix's blocks of this layer and its live rows, which must hold the tokens' own. A token sees
/// what stands before it and itself, whatever the layer's window hides besides.
///
/// KV heads run on `how`; `options` hold for each. Errors: those of `attend`, with the head's name.
template <executor X>
[[nodiscard]] result<std::vector<matrix>> attend_layer(X& how, const layer_shape& shape,
                                                       const cache_prefix& before,
                                                       const live_cache& live, index_t layer,
                                                       const layer_rows& rows, index_t position,
                                                       const attend_options& options = {}) {
  const auto l = static_cast<std::size_t>(layer);
  const auto heads = static_cast<std::size_t>(shape.kv_heads);
  std::vector<matrix> outputs(static_cast<std::size_t>(shape.query_heads));
  std::vector<std::optional<error>> causes(heads);
  how.run(shape.kv_heads, [&](index_t head) noexcept {
    const auto h = static_cast<std::size_t>(head);
    const auto ok = detail::catch_bad_alloc("attend_layer", [&] {
      std::span<const kv_block> blocks;
      if (l < before.blocks.size() && h < before.blocks[l].size()) blocks = before.blocks[l][h];
      return detail::attend_head(shape, blocks, live.block(layer, head), rows, position, head,
                                 options, outputs);
    });
    if (!ok) causes[h] = ok.error();
  });
  for (std::size_t h = 0; h < heads; ++h) {
    if (!causes[h]) continue;
    error cause = *causes[h];
    const std::string here = name(head_id{layer, static_cast<index_t>(h)});
    cause.detail = cause.detail.empty() ? here : here + ": " + cause.detail;
    return cause;
  }
  return outputs;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
