// SPDX-License-Identifier: MIT
/// The figures of evaluations by the names that their JSON has for them.
#pragma once

#include <string>
#include <vector>

#include "measure/requirement.hpp"

namespace kvfit_tool {

struct evaluation;         // evaluation.hpp
struct engine_evaluation;  // engine_eval.hpp

/// Of a row of captures. Those of `against` are there only where rows are compared with another.
std::vector<std::string> capture_figures(bool with_against);
/// Of a row of `--engine`.
std::vector<std::string> engine_figures();

/// All rows with all figures, in the order of the evaluation.
std::vector<judged_row> judged_rows(const evaluation& measured);
std::vector<judged_row> judged_rows(const engine_evaluation& measured);

}  // namespace kvfit_tool
