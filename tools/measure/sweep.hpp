// SPDX-License-Identifier: MIT
/// `--set`: the values of settings that are tried, and the candidates they make.
#pragma once

#include <string>
#include <vector>

#include "measure/candidate.hpp"

namespace kvfit_tool {

/// The values of one setting that are tried, for all methods or for one.
struct sweep {
  std::string method;  ///< empty: for all
  std::string name;
  std::vector<std::string> values;  ///< canonical
};

/// Reads "NAME=VALUE,..." or "METHOD:NAME=VALUE,..." into `to`. Returns what is wrong with it, or
/// nothing.
std::string parse_sweep(const std::string& text, sweep& to);

/// What is wrong with the candidate's settings, or nothing.
std::string check_candidate(const candidate& what);

/// Every method with every combination of the values that `sweeps` gives its settings, in the order
/// of both. A sweep for one method goes before one for all.
std::vector<candidate> combine(const std::vector<std::string>& methods,
                               const std::vector<sweep>& sweeps);

}  // namespace kvfit_tool
