// SPDX-License-Identifier: MIT
/// The tensors of a capture: [heads, rows, columns] of numbers, F8 ones with their scales.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/io/layer_tensors.hpp"
#include "kvfit/io/tensor_view.hpp"
#include "kvfit/view/row_memory.hpp"
#include "kvfit/view/row_view.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

/// heads · rows × cols numbers, and the tensor that they are of.
struct head_rows_tensor {
  const tensor_view* tensor = nullptr;
  index_t heads = 0;
  index_t rows = 0;  ///< of each head
  row_view all;      ///< the heads one below the other
};

/// `shape_mismatch` with both numbers unless `actual` is `expected`.
inline result<void> check_equal(const tensor_view& tensor, index_t actual, index_t expected,
                                const char* meaning) {
  if (actual == expected) return {};
  return error{errc::shape_mismatch, tensor.name, actual, expected, meaning};
}

inline std::optional<dtype> f8_type(tensor_type type) noexcept {
  if (type == tensor_type::f8_e4m3) return dtype::fp8_e4m3;
  if (type == tensor_type::f8_e5m2) return dtype::fp8_e5m2;
  return std::nullopt;
}

/// Rows of `of` that share a scale of `scales`: one for all, one a head, or one a head and row.
inline result<index_t> rows_a_scale(const head_rows_tensor& of, const tensor_view& scales) {
  if (auto ok = check_type(scales, tensor_type::f32); !ok) return ok.error();
  std::span<const index_t> shape = scales.shape;
  while (shape.size() > 3 && shape.front() == 1) shape = shape.subspan(1);  // [1, H, T, 1]
  const index_t heads = shape.empty() ? 1 : shape[0];
  const index_t rows = shape.size() < 2 ? 1 : shape[1];
  if (shape.size() < 3 || (shape.size() == 3 && shape[2] == 1)) {
    if (heads == of.heads && rows == of.rows) return index_t{1};
    if (heads == of.heads && rows == 1) return of.rows;
    if (heads == 1 && rows == 1) return of.heads * of.rows;
  }
  return error{errc::shape_mismatch, scales.name, heads, of.heads,
               "one scale, one a head, or one a head and row"};
}

/// Tensor `part` of a layer: of shape [heads, rows, columns] or [1, heads, rows, columns], F32,
/// F16, BF16, F8_E4M3 or F8_E5M2, with no dimension of 0. Numbers of F8 are multiplied by those of
/// `part`_scale, if there is one.
inline result<head_rows_tensor> read_head_rows(index_t layer, const layer_parts& parts,
                                               const std::string& part) {
  const auto entry = parts.find(part);
  if (entry == parts.end()) {
    return error{errc::missing_entry, part_name(layer, part), error::none, error::none, {}};
  }
  const tensor_view& tensor = *entry->second;
  std::span<const index_t> shape = tensor.shape;
  if (shape.size() == 4 && shape[0] == 1) shape = shape.subspan(1);
  if (shape.size() != 3) {
    return error{errc::malformed_file, tensor.name, error::none, error::none,
                 "has " + std::to_string(tensor.shape.size()) +
                     " dimensions, expected 3, or 4 of which the first is 1"};
  }
  const auto f8 = f8_type(tensor.type);
  if (!f8 && !dtype_of_tensor(tensor.type)) {
    return error{
        errc::unsupported_file, tensor.name, error::none, error::none,
        "is " + std::string(name(tensor.type)) + ", expected F32, F16, BF16, F8_E4M3 or F8_E5M2"};
  }
  if (auto checked = check_not_empty(tensor); !checked) return checked.error();
  constexpr index_t most_heads = index_t{1} << 16U;  // a view or block is held for each
  if (shape[0] > most_heads) {
    return error{errc::unsupported_file, tensor.name, shape[0], most_heads, "heads at most"};
  }
  head_rows_tensor made{&tensor, shape[0], shape[1], {}};
  const index_t rows = made.heads * made.rows;
  const index_t cols = shape[2];
  const auto scales = parts.find(part + "_scale");
  if (scales == parts.end()) {
    made.all = f8 ? row_view(tensor.bytes.data(), *f8, rows, cols, cols) : rows_of(tensor, 0, rows);
    return made;
  }
  const tensor_view& by = *scales->second;
  if (!f8) {
    return error{
        errc::unsupported_file, by.name, error::none, error::none,
        "scales go with F8 numbers; " + tensor.name + " is " + std::string(name(tensor.type))};
  }
  const auto shared = rows_a_scale(made, by);
  if (!shared) return shared.error();
  made.all = row_view(row_memory{.data = tensor.bytes.data(),
                                 .type = *f8,
                                 .rows = rows,
                                 .cols = cols,
                                 .row_stride = cols,
                                 .scales = {.data = by.bytes.data(),
                                            .type = dtype::fp32,
                                            .group = cols,
                                            .row_stride = 1,
                                            .row_group = *shared}});
  return made;
}

}  // namespace io_detail

}  // namespace KVFIT_ISA
}  // namespace kvfit
