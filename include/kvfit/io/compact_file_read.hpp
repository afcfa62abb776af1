// SPDX-License-Identifier: MIT
/// Reads result files: compact keys, values, biases and positions (docs/formats.md).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/io/attention_entries.hpp"
#include "kvfit/io/catch_exceptions.hpp"
#include "kvfit/io/compact_layers.hpp"
#include "kvfit/io/expected_setup.hpp"
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
  std::vector<std::vector<index_t>> key_positions;  ///< the same; empty where not said
  safetensors_file file;                            ///< all that was read
};

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

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

/// Entries of a result's metadata that hold for all of it.
inline constexpr std::array<std::string_view, 11> compact_entries = {
    "format", "version",       "method", "library_version", "scale", "soft_cap", "causal",
    "window", "next_position", "rope",   "fingerprint"};
/// Of version 1.
inline constexpr std::array<std::string_view, 6> compact_entries_1 = {
    "format", "version", "method", "library_version", "scale", "logical_length"};

/// `end`: what original rows must be less than.
inline result<compact_layer> read_compact_layer(const safetensors_file& file, index_t version,
                                                index_t number, const layer_parts& parts,
                                                index_t end, std::vector<index_t>& positions,
                                                std::vector<index_t>& key_positions) {
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
  constexpr std::size_t most_heads = std::size_t{1} << 16U;
  if (ends.size() - 1 > most_heads) {
    return error{errc::unsupported_file, (*offsets)->name, static_cast<index_t>(ends.size()) - 1,
                 static_cast<index_t>(most_heads), "heads at most"};
  }
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
  const auto heads = static_cast<index_t>(ends.size()) - 1;
  auto rule = read_attention(file, version, number, parts, heads, (*keys)->shape[1]);
  if (!rule) return rule.error();
  layer.rule = std::move(*rule);
  auto stand_at =
      read_positions(number, parts, "key_positions", total, "one for each row of the keys");
  if (!stand_at) return stand_at.error();
  if (!parts.contains("key_positions") && looks_at_positions(layer.rule)) {
    return error{errc::missing_entry, part_name(number, "key_positions"), error::none, error::none,
                 "the layer is causal, has a window or slopes: where its keys stand must be said"};
  }
  key_positions = std::move(*stand_at);
  layer.heads.reserve(ends.size() - 1);
  for (std::size_t h = 0; h + 1 < ends.size(); ++h) {
    const index_t first = ends[h];
    const index_t rows = ends[h + 1] - first;
    const auto start = static_cast<std::size_t>(first);
    const auto count = static_cast<std::size_t>(rows);
    const auto part = std::span<const index_t>(positions).subspan(start, count);
    const std::size_t bad = first_bad_position(part, end);
    if (bad != count) {
      return malformed(**rows_at, "row " + std::to_string(start + bad) + " is " +
                                      std::to_string(part[bad]) +
                                      ": must be -1, or ascend within its head and be less than " +
                                      std::to_string(end));
    }
    layer.heads.push_back({rows_of(**keys, first, rows), rows_of(**values, first, rows),
                           biases.subspan(start, count), part,
                           key_positions.empty()
                               ? std::span<const index_t>()
                               : std::span<const index_t>(key_positions).subspan(start, count)});
  }
  return layer;
}

inline result<compact_file> read_compact_file(result<safetensors_file> read,
                                              const expected_setup& expected) {
  if (!read) return read.error();
  compact_file made;
  made.file = std::move(*read);
  const safetensors_file& file = made.file;
  const auto version = need_format(file, "kvfit-compact", 2);
  if (!version) return version.error();
  auto method = need_metadata(file, "method");
  if (!method) return method.error();
  auto library_version = need_metadata(file, "library_version");
  if (!library_version) return library_version.error();
  // Version 1 took the number of rows for the next position, and knew no other rule than a scale.
  const bool is_first = *version == 1;
  const auto next = need_index(file, is_first ? "logical_length" : "next_position");
  if (!next) return next.error();
  if (!is_first && *next > index_t{1} << 53U) {
    return error{errc::malformed_file, "next_position", *next, index_t{1} << 53U, "at most"};
  }
  const auto scale = need_scale(file);
  if (!scale) return scale.error();
  auto fingerprint = is_first ? result<std::string>(std::string()) : read_fingerprint(file);
  if (!fingerprint) return fingerprint.error();
  made.info.method = std::move(*method);
  made.info.next_position = *next;
  made.info.scale = *scale;
  made.info.fingerprint = std::move(*fingerprint);
  made.library_version = std::move(*library_version);

  const auto layers = is_first
                          ? group_by_layer(file, {"k", "v", "bias", "positions", "head_offsets"})
                          : group_by_layer(file, {"k", "v", "bias", "positions", "key_positions",
                                                  "head_offsets", "sinks", "alibi_slopes"});
  if (!layers) return layers.error();
  const std::span<const std::string_view> known =
      is_first ? std::span<const std::string_view>(compact_entries_1) : compact_entries;
  if (auto ok = refuse_unknown(file, *version, known, *layers); !ok) return ok.error();
  if (auto ok = check_common_rule(file, *version); !ok) return ok.error();
  if (layers->empty()) {
    return error{errc::missing_entry, "layers.{l}.k", error::none, error::none, "no layer at all"};
  }
  const index_t end = is_first ? *next : max_i32;
  made.positions.resize(layers->size());
  made.key_positions.resize(layers->size());
  for (const auto& [number, parts] : *layers) {
    const std::size_t place = made.layers.size();
    auto layer = read_compact_layer(file, *version, number, parts, end, made.positions[place],
                                    made.key_positions[place]);
    if (!layer) return layer.error();
    made.layers.push_back(std::move(*layer));
  }
  std::vector<said_of_layer> said;
  for (const compact_layer& layer : made.layers) {
    said.push_back({layer.number, layer.heads.front().keys.cols(), &layer.rule});
  }
  if (auto ok = check_against(made.info.fingerprint, said, expected); !ok) return ok.error();
  made.info.storage = made.layers.front().heads.front().keys.type();
  return made;
}

}  // namespace io_detail

/// Reads a result file of version 1 or 2. What `write_compact_file` would refuse is refused here
/// too, and what does not agree with `expected`; by default nothing is asked.
///
/// Errors: those of `read_safetensors`; `missing_entry` naming the tensor or metadata entry, or
/// what was asked for and is not said; `shape_mismatch` with both sizes; `empty_input`;
/// `unsupported_file` for another format, version, element type or unknown entry, and for what
/// differs from `expected`, naming it with both values; `malformed_file` for offsets that do not
/// ascend, positions out of range or order, numbers that are not finite. Cost: that of
/// `read_safetensors`, 16 bytes a row, and one `compact_head` a head.
[[nodiscard]] inline result<compact_file> read_compact_file(const std::filesystem::path& path,
                                                            const expected_setup& expected = {}) {
  return io_detail::catch_exceptions(errc::file_unreadable, [&] {
    return io_detail::read_compact_file(read_safetensors(path), expected);
  });
}

/// The same from bytes in memory, which are copied.
[[nodiscard]] inline result<compact_file> read_compact_file(std::span<const std::byte> bytes,
                                                            const expected_setup& expected = {}) {
  return io_detail::catch_exceptions(errc::file_unreadable, [&] {
    return io_detail::read_compact_file(read_safetensors(bytes), expected);
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
