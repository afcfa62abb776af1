// SPDX-License-Identifier: MIT
/// JSON of which nothing is passed over.
#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "kvfit/core/result.hpp"

namespace llama {

/// Parses `text`; `source` names it in errors. The parser by itself keeps the last of two entries
/// of one name, and takes a NUL byte for the end.
///
/// Errors: `malformed_file` where it is no JSON, an object has two entries of one name, or the text
/// holds a NUL byte.
inline kvfit::result<nlohmann::json> parse_json(std::string_view text, const std::string& source) {
  const auto malformed = [&](const std::string& why) {
    return kvfit::error{kvfit::errc::malformed_file, source, kvfit::error::none, kvfit::error::none,
                        why};
  };
  if (text.find('\0') != std::string_view::npos) return malformed("holds a NUL byte");
  std::vector<std::set<std::string>> names;  // of the objects that are open
  std::string twin;
  const auto note_names = [&](int, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    using event_t = nlohmann::json::parse_event_t;
    if (event == event_t::object_start) names.emplace_back();
    if (event == event_t::object_end) names.pop_back();
    if (event == event_t::key && twin.empty()) {
      const auto& name = parsed.get_ref<const std::string&>();
      if (!names.back().insert(name).second) twin = "'" + name + "' appears twice";
    }
    return true;
  };
  nlohmann::json made = nlohmann::json::parse(text, note_names, false);
  if (made.is_discarded()) return malformed("is no JSON");
  if (!twin.empty()) return malformed(twin);
  return made;
}

}  // namespace llama
