// SPDX-License-Identifier: MIT
#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <utility>

#include "kvfit/core/version.hpp"
#include "measure/settings.hpp"
#include "measure/sweep.hpp"
#include "report/eval_file.hpp"
#include "report/read_json.hpp"

namespace kvfit_tool {

namespace {

using json = nlohmann::json;

/// A figure; null stands for one that is not finite.
double figure(const json& of, const char* name) {
  const json& value = of.at(name);
  return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>();
}

[[noreturn]] void refuse(const std::string& why) {
  throw std::runtime_error(why);
}

capture_facts capture_from(const json& from) {
  capture_facts facts;
  facts.name = from.at("name").get<std::string>();
  facts.fingerprint = from.at("fingerprint").get<std::string>();
  facts.layers = from.at("layers").get<kvfit::index_t>();
  facts.heads = from.at("heads").get<kvfit::index_t>();
  facts.query_heads = from.at("query_heads").get<kvfit::index_t>();
  facts.rows = from.at("rows").get<kvfit::index_t>();
  facts.depth = from.at("depth").get<kvfit::index_t>();
  facts.queries = from.at("queries").get<kvfit::index_t>();
  facts.test_queries = from.at("test_queries").get<kvfit::index_t>();
  facts.scale = from.at("scale").get<float>();
  return facts;
}

judged_on judged_from(const std::string& text) {
  for (const judged_on each : {judged_on::test, judged_on::held_out, judged_on::train}) {
    if (name(each) == text) return each;
  }
  refuse("judged_on \"" + text + "\"");
}

head_score head_from(const json& from, judged_on on) {
  head_score head;
  head.layer = from.at("layer").get<kvfit::index_t>();
  head.head = from.at("head").get<kvfit::index_t>();
  head.rows = from.at("rows").get<kvfit::index_t>();
  head.kept = from.at("kept").get<kvfit::index_t>();
  head.on = on;
  head.errors.queries = from.at("queries").get<kvfit::index_t>();
  head.errors.output_error = figure(from, "output_error");
  head.errors.output_error_max = figure(from, "output_error_max");
  head.errors.rms_output_error = figure(from, "rms_output_error");
  head.errors.mass_error = figure(from, "mass_error");
  head.errors.mass_error_max = figure(from, "mass_error_max");
  head.errors.cosine = figure(from, "cosine");
  head.errors.cosine_min = figure(from, "cosine_min");
  head.milliseconds = figure(from, "milliseconds");
  return head;
}

candidate candidate_from(const json& from) {
  candidate made{.method = from.at("method").get<std::string>()};
  const json& values = from.at("settings");
  if (!values.is_object()) refuse("settings that are no object");
  for (const setting& each : settings()) {  // in the table's order, whatever the file's
    if (!values.contains(each.name)) continue;
    const json& value = values.at(each.name);
    const auto text = each.canonical(value.is_string() ? value.get<std::string>() : value.dump());
    if (!text) refuse(each.name + " = " + value.dump());
    made.settings.push_back({each.name, *text});
  }
  if (made.settings.size() != values.size()) refuse("settings of another version");
  if (const std::string wrong = check_candidate(made); !wrong.empty()) refuse(wrong);
  return made;
}

comparison comparison_from(const json& from) {
  return {.name = from.at("name").get<std::string>(),
          .output_error = figure(from, "output_error"),
          .mass_error = figure(from, "mass_error"),
          .output_worse = from.at("output_worse").get<kvfit::index_t>(),
          .mass_worse = from.at("mass_worse").get<kvfit::index_t>()};
}

score_row row_from(const json& from, const evaluation& so_far) {
  score_row row;
  row.capture = from.at("capture").get<std::string>();
  const auto capture =
      std::find_if(so_far.captures.begin(), so_far.captures.end(),
                   [&](const capture_facts& each) { return each.name == row.capture; });
  if (capture == so_far.captures.end()) refuse("a row of no capture: " + row.capture);
  row.what = candidate_from(from);
  row.ratio = from.at("ratio").get<double>();
  row.threads = from.at("threads").get<int>();
  const judged_on on = judged_from(from.at("judged_on").get<std::string>());
  for (const json& head : from.at("heads")) row.heads.push_back(head_from(head, on));
  if (static_cast<kvfit::index_t>(row.heads.size()) != capture->heads) {
    refuse("a row with the wrong number of heads");
  }
  if (from.contains("against")) row.against = comparison_from(from.at("against"));
  summarise(row);
  return row;
}

/// Whether a figure of a head is not finite. What such heads come to can't be told from the file.
bool has_null(const json& row) {
  for (const json& head : row.at("heads")) {
    for (const json& value : head) {
      if (value.is_null()) return true;
    }
  }
  return false;
}

/// What the file says beside or against `read`: written again, `read` must be the file.
std::optional<std::string> entry_at_odds(const json& file, const evaluation& read) {
  json again = json::parse(to_json(read));
  for (std::size_t r = 0; r < read.rows.size(); ++r) {
    const json& row = file.at("rows").at(r);
    if (!has_null(row)) continue;
    for (const auto& [name, value] : again.at("rows").at(r).items()) {
      if (name != "heads" && row.contains(name)) value = row.at(name);
    }
  }
  if (again == file) return std::nullopt;
  const json first = json::diff(file, again).front();
  const auto place = first.at("path").get<std::string>();
  if (first.at("op") == "remove") return place + " is no entry that is handled";
  if (first.at("op") == "add") return place + " is not there";
  return place + " is not what the rest comes to, " + first.at("value").dump();
}

}  // namespace

kvfit::result<evaluation> read_evaluation(const std::filesystem::path& path) {
  const auto fail = [&](kvfit::errc code, const std::string& why) {
    return kvfit::error{code, path.string(), kvfit::error::none, kvfit::error::none, why};
  };
  const auto parsed = read_json(path);
  if (!parsed) return parsed.error();
  const json& file = *parsed;
  if (!file.is_object() || file.value("format", json()) != "kvfit-eval") {
    return fail(kvfit::errc::unsupported_file, "is no result of kvfit eval");
  }
  if (file.value("version", json()) != eval_version) {
    return fail(kvfit::errc::unsupported_file, "is of format version " +
                                                   file.value("version", json()).dump() + ", not " +
                                                   std::to_string(eval_version));
  }
  if (file.value("library_version", json()) != kvfit::version) {
    return fail(kvfit::errc::unsupported_file, "was measured with kvfit " +
                                                   file.value("library_version", json()).dump() +
                                                   "; this is " + kvfit::version);
  }
  try {
    evaluation read;
    read.seed = file.at("seed").get<std::uint64_t>();
    read.threads = file.at("threads").get<int>();
    for (const json& each : file.at("captures")) read.captures.push_back(capture_from(each));
    for (const json& each : file.at("rows")) read.rows.push_back(row_from(each, read));
    if (const auto other = entry_at_odds(file, read)) {
      return fail(kvfit::errc::unsupported_file, *other);
    }
    return read;
  } catch (const std::exception& wrong) {
    return fail(kvfit::errc::malformed_file, wrong.what());
  }
}

}  // namespace kvfit_tool
