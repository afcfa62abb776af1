// SPDX-License-Identifier: MIT
/// The instruction sets of the compiled library (target kvfit::compiled), without what crosses its
/// doors: whoever only chooses among them need not compile that.
#pragma once

#include <span>
#include <string_view>

namespace kvfit::compiled {

struct compact_door;  // compact/compiled.hpp

/// One instruction set's code.
struct doors {
  std::string_view isa;
  const compact_door* compact = nullptr;
};

/// Those compiled that this machine can run, the best first; never empty.
[[nodiscard]] std::span<const doors> available() noexcept;

}  // namespace kvfit::compiled
