// SPDX-License-Identifier: MIT
/// The settings of methods that `--set` changes: one table of what there is.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "candidate.hpp"
#include "kvfit/compact/options.hpp"

namespace kvfit_tool {

/// One line of the table.
struct setting {
  std::string name;
  std::string summary;
  std::string range;  ///< "0 to 0.5", "true|false", "fp32|fp16|bf16"
  /// The value as every table and file spells it; nothing where it is outside the range.
  std::function<std::optional<std::string>(const std::string& text)> canonical;
  /// Puts a canonical value into the options. False where the method has no such setting.
  std::function<bool(kvfit::compact_options& to, const std::string& canonical)> apply;
  /// The same in C++: "options.held_out = 0;".
  std::function<std::string(const std::string& canonical)> in_code;
};

/// All of them, in the order in which help lists them.
const std::vector<setting>& settings();

/// The setting of that name, or none.
const setting* find_setting(std::string_view name);

/// Applies all values in turn to what the preset `method` says. Returns what is wrong: a method
/// without such a setting, or values that do not go together. Nothing: all is well.
std::string apply_settings(kvfit::compact_options& to, std::string_view method,
                           const std::vector<setting_value>& values);

}  // namespace kvfit_tool
