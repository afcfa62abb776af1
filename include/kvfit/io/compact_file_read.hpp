// SPDX-License-Identifier: MIT
/// Reads result files: compact keys, values, biases and positions (docs/formats.md).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/io/compact_layers.hpp"
#include "kvfit/io/guarded.hpp"
#include "kvfit/io/layer_tensors.hpp"
#include "kvfit/io/safetensors_read.hpp"
#include "kvfit/view/row_view.hpp"

namespace kvfit {

/// A result file. It owns the memory its views show; moving it keeps them valid.
struct compact_file {
  compact_file_info info;                       ///< `storage` is the type of the first layer's keys
  std::string library_version;                  ///< of the kvfit that wrote the file
  std::vector<compact_layer> layers;            ///< ascending by number
  std::vector<std::vector<index_t>> positions;  ///< of each layer; the heads show parts of it
  safetensors_file file;                        ///< all that was read
};

}  // namespace kvfit

namespace kvfit::inline KVFIT_ISA {

namespace io_detail {

/// The first non-finite element of a view: {row, column}, or {rows, 0}.
inline std::pair<index_t, index_t> first_non_finite(const row_view& view) {
  for (index_t i = 0; i < view.rows(); ++i) {
    for (index_t j = 0; j < view.cols(); ++j) {
      if (is_infinite_or_nan(view(i, j))) return {i, j};
    }
  }
  return {view.rows(), 0};
}

/// Parts of an I32 tensor.
inline std::span<const std::int32_t> integers_of(const tensor_view& tensor) noexcept {
  return {reinterpret_cast<const std::int32_t*>(tensor.bytes.data()), tensor.bytes.size() / 4};
}

inline result<compact_layer> read_compact_layer(index_t number, const layer_parts& parts,
                                                index_t logical_length,
                                                std::vector<index_t>& positions) {
  const auto keys = need_part(number, parts, "k", 2);
  if (!keys) return keys.error();
  const auto values = need_part(number, parts, "v", 2);
  if (!values) return values.error();
  const auto bias = need_part(number, parts, "bias", 1);
  if (!bias) return bias.error();
  const auto rows_at = need_part(number, parts, "positions", 1);
  if (!rows_at) return rows_at.error();
  const auto offsets = need_part(number, parts, "head_offsets", 1);
  if (!offsets) return offsets.error();

  const index_t total = (*keys)->shape[0];
  for (const tensor_view* tensor : {*keys, *values}) {
    if (auto checked = check_numbers(*tensor); !checked) return checked.error();
    if (tensor->shape[1] == 0) {
      return error{errc::empty_input, tensor->name, 0, error::none, "columns"};
    }
  }
  if (auto checked = check_type(**bias, tensor_type::f32); !checked) return checked.error();
  for (const tensor_view* tensor : {*rows_at, *offsets}) {
    if (auto checked = check_type(*tensor, tensor_type::i32); !checked) return checked.error();
  }
  for (const tensor_view* tensor : {*values, *bias, *rows_at}) {
    if (auto checked = check_size(*tensor, 0, total, "rows must equal the keys'"); !checked) {
      return checked.error();
    }
  }

  const auto malformed = [](const tensor_view& tensor, const std::string& what) {
    return error{errc::malformed_file, tensor.name, error::none, error::none, what};
  };
  const auto ends = integers_of(**offsets);
  if (ends.size() < 2) return malformed(**offsets, "needs one number more than there are heads");
  if (ends.front() != 0) return malformed(**offsets, "must start with 0");
  if (ends.back() != total) {
    return malformed(**offsets, "ends with " + std::to_string(ends.back()) + ", expected " +
                                    std::to_string(total) + ", the rows of the keys");
  }
  if (!std::is_sorted(ends.begin(), ends.end())) return malformed(**offsets, "must ascend");
  for (const tensor_view* tensor : {*keys, *values}) {
    const auto [row, column] = first_non_finite(rows_of(*tensor, 0, total));
    if (row != total) {
      return malformed(*tensor, "not finite at row " + std::to_string(row) + ", column " +
                                    std::to_string(column));
    }
  }
  const std::span<const float> biases(reinterpret_cast<const float*>((*bias)->bytes.data()),
                                      static_cast<std::size_t>(total));
  const auto wild = std::find_if(biases.begin(), biases.end(), is_infinite_or_nan);
  if (wild != biases.end()) {
    return malformed(**bias, "not finite at row " + std::to_string(wild - biases.begin()));
  }

  const auto stored = integers_of(**rows_at);
  positions.assign(stored.begin(), stored.end());
  compact_layer layer;
  layer.number = number;
  layer.heads.reserve(ends.size() - 1);
  for (std::size_t h = 0; h + 1 < ends.size(); ++h) {
    const index_t first = ends[h];
    const index_t rows = ends[h + 1] - first;
    const auto start = static_cast<std::size_t>(first);
    const auto count = static_cast<std::size_t>(rows);
    const auto part = std::span<const index_t>(positions).subspan(start, count);
    const std::size_t bad = first_bad_position(part, logical_length);
    if (bad != count) {
      return malformed(**rows_at, "row " + std::to_string(start + bad) + " is " +
                                      std::to_string(part[bad]) +
                                      ": must be -1, or ascend within its head and be less than "
                                      "the logical length, " +
                                      std::to_string(logical_length));
    }
    layer.heads.push_back({rows_of(**keys, first, rows), rows_of(**values, first, rows),
                           biases.subspan(start, count), part});
  }
  return layer;
}

inline result<compact_file> read_compact_file(result<safetensors_file> read) {
  if (!read) return read.error();
  compact_file result;
  result.file = std::move(*read);
  const safetensors_file& file = result.file;
  if (auto checked = need_format(file, "kvfit-compact"); !checked) return checked.error();
  auto method = need_metadata(file, "method");
  if (!method) return method.error();
  auto library_version = need_metadata(file, "library_version");
  if (!library_version) return library_version.error();
  const auto logical_length = need_index(file, "logical_length");
  if (!logical_length) return logical_length.error();
  const auto scale = need_scale(file);
  if (!scale) return scale.error();
  result.info.method = std::move(*method);
  result.info.logical_length = *logical_length;
  result.info.scale = *scale;
  result.library_version = std::move(*library_version);

  const auto layers = group_by_layer(file, {"k", "v", "bias", "positions", "head_offsets"});
  if (!layers) return layers.error();
  if (layers->empty()) {
    return error{errc::missing_entry, "layers.{l}.k", error::none, error::none, "no layer at all"};
  }
  result.positions.resize(layers->size());
  for (const auto& [number, parts] : *layers) {
    auto layer =
        read_compact_layer(number, parts, *logical_length, result.positions[result.layers.size()]);
    if (!layer) return layer.error();
    result.layers.push_back(std::move(*layer));
  }
  result.info.storage = result.layers.front().heads.front().keys.type();
  return result;
}

}  // namespace io_detail

/// Reads a result file. What `write_compact_file` would refuse is refused here too.
///
/// Errors: those of `read_safetensors`; `missing_entry` naming the tensor or metadata entry;
/// `shape_mismatch` with both sizes; `empty_input`; `unsupported_file` for another format, version
/// or element type; `malformed_file` for offsets that do not ascend, positions out of range or
/// order, numbers that are not finite. Cost: that of `read_safetensors`, 8 bytes a row, and one
/// `compact_head` a head.
[[nodiscard]] inline result<compact_file> read_compact_file(const std::filesystem::path& path) {
  return io_detail::guarded(errc::file_unreadable,
                            [&] { return io_detail::read_compact_file(read_safetensors(path)); });
}

/// The same from bytes in memory, which are copied.
[[nodiscard]] inline result<compact_file> read_compact_file(std::span<const std::byte> bytes) {
  return io_detail::guarded(errc::file_unreadable,
                            [&] { return io_detail::read_compact_file(read_safetensors(bytes)); });
}

}  // namespace kvfit::inline KVFIT_ISA
