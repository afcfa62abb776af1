// SPDX-License-Identifier: MIT
#include <nlohmann/json.hpp>

#include "kvfit/core/version.hpp"
#include "report/eval_file.hpp"

namespace kvfit_tool {

namespace {

using nlohmann::ordered_json;  // keys in the order written here, for people who read it

ordered_json of(const capture_facts& capture) {
  return {{"name", capture.name},
          {"fingerprint", capture.fingerprint},
          {"layers", capture.layers},
          {"heads", capture.heads},
          {"query_heads", capture.query_heads},
          {"rows", capture.rows},
          {"depth", capture.depth},
          {"queries", capture.queries},
          {"test_queries", capture.test_queries},
          {"scale", capture.scale}};
}

ordered_json of(const head_score& head) {
  return {{"layer", head.layer},
          {"head", head.head},
          {"rows", head.rows},
          {"kept", head.kept},
          {"queries", head.errors.queries},
          {"output_error", head.errors.output_error},
          {"output_error_max", head.errors.output_error_max},
          {"rms_output_error", head.errors.rms_output_error},
          {"mass_error", head.errors.mass_error},
          {"mass_error_max", head.errors.mass_error_max},
          {"cosine", head.errors.cosine},
          {"cosine_min", head.errors.cosine_min},
          {"milliseconds", head.milliseconds}};
}

/// Numbers and flags as such, names as text.
ordered_json of(const std::vector<setting_value>& settings) {
  ordered_json out = ordered_json::object();
  for (const setting_value& value : settings) {
    ordered_json parsed = ordered_json::parse(value.text, nullptr, false);
    const bool is_text = !parsed.is_number() && !parsed.is_boolean();
    out[value.name] = is_text ? ordered_json(value.text) : std::move(parsed);
  }
  return out;
}

ordered_json of(const comparison& against) {
  return {{"name", against.name},
          {"output_error", against.output_error},
          {"mass_error", against.mass_error},
          {"output_worse", against.output_worse},
          {"mass_worse", against.mass_worse}};
}

ordered_json of(const score_row& row) {
  const head_score& worst = row.heads[row.output_error.worst_head];
  ordered_json heads = ordered_json::array();
  for (const head_score& head : row.heads) heads.push_back(of(head));
  ordered_json out = {{"capture", row.capture},
                      {"method", row.what.method},
                      {"settings", of(row.what.settings)},
                      {"label", row.label},
                      {"ratio", row.ratio},
                      {"judged_on", name(row.on)},
                      {"output_error", row.output_error.mean},
                      {"mass_error", row.mass_error.mean},
                      {"cosine", row.cosine.mean},
                      {"rms_output_error", row.rms_output_error.mean},
                      {"output_error_geometric", row.output_error.geometric},
                      {"mass_error_geometric", row.mass_error.geometric},
                      {"rms_output_error_geometric", row.rms_output_error.geometric},
                      {"output_error_worst", row.output_error.worst},
                      {"mass_error_worst", row.mass_error.worst},
                      {"cosine_worst", row.cosine.worst},
                      {"output_error_worst_tenth", row.output_error.worst_tenth},
                      {"mass_error_worst_tenth", row.mass_error.worst_tenth},
                      {"cosine_worst_tenth", row.cosine.worst_tenth},
                      {"worst_head", {{"layer", worst.layer}, {"head", worst.head}}},
                      {"milliseconds", row.milliseconds},
                      {"threads", row.threads}};
  if (row.against) out["against"] = of(*row.against);
  out["heads"] = std::move(heads);
  return out;
}

}  // namespace

std::string to_json(const evaluation& measured) {
  ordered_json out = {{"format", "kvfit-eval"},
                      {"version", eval_version},
                      {"library_version", kvfit::version},
                      {"seed", measured.seed},
                      {"threads", measured.threads},
                      {"captures", ordered_json::array()},
                      {"rows", ordered_json::array()}};
  for (const capture_facts& capture : measured.captures) out["captures"].push_back(of(capture));
  for (const score_row& row : measured.rows) out["rows"].push_back(of(row));
  // A path may be any bytes; what is not UTF-8 is replaced rather than thrown over.
  return out.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace kvfit_tool
