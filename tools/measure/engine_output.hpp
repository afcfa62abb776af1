// SPDX-License-Identifier: MIT
/// An evaluation of an engine as a table, a plot and JSON.
#pragma once

#include <string>

#include "measure/engine_eval.hpp"

namespace kvfit_tool {

/// Of the JSON format (docs/formats.md).
inline constexpr int engine_eval_version = 3;

/// A line a candidate, a column a ratio; then answers by the depth of their facts.
std::string to_table(const engine_evaluation& measured);

/// KL and recall side by side against the ratio; below them KL off context and on answers.
std::string to_plot(const engine_evaluation& measured);

/// Figures that were not measured become null.
std::string to_json(const engine_evaluation& measured);

}  // namespace kvfit_tool
