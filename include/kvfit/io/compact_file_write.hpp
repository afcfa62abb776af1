// SPDX-License-Identifier: MIT
/// Writes result files: compact keys, values, biases and positions (docs/formats.md).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <set>
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
#include "kvfit/view/load.hpp"

namespace kvfit::inline KVFIT_ISA {

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
    const index_t count = std::min(rows_at_once, view.rows() - first);
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
                                       index_t logical_length, const std::string& place) {
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
  const std::size_t bad = first_bad_position(head.positions, logical_length);
  if (bad != head.positions.size()) {
    return error{errc::invalid_position, place + "positions", head.positions[bad], logical_length,
                 "at row " + std::to_string(bad) +
                     ": must be -1, or ascend and be less than the logical length"};
  }
  return {};
}

inline std::string place_of(const compact_layer& layer, std::size_t head) {
  return "layers." + std::to_string(layer.number) + " head " + std::to_string(head) + " ";
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
    if (auto ok = check_compact_head(head, layer.heads.front(), info.logical_length, place); !ok) {
      return ok;
    }
    if (head.keys.rows() > max_i32 - total) {
      return error{errc::invalid_option, name, error::none, max_i32,
                   "rows of all heads together exceed 31 bits"};
    }
    total += head.keys.rows();
    if (auto ok = encode_rows(head.keys, info.storage, place + "keys", nowhere); !ok) return ok;
    if (auto ok = encode_rows(head.values, info.storage, place + "values", nowhere); !ok) return ok;
  }
  return {};
}

/// Types and shapes of a layer's five parts, in the order in which `write_part` counts them.
inline void add_specs(const compact_layer& layer, dtype storage, std::vector<tensor_spec>& specs) {
  index_t rows = 0;
  for (const compact_head& head : layer.heads) rows += head.keys.rows();
  const compact_head& first = layer.heads.front();
  const tensor_type stored = tensor_type_of(storage);
  const auto offsets = static_cast<index_t>(layer.heads.size()) + 1;
  specs.push_back({part_name(layer.number, "k"), stored, {rows, first.keys.cols()}});
  specs.push_back({part_name(layer.number, "v"), stored, {rows, first.values.cols()}});
  specs.push_back({part_name(layer.number, "bias"), tensor_type::f32, {rows}});
  specs.push_back({part_name(layer.number, "positions"), tensor_type::i32, {rows}});
  specs.push_back({part_name(layer.number, "head_offsets"), tensor_type::i32, {offsets}});
}

/// Hands one part of a layer to `sink`, head by head.
inline result<void> write_part(const compact_layer& layer, std::size_t part, dtype storage,
                               const byte_sink& sink) {
  if (part == 4) {
    std::vector<std::int32_t> offsets{0};
    for (const compact_head& head : layer.heads) {
      offsets.push_back(offsets.back() + static_cast<std::int32_t>(head.keys.rows()));
    }
    return sink(std::as_bytes(std::span(offsets)));
  }
  for (std::size_t h = 0; h < layer.heads.size(); ++h) {
    const compact_head& head = layer.heads[h];
    result<void> done;
    if (part == 0) {
      done = encode_rows(head.keys, storage, place_of(layer, h) + "keys", sink);
    } else if (part == 1) {
      done = encode_rows(head.values, storage, place_of(layer, h) + "values", sink);
    } else if (part == 2) {
      done = sink(std::as_bytes(head.bias));
    } else {
      std::vector<std::int32_t> positions;
      for (const index_t row : head.positions) positions.push_back(static_cast<std::int32_t>(row));
      done = sink(std::as_bytes(std::span(positions)));
    }
    if (!done) return done;
  }
  return {};
}

}  // namespace io_detail

/// Writes `layers` to `path`, replacing a file there whole or not at all.
///
/// Errors, before anything is written: `shape_mismatch`, `empty_input`, `null_data`, `non_finite`
/// and `storage_overflow` (row and column within the head named), `invalid_position`,
/// `invalid_option` (scale not positive and normal, logical length outside I32, a layer twice);
/// then `file_unwritable`. Cost: two reads of all rows; holds some rows and one head's positions.
[[nodiscard]] inline result<void> write_compact_file(const std::filesystem::path& path,
                                                     const compact_file_info& info,
                                                     std::span<const compact_layer> layers) {
  return io_detail::guarded(errc::file_unwritable, [&]() -> result<void> {
    using io_detail::max_i32;
    if (info.logical_length < 0 || info.logical_length > max_i32) {
      return error{errc::invalid_option, "logical_length", info.logical_length, max_i32,
                   "must not be negative, and below 2^31"};
    }
    const std::string scale = io_detail::print_float(info.scale);
    if (!io_detail::parse_positive_float(scale)) {
      return error{errc::invalid_option, "scale", error::none, error::none,
                   "must be positive and normal in fp32, is " + scale};
    }
    if (info.storage != dtype::fp32 && info.storage != dtype::fp16 && info.storage != dtype::bf16) {
      return error{errc::invalid_option, "storage", static_cast<index_t>(info.storage), error::none,
                   "must be fp32, fp16 or bf16"};
    }
    if (layers.empty()) return error{errc::empty_input, "layers", 0, error::none, {}};

    std::set<index_t> numbers;
    std::vector<tensor_spec> specs;
    for (const compact_layer& layer : layers) {
      if (auto ok = io_detail::check_compact_layer(layer, info); !ok) return ok;
      if (!numbers.insert(layer.number).second) {
        return error{errc::invalid_option, "layers", layer.number, error::none, "appears twice"};
      }
      io_detail::add_specs(layer, info.storage, specs);
    }
    constexpr std::size_t parts = 5;
    return write_safetensors_by(path, specs,
                                {{"format", "kvfit-compact"},
                                 {"version", "1"},
                                 {"method", info.method},
                                 {"logical_length", std::to_string(info.logical_length)},
                                 {"scale", scale},
                                 {"library_version", version}},
                                [&](std::size_t i, const io_detail::byte_sink& sink) {
                                  return io_detail::write_part(layers[i / parts], i % parts,
                                                               info.storage, sink);
                                });
  });
}

}  // namespace kvfit::inline KVFIT_ISA
