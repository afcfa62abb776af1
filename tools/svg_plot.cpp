// SPDX-License-Identifier: MIT
#include "svg_plot.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <string_view>
#include <utility>

namespace kvfit_tool {

namespace {

// ---- Measures, in SVG units (pixels at 100 %)
constexpr double margin = 28;
constexpr double header = 54;  // title and subtitle
constexpr double axes_width = 330;
constexpr double axes_height = 330;
constexpr double left_room = 62;      // y ticks and label
constexpr double right_room = 166;    // labels of the lines
constexpr double above = 34;          // a panel's title
constexpr double below = 56;          // x ticks and label
constexpr double gap = 18;            // between panels
constexpr double label_spacing = 17;  // between labels of lines

constexpr double panel_width = left_room + axes_width + right_room;
constexpr double panel_height = above + axes_height + below;

constexpr std::string_view ink = "#1b1f24";
constexpr std::string_view soft_ink = "#4b5563";
constexpr std::string_view grid_ink = "#e3e6ea";

// Each at least 4.5 : 1 against white, told apart by the colour-blind too; marks and dashes help.
constexpr std::array<std::string_view, 7> colours = {"#0b62a8", "#b3400e", "#1a7a3e", "#7a3aa6",
                                                     "#b0175f", "#0d7377", "#7a5c00"};
constexpr std::string_view baseline_colour = "#5f6672";
constexpr std::array<std::string_view, 4> baseline_dashes = {"2 4", "7 4", "9 3 2 3", "1 2"};

// ---- Text
std::string number(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", x == 0 ? 0.0 : x);  // no "-0.00"
  return text;
}

/// A tick's number, as short as it can be: 20, 0.05, 1e-05.
std::string tick_text(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", x);
  return text;
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string attribute(std::string_view name, std::string_view value) {
  return " " + std::string(name) + "=\"" + escaped(value) + "\"";
}

std::string text_at(double x, double y, std::string_view text, const std::string& more = {}) {
  return "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\"" + more + ">" + escaped(text) +
         "</text>\n";
}

std::string line_from(double x1, double y1, double x2, double y2, const std::string& more) {
  return "<line x1=\"" + number(x1) + "\" y1=\"" + number(y1) + "\" x2=\"" + number(x2) +
         "\" y2=\"" + number(y2) + "\"" + more + "/>\n";
}

// ---- How a line looks
struct look {
  std::string_view colour;
  std::string_view dashes;  // empty: solid
  std::size_t mark = 0;
};

/// A filled circle, square, triangle or diamond.
std::string mark_at(double x, double y, const look& as) {
  const auto point = [&](double dx, double dy) { return number(x + dx) + "," + number(y + dy); };
  const std::string fill = attribute("fill", as.colour) + " stroke=\"#ffffff\"/>\n";
  switch (as.mark % 4) {
    case 0:
      return "<circle cx=\"" + number(x) + "\" cy=\"" + number(y) + "\" r=\"4\"" + fill;
    case 1:
      return "<polygon points=\"" + point(-3.6, -3.6) + " " + point(3.6, -3.6) + " " +
             point(3.6, 3.6) + " " + point(-3.6, 3.6) + "\"" + fill;
    case 2:
      return "<polygon points=\"" + point(0, -5) + " " + point(4.6, 3.6) + " " + point(-4.6, 3.6) +
             "\"" + fill;
    default:
      return "<polygon points=\"" + point(0, -5.2) + " " + point(5.2, 0) + " " + point(0, 5.2) +
             " " + point(-5.2, 0) + "\"" + fill;
  }
}

/// Looks by label, over all panels, in the order in which labels first come.
class looks {
 public:
  explicit looks(const plot& drawn) {
    std::size_t baselines = 0;
    std::size_t others = 0;
    for (const auto& row : drawn.rows) {
      for (const plot_panel& panel : row) {
        for (const plot_line& line : panel.lines) {
          if (find(line.label) != nullptr) continue;
          look made;
          if (line.is_baseline) {
            made = {baseline_colour, baseline_dashes[baselines % baseline_dashes.size()],
                    baselines};
            ++baselines;
          } else {
            made = {colours[others % colours.size()], {}, others};
            ++others;
          }
          known_.emplace_back(line.label, made);
        }
      }
    }
  }

  look operator[](std::string_view label) const { return *find(label); }

 private:
  const look* find(std::string_view label) const {
    for (const auto& [name, as] : known_) {
      if (name == label) return &as;
    }
    return nullptr;
  }

  std::vector<std::pair<std::string, look>> known_;
};

// ---- Axes
bool can_be_drawn(double y) {
  return std::isfinite(y) && y > 0;
}

/// A logarithmic axis from `low` to `high` > low > 0, over pixels `from` … `to`.
struct log_axis {
  double low;
  double high;
  double from;
  double to;

  double operator()(double value) const {
    return from + (to - from) * std::log(value / low) / std::log(high / low);
  }
};

/// Ticks of few digits, as close as leaves them readable; at last some powers of ten alone.
std::vector<double> ticks_between(double low, double high) {
  const auto collect = [&](std::initializer_list<int> steps, int every) {
    std::vector<double> ticks;
    for (int power = -30; power <= 30; ++power) {
      if (power % every != 0) continue;
      for (const int step : steps) {
        // Parsed, not multiplied up: the nearest number prints shortest.
        const std::string text = std::to_string(step) + "e" + std::to_string(power);
        const double tick = std::strtod(text.c_str(), nullptr);
        if (tick >= low * 0.999999 && tick <= high * 1.000001) ticks.push_back(tick);
      }
    }
    return ticks;
  };
  constexpr std::size_t most = 11;
  if (auto ticks = collect({1, 2, 3, 4, 6, 8}, 1); ticks.size() <= most) return ticks;
  if (auto ticks = collect({1, 2, 5}, 1); ticks.size() <= most) return ticks;
  if (auto ticks = collect({1, 3}, 1); ticks.size() <= most) return ticks;
  for (int every = 1;; ++every) {
    if (auto ticks = collect({1}, every); ticks.size() <= most) return ticks;
  }
}

/// The range of all that can be drawn, with a little air.
log_axis y_axis_of(const plot_panel& panel, double top) {
  double low = std::numeric_limits<double>::infinity();
  double high = 0;
  for (const plot_line& line : panel.lines) {
    for (const double y : line.y) {
      if (!can_be_drawn(y)) continue;
      low = std::min(low, y);
      high = std::max(high, y);
    }
  }
  if (high == 0) return {0.1, 1, top + axes_height, top};  // nothing to draw
  const double air = std::max(1.12, std::pow(high / low, 0.05));
  return {low / air, high * air, top + axes_height, top};
}

log_axis x_axis_of(const plot_panel& panel, double left) {
  const auto [low, high] = std::minmax_element(panel.x.begin(), panel.x.end());
  const double air = std::max(1.08, std::pow(*high / *low, 0.04));
  return {*low / air, *high * air, left, left + axes_width};
}

// ---- Labels beside the lines' ends
struct end_label {
  std::string text;
  look as;
  double x;  // where the line ends
  double line_y;
  double text_y;
};

/// Moves labels apart, each as little as can be, within top … bottom.
void spread_out(std::vector<end_label>& labels, double top, double bottom) {
  std::stable_sort(labels.begin(), labels.end(),
                   [](const end_label& a, const end_label& b) { return a.line_y < b.line_y; });
  // Groups that touch are merged around their mean, until none touch.
  struct group {
    double middle;
    std::size_t size;
  };
  std::vector<group> groups;
  const auto half = [](const group& g) { return static_cast<double>(g.size) * label_spacing / 2; };
  for (const end_label& label : labels) {
    groups.push_back({label.line_y, 1});
    while (true) {
      group& last = groups.back();
      last.middle = std::max(top + half(last), std::min(bottom - half(last), last.middle));
      if (groups.size() < 2) break;
      group& before = groups[groups.size() - 2];
      if (before.middle + half(before) <= last.middle - half(last)) break;
      const auto a = static_cast<double>(before.size);
      const auto b = static_cast<double>(last.size);
      before.middle = (before.middle * a + last.middle * b) / (a + b);
      before.size += last.size;
      groups.pop_back();
    }
  }
  std::size_t next = 0;
  for (const group& g : groups) {
    for (std::size_t k = 0; k < g.size; ++k) {
      labels[next++].text_y = g.middle - half(g) + (static_cast<double>(k) + 0.5) * label_spacing;
    }
  }
}

// ---- Panels
std::string draw_frame(const plot_panel& panel, const plot& drawn, const log_axis& x,
                       const log_axis& y, double left, double top) {
  const double bottom = top + axes_height;
  const double right = left + axes_width;
  std::string out = text_at(left, top - 14, panel.title, " class=\"panel\"");
  const std::string grid = attribute("stroke", grid_ink);
  for (const double tick : ticks_between(y.low, y.high)) {
    out += line_from(left, y(tick), right, y(tick), grid);
    out += text_at(left - 8, y(tick) + 4.5, tick_text(tick), " class=\"tick\" text-anchor=\"end\"");
  }
  double last_tick = -1e9;
  std::vector<double> places = panel.x;
  std::sort(places.begin(), places.end());
  for (const double tick : places) {
    out += line_from(x(tick), top, x(tick), bottom, grid);
    if (x(tick) - last_tick < 34) continue;  // its number would run into the one before
    last_tick = x(tick);
    out += text_at(x(tick), bottom + 19, tick_text(tick) + drawn.x_suffix,
                   " class=\"tick\" text-anchor=\"middle\"");
  }
  out += "<path d=\"M" + number(left) + " " + number(top) + "V" + number(bottom) + "H" +
         number(right) + "\" fill=\"none\"" + attribute("stroke", soft_ink) + "/>\n";
  out += text_at((left + right) / 2, bottom + 43, drawn.x_label,
                 " class=\"axis\" text-anchor=\"middle\"");
  const double middle = (top + bottom) / 2;
  out += text_at(0, 0, panel.y_label,
                 " class=\"axis\" text-anchor=\"middle\" transform=\"translate(" +
                     number(left - 48) + " " + number(middle) + ") rotate(-90)\"");
  return out;
}

std::string draw_panel(const plot_panel& panel, const plot& drawn, const looks& style,
                       double panel_left, double panel_top) {
  const double left = panel_left + left_room;
  const double top = panel_top + above;
  const log_axis x = x_axis_of(panel, left);
  const log_axis y = y_axis_of(panel, top);
  std::string out = draw_frame(panel, drawn, x, y, left, top);

  std::vector<std::size_t> order(panel.x.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return panel.x[a] < panel.x[b]; });

  std::vector<end_label> labels;
  for (const plot_line& line : panel.lines) {
    const look as = style[line.label];
    std::string path;
    std::string marks;
    end_label label{line.label, as, 0, 0, 0};
    bool is_broken = true;  // after a place that can't be drawn a new stroke starts
    for (const std::size_t i : order) {
      if (i >= line.y.size() || !can_be_drawn(line.y[i])) {
        is_broken = true;
        continue;
      }
      label.x = x(panel.x[i]);
      label.line_y = y(line.y[i]);
      path += (is_broken ? "M" : "L") + number(label.x) + " " + number(label.line_y);
      marks += mark_at(label.x, label.line_y, as);
      is_broken = false;
    }
    if (path.empty()) continue;
    out += "<g><title>" + escaped(line.label) + "</title>\n<path d=\"" + path +
           "\" fill=\"none\" stroke-width=\"2\" stroke-linejoin=\"round\"" +
           attribute("stroke", as.colour) +
           (as.dashes.empty() ? "" : attribute("stroke-dasharray", as.dashes)) + "/>\n" + marks +
           "</g>\n";
    labels.push_back(label);
  }

  spread_out(labels, top - label_spacing / 2, top + axes_height + label_spacing / 2);
  const double text_x = left + axes_width + 26;
  for (const end_label& label : labels) {
    out += "<path d=\"M" + number(label.x + 6) + " " + number(label.line_y) + "L" +
           number(text_x - 4) + " " + number(label.text_y) +
           "\" fill=\"none\" stroke-width=\"0.8\"" + attribute("stroke", label.as.colour) + "/>\n";
    out += text_at(text_x, label.text_y + 4.5, label.text,
                   " class=\"line\" style=\"fill:" + std::string(label.as.colour) + "\"");
  }
  return out;
}

}  // namespace

std::string to_svg(const plot& drawn) {
  std::size_t widest = 1;
  for (const auto& row : drawn.rows) widest = std::max(widest, row.size());
  const auto columns = static_cast<double>(widest);
  const auto lines = static_cast<double>(drawn.rows.size());
  const double width = 2 * margin + columns * panel_width + (columns - 1) * gap;
  const double height = margin + header + lines * panel_height + (lines - 1) * gap;

  const std::string size = number(width) + "\" height=\"" + number(height);
  std::string out =
      "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" width=\"" + size +
      "\" viewBox=\"0 0 " + number(width) + " " + number(height) + "\">\n<title>" +
      escaped(drawn.title) + "</title>\n<desc>" + escaped(drawn.subtitle) + "</desc>\n<style>" +
      "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',Helvetica,Arial,"
      "sans-serif;font-size:13px;fill:" +
      std::string(ink) +
      "}"
      ".title{font-size:19px;font-weight:600}.panel{font-size:15px;font-weight:600}"
      ".subtitle,.tick,.axis{fill:" +
      std::string(soft_ink) +
      "}.line{font-weight:600}"
      "</style>\n<rect width=\"" +
      size + "\" fill=\"#ffffff\"/>\n";
  out += text_at(margin, margin + 16, drawn.title, " class=\"title\"");
  out += text_at(margin, margin + 40, drawn.subtitle, " class=\"subtitle\"");

  const looks style(drawn);
  double top = margin + header;
  for (const auto& row : drawn.rows) {
    double left = margin;
    for (const plot_panel& panel : row) {
      if (!panel.x.empty()) out += draw_panel(panel, drawn, style, left, top);
      left += panel_width + gap;
    }
    top += panel_height + gap;
  }
  return out + "</svg>\n";
}

}  // namespace kvfit_tool
