// SPDX-License-Identifier: MIT
#include "report/reference.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>

#include "report/read_json.hpp"

namespace kvfit_tool {

namespace {

using json = nlohmann::json;

[[noreturn]] void refuse(const std::string& where, const std::string& why) {
  throw std::runtime_error(where + ": " + why);
}

const json& object_at(const json& what, const std::string& where) {
  if (!what.is_object()) refuse(where, "is no object");
  return what;
}

double ratio_from(const std::string& text, const std::string& where) {
  char* end = nullptr;
  const double ratio = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !std::isfinite(ratio) || ratio < 1) {
    refuse(where, "\"" + text + "\" is no ratio");
  }
  return ratio;
}

double error_from(const json& what, const std::string& where) {
  if (!what.is_number()) refuse(where, "holds what is no number");
  const auto error = what.get<double>();
  if (!(error >= 0)) refuse(where, "holds an error below 0");
  return error;
}

/// What the heads' figures come to, where it is stated besides: by the rounding of a sum.
void check_stated(const json& what, const char* name, double expected, const std::string& where) {
  if (!what.contains(name)) return;
  const json& stated = what.at(name);
  if (stated.is_number() &&
      std::abs(stated.get<double>() - expected) <= 1e-9 * std::max(1.0, std::abs(expected))) {
    return;
  }
  refuse(where, std::string(name) + " is " + stated.dump() + ", but " + json(expected).dump() +
                    " of per_head");
}

/// "per_head": [[output error, mass error, cosine], ...]; "rel", "mass", "cos" and "rel_worst" say
/// no more than that, "seconds" is of another program on another machine.
baseline_errors baseline_from(const json& what, const std::string& name, const std::string& where) {
  baseline_errors made{name, {}, {}};
  if (!object_at(what, where).contains("per_head")) refuse(where, "has no per_head");
  const json& heads = what.at("per_head");
  if (!heads.is_array() || heads.empty()) refuse(where, "per_head is no list of heads");
  double cosines = 0;
  for (const json& head : heads) {
    if (!head.is_array() || head.size() != 3) refuse(where, "a head is not three figures");
    made.output_error.push_back(error_from(head[0], where));
    made.mass_error.push_back(error_from(head[1], where));
    if (!head[2].is_number()) refuse(where, "holds what is no number");
    cosines += head[2].get<double>();
  }
  for (const auto& [entry, value] : what.items()) {
    constexpr const char* known[] = {"per_head", "rel", "mass", "cos", "rel_worst", "seconds"};
    if (std::find(std::begin(known), std::end(known), entry) != std::end(known)) continue;
    refuse(where, "'" + entry + "' is no entry that is handled");
  }
  const auto count = static_cast<double>(heads.size());
  const auto mean_of = [&](const std::vector<double>& errors) {
    return std::accumulate(errors.begin(), errors.end(), 0.0) / count;
  };
  check_stated(what, "rel", mean_of(made.output_error), where);
  check_stated(what, "mass", mean_of(made.mass_error), where);
  check_stated(what, "cos", cosines / count, where);
  check_stated(what, "rel_worst",
               *std::max_element(made.output_error.begin(), made.output_error.end()), where);
  return made;
}

}  // namespace

kvfit::result<reference> read_reference(const std::filesystem::path& path) {
  const auto parsed = read_json(path);
  if (!parsed) return parsed.error();
  const json& file = *parsed;
  try {
    reference read;
    for (const auto& [capture, ratios] : object_at(file, "the whole").items()) {
      for (const auto& [ratio_text, methods] : object_at(ratios, capture).items()) {
        const double ratio = ratio_from(ratio_text, capture);
        const std::string at = capture + ", ratio " + ratio_text;
        for (const auto& [method, figures] : object_at(methods, at).items()) {
          read[capture][ratio][method] = baseline_from(figures, method, at + ", " + method);
        }
      }
    }
    return read;
  } catch (const std::exception& wrong) {
    return kvfit::error{kvfit::errc::malformed_file, path.string(), kvfit::error::none,
                        kvfit::error::none, wrong.what()};
  }
}

kvfit::result<const baseline_errors*> find_in(const reference& all,
                                              const std::filesystem::path& path, double ratio,
                                              const std::string& method, kvfit::index_t heads) {
  const std::string name = path.filename().string();
  const auto lack = [&](const std::string& what) {
    return kvfit::error{kvfit::errc::missing_entry, "reference", kvfit::error::none,
                        kvfit::error::none, "has no " + what};
  };
  const auto capture = all.find(name);
  if (capture == all.end()) return lack("capture " + name);
  const auto at = capture->second.find(ratio);
  char ratio_text[32];
  std::snprintf(ratio_text, sizeof ratio_text, "%g", ratio);
  if (at == capture->second.end()) return lack("ratio " + std::string(ratio_text) + " of " + name);
  const auto found = at->second.find(method);
  if (found == at->second.end()) {
    return lack("method " + method + " of " + name + " at ratio " + ratio_text);
  }
  const auto there = static_cast<kvfit::index_t>(found->second.output_error.size());
  if (heads >= 0 && there != heads) {
    return kvfit::error{kvfit::errc::shape_mismatch, "reference, " + name, there, heads,
                        "heads of " + method + " at ratio " + ratio_text};
  }
  return &found->second;
}

}  // namespace kvfit_tool
