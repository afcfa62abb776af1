// SPDX-License-Identifier: MIT
/// Refuses compacted layers whose parts do not fit together.
#pragma once

#include <cstddef>
#include <string>

#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/view/check.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// "layer 3 keys".
inline std::string part_of(const compacted_layer& layer, const char* part) {
  return "layer " + std::to_string(layer.number) + " " + part;
}

/// The first row of a head whose position does not ascend, or `end`.
inline std::size_t first_out_of_order(const std::vector<index_t>& positions, std::size_t first,
                                      std::size_t end) {
  index_t last = -1;
  for (std::size_t row = first; row < end; ++row) {
    if (positions[row] <= last) return row;
    last = positions[row];
  }
  return end;
}

inline result<void> check_finite(const compacted_layer& layer, const char* part,
                                 const float* numbers, index_t rows, index_t cols) {
  const index_t at = first_non_finite(numbers, rows * cols);
  if (at == rows * cols) return {};
  return error{errc::non_finite, part_of(layer, part), at / cols, at % cols, {}};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// Whether `layer` is what `compacted_layer` says: offsets that start at 0, never fall and end with
/// the rows; as many positions, biases, key and value rows; positions ≥ 0 that ascend within each
/// head; finite numbers; one report a head.
///
/// Errors: `empty_input` for no head or no columns; `shape_mismatch` with both sizes;
/// `invalid_position`; `non_finite` with row and column, rows counted through the heads. Cost: one
/// read of the layer; no allocation.
[[nodiscard]] inline result<void> check_layer(const compacted_layer& layer) {
  const auto mismatch = [&](const char* part, index_t actual, index_t expected, const char* why) {
    return error{errc::shape_mismatch, detail::part_of(layer, part), actual, expected, why};
  };
  if (layer.number < 0) {
    return error{errc::invalid_option, "layer", layer.number, 0, "numbers start at 0"};
  }
  if (layer.offsets.size() < 2) {
    return error{errc::empty_input, detail::part_of(layer, "offsets"),
                 static_cast<index_t>(layer.offsets.size()), error::none, "no head"};
  }
  const index_t rows = layer.keys.rows();
  if (layer.offsets.front() != 0) return mismatch("offsets", layer.offsets.front(), 0, "the first");
  if (layer.offsets.back() != rows) {
    return mismatch("offsets", layer.offsets.back(), rows, "the last must be the rows of the keys");
  }
  for (std::size_t h = 0; h + 1 < layer.offsets.size(); ++h) {
    if (layer.offsets[h + 1] < layer.offsets[h]) {
      return mismatch("offsets", layer.offsets[h + 1], layer.offsets[h], "must not fall");
    }
  }
  const auto heads = static_cast<index_t>(layer.offsets.size()) - 1;
  if (static_cast<index_t>(layer.heads.size()) != heads) {
    return mismatch("heads", static_cast<index_t>(layer.heads.size()), heads, "one report a head");
  }
  constexpr const char* by_key = "one for each row of the keys";
  if (layer.values.rows() != rows) return mismatch("values", layer.values.rows(), rows, by_key);
  if (layer.bias.size() != rows) return mismatch("bias", layer.bias.size(), rows, by_key);
  if (static_cast<index_t>(layer.positions.size()) != rows) {
    return mismatch("positions", static_cast<index_t>(layer.positions.size()), rows, by_key);
  }
  if (static_cast<index_t>(layer.key_positions.size()) != rows) {
    return mismatch("key_positions", static_cast<index_t>(layer.key_positions.size()), rows,
                    by_key);
  }
  for (const matrix* part : {&layer.keys, &layer.values}) {
    if (part->cols() > 0) continue;
    return error{errc::empty_input, detail::part_of(layer, part == &layer.keys ? "keys" : "values"),
                 0, error::none, "no columns"};
  }
  for (std::size_t h = 0; h < layer.heads.size(); ++h) {
    const auto end = static_cast<std::size_t>(layer.offsets[h + 1]);
    const auto bad = detail::first_out_of_order(layer.positions,
                                                static_cast<std::size_t>(layer.offsets[h]), end);
    if (bad == end) continue;
    return error{errc::invalid_position, detail::part_of(layer, "positions"), layer.positions[bad],
                 error::none,
                 "row " + std::to_string(bad) + ", head " + std::to_string(h) +
                     ": must be at least 0 and ascend"};
  }
  if (const auto ok =
          detail::check_finite(layer, "keys", layer.keys.data(), rows, layer.keys.cols());
      !ok) {
    return ok;
  }
  if (const auto ok =
          detail::check_finite(layer, "values", layer.values.data(), rows, layer.values.cols());
      !ok) {
    return ok;
  }
  return detail::check_finite(layer, "bias", layer.bias.data(), rows, 1);
}

/// `invalid_option` where numbers of layers do not ascend from 0: one that stands twice would be
/// looked up once.
[[nodiscard]] inline result<void> check_layer_order(const compacted_cache& cache) {
  index_t before = -1;
  for (const compacted_layer& layer : cache.layers) {
    if (layer.number <= before) {
      return error{errc::invalid_option, "layer", layer.number, before + 1, "layers must ascend"};
    }
    before = layer.number;
  }
  return {};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
