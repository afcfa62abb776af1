// SPDX-License-Identifier: MIT
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/core/version.hpp"
#include "report/eval_output.hpp"
#include "report/eval_panels.hpp"
#include "report/svg_heat_map.hpp"
#include "report/svg_plot.hpp"
#include "report/svg_style.hpp"
#include "report/svg_text.hpp"

namespace kvfit_tool {

namespace {

using rows = std::vector<const score_row*>;

std::string element(const std::string& name, const std::string& text) {
  return "<" + name + ">" + svg::escaped(text) + "</" + name + ">\n";
}

std::string style_sheet() {
  return "<style>\n:root{color-scheme:light dark}\n"
         "body{margin:0 auto;padding:24px 28px 48px;max-width:1300px;background:" +
         std::string(svg::ground) + ";color:" + std::string(svg::ink) +
         ";font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',Helvetica,Arial,"
         "sans-serif}\n"
         "h1{font-size:26px;margin:0 0 4px}h2{font-size:21px;margin:40px 0 4px}"
         "h3{font-size:17px;margin:32px 0 2px}p{margin:2px 0 12px;max-width:76ch}\n"
         ".wide{overflow-x:auto}svg{display:block}.fit "
         "svg{max-width:100%;height:auto}table{border-collapse:collapse;"
         "font-variant-numeric:tabular-nums;font-size:13px}\n"
         "th,td{padding:3px 7px;text-align:right;white-space:nowrap;border-bottom:1px solid " +
         std::string(svg::grid_ink) +
         "}th:first-child,td:first-child{text-align:left}thead "
         "th{font-weight:600}th[colspan]{text-align:center}\n"
         ".note,.soft{color:" +
         std::string(svg::soft_ink) + "}\n" + plot_style() +
         "\n@media (prefers-color-scheme:dark){\nbody{background:#15181d;color:#e7eaee}\n"
         ".soft{color:#aab2bd}th,td{border-color:#343a43}\n" +
         svg::dark_style() + "}\n</style>\n";
}

std::string draw_panels(const rows& of, const std::string& title,
                        plot_panel (*make)(const rows&, const plotted_error&)) {
  std::vector<plot_panel> panels;
  for (const plotted_error& what : plotted_errors()) panels.push_back(make(of, what));
  const plot drawn{.title = title, .subtitle = {}, .rows = {std::move(panels)}};
  return "<div class=\"fit\">" + to_svg(drawn, true) + "</div>\n";
}

std::string table_of(const rows& of) {
  bool is_compared = false;
  for (const score_row* row : of) is_compared = is_compared || row->against;
  std::string against;
  for (const score_row* row : of) {
    if (row->against) against = row->against->name;
  }
  std::string out =
      "<div class=\"wide\"><table><thead><tr><th rowspan=\"2\">candidate</th>"
      "<th rowspan=\"2\">ratio</th><th colspan=\"3\">output error</th>"
      "<th colspan=\"3\">mass error</th><th colspan=\"2\">cosine</th>"
      "<th rowspan=\"2\">ms a head</th>";
  if (is_compared) out += "<th colspan=\"4\">against " + svg::escaped(against) + "</th>";
  out +=
      "</tr><tr><th>mean</th><th>geometric</th><th>worst tenth</th><th>mean</th>"
      "<th>geometric</th><th>worst tenth</th><th>mean</th><th>worst tenth</th>";
  if (is_compared) out += "<th>output</th><th>worse</th><th>mass</th><th>worse</th>";
  out += "</tr></thead><tbody>\n";
  for (const score_row* row : of) {
    std::vector<std::string> cells = {row->label, ratio_text(row->ratio) + "×"};
    for (const spread& over : {row->output_error, row->mass_error}) {
      for (const double x : {over.mean, over.geometric, over.worst_tenth}) {
        cells.push_back(three_digits(x));
      }
    }
    cells.push_back(four_decimals(row->cosine.mean));
    cells.push_back(four_decimals(row->cosine.worst_tenth));
    cells.push_back(three_digits(row->milliseconds));
    if (row->against) {
      cells.push_back(three_digits(row->against->output_error));
      cells.push_back(std::to_string(row->against->output_worse));
      cells.push_back(three_digits(row->against->mass_error));
      cells.push_back(std::to_string(row->against->mass_worse));
    } else if (is_compared) {
      cells.insert(cells.end(), 4, "–");
    }
    out += "<tr>";
    for (const std::string& cell : cells) out += "<td>" + svg::escaped(cell) + "</td>";
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

std::string judged_text(const rows& of) {
  for (const score_row* row : of) {
    if (row->on != judged_on::test) {
      return "The capture has no test queries (q_test): errors are the compactions' own, on "
             "queries "
             "held out from the fit or on those fitted on, and do not all compare.";
    }
  }
  return "Errors are means over test queries that no method was fitted on.";
}

std::string section(const evaluation& measured, const capture_facts& capture) {
  const rows of = rows_of(measured, capture);
  if (of.empty()) return {};
  const std::string file = std::filesystem::path(capture.name).filename().string();
  std::string out = "<section>\n" + element("h2", file);
  out += element("p", std::to_string(capture.heads) + " KV heads in " +
                          std::to_string(capture.layers) +
                          " layers, T = " + std::to_string(capture.rows) + " rows of " +
                          std::to_string(capture.depth) + ", scale " +
                          svg::short_number(static_cast<double>(capture.scale)) + ", fingerprint " +
                          capture.fingerprint + ". " + judged_text(of));
  out += element("h3", "Error against time") +
         element("p",
                 "A series a candidate, a point a ratio. Ringed: points that "
                 "no other of the same ratio beats in time and error at once (the Pareto "
                 "front). Grey: rows evicted, nothing fitted.") +
         draw_panels(of, "Error against time", panel_against_time);
  out += element("h3", "Error against ratio") +
         draw_panels(of, "Error against ratio", panel_against_ratio);
  out += element("h3", "All figures") +
         element("p", "Over heads: mean, geometric mean, and mean of the worst tenth.") +
         table_of(of);
  for (const plotted_error& what : plotted_errors()) {
    out += element("h3", what.title + " of every head") +
           element("p", "Layers across, heads down; each cell tells its figure on hover.") +
           "<div class=\"wide\">" + to_svg(head_maps(of, what)) + "</div>\n";
  }
  return out + "</section>\n";
}

}  // namespace

std::string to_html(const evaluation& measured) {
  std::string out =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
      "<title>kvfit: compact against full attention</title>\n" +
      style_sheet() + "</head>\n<body>\n" + element("h1", "Compact against full attention") +
      "<p class=\"soft\">kvfit " + svg::escaped(kvfit::version) + ", " +
      std::to_string(measured.threads) + (measured.threads == 1 ? " thread" : " threads") +
      ", seed " + std::to_string(measured.seed) + ".</p>\n";
  for (const capture_facts& capture : measured.captures) out += section(measured, capture);
  return out + "</body>\n</html>\n";
}

}  // namespace kvfit_tool
