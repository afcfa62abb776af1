// SPDX-License-Identifier: MIT
/// The rule of a layer as the record of a state, and back.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>
#include <variant>

#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/io/attention_rule.hpp"
#include "kvfit/io/attention_rule_check.hpp"
#include "kvfit/io/state_layout.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

/// The record of `rule` for keys of `depth` numbers; sinks, slopes and frequencies are counted.
inline state_rule record_of(const attention_rule& rule, index_t depth) {
  state_rule record;
  record.scale = scale_of(rule.logits, depth);
  record.soft_cap = rule.logits.soft_cap;
  record.window = rule.logits.window;
  record.sinks = static_cast<std::uint32_t>(rule.sink_logits.size());
  record.slopes = static_cast<std::uint32_t>(rule.alibi_slopes.size());
  record.causal = rule.logits.causal ? 1 : 0;
  if (!rule.rotation) return record;
  const rope& rotation = *rule.rotation;
  record.has_rotation = 1;
  record.pairing = static_cast<std::uint8_t>(rotation.pairing);
  record.scaling = static_cast<std::uint8_t>(rotation.scaling.index());
  record.base = rotation.base;
  record.dims = rotation.dims;
  if (const auto* by = std::get_if<rope_scaling::linear>(&rotation.scaling)) {
    record.numbers = {by->factor, 0, 0, 0};
  } else if (const auto* parts = std::get_if<rope_scaling::yarn>(&rotation.scaling)) {
    record.numbers = {parts->factor, parts->original_positions, parts->fast, parts->slow};
    record.unrounded = parts->rounds ? 0 : 1;
  } else if (const auto* llama = std::get_if<rope_scaling::llama3>(&rotation.scaling)) {
    record.numbers = {llama->factor, llama->original_positions, llama->low, llama->high};
  } else if (const auto* own = std::get_if<rope_scaling::given>(&rotation.scaling)) {
    record.frequencies = own->frequencies.size();
  }
  return record;
}

/// The rule of a record, without its sinks, slopes and frequencies. A record with bytes that mean
/// nothing gives a rule whose own record differs.
inline attention_rule rule_of(const state_rule& record) {
  attention_rule rule;
  rule.logits = {.scale = record.scale,
                 .soft_cap = record.soft_cap,
                 .causal = record.causal != 0,
                 .window = record.window};
  if (record.has_rotation == 0) return rule;
  rope rotation{.base = record.base, .dims = record.dims};
  if (record.pairing != 0) rotation.pairing = rope_pairing::interleaved;
  const auto& numbers = record.numbers;
  switch (record.scaling) {
    case 1:
      rotation.scaling = rope_scaling::linear{numbers[0]};
      break;
    case 2:
      rotation.scaling =
          rope_scaling::yarn{numbers[0], numbers[1], numbers[2], numbers[3], record.unrounded == 0};
      break;
    case 3:
      rotation.scaling = rope_scaling::llama3{.factor = numbers[0],
                                              .low = numbers[2],
                                              .high = numbers[3],
                                              .original_positions = numbers[1]};
      break;
    case 4:
      rotation.scaling = rope_scaling::given{};
      break;
    default:
      break;
  }
  rule.rotation = std::move(rotation);
  return rule;
}

/// Whether two records have the same bytes.
inline bool is_same_record(const state_rule& a, const state_rule& b) noexcept {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

/// Bytes of a rule with what follows it.
inline std::uint64_t state_bytes_of(const attention_rule& rule) {
  const state_rule record = record_of(rule, 1);
  const std::uint64_t numbers =
      (std::uint64_t{record.sinks} + std::uint64_t{record.slopes}) * sizeof(float);
  return sizeof record + numbers + state_padding(numbers) + record.frequencies * sizeof(double);
}

}  // namespace io_detail

}  // namespace KVFIT_ISA
}  // namespace kvfit
