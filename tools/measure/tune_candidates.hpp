// SPDX-License-Identifier: MIT
/// What `kvfit tune` tries where it is not told.
#pragma once

#include <string>
#include <vector>

#include "measure/candidate.hpp"

namespace kvfit_tool {

/// Presets as they are and with settings that have been seen to matter, of these methods alone or,
/// where there are none, of all that are worth trying.
std::vector<candidate> tune_candidates(const std::vector<std::string>& methods);

}  // namespace kvfit_tool
