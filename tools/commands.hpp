// SPDX-License-Identifier: MIT
/// The tool's commands, their arguments already checked. Each returns an exit code.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kvfit/core/element.hpp"

namespace kvfit_tool {

struct compact_arguments {
  std::string capture;
  std::string output;
  std::string method = "default";
  double ratio = 1;
  std::optional<kvfit::dtype> storage = {};  ///< none: the type of the capture's keys
  std::int64_t protect_first = 0;
  std::int64_t protect_last = 0;
  std::uint64_t seed = 0;
  int threads = 0;
};

int run_compact(const compact_arguments& arguments);

struct eval_arguments {
  std::vector<std::string> captures;
  std::vector<std::string> methods;
  std::vector<double> ratios;
  std::string json;  ///< empty: not written
  std::string svg;   ///< empty: not written
  std::uint64_t seed = 0;
  int threads = 0;
};

int run_eval(const eval_arguments& arguments);

int run_methods(bool as_json);

}  // namespace kvfit_tool
