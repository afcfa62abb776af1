// SPDX-License-Identifier: MIT
/// Writes result files: compact keys, values, biases and positions (docs/formats.md).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/core/version.hpp"
#include "kvfit/io/attention_rule_check.hpp"
#include "kvfit/io/catch_exceptions.hpp"
#include "kvfit/io/compact_file_check.hpp"
#include "kvfit/io/compact_layers.hpp"
#include "kvfit/io/expected_setup.hpp"
#include "kvfit/io/layer_tensors.hpp"
#include "kvfit/io/rope_text.hpp"
#include "kvfit/io/safetensors_write.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

/// The tensors of a layer.
enum class compact_part : std::uint8_t {
  keys,
  values,
  bias,
  positions,
  head_offsets,
  key_positions,
  sinks,
  slopes,
};

/// One tensor of a result: of which layer, and which of it.
struct compact_tensor {
  const compact_layer* layer = nullptr;
  compact_part part = compact_part::keys;
};

/// Types and shapes of a layer's tensors, and which they are, in the same order.
inline void add_specs(const compact_layer& layer, dtype storage, std::vector<tensor_spec>& specs,
                      std::vector<compact_tensor>& tensors) {
  index_t rows = 0;
  for (const compact_head& head : layer.heads) rows += head.keys.rows();
  const compact_head& first = layer.heads.front();
  const tensor_type stored = tensor_type_of(storage);
  const auto offsets = static_cast<index_t>(layer.heads.size()) + 1;
  const auto add = [&](compact_part part, const char* name, tensor_type type,
                       std::vector<index_t> shape) {
    specs.push_back({part_name(layer.number, name), type, std::move(shape)});
    tensors.push_back({&layer, part});
  };
  add(compact_part::keys, "k", stored, {rows, first.keys.cols()});
  add(compact_part::values, "v", stored, {rows, first.values.cols()});
  add(compact_part::bias, "bias", tensor_type::f32, {rows});
  add(compact_part::positions, "positions", tensor_type::i32, {rows});
  add(compact_part::head_offsets, "head_offsets", tensor_type::i32, {offsets});
  if (says_positions(layer) || looks_at_positions(layer.rule)) {
    add(compact_part::key_positions, "key_positions", tensor_type::i64, {rows});
  }
  const auto add_numbers = [&](compact_part part, const char* name,
                               const std::vector<float>& numbers) {
    if (numbers.empty()) return;
    add(part, name, tensor_type::f32, {static_cast<index_t>(numbers.size())});
  };
  add_numbers(compact_part::sinks, "sinks", layer.rule.sink_logits);
  add_numbers(compact_part::slopes, "alibi_slopes", layer.rule.alibi_slopes);
}

/// One head's part of a tensor that the heads of a layer share.
inline result<void> write_of_head(const compact_layer& layer, std::size_t h, compact_part part,
                                  dtype storage, const byte_sink& sink) {
  const compact_head& head = layer.heads[h];
  switch (part) {
    case compact_part::keys:
      return encode_rows(head.keys, storage, place_of(layer, h) + "keys", sink);
    case compact_part::values:
      return encode_rows(head.values, storage, place_of(layer, h) + "values", sink);
    case compact_part::bias:
      return sink(std::as_bytes(head.bias));
    case compact_part::positions: {
      std::vector<std::int32_t> positions;
      for (const index_t row : head.positions) positions.push_back(static_cast<std::int32_t>(row));
      return sink(std::as_bytes(std::span(positions)));
    }
    default: {
      const std::vector<std::int64_t> positions(head.key_positions.begin(),
                                                head.key_positions.end());
      return sink(std::as_bytes(std::span(positions)));
    }
  }
}

/// Hands one tensor of a layer to `sink`.
inline result<void> write_part(const compact_tensor& tensor, dtype storage, const byte_sink& sink) {
  const compact_layer& layer = *tensor.layer;
  if (tensor.part == compact_part::head_offsets) {
    std::vector<std::int32_t> offsets{0};
    for (const compact_head& head : layer.heads) {
      offsets.push_back(offsets.back() + static_cast<std::int32_t>(head.keys.rows()));
    }
    return sink(std::as_bytes(std::span(offsets)));
  }
  if (tensor.part == compact_part::sinks) {
    return sink(std::as_bytes(std::span(layer.rule.sink_logits)));
  }
  if (tensor.part == compact_part::slopes) {
    return sink(std::as_bytes(std::span(layer.rule.alibi_slopes)));
  }
  for (std::size_t h = 0; h < layer.heads.size(); ++h) {
    if (auto ok = write_of_head(layer, h, tensor.part, storage, sink); !ok) return ok;
  }
  return {};
}

