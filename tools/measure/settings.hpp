// SPDX-License-Identifier: MIT
/// The settings of methods that `--set` changes: one table of what there is.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "measure/candidate.hpp"

namespace kvfit_tool {

struct method_options;  // method_options.hpp: what it holds takes long to compile

/// One line of the table.
struct setting {
  std::string name;
  std::string summary;
  std::string range;  ///< "0 to 0.5", "true|false", "fp32|fp16|bf16"
  /// The value as every table and file spells it; nothing where it is outside the range.
  std::function<std::optional<std::string>(const std::string& text)> canonical;
  /// Puts a canonical value into the options. False where the method has no such setting.
  std::function<bool(method_options& to, const std::string& canonical)> apply;
  /// The same in C++: "options.queries.held_out = 0;".
  std::function<std::string(const std::string& canonical)> in_code;
};

/// All of them, in the order in which help lists them.
const std::vector<setting>& settings();

/// The setting of that name, or none.
const setting* find_setting(std::string_view name);

}  // namespace kvfit_tool
