// SPDX-License-Identifier: MIT
/// The instruction sets of the compiled library (target kvfit::compiled), without what crosses its
/// doors: whoever only chooses among them need not compile that.
#pragma once

#include <span>
#include <string_view>

namespace kvfit::compiled {

struct compact_entry_point;  // compact/compiled.hpp

/// One instruction set's code.
struct entry_points {
  std::string_view isa;
  const compact_entry_point* compact = nullptr;
};

/// Those compiled that this machine can run, the best first; never empty.
[[nodiscard]] std::span<const entry_points> available() noexcept;

}  // namespace kvfit::compiled
