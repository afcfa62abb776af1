// SPDX-License-Identifier: MIT
#include "measure/figures.hpp"

#include <cmath>
#include <limits>
#include <string_view>

#include "measure/engine_eval.hpp"
#include "measure/evaluation.hpp"

namespace kvfit_tool {

namespace {

struct capture_figure {
  std::string_view name;
  double (*of)(const score_row& row);
};

struct engine_figure {
  std::string_view name;
  double (*of)(const engine_row& row, const engine_row& full);
};

/// The largest (or smallest) over heads; NaN where any is.
double extreme(const score_row& row, double kvfit::fidelity::*what, bool largest) {
  double found = std::numeric_limits<double>::quiet_NaN();
  for (const head_score& head : row.heads) {
    const double x = head.errors.*what;
    if (std::isnan(x)) return x;
    if (std::isnan(found) || (largest ? x > found : x < found)) found = x;
  }
  return found;
}

constexpr capture_figure of_captures[] = {
    {"output_error", [](const score_row& row) { return row.output_error.mean; }},
    {"mass_error", [](const score_row& row) { return row.mass_error.mean; }},
    {"cosine", [](const score_row& row) { return row.cosine.mean; }},
    {"output_error_worst", [](const score_row& row) { return row.output_error.worst; }},
    {"mass_error_worst", [](const score_row& row) { return row.mass_error.worst; }},
    {"cosine_worst", [](const score_row& row) { return row.cosine.worst; }},
    {"output_error_worst_tenth", [](const score_row& row) { return row.output_error.worst_tenth; }},
    {"mass_error_worst_tenth", [](const score_row& row) { return row.mass_error.worst_tenth; }},
    {"cosine_worst_tenth", [](const score_row& row) { return row.cosine.worst_tenth; }},
    {"rms_output_error", [](const score_row& row) { return row.rms_output_error.mean; }},
    {"output_error_max",
     [](const score_row& row) { return extreme(row, &kvfit::fidelity::output_error_max, true); }},
    {"mass_error_max",
     [](const score_row& row) { return extreme(row, &kvfit::fidelity::mass_error_max, true); }},
    {"cosine_min",
     [](const score_row& row) { return extreme(row, &kvfit::fidelity::cosine_min, false); }},
    {"milliseconds", [](const score_row& row) { return row.milliseconds; }},
};

double against(const score_row& row, double comparison::*what) {
  return row.against ? *row.against.*what : std::numeric_limits<double>::quiet_NaN();
}

/// How many heads are worse; NaN where some do not compare.
double worse(const score_row& row, kvfit::index_t comparison::*count, double comparison::*what) {
  const double all = against(row, what);
  return std::isnan(all) ? all : static_cast<double>(*row.against.*count);
}

constexpr capture_figure of_comparisons[] = {
    {"against.output_error",
     [](const score_row& row) { return against(row, &comparison::output_error); }},
    {"against.mass_error",
     [](const score_row& row) { return against(row, &comparison::mass_error); }},
    {"against.output_worse",
     [](const score_row& row) {
       return worse(row, &comparison::output_worse, &comparison::output_error);
     }},
    {"against.mass_worse",
     [](const score_row& row) {
       return worse(row, &comparison::mass_worse, &comparison::mass_error);
     }},
};

constexpr engine_figure of_engines[] = {
    {"kl", [](const engine_row& row, const engine_row&) { return row.kl(); }},
    {"ppl_change",
     [](const engine_row& row, const engine_row& full) { return row.perplexity_change(full); }},
    {"top1", [](const engine_row& row, const engine_row&) { return row.top1(); }},
    {"recall", [](const engine_row& row, const engine_row&) { return row.recall(); }},
    {"seconds", [](const engine_row& row, const engine_row&) { return row.seconds_each(); }},
    {"answer_kl", [](const engine_row& row, const engine_row&) { return row.answer_kl(); }},
    {"off_context_kl",
     [](const engine_row& row, const engine_row&) { return row.off_context_kl(); }},
};

}  // namespace

std::vector<std::string> capture_figures(bool with_against) {
  std::vector<std::string> names;
  for (const capture_figure& each : of_captures) names.emplace_back(each.name);
  if (!with_against) return names;
  for (const capture_figure& each : of_comparisons) names.emplace_back(each.name);
  return names;
}

std::vector<std::string> engine_figures() {
  std::vector<std::string> names;
  for (const engine_figure& each : of_engines) names.emplace_back(each.name);
  return names;
}

std::vector<judged_row> judged_rows(const evaluation& measured) {
  std::vector<judged_row> rows;
  for (const score_row& row : measured.rows) {
    judged_row& made = rows.emplace_back();
    made.what = {row.what.method, row.label, row.ratio};
    if (measured.captures.size() > 1) made.place = row.capture;
    for (const capture_figure& each : of_captures) {
      made.figures.emplace_back(each.name, each.of(row));
    }
    for (const capture_figure& each : of_comparisons) {
      made.figures.emplace_back(each.name, each.of(row));
    }
  }
  return rows;
}

std::vector<judged_row> judged_rows(const engine_evaluation& measured) {
  std::vector<judged_row> rows;
  for (const engine_row& row : measured.rows) {
    judged_row& made = rows.emplace_back();
    made.what = {row.what.method, row.label, row.ratio};
    for (const engine_figure& each : of_engines) {
      made.figures.emplace_back(each.name, each.of(row, measured.full));
    }
  }
  return rows;
}

}  // namespace kvfit_tool
