// SPDX-License-Identifier: MIT
/// The instruction sets of the compiled library (target kvfit::compiled), without what crosses
/// their entry points: whoever only chooses among them need not compile that.
#pragma once

#include <span>
#include <string_view>

namespace kvfit {
struct selection_functions;  // selection/any_selection.hpp
struct bias_functions;       // bias/any_bias.hpp
struct values_functions;     // values/any_values.hpp
struct gradient_functions;   // refine/any_gradient.hpp
}  // namespace kvfit

namespace kvfit::compiled {

struct attention_entry_points;  // attention/compiled.hpp
struct compact_entry_points;    // compact/compiled.hpp
struct cache_entry_points;      // cache/compiled.hpp

/// One instruction set's code.
struct entry_points {
  std::string_view isa;
  const attention_entry_points* attention = nullptr;
  const compact_entry_points* compact = nullptr;
  const cache_entry_points* cache = nullptr;
  /// The policies that kvfit knows, in the order of `any_selection` and its like.
  std::span<const selection_functions* const> selections = {};
  std::span<const bias_functions* const> biases = {};
  std::span<const values_functions* const> values = {};
  std::span<const gradient_functions* const> gradients = {};  ///< null for `no_gradient`
};

/// Those compiled that this machine can run, the best first; never empty.
[[nodiscard]] std::span<const entry_points> available() noexcept;

}  // namespace kvfit::compiled
