// SPDX-License-Identifier: MIT
/// Which output errors count how much.
#pragma once

#include <cstdint>

namespace kvfit {

/// How squared errors of outputs are weighted.
enum class output_weighting : std::uint8_t {
  relative,  ///< every query's error relative to the length of its output
  absolute,  ///< as published: queries with long outputs dominate
};

}  // namespace kvfit
