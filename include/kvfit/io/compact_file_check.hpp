// SPDX-License-Identifier: MIT
/// Refuses what can't be written as a result file, before anything is.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/io/attention_rule_check.hpp"
#include "kvfit/io/compact_layers.hpp"
#include "kvfit/io/layer_tensors.hpp"
#include "kvfit/view/load.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

/// One row in the type `storage`, at `to`. `non_finite` or `storage_overflow` with row and column.
inline result<void> encode_row(const float* numbers, index_t cols, dtype storage, index_t row,
                               const std::string& argument, std::byte* to) {
  const std::size_t size = size_of(storage);
  for (index_t j = 0; j < cols; ++j, to += size) {
    const float number = numbers[j];
    float stored = number;
    if (storage == dtype::fp16) {
      const fp16 half = to_fp16(number);
      stored = to_float(half);
      std::memcpy(to, &half, sizeof half);
    } else if (storage == dtype::bf16) {
      const bf16 brain = to_bf16(number);
      stored = to_float(brain);
      std::memcpy(to, &brain, sizeof brain);
    } else {
      std::memcpy(to, &number, sizeof number);
    }
    if (is_infinite_or_nan(number)) return error{errc::non_finite, argument, row, j, {}};
    if (is_infinite_or_nan(stored)) {
      return error{errc::storage_overflow, argument, row, j,
                   print_float(number) + " as " + std::string(name(storage))};
    }
  }
  return {};
}

/// Hands `view` to `sink` in the type `storage`, some rows at a time.
template <class Sink>
result<void> encode_rows(const row_view& view, dtype storage, const std::string& argument,
                         const Sink& sink) {
  constexpr index_t rows_at_once = 64;
  const index_t cols = view.cols();
  const std::size_t row_bytes = static_cast<std::size_t>(cols) * size_of(storage);
  std::vector<float> numbers(static_cast<std::size_t>(rows_at_once * cols));
  std::vector<std::byte> bytes(static_cast<std::size_t>(rows_at_once) * row_bytes);
  for (index_t first = 0; first < view.rows(); first += rows_at_once) {
    const index_t count = (std::min)(rows_at_once, view.rows() - first);
    const auto loaded = load_rows(view, first, count, numbers.data());
    for (index_t i = 0; i < count; ++i) {
      const auto ok = encode_row(loaded.data + i * loaded.stride, cols, storage, first + i,
                                 argument, bytes.data() + static_cast<std::size_t>(i) * row_bytes);
      if (!ok) return ok;
    }
    const auto filled = static_cast<std::size_t>(count) * row_bytes;
    if (auto ok = sink(std::span<const std::byte>(bytes.data(), filled)); !ok) return ok;
  }
  return {};
}

/// Shapes, biases and positions of one head against its layer's first.
inline result<void> check_compact_head(const compact_head& head, const compact_head& first,
                                       const std::string& place) {
  const index_t rows = head.keys.rows();
  const auto mismatch = [&](const char* what, index_t actual, index_t expected, const char* why) {
    return error{errc::shape_mismatch, place + what, actual, expected, why};
  };
  const auto bias_rows = static_cast<index_t>(head.bias.size());
  const auto position_rows = static_cast<index_t>(head.positions.size());
  if (head.values.rows() != rows) {
    return mismatch("values", head.values.rows(), rows, "rows must equal the keys'");
  }
  if (bias_rows != rows) return mismatch("bias", bias_rows, rows, "rows must equal the keys'");
  if (position_rows != rows) {
    return mismatch("positions", position_rows, rows, "rows must equal the keys'");
  }
  if (head.keys.cols() != first.keys.cols()) {
    return mismatch("keys", head.keys.cols(), first.keys.cols(), "columns must equal head 0's");
  }
  if (head.values.cols() != first.values.cols()) {
    return mismatch("values", head.values.cols(), first.values.cols(),
                    "columns must equal head 0's");
  }
  for (const row_view* view : {&head.keys, &head.values}) {
    const char* const what = view == &head.keys ? "keys" : "values";
    if (view->cols() <= 0)
      return error{errc::empty_input, place + what, view->cols(), error::none, "columns"};
    if (rows > 0 && !view->is_backed()) {
      return error{errc::null_data, place + what, error::none, error::none, {}};
    }
  }
  for (std::size_t i = 0; i < head.bias.size(); ++i) {
    if (is_infinite_or_nan(head.bias[i])) {
      return error{errc::non_finite, place + "bias", static_cast<index_t>(i), 0, {}};
    }
  }
  const std::size_t bad = first_bad_position(head.positions, max_i32);
  if (bad != head.positions.size()) {
    return error{errc::invalid_position, place + "positions", head.positions[bad], max_i32,
                 "at row " + std::to_string(bad) + ": must be -1, or ascend and fit an I32"};
  }
  const auto stand = static_cast<index_t>(head.key_positions.size());
  if (stand != 0 && stand != rows) {
    return mismatch("key_positions", stand, rows, "one for each row of the keys, or none");
  }
  constexpr index_t largest = index_t{1} << 53U;
  for (const index_t position : head.key_positions) {
    if (position >= -largest && position <= largest) continue;
    return error{errc::invalid_position, place + "key_positions", position, largest, {}};
  }
  return {};
}

