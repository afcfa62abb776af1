// SPDX-License-Identifier: MIT
#include "measure/sweep.hpp"

#include <algorithm>
#include <sstream>
#include <utility>

#include "cli/method_options.hpp"
#include "kvfit/presets.hpp"
#include "measure/heads.hpp"
#include "measure/settings.hpp"

namespace kvfit_tool {

namespace {

std::string setting_names() {
  std::string names;
  for (const setting& each : settings()) names += (names.empty() ? "" : ", ") + each.name;
  return names;
}

}  // namespace

std::string parse_sweep(const std::string& text, sweep& to) {
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos) return "needs NAME=VALUE,..., not \"" + text + "\"";
  std::string name = text.substr(0, equals);
  sweep made;
  if (const std::size_t colon = name.find(':'); colon != std::string::npos) {
    made.method = name.substr(0, colon);
    name = name.substr(colon + 1);
    if (find_method(made.method) == nullptr) return "unknown method \"" + made.method + "\"";
  }
  const setting* const known = find_setting(name);
  if (known == nullptr) return "unknown setting \"" + name + "\"; there are " + setting_names();
  made.name = name;
  std::istringstream list(text.substr(equals + 1) + ",");
  for (std::string value; std::getline(list, value, ',');) {
    const auto canonical = known->canonical(value);
    if (!canonical) return name + " is " + known->range + ", not \"" + value + "\"";
    if (std::find(made.values.begin(), made.values.end(), *canonical) != made.values.end()) {
      return name + ": " + *canonical + " is named twice";
    }
    made.values.push_back(*canonical);
  }
  to = std::move(made);
  return {};
}

std::string check_candidate(const candidate& what) {
  const auto preset = kvfit::presets::find(what.method);
  if (!preset) return "unknown method \"" + what.method + "\"";
  method_options options{preset->make(1)};
  return apply_settings(options, what.method, what.settings);
}

std::vector<candidate> combine(const std::vector<std::string>& methods,
                               const std::vector<sweep>& sweeps) {
  std::vector<candidate> all;
  for (const std::string& method : methods) {
    std::vector<candidate> here = {{.method = method}};
    for (const setting& each : settings()) {
      const auto values_for = [&](const std::string& whom) {
        return std::find_if(sweeps.begin(), sweeps.end(), [&](const sweep& one) {
          return one.name == each.name && one.method == whom;
        });
      };
      auto found = values_for(method);
      if (found == sweeps.end()) found = values_for({});
      if (found == sweeps.end()) continue;
      std::vector<candidate> longer;
      for (const candidate& base : here) {
        for (const std::string& value : found->values) {
          longer.push_back(base);
          longer.back().settings.push_back({each.name, value});
        }
      }
      here = std::move(longer);
    }
    for (candidate& one : here) all.push_back(std::move(one));
  }
  return all;
}

}  // namespace kvfit_tool
