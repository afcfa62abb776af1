// SPDX-License-Identifier: MIT
/// What the schemas of kvfit share: metadata entries, and tensors named `layers.{number}.{part}`.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <initializer_list>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/io/safetensors_read.hpp"
#include "kvfit/io/tensor_view.hpp"
#include "kvfit/view/row_view.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

/// A decimal integer from 0 to 2^63 − 1: digits alone, no leading zeros.
inline std::optional<index_t> parse_index(std::string_view text) noexcept {
  if (text.empty() || text.front() < '0' || text.front() > '9') return std::nullopt;
  if (text.size() > 1 && text.front() == '0') return std::nullopt;
  index_t number = 0;
  const auto end = text.data() + text.size();
  const auto [stop, failure] = std::from_chars(text.data(), end, number);
  if (failure != std::errc() || stop != end) return std::nullopt;
  return number;
}

/// A finite number in JSON's spelling (no sign "+", no bare point, no "inf"). Through JSON because
/// not every standard library can parse floats without the locale.
inline std::optional<double> parse_number(std::string_view text) {
  if (text.size() > 64) return std::nullopt;
  if (text.find_first_not_of("0123456789.eE+-") != std::string_view::npos) return std::nullopt;
  const auto parsed = nlohmann::json::parse(text.begin(), text.end(), nullptr, false);
  if (!parsed.is_number()) return std::nullopt;
  return parsed.get<double>();
}

/// The same where it is positive in fp32, finite and no subnormal.
inline std::optional<float> parse_positive_float(std::string_view text) {
  const auto number = parse_number(text);
  if (!number || !(*number >= static_cast<double>((std::numeric_limits<float>::min)())) ||
      !(*number <= static_cast<double>((std::numeric_limits<float>::max)()))) {
    return std::nullopt;
  }
  return static_cast<float>(*number);
}

/// `number` so that `parse_number` gives it back.
inline std::string print_number(double number) {
  return nlohmann::json(number).dump();
}

/// `number` so that `parse_positive_float` gives it back.
inline std::string print_float(float number) {
  return print_number(static_cast<double>(number));
}

inline error missing_metadata(std::string_view key) {
  return {errc::missing_entry, std::string(key), error::none, error::none,
          "an entry of the metadata"};
}

/// The entry, or `missing_entry`.
inline result<std::string> need_metadata(const safetensors_file& file, std::string_view key) {
  const auto found = file.metadata.find(key);
  if (found != file.metadata.end()) return found->second;
  return missing_metadata(key);
}

/// The entry as an integer, or `missing_entry`, or `malformed_file`.
inline result<index_t> need_index(const safetensors_file& file, std::string_view key) {
  const auto text = need_metadata(file, key);
  if (!text) return text.error();
  if (const auto number = parse_index(*text)) return *number;
  return error{errc::malformed_file, std::string(key), error::none, error::none,
               "metadata must be an integer from 0 on, is " + shown_name(*text)};
}

/// The entry `scale`, or `missing_entry`, or `malformed_file`.
inline result<float> need_scale(const safetensors_file& file) {
  const auto text = need_metadata(file, "scale");
  if (!text) return text.error();
  if (const auto number = parse_positive_float(*text)) return *number;
  return error{errc::malformed_file, "scale", error::none, error::none,
               "metadata must be a JSON number that is positive and normal in fp32, is " +
                   shown_name(*text)};
}

/// Checks the entries `format` and `version`; the version, from 1 to `latest`.
inline result<index_t> need_format(const safetensors_file& file, std::string_view format,
                                   index_t latest) {
  const auto found = need_metadata(file, "format");
  if (!found) return found.error();
  const auto unsupported = [](const char* key, const std::string& is, const std::string& expected) {
    return error{errc::unsupported_file, key, error::none, error::none,
                 "is " + shown_name(is) + ", expected " + expected};
  };
  if (*found != format) return unsupported("format", *found, "'" + std::string(format) + "'");
  const auto version = need_metadata(file, "version");
  if (!version) return version.error();
  const auto number = parse_index(*version);
  if (!number || *number < 1 || *number > latest) {
    return unsupported("version", *version, "'1' to '" + std::to_string(latest) + "'");
  }
  return *number;
}

