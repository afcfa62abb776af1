// SPDX-License-Identifier: MIT
#include "measure/tune_candidates.hpp"

#include <algorithm>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "measure/heads.hpp"
#include "measure/sweep.hpp"

namespace kvfit_tool {

namespace {

/// A method and what is set on it; several values are tried one by one.
struct variant {
  std::string_view method;
  std::vector<std::string> settings;
};

const std::vector<variant>& variants() {
  static const std::vector<variant> all = {
      {"default", {"refine_steps=0,3,14"}},
      {"default", {"mass_weight=0.25,1"}},
      {"default", {"refine_mass_weight=0.3,1.2"}},
      {"default", {"queries_per_row=24,0"}},
      {"default", {"reweightings=2"}},
      {"refined", {"refine_steps=36", "refine_sets=6"}},
      {"refined", {"refine_mass_weight=0.3,1.2"}},
      {"joint_zero_bias", {"refine_steps=14"}},
      {"zero_bias", {"ridge=0.0001"}},
      {"omp", {"norm_power=0.5"}},
      {"omp_fast", {"norm_power=0.5"}},
  };
  return all;
}

}  // namespace

std::vector<candidate> tune_candidates(const std::vector<std::string>& methods) {
  std::vector<candidate> all;
  for (const method& each : kvfit_tool::methods()) {
    const std::string name(each.name);
    if (methods.empty() && name == "joint") continue;  // default is the same
    // Of the baselines, the only one that can win: quick, and better than blind.
    const bool is_wanted = methods.empty()
                               ? each.is_fitted || name == "topk"
                               : std::find(methods.begin(), methods.end(), name) != methods.end();
    if (!is_wanted) continue;
    all.push_back({.method = name});
    for (const variant& one : variants()) {
      if (one.method != name) continue;
      std::vector<sweep> sweeps(one.settings.size());
      for (std::size_t s = 0; s < sweeps.size(); ++s) {
        const std::string wrong = parse_sweep(one.settings[s], sweeps[s]);
        if (!wrong.empty()) throw std::logic_error("tune: " + wrong);
      }
      for (candidate& made : combine({name}, sweeps)) all.push_back(std::move(made));
    }
  }
  return all;
}

}  // namespace kvfit_tool
