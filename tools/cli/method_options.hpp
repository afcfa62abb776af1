// SPDX-License-Identifier: MIT
/// The options of a method, and settings applied to them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "kvfit/compact/options.hpp"
#include "measure/candidate.hpp"
#include "measure/settings.hpp"

namespace kvfit_tool {

/// `kvfit::compact_options` by a name that can be declared without them.
struct method_options : kvfit::compact_options {};

/// Applies all values in turn to what the preset `method` says. Returns what is wrong: a method
/// without such a setting, or values that do not go together. Nothing: all is well.
std::string apply_settings(method_options& to, std::string_view method,
                           const std::vector<setting_value>& values);

}  // namespace kvfit_tool
