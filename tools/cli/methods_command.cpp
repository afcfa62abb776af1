// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/commands.hpp"
#include "cli/exit_code.hpp"
#include "kvfit/core/version.hpp"
#include "measure/heads.hpp"

namespace kvfit_tool {

int run_methods(bool as_json) {
  if (as_json) {
    nlohmann::ordered_json out = {{"format", "kvfit-methods"},
                                  {"version", 1},
                                  {"library_version", kvfit::version},
                                  {"methods", nlohmann::ordered_json::array()}};
    for (const method& each : methods()) {
      out["methods"].push_back(
          {{"name", each.name}, {"summary", each.summary}, {"is_fitted", each.is_fitted}});
    }
    std::printf("%s\n", out.dump(1).c_str());
    return exit_done;
  }
  std::size_t width = 0;
  for (const method& each : methods()) width = std::max(width, each.name.size());
  for (const method& each : methods()) {
    const std::string name(each.name);
    const std::string summary(each.summary);
    std::printf("%-*s  %s\n", static_cast<int>(width), name.c_str(), summary.c_str());
  }
  return exit_done;
}

}  // namespace kvfit_tool
