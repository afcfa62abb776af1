// SPDX-License-Identifier: MIT
/// Whether a compact cache can be a state: what is written, and what is read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>

#include "kvfit/cache/check_layer.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/io/attention_rule.hpp"
#include "kvfit/io/attention_rule_check.hpp"
#include "kvfit/io/expected_setup.hpp"
#include "kvfit/io/state_layout.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

/// What `check_layer` does not check.
inline result<void> check_state_layer(const compacted_layer& layer) {
  using kvfit::detail::part_of;
  if (const auto ok = check_layer(layer); !ok) return ok;
  for (std::size_t h = 0; h < layer.heads.size(); ++h) {
    const head_report& head = layer.heads[h];
    const head_id id{layer.number, static_cast<index_t>(h)};
    if (head.id != id) {
      return error{errc::invalid_option, part_of(layer, "heads"), head.id.head, id.head,
                   name(head.id) + " at the place of " + name(id)};
    }
    if (head.rows != layer.rows(h)) {
      return error{errc::shape_mismatch, part_of(layer, "heads"), head.rows, layer.rows(h),
                   name(id) + ": the report's rows"};
    }
    if (head.rows_before < head.rows) {
      return error{errc::shape_mismatch, part_of(layer, "heads"), head.rows_before, head.rows,
                   name(id) + ": fewer rows before than after"};
    }
    if (head.outcome > head_outcome::fallback) {
      return error{errc::invalid_option, part_of(layer, "heads"),
                   static_cast<index_t>(head.outcome), error::none, name(id) + ": is no outcome"};
    }
    constexpr std::size_t most = (std::numeric_limits<std::uint32_t>::max)();
    if (head.cause && !is_errc(static_cast<std::uint8_t>(head.cause->code))) {
      return error{errc::invalid_option, part_of(layer, "heads"),
                   static_cast<index_t>(head.cause->code), error::none,
                   name(id) + ": its cause has no such code"};
    }
    if (head.cause && (head.cause->argument.size() > most || head.cause->detail.size() > most)) {
      return error{errc::invalid_option, part_of(layer, "heads"), error::none, error::none,
                   name(id) + ": the text of its cause exceeds 32 bits"};
    }
  }
  for (const matrix* part : {&layer.keys, &layer.values}) {
    if (part->cols() <= max_state_columns) continue;
    return error{errc::invalid_option, part_of(layer, part == &layer.keys ? "keys" : "values"),
                 part->cols(), max_state_columns, "most columns"};
  }
  constexpr index_t largest = index_t{1} << 53U;
  for (std::size_t row = 0; row < layer.positions.size(); ++row) {
    if (layer.positions[row] > largest) {
      return error{errc::invalid_position, part_of(layer, "positions"), layer.positions[row],
                   largest, "row " + std::to_string(row) + " must not exceed it"};
    }
    if (layer.key_positions[row] < -largest || layer.key_positions[row] > largest) {
      return error{errc::invalid_position, part_of(layer, "key_positions"),
                   layer.key_positions[row], largest,
                   "row " + std::to_string(row) + " must not be farther from 0"};
    }
  }
  return {};
}

/// The rules of all layers, or none.
inline result<void> check_state_rules(const compacted_cache& cache, const state_info& info) {
  if (info.rules.empty()) return {};
  if (info.rules.size() != cache.layers.size()) {
    return error{errc::shape_mismatch, "rules", static_cast<index_t>(info.rules.size()),
                 static_cast<index_t>(cache.layers.size()), "one a layer, or none at all"};
  }
  for (std::size_t l = 0; l < info.rules.size(); ++l) {
    const compacted_layer& layer = cache.layers[l];
    const attention_rule& rule = info.rules[l];
    constexpr std::size_t most = max_state_heads;
    if (rule.sink_logits.size() > most || rule.alibi_slopes.size() > most) {
      return error{errc::invalid_option, kvfit::detail::part_of(layer, "rule"), error::none,
                   static_cast<index_t>(most), "query heads"};
    }
    const auto ok =
        check_attention_rule(rule, static_cast<index_t>(layer.heads.size()), layer.keys.cols());
    if (ok) continue;
    error cause = ok.error();
    cause.argument = kvfit::detail::part_of(layer, cause.argument.c_str());
    return cause;
  }
  return {};
}

inline result<void> check_state(const compacted_cache& cache, const state_info& info) {
  if (info.next_position < 0) {
    return error{errc::invalid_option, "next_position", info.next_position, 0,
                 "must not be negative"};
  }
  if (const auto ok = check_fingerprint(info.fingerprint); !ok) return ok;
  for (const dtype type : {info.key_storage, info.value_storage}) {
    if (is_state_storage(type)) continue;
    return error{errc::invalid_option, "storage", error::none, error::none,
                 std::string(name(type)) + " is not fp32, fp16 or bf16"};
  }
  index_t rows = 0;
  index_t rows_before = 0;
  index_t fallbacks = 0;
  std::size_t heads = 0;
  for (std::size_t l = 0; l < cache.layers.size(); ++l) {
    const compacted_layer& layer = cache.layers[l];
    if (const auto ok = check_state_layer(layer); !ok) return ok;
    if (l > 0 && layer.number <= cache.layers[l - 1].number) {
      return error{errc::invalid_option, "layers", layer.number, cache.layers[l - 1].number,
                   "must ascend"};
    }
    heads += layer.heads.size();
    if (heads > max_state_heads) {
      return error{errc::invalid_option, "heads", static_cast<index_t>(heads),
                   static_cast<index_t>(max_state_heads), "most heads of all layers"};
    }
    rows += layer.keys.rows();
    for (const head_report& head : layer.heads) {
      if (head.rows_before > (std::numeric_limits<index_t>::max)() - rows_before) {
        return error{errc::invalid_option, "rows_before", error::none, error::none,
                     "exceed 63 bits"};
      }
      rows_before += head.rows_before;
      fallbacks += head.outcome == head_outcome::fallback ? 1 : 0;
    }
  }
  for (std::size_t s = 0; s < cache.skipped.size(); ++s) {
    const index_t before = s > 0 ? cache.skipped[s - 1] : -1;
    if (cache.skipped[s] > before) continue;
    return error{errc::invalid_option, "skipped", cache.skipped[s], before, "must ascend from 0"};
  }
  const auto mismatch = [](const char* what, index_t actual, index_t expected) {
    return error{errc::shape_mismatch, what, actual, expected, "what the heads add up to"};
  };
  if (cache.rows != rows) return mismatch("rows", cache.rows, rows);
  if (cache.rows_before != rows_before) {
    return mismatch("rows_before", cache.rows_before, rows_before);
  }
  if (cache.fallbacks != fallbacks) return mismatch("fallbacks", cache.fallbacks, fallbacks);
  return check_state_rules(cache, info);
}

}  // namespace io_detail

}  // namespace KVFIT_ISA
}  // namespace kvfit
