// SPDX-License-Identifier: MIT
/// Writes result files: compact keys, values, biases and positions (docs/formats.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/core/version.hpp"
#include "kvfit/io/compact_layers.hpp"
#include "kvfit/io/guarded.hpp"
#include "kvfit/io/layer_tensors.hpp"
#include "kvfit/io/safetensors_write.hpp"
#include "kvfit/view/row_view.hpp"

namespace kvfit::inline KVFIT_ISA {

namespace io_detail {

/// Appends `view` in the type `storage`. `non_finite` or `storage_overflow` with row and column.
inline result<void> append_rows(std::vector<std::byte>& out, const row_view& view, dtype storage,
                                const std::string& argument) {
  const std::size_t size = size_of(storage);
  for (index i = 0; i < view.rows(); ++i) {
    std::size_t place = out.size();
    out.resize(place + static_cast<std::size_t>(view.cols()) * size);
    for (index j = 0; j < view.cols(); ++j, place += size) {
      const float number = view(i, j);
      float stored = number;
      if (storage == dtype::fp16) {
        const fp16 half = to_fp16(number);
        stored = to_float(half);
        std::memcpy(&out[place], &half, sizeof half);
      } else if (storage == dtype::bf16) {
        const bf16 brain = to_bf16(number);
        stored = to_float(brain);
        std::memcpy(&out[place], &brain, sizeof brain);
      } else {
        std::memcpy(&out[place], &number, sizeof number);
      }
      if (is_infinite_or_nan(number)) return error{errc::non_finite, argument, i, j, {}};
      if (is_infinite_or_nan(stored)) {
        return error{errc::storage_overflow, argument, i, j,
                     print_float(number) + " as " + std::string(name(storage))};
      }
    }
  }
  return {};
}

/// The bytes of one layer's tensors.
struct layer_bytes {
  std::vector<std::byte> keys;
  std::vector<std::byte> values;
  std::vector<float> bias;
  std::vector<std::int32_t> positions;
  std::vector<std::int32_t> head_offsets{0};
};

/// Shapes, biases and positions of one head against its layer's first.
inline result<void> check_compact_head(const compact_head& head, const compact_head& first,
                                       index logical_length, const std::string& place) {
  const index rows = head.keys.rows();
  const auto mismatch = [&](const char* what, index actual, index expected, const char* why) {
    return error{errc::shape_mismatch, place + what, actual, expected, why};
  };
  const auto bias_rows = static_cast<index>(head.bias.size());
  const auto position_rows = static_cast<index>(head.positions.size());
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
      return error{errc::non_finite, place + "bias", static_cast<index>(i), 0, {}};
    }
  }
  const std::size_t bad = first_bad_position(head.positions, logical_length);
  if (bad != head.positions.size()) {
    return error{errc::invalid_position, place + "positions", head.positions[bad], logical_length,
                 "at row " + std::to_string(bad) +
                     ": must be -1, or ascend and be less than the logical length"};
  }
  return {};
}

inline result<layer_bytes> encode_layer(const compact_layer& layer, const compact_file_info& info) {
  const std::string name = "layers." + std::to_string(layer.number);
  if (layer.number < 0) {
    return error{errc::invalid_option, name, layer.number, 0, "layer numbers start at 0"};
  }
  if (layer.heads.empty()) {
    return error{errc::empty_input, name, error::none, error::none, "has no heads"};
  }
  layer_bytes bytes;
  index total = 0;
  for (std::size_t h = 0; h < layer.heads.size(); ++h) {
    const compact_head& head = layer.heads[h];
    const std::string place = name + " head " + std::to_string(h) + " ";
    if (auto checked = check_compact_head(head, layer.heads.front(), info.logical_length, place);
        !checked) {
      return checked.error();
    }
    if (head.keys.rows() > max_i32 - total) {
      return error{errc::invalid_option, name, error::none, max_i32, "rows of all heads together"};
    }
    total += head.keys.rows();
    if (auto done = append_rows(bytes.keys, head.keys, info.storage, place + "keys"); !done) {
      return done.error();
    }
    if (auto done = append_rows(bytes.values, head.values, info.storage, place + "values"); !done) {
      return done.error();
    }
    bytes.bias.insert(bytes.bias.end(), head.bias.begin(), head.bias.end());
    for (const index position : head.positions) {
      bytes.positions.push_back(static_cast<std::int32_t>(position));
    }
    bytes.head_offsets.push_back(static_cast<std::int32_t>(total));
  }
  return bytes;
}

}  // namespace io_detail

/// Writes `layers` to `path`, replacing a file there whole or not at all.
///
/// Errors, before anything is written: `shape_mismatch`, `empty_input`, `null_data`, `non_finite`
/// and `storage_overflow` (row and column within the head named), `invalid_position`,
/// `invalid_option` (scale not positive and finite, logical length outside I32, a layer twice);
/// then `file_unwritable`. Cost: the length of the file in memory.
[[nodiscard]] inline result<void> write_compact_file(const std::filesystem::path& path,
                                                     const compact_file_info& info,
                                                     std::span<const compact_layer> layers) {
  return io_detail::guarded(errc::file_unwritable, [&]() -> result<void> {
    using io_detail::max_i32;
    using io_detail::part_name;
    if (info.logical_length < 0 || info.logical_length > max_i32) {
      return error{errc::invalid_option, "logical_length", info.logical_length, max_i32, {}};
    }
    const std::string scale = io_detail::print_float(info.scale);
    if (!io_detail::parse_positive_float(scale)) {
      return error{errc::invalid_option, "scale", error::none, error::none,
                   "must be positive, finite and no subnormal"};
    }
    if (info.storage != dtype::fp32 && info.storage != dtype::fp16 && info.storage != dtype::bf16) {
      return error{errc::invalid_option, "storage", static_cast<index>(info.storage), error::none,
                   "is no dtype"};
    }
    if (layers.empty()) return error{errc::empty_input, "layers", 0, error::none, {}};

    std::map<index, io_detail::layer_bytes> encoded;
    std::vector<tensor_view> tensors;
    for (const compact_layer& layer : layers) {
      auto bytes = io_detail::encode_layer(layer, info);
      if (!bytes) return bytes.error();
      const auto [at, fresh] = encoded.emplace(layer.number, std::move(*bytes));
      if (!fresh) {
        return error{errc::invalid_option, "layers", layer.number, error::none, "appears twice"};
      }
      const auto& [number, parts] = *at;
      const auto rows = static_cast<index>(parts.bias.size());
      const compact_head& first = layer.heads.front();
      const tensor_type stored = tensor_type_of(info.storage);
      tensors.push_back({part_name(number, "k"), stored, {rows, first.keys.cols()}, parts.keys});
      tensors.push_back(
          {part_name(number, "v"), stored, {rows, first.values.cols()}, parts.values});
      tensors.push_back({part_name(number, "bias"),
                         tensor_type::f32,
                         {rows},
                         std::as_bytes(std::span(parts.bias))});
      tensors.push_back({part_name(number, "positions"),
                         tensor_type::i32,
                         {rows},
                         std::as_bytes(std::span(parts.positions))});
      tensors.push_back({part_name(number, "head_offsets"),
                         tensor_type::i32,
                         {static_cast<index>(parts.head_offsets.size())},
                         std::as_bytes(std::span(parts.head_offsets))});
    }
    return write_safetensors(path, tensors,
                             {{"format", "kvfit-compact"},
                              {"version", "1"},
                              {"method", info.method},
                              {"logical_length", std::to_string(info.logical_length)},
                              {"scale", scale},
                              {"library_version", version}});
  });
}

}  // namespace kvfit::inline KVFIT_ISA
