// SPDX-License-Identifier: MIT
/// The rotation of a capture's rows, as its metadata words it (docs/formats.md).
#pragma once

#include <optional>
#include <string_view>

#include "kvfit/attention/rope.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/io/layer_tensors.hpp"

namespace kvfit::inline KVFIT_ISA {

namespace io_detail {

/// "post, interleaved, theta BASE" or "post, half-split, theta BASE": rows lie after a rotation of
/// all their elements. Anything else says nothing, and is no error: the entry is optional.
inline std::optional<rope> parse_rope(std::string_view text) {
  rope rotation;
  const auto skip = [&text](std::string_view part) {
    if (text.substr(0, part.size()) != part) return false;
    text.remove_prefix(part.size());
    return true;
  };
  if (skip("post, interleaved, theta ")) {
    rotation.pairing = rope_pairing::interleaved;
  } else if (!skip("post, half-split, theta ")) {
    return {};
  }
  const auto base = parse_positive_float(text);
  if (!base) return {};
  rotation.base = static_cast<double>(*base);
  return rotation;
}

}  // namespace io_detail

}  // namespace kvfit::inline KVFIT_ISA
