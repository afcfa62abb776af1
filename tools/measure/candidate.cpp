// SPDX-License-Identifier: MIT
#include "measure/candidate.hpp"

namespace kvfit_tool {

std::string label_of(const candidate& what) {
  std::string list;
  for (const setting_value& value : what.settings) {
    list += (list.empty() ? "" : ",") + value.name + "=" + value.text;
  }
  return list.empty() ? what.method : what.method + "{" + list + "}";
}

std::string label_of(const candidate& what, const std::string& queries, const std::string& budgets,
                     int rounds) {
  std::string label = label_of(what);
  if (!queries.empty()) label += " " + queries;
  if (!budgets.empty()) label += " " + budgets;
  if (rounds > 1) label += " rolling";
  return label;
}

}  // namespace kvfit_tool