/// The tensors of one layer, by the last part of their names.
using layer_parts = std::map<std::string_view, const tensor_view*>;

/// "layers.3.k".
inline std::string part_name(index_t layer, std::string_view part) {
  return "layers." + std::to_string(layer) + "." + std::string(part);
}

/// Every layer of the file by its number. Tensors outside `layers.` are none of the schema's
/// business; within, an unknown part is `unsupported_file`, and a number that is none is
/// `malformed_file`: nothing that could change the meaning is passed over.
inline result<std::map<index_t, layer_parts>> group_by_layer(
    const safetensors_file& file, std::initializer_list<std::string_view> parts) {
  constexpr std::string_view prefix = "layers.";
  std::map<index_t, layer_parts> layers;
  for (const tensor_view& tensor : file.tensors) {
    const std::string_view full = tensor.name;
    if (!full.starts_with(prefix)) continue;
    const std::string_view rest = full.substr(prefix.size());
    const std::size_t point = rest.find('.');
    const auto number = parse_index(rest.substr(0, point));
    if (!number || point == std::string_view::npos) {
      return error{errc::malformed_file, tensor.name, error::none, error::none,
                   "expected layers.{number}.{part}"};
    }
    const std::string_view part = rest.substr(point + 1);
    if (std::find(parts.begin(), parts.end(), part) == parts.end()) {
      return error{errc::unsupported_file, tensor.name, error::none, error::none,
                   "this version knows no such part of a layer"};
    }
    layers[*number][part] = &tensor;
  }
  return layers;
}

/// The part, or `missing_entry` naming it; `malformed_file` where it has other than `rank`
/// dimensions.
inline result<const tensor_view*> need_part(index_t layer, const layer_parts& parts,
                                            std::string_view part, std::size_t rank) {
  const auto found = parts.find(part);
  if (found == parts.end()) {
    return error{errc::missing_entry, part_name(layer, part), error::none, error::none, {}};
  }
  const tensor_view& tensor = *found->second;
  if (tensor.shape.size() == rank) return &tensor;
  return error{errc::malformed_file, tensor.name, error::none, error::none,
               "has " + std::to_string(tensor.shape.size()) + " dimensions, expected " +
                   std::to_string(rank)};
}

/// `shape_mismatch` unless dimension `axis` is `expected`.
inline result<void> check_size(const tensor_view& tensor, std::size_t axis, index_t expected,
                               const char* meaning) {
  if (tensor.shape[axis] == expected) return {};
  return error{errc::shape_mismatch, tensor.name, tensor.shape[axis], expected, meaning};
}

/// `empty_input` where a dimension is 0.
inline result<void> check_not_empty(const tensor_view& tensor) {
  for (std::size_t axis = 0; axis < tensor.shape.size(); ++axis) {
    if (tensor.shape[axis] > 0) continue;
    return error{errc::empty_input, tensor.name, error::none, error::none,
                 "dimension " + std::to_string(axis) + " is 0"};
  }
  return {};
}

/// `unsupported_file` unless the tensor has that type.
inline result<void> check_type(const tensor_view& tensor, tensor_type expected) {
  if (tensor.type == expected) return {};
  return error{
      errc::unsupported_file, tensor.name, error::none, error::none,
      "is " + std::string(name(tensor.type)) + ", expected " + std::string(name(expected))};
}

/// `unsupported_file` unless the tensor is F32, F16 or BF16.
inline result<void> check_numbers(const tensor_view& tensor) {
  if (dtype_of_tensor(tensor.type)) return {};
  return error{errc::unsupported_file, tensor.name, error::none, error::none,
               "is " + std::string(name(tensor.type)) + ", expected F32, F16 or BF16"};
}

/// Rows first … first + count − 1 of a tensor that passed `check_numbers`, seen as a matrix of rows
/// as long as its last dimension.
inline row_view rows_of(const tensor_view& tensor, index_t first, index_t count) noexcept {
  const dtype type = dtype_of_tensor(tensor.type).value_or(dtype::fp32);
  const index_t cols = tensor.shape.back();
  const std::byte* start = tensor.bytes.data() + first * cols * static_cast<index_t>(size_of(type));
  return {start, type, count, cols, cols};
}

}  // namespace io_detail

}  // namespace KVFIT_ISA
}  // namespace kvfit