/// An entry of all layers' rules, nothing where it is as without it: said once where it is the same
/// for all, else of each layer by itself.
inline void put_entry(std::span<const compact_layer> layers, std::string_view key,
                      const std::vector<std::string>& texts, tensor_metadata& metadata) {
  const bool is_common = std::all_of(
      texts.begin(), texts.end(), [&](const std::string& text) { return text == texts.front(); });
  for (std::size_t l = 0; l < texts.size(); ++l) {
    if (texts[l].empty()) continue;
    metadata[is_common ? std::string(key) : part_name(layers[l].number, key)] = texts[l];
  }
}

/// The entries that say the rules of all layers.
inline void put_rules(std::span<const compact_layer> layers, const compact_file_info& info,
                      tensor_metadata& metadata) {
  metadata["scale"] = print_float(info.scale);
  std::vector<std::string> caps;
  std::vector<std::string> causal;
  std::vector<std::string> windows;
  std::vector<std::string> rotations;
  for (const compact_layer& layer : layers) {
    const logit_rule& logits = layer.rule.logits;
    if (logits.scale && *logits.scale != info.scale) {
      metadata[part_name(layer.number, "scale")] = print_float(*logits.scale);
    }
    caps.push_back(logits.soft_cap == 0 ? "" : print_float(logits.soft_cap));
    causal.emplace_back(logits.causal ? "true" : "");
    windows.push_back(logits.window == 0 ? "" : std::to_string(logits.window));
    rotations.push_back(layer.rule.rotation ? print_rope(*layer.rule.rotation) : "");
  }
  put_entry(layers, "soft_cap", caps, metadata);
  put_entry(layers, "causal", causal, metadata);
  put_entry(layers, "window", windows, metadata);
  put_entry(layers, "rope", rotations, metadata);
}

}  // namespace io_detail

/// Writes `layers` to `path` in version 2, replacing a file there whole or not at all.
///
/// Errors, before anything is written: `shape_mismatch`, `empty_input`, `null_data`, `non_finite`
/// and `storage_overflow` (row and column within the head named), `invalid_position`,
/// `invalid_option` (scale or soft cap not positive and normal, next position outside 53 bits, a
/// layer twice, a rule or fingerprint outside its ranges); then `file_unwritable`. Cost: two reads
/// of all rows; holds some rows and one head's positions.
[[nodiscard]] inline result<void> write_compact_file(const std::filesystem::path& path,
                                                     const compact_file_info& info,
                                                     std::span<const compact_layer> layers) {
  return io_detail::catch_exceptions(errc::file_unwritable, [&]() -> result<void> {
    constexpr index_t largest = index_t{1} << 53U;
    if (info.next_position < 0 || info.next_position > largest) {
      return error{errc::invalid_option, "next_position", info.next_position, largest,
                   "must not be negative, and within 2^53"};
    }
    if (auto ok = io_detail::check_printed(info.scale, "scale"); !ok) return ok;
    if (auto ok = io_detail::check_fingerprint(info.fingerprint); !ok) return ok;
    if (info.storage != dtype::fp32 && info.storage != dtype::fp16 && info.storage != dtype::bf16) {
      return error{errc::invalid_option, "storage", static_cast<index_t>(info.storage), error::none,
                   "must be fp32, fp16 or bf16"};
    }
    if (layers.empty()) return error{errc::empty_input, "layers", 0, error::none, {}};

    std::set<index_t> numbers;
    std::vector<tensor_spec> specs;
    std::vector<io_detail::compact_tensor> tensors;
    for (const compact_layer& layer : layers) {
      if (auto ok = io_detail::check_compact_layer(layer, info); !ok) return ok;
      if (!numbers.insert(layer.number).second) {
        return error{errc::invalid_option, "layers", layer.number, error::none, "appears twice"};
      }
      io_detail::add_specs(layer, info.storage, specs, tensors);
    }
    tensor_metadata metadata = {{"format", "kvfit-compact"},
                                {"version", "2"},
                                {"method", info.method},
                                {"next_position", std::to_string(info.next_position)},
                                {"library_version", version}};
    if (!info.fingerprint.empty()) metadata["fingerprint"] = info.fingerprint;
    io_detail::put_rules(layers, info, metadata);
    return write_safetensors_by(path, specs, metadata,
                                [&](std::size_t i, const io_detail::byte_sink& sink) {
                                  return io_detail::write_part(tensors[i], info.storage, sink);
                                });
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
