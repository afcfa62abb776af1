// SPDX-License-Identifier: MIT
#include "candidate.hpp"

namespace kvfit_tool {

std::string label_of(const candidate& what) {
  std::string list;
  for (const setting_value& value : what.settings) {
    list += (list.empty() ? "" : ",") + value.name + "=" + value.text;
  }
  return list.empty() ? what.method : what.method + "{" + list + "}";
}

}  // namespace kvfit_tool
