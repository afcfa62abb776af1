// SPDX-License-Identifier: MIT
/// What the tool says, most of it on stderr.
#pragma once

#include <string>
#include <vector>

#include "kvfit/core/error.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "measure/requirement.hpp"

namespace kvfit_tool {

/// "kvfit: text" on stderr.
void warn(const std::string& text);

/// Says what went wrong with `file` and returns the exit code for it.
int fail(const std::string& file, const kvfit::error& cause);

/// Prints what falls short, or that nothing does, and returns the exit code for it.
int report_requirements(const std::vector<requirement>& asked, const std::vector<judged_row>& rows);

/// Says so where the system gave fewer threads than asked for.
void check_threads(const kvfit::thread_pool& pool, int wanted);

}  // namespace kvfit_tool
