// SPDX-License-Identifier: MIT
#include "measure/engine_output.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "kvfit/core/version.hpp"
#include "measure/heads.hpp"
#include "report/eval_output.hpp"
#include "report/svg_plot.hpp"

namespace kvfit_tool {

namespace {

constexpr std::size_t cell_width = 8;
constexpr std::size_t depth_width = 11;

/// One figure of a row, and how the table writes it.
struct figure {
  std::string title;
  std::function<double(const engine_row&)> of;
  bool is_share = false;  ///< written in per cent
};

std::vector<figure> figures_of(const engine_evaluation& measured) {
  std::vector<figure> all;
  if (measured.texts > 0) {
    all.push_back({"KL to full, nats", [](const engine_row& row) { return row.kl(); }});
  }
  if (measured.full.said.off_context.passages > 0) {
    all.push_back(
        {"KL off context, nats", [](const engine_row& row) { return row.off_context_kl(); }});
  }
  if (measured.texts > 0) {
    all.push_back({"perplexity change, %",
                   [&](const engine_row& row) { return row.perplexity_change(measured.full); },
                   true});
    all.push_back({"same first choice, %", [](const engine_row& row) { return row.top1(); }, true});
  }
  if (measured.recall_documents > 0) {
    all.push_back({"answers right, %", [](const engine_row& row) { return row.recall(); }, true});
    all.push_back({"KL on answers, nats", [](const engine_row& row) { return row.answer_kl(); }});
  }
  all.push_back({"seconds a document", [](const engine_row& row) { return row.seconds_each(); }});
  return all;
}

/// A share in per cent.
std::string share_cell(double value) {
  if (!std::isfinite(value)) return three_digits(value);
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", 100 * value);
  return text;
}

std::string cell(const figure& of, const engine_row& row) {
  const double value = of.of(row);
  return of.is_share ? share_cell(value) : three_digits(value);
}

std::string right_aligned(const std::string& text, std::size_t width) {
  return text.size() >= width ? text : std::string(width - text.size(), ' ') + text;
}

std::string left_aligned(std::string text, std::size_t width) {
  text.resize(std::max(text.size(), width), ' ');
  return text;
}

std::vector<double> ratios_of(const engine_evaluation& measured) {
  std::vector<double> ratios;
  for (const engine_row& row : measured.rows) {
    if (std::find(ratios.begin(), ratios.end(), row.ratio) == ratios.end()) {
      ratios.push_back(row.ratio);
    }
  }
  return ratios;
}

std::vector<std::string> labels_of(const engine_evaluation& measured) {
  std::vector<std::string> labels;
  for (const engine_row& row : measured.rows) {
    if (std::find(labels.begin(), labels.end(), row.label) == labels.end()) {
      labels.push_back(row.label);
    }
  }
  return labels;
}

const engine_row* row_at(const engine_evaluation& measured, const std::string& label,
                         double ratio) {
  const auto found =
      std::find_if(measured.rows.begin(), measured.rows.end(),
                   [&](const engine_row& row) { return row.label == label && row.ratio == ratio; });
  return found == measured.rows.end() ? nullptr : &*found;
}

std::string counted(kvfit::index_t count, const std::string& what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

std::string heading(const engine_evaluation& measured) {
  std::string out = measured.folder + ": " + std::to_string(measured.layers) + " layers, " +
                    std::to_string(measured.heads) + " KV heads; prefixes of up to " +
                    counted(measured.prefix, "token") + "; " + counted(measured.threads, "thread") +
                    "\n";
  for (const engine_setting_facts& setting : measured.settings) {
    out += "Reference queries: " + setting.queries + " (" + three_digits(setting.query_seconds) +
           " s a document); rows a head: " + setting.budgets;
    if (setting.budget_seconds > 0) {
      out += " (once, in " + three_digits(setting.budget_seconds) + " s)";
    }
    out += "\n";
  }
  const said_figures& text = measured.full.said.text;
  if (measured.texts > 0) {
    const double loss = text.loss / static_cast<double>(text.tokens);
    out += "Full cache: perplexity " + three_digits(std::exp(loss)) + " on " +
           counted(text.tokens, "token") + " after " + counted(measured.texts, "text") + ".\n";
  }
  const said_figures& off = measured.full.said.off_context;
  if (off.passages > 0) {
    out += "Off context: " + counted(off.tokens, "token") +
           " of other texts, read behind these; perplexity " +
           three_digits(std::exp(off.loss / static_cast<double>(off.tokens))) + ".\n";
  }
  const said_figures& answers = measured.full.said.answers;
  if (measured.recall_documents > 0) {
    out += "Full cache: " + std::to_string(answers.right) + " of " +
           counted(answers.passages, "question") + " about " +
           counted(measured.recall_documents, "document") + " answered right.\n";
  }
  return out;
}

/// Recall and KL on answers by the part of the context in which the fact stands: a line a row.
std::string depth_table(const engine_evaluation& measured, std::size_t name_width) {
  const auto& full = measured.full.said.by_depth;
  if (std::all_of(full.begin(), full.end(), [](const auto& part) { return part.passages == 0; })) {
    return "";
  }
  std::string counts;
  std::string quarters;
  for (std::size_t i = 0; i < depths; ++i) {
    counts += (i == 0 ? "" : ", ") + std::to_string(full[i].passages);
    quarters += right_aligned("quarter " + std::to_string(i + 1), depth_width);
  }
  std::string out =
      "\nBy the quarter of the context that has the fact (questions: " + counts + ")\n";
  const std::string before(name_width + 2 + cell_width, ' ');
  out += before + "  " + left_aligned("answers right, %", depths * depth_width) +
         "  KL on answers, nats\n";
  out += left_aligned("method", name_width) + "  " + right_aligned("ratio", cell_width) + "  " +
         quarters + "  " + quarters + "\n";
  for (const std::string& label : labels_of(measured)) {
    for (const double ratio : ratios_of(measured)) {
      const engine_row* const row = row_at(measured, label, ratio);
      if (row == nullptr) continue;
      out += left_aligned(label, name_width) + "  " +
             right_aligned(ratio_text(ratio) + "x", cell_width) + "  ";
      for (const said_figures& part : row->said.by_depth) {
        out += right_aligned(share_cell(part.recall()), depth_width);
      }
      out += "  ";
      for (const said_figures& part : row->said.by_depth) {
        out += right_aligned(three_digits(part.mean_kl()), depth_width);
      }
      out += "\n";
    }
  }
  return out;
}

nlohmann::ordered_json number(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json();
}

nlohmann::ordered_json by_depth(const engine_row& row) {
  auto parts = nlohmann::ordered_json::array();
  for (const said_figures& part : row.said.by_depth) {
    parts.push_back({{"questions", part.passages},
                     {"recall", number(part.recall())},
                     {"answer_kl", number(part.mean_kl())}});
  }
  return parts;
}

nlohmann::ordered_json of(const engine_row& row, const engine_evaluation& measured) {
  const engine_row& full = measured.full;
  const engine_setting_facts& setting = measured.settings[row.setting];
  return {{"method", row.label},
          {"ratio", row.ratio},
          {"kl", number(row.kl())},
          {"ppl_change", number(row.perplexity_change(full))},
          {"top1", number(row.top1())},
          {"recall", number(row.recall())},
          {"seconds", number(row.seconds_each())},
          {"answer_kl", number(row.answer_kl())},
          {"off_context_kl", number(row.off_context_kl())},
          {"by_depth", by_depth(row)},
          {"queries", setting.queries},
          {"budgets", setting.budgets},
          {"rounds", row.rounds}};
}

plot_panel panel(const engine_evaluation& measured, const std::string& title,
                 const std::string& y_label, bool is_share,
                 const std::function<double(const engine_row&)>& value) {
  plot_panel drawn{.title = title,
                   .x_label = "compaction ratio T / t (rows before / after)",
                   .x_suffix = "×",
                   .y_label = y_label,
                   .is_share = is_share};
  drawn.ticks = ratios_of(measured);
  std::sort(drawn.ticks.begin(), drawn.ticks.end());
  for (const std::string& label : labels_of(measured)) {
    const engine_row* any = nullptr;
    plot_line line{label, false, {}};
    for (const double ratio : drawn.ticks) {
      const engine_row* const row = row_at(measured, label, ratio);
      if (row == nullptr) continue;
      any = row;
      line.points.push_back(
          {.x = ratio,
           .y = value(*row),
           .title = label + " at " + ratio_text(ratio) + "×: " + three_digits(value(*row))});
    }
    const method* const known = any == nullptr ? nullptr : find_method(any->what.method);
    line.is_baseline = known != nullptr && !known->is_fitted;
    drawn.lines.push_back(std::move(line));
  }
  return drawn;
}

}  // namespace

std::string to_table(const engine_evaluation& measured) {
  const std::vector<double> ratios = ratios_of(measured);
  const std::vector<std::string> labels = labels_of(measured);
  std::size_t name_width = 6;
  for (const std::string& label : labels) name_width = std::max(name_width, label.size());
  std::string out = heading(measured);
  const std::vector<figure> all = figures_of(measured);
  for (std::size_t first = 0; first < all.size(); first += 2) {
    const std::size_t end = std::min(all.size(), first + 2);
    std::string titles(name_width, ' ');
    std::string heads = left_aligned("method", name_width);
    for (std::size_t f = first; f < end; ++f) {
      titles += "    " + left_aligned(all[f].title, ratios.size() * cell_width - 2);
      heads += "  ";
      for (const double ratio : ratios) heads += right_aligned(ratio_text(ratio) + "x", cell_width);
    }
    titles.erase(titles.find_last_not_of(' ') + 1);
    out += "\n" + titles + "\n" + heads + "\n";
    for (const std::string& label : labels) {
      out += left_aligned(label, name_width);
      for (std::size_t f = first; f < end; ++f) {
        out += "  ";
        for (const double ratio : ratios) {
          const engine_row* const row = row_at(measured, label, ratio);
          out += right_aligned(row == nullptr ? "-" : cell(all[f], *row), cell_width);
        }
      }
      out += "\n";
    }
  }
  return out + depth_table(measured, name_width);
}

std::string to_plot(const engine_evaluation& measured) {
  plot drawn;
  drawn.title = "What a model says over compact caches, against the full one";
  drawn.subtitle = counted(measured.texts, "text") + " with " +
                   counted(measured.full.said.text.tokens, "token") + " continued; " +
                   counted(measured.full.said.answers.passages, "question") + " about " +
                   counted(measured.recall_documents, "document") + ". Dashed: rows evicted.";
  drawn.rows.emplace_back();
  if (measured.texts > 0) {
    drawn.rows.back().push_back(panel(measured, "Next token, on the true continuation",
                                      "mean KL(full ‖ compact), nats", false,
                                      [](const engine_row& row) { return row.kl(); }));
  }
  if (measured.recall_documents > 0) {
    drawn.rows.back().push_back(panel(measured, "Recall of facts", "share of answers right", true,
                                      [](const engine_row& row) { return row.recall(); }));
  }
  std::vector<plot_panel> below;
  if (measured.full.said.off_context.passages > 0) {
    below.push_back(panel(measured, "Off context: next token of another text",
                          "mean KL(full ‖ compact), nats", false,
                          [](const engine_row& row) { return row.off_context_kl(); }));
  }
  if (measured.recall_documents > 0) {
    below.push_back(panel(measured, "Next token, on answers", "mean KL(full ‖ compact), nats",
                          false, [](const engine_row& row) { return row.answer_kl(); }));
  }
  if (!below.empty()) drawn.rows.push_back(std::move(below));
  return to_svg(drawn);
}

std::string to_json(const engine_evaluation& measured) {
  using json = nlohmann::ordered_json;
  const said_figures& text = measured.full.said.text;
  json out = {{"format", "kvfit-engine-eval"},
              {"version", engine_eval_version},
              {"library_version", kvfit::version},
              {"engine", measured.folder},
              {"settings", json::array()},
              {"texts", measured.texts},
              {"text_tokens", text.tokens},
              {"off_context_tokens", measured.full.said.off_context.tokens},
              {"recall_documents", measured.recall_documents},
              {"questions", measured.full.said.answers.passages},
              {"prefix", measured.prefix},
              {"perplexity", number(std::exp(text.loss / static_cast<double>(text.tokens)))},
              {"seed", measured.seed},
              {"threads", measured.threads},
              {"rows", json::array()}};
  for (const engine_setting_facts& setting : measured.settings) {
    json& facts = out["settings"].emplace_back();
    facts = {{"queries", setting.queries},
             {"budgets", setting.budgets},
             {"query_seconds", setting.query_seconds},
             {"budget_seconds", setting.budget_seconds}};
    if (!setting.shares.empty()) facts["shares_at_20"] = setting.shares;
  }
  out["rows"].push_back(of(measured.full, measured));
  for (const engine_row& row : measured.rows) out["rows"].push_back(of(row, measured));
  // A path may be any bytes; what is not UTF-8 is replaced rather than thrown over.
  return out.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace kvfit_tool