inline std::string place_of(const compact_layer& layer, std::size_t head) {
  return "layers." + std::to_string(layer.number) + " head " + std::to_string(head) + " ";
}

/// Whether any head of a layer says where its keys stand.
inline bool says_positions(const compact_layer& layer) {
  return std::any_of(layer.heads.begin(), layer.heads.end(),
                     [](const compact_head& head) { return !head.key_positions.empty(); });
}

/// Either all heads of a layer say where their keys stand or none, and all must where it matters.
inline result<void> check_key_positions(const compact_layer& layer) {
  if (!says_positions(layer) && !looks_at_positions(layer.rule)) return {};
  for (std::size_t h = 0; h < layer.heads.size(); ++h) {
    const compact_head& head = layer.heads[h];
    if (head.keys.rows() == static_cast<index_t>(head.key_positions.size())) continue;
    return error{errc::shape_mismatch, place_of(layer, h) + "key_positions", 0, head.keys.rows(),
                 looks_at_positions(layer.rule)
                     ? "the layer is causal, has a window or slopes: where its keys stand must be "
                       "said"
                     : "other heads of the layer have them"};
  }
  return {};
}

/// A number that can be read back from the metadata.
inline result<void> check_printed(float number, const std::string& argument) {
  if (parse_positive_float(print_float(number))) return {};
  return error{errc::invalid_option, argument, error::none, error::none,
               "must be positive and normal in fp32, is " + print_float(number)};
}

/// The rule of a layer, in numbers that can be read back.
inline result<void> check_written_rule(const compact_layer& layer, const compact_file_info& info) {
  const std::string place = "layers." + std::to_string(layer.number) + " ";
  const logit_rule& logits = layer.rule.logits;
  if (auto ok = check_printed(logits.scale.value_or(info.scale), place + "scale"); !ok) return ok;
  if (logits.soft_cap != 0) {
    if (auto ok = check_printed(logits.soft_cap, place + "soft_cap"); !ok) return ok;
  }
  const auto ok = check_attention_rule(layer.rule, static_cast<index_t>(layer.heads.size()),
                                       layer.heads.front().keys.cols());
  if (ok) return check_key_positions(layer);
  error cause = ok.error();
  cause.argument = place + cause.argument;
  return cause;
}

/// All that can be wrong with one layer, its numbers in the type they will be stored in included.
inline result<void> check_compact_layer(const compact_layer& layer, const compact_file_info& info) {
  const std::string name = "layers." + std::to_string(layer.number);
  if (layer.number < 0) {
    return error{errc::invalid_option, name, layer.number, 0, "layer numbers start at 0"};
  }
  if (layer.heads.empty()) {
    return error{errc::empty_input, name, error::none, error::none, "has no heads"};
  }
  const auto nowhere = [](std::span<const std::byte>) { return result<void>(); };
  index_t total = 0;
  for (std::size_t h = 0; h < layer.heads.size(); ++h) {
    const compact_head& head = layer.heads[h];
    const std::string place = place_of(layer, h);
    if (auto ok = check_compact_head(head, layer.heads.front(), place); !ok) return ok;
    if (head.keys.rows() > max_i32 - total) {
      return error{errc::invalid_option, name, error::none, max_i32, "rows of all heads together"};
    }
    total += head.keys.rows();
    if (auto ok = encode_rows(head.keys, info.storage, place + "keys", nowhere); !ok) return ok;
    if (auto ok = encode_rows(head.values, info.storage, place + "values", nowhere); !ok) return ok;
  }
  return check_written_rule(layer, info);
}

}  // namespace io_detail

}  // namespace KVFIT_ISA
}  // namespace kvfit
