// SPDX-License-Identifier: MIT
/// A named tensor as it lies in a safetensors file: type, shape, bytes.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kvfit/core/element.hpp"
#include "kvfit/core/matrix.hpp"

namespace kvfit {

static_assert(std::endian::native == std::endian::little,
              "kvfit/io reads and writes little-endian files in place: big-endian hosts are not "
              "supported");

/// The types of safetensors whose elements are whole bytes, smallest first. The packed types of
/// fewer than 8 bits are not handled.
enum class tensor_type : std::uint8_t {
  boolean,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  i64,
  u64,
  f64,
  c64,
};

namespace io_tables {

struct tensor_type_row {
  std::string_view name;
  std::uint8_t size;
};

inline constexpr std::array<tensor_type_row, 17> tensor_types = {{
    {"BOOL", 1},
    {"U8", 1},
    {"I8", 1},
    {"F8_E5M2", 1},
    {"F8_E4M3", 1},
    {"F8_E8M0", 1},
    {"I16", 2},
    {"U16", 2},
    {"F16", 2},
    {"BF16", 2},
    {"I32", 4},
    {"U32", 4},
    {"F32", 4},
    {"I64", 8},
    {"U64", 8},
    {"F64", 8},
    {"C64", 8},
}};

}  // namespace io_tables

/// As the file spells it: "F16".
constexpr std::string_view name(tensor_type type) noexcept {
  const auto row = static_cast<std::size_t>(type);
  return row < io_tables::tensor_types.size() ? io_tables::tensor_types[row].name : "unknown";
}

/// Bytes of one element; 0 for a value outside the enumeration.
constexpr std::size_t size_of(tensor_type type) noexcept {
  const auto row = static_cast<std::size_t>(type);
  return row < io_tables::tensor_types.size() ? io_tables::tensor_types[row].size : 0;
}

/// The type a file spells so.
constexpr std::optional<tensor_type> tensor_type_named(std::string_view spelled) noexcept {
  for (std::size_t row = 0; row < io_tables::tensor_types.size(); ++row) {
    if (io_tables::tensor_types[row].name == spelled) return static_cast<tensor_type>(row);
  }
  return std::nullopt;
}

/// The type in a file of numbers kvfit computes with; `type` must be one of `is_number`.
constexpr tensor_type tensor_type_of(dtype type) noexcept {
  switch (type) {
    case dtype::fp16:
      return tensor_type::f16;
    case dtype::bf16:
      return tensor_type::bf16;
    case dtype::fp8_e4m3:
      return tensor_type::f8_e4m3;
    case dtype::fp8_e5m2:
      return tensor_type::f8_e5m2;
    default:
      break;
  }
  return tensor_type::f32;
}

/// The reverse: nothing where kvfit does not compute with the type.
constexpr std::optional<dtype> dtype_of_tensor(tensor_type type) noexcept {
  switch (type) {
    case tensor_type::f16:
      return dtype::fp16;
    case tensor_type::bf16:
      return dtype::bf16;
    case tensor_type::f32:
      return dtype::fp32;
    default:
      return std::nullopt;
  }
}

/// A tensor's name and shape, without its bytes.
struct tensor_spec {
  std::string name;
  tensor_type type = tensor_type::f32;
  std::vector<index_t> shape;  ///< empty for a scalar
};

/// One tensor, row-major, without owning its bytes. Read ones are aligned to their element size.
struct tensor_view {
  std::string name;
  tensor_type type = tensor_type::f32;
  std::vector<index_t> shape;  ///< empty for a scalar
  std::span<const std::byte> bytes;
};

}  // namespace kvfit
