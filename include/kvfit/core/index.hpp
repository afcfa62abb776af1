// SPDX-License-Identifier: MIT
/// The type of sizes and row numbers, without a matrix library.
#pragma once

#include <cstdint>

namespace kvfit {

/// Sizes and row numbers: signed 64-bit, so that products of sizes do not wrap.
using index_t = std::int64_t;

}  // namespace kvfit
