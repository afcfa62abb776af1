// SPDX-License-Identifier: MIT
#include "report/svg_plot.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "report/svg_axis.hpp"
#include "report/svg_style.hpp"
#include "report/svg_text.hpp"

namespace kvfit_tool {

namespace {

using svg::attribute;
using svg::number;

// ---- Measures, in SVG units (pixels at 100 %)
constexpr double margin = 28;
constexpr double header = 54;  // title and subtitle
constexpr double axes_width = 330;
constexpr double least_axes_height = 330;
constexpr double left_room = 62;          // y ticks and label
constexpr double least_right_room = 166;  // labels of the lines
constexpr double label_offset = 26;       // from the axes to the labels
constexpr double letter_width = 8.6;      // of the labels, on the safe side
constexpr double above = 34;              // a panel's title
constexpr double below = 56;              // x ticks and label
constexpr double gap = 18;                // between panels
constexpr double label_spacing = 17;      // between labels of lines

/// The sizes that depend on what is drawn.
struct measures {
  double axes_height = least_axes_height;
  double right_room = least_right_room;

  explicit measures(const plot& drawn) {
    for (const auto& row : drawn.rows) {
      for (const plot_panel& panel : row) {
        const auto labels = static_cast<double>(panel.lines.size());
        axes_height = std::max(axes_height, labels * label_spacing);
        for (const plot_line& line : panel.lines) {
          const auto letters = static_cast<double>(line.label.size());
          right_room = std::max(right_room, label_offset + letters * letter_width);
        }
      }
    }
  }
  [[nodiscard]] double panel_width() const { return left_room + axes_width + right_room; }
  [[nodiscard]] double panel_height() const { return above + axes_height + below; }
};

// ---- Labels beside the lines' ends
struct end_label {
  std::string text;
  svg::label_style as;
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
bool is_drawn(const plot_panel& panel, const plot_point& point) {
  const bool is_share = panel.is_share && point.y >= 0 && point.y <= 1;
  return svg::can_be_drawn(point.x) && (is_share || svg::can_be_drawn(point.y));
}

std::vector<double> places_of(const plot_panel& panel, double plot_point::*what) {
  std::vector<double> places;
  for (const plot_line& line : panel.lines) {
    for (const plot_point& point : line.points) {
      if (is_drawn(panel, point)) places.push_back(point.*what);
    }
  }
  return places;
}

std::string draw_frame(const plot_panel& panel, const svg::axis& x, const svg::axis& y, double left,
                       double top, double bottom) {
  const double right = left + axes_width;
  std::string out = svg::text_at(left, top - 14, panel.title, " class=\"panel\"");
  const std::string grid = " class=\"grid\"" + attribute("stroke", svg::grid_ink);
  const std::vector<double> levels = panel.is_share ? std::vector<double>{0, 0.2, 0.4, 0.6, 0.8, 1}
                                                    : svg::ticks_between(y.low, y.high);
  for (const double tick : levels) {
    out += svg::line_from(left, y(tick), right, y(tick), grid);
    out += svg::text_at(left - 8, y(tick) + 4.5, svg::short_number(tick),
                        " class=\"tick\" text-anchor=\"end\"");
  }
  double last_tick = -1e9;
  std::vector<double> places = panel.ticks;
  if (places.empty()) places = svg::ticks_between(x.low, x.high, 9);
  std::sort(places.begin(), places.end());
  for (const double tick : places) {
    out += svg::line_from(x(tick), top, x(tick), bottom, grid);
    if (x(tick) - last_tick < 34) continue;  // its number would run into the one before
    last_tick = x(tick);
    out += svg::text_at(x(tick), bottom + 19, svg::short_number(tick) + panel.x_suffix,
                        " class=\"tick\" text-anchor=\"middle\"");
  }
  out += "<path d=\"M" + number(left) + " " + number(top) + "V" + number(bottom) + "H" +
         number(right) + "\" fill=\"none\" class=\"axis-line\"" +
         attribute("stroke", svg::soft_ink) + "/>\n";
  out += svg::text_at((left + right) / 2, bottom + 43, panel.x_label,
                      " class=\"axis\" text-anchor=\"middle\"");
  const double middle = (top + bottom) / 2;
  out += svg::text_at(0, 0, panel.y_label,
                      " class=\"axis\" text-anchor=\"middle\" transform=\"translate(" +
                          number(left - 48) + " " + number(middle) + ") rotate(-90)\"");
  return out;
}

/// Lines first and marks after them, so that no line crosses a mark.
std::string draw_lines(const plot_panel& panel, const svg::label_styles& style, const svg::axis& x,
                       const svg::axis& y, std::vector<end_label>& labels) {
  std::string strokes;
  std::string marks;
  for (const plot_line& line : panel.lines) {
    const svg::label_style& as = style[line.label];
    std::string path;
    end_label label{line.label, as, 0, 0, 0};
    bool is_broken = true;  // after a place that can't be drawn a new stroke starts
    for (const plot_point& point : line.points) {
      if (!is_drawn(panel, point)) {
        is_broken = true;
        continue;
      }
      label.x = x(point.x);
      label.line_y = y(point.y);
      path += (is_broken ? "M" : "L") + number(label.x) + " " + number(label.line_y);
      is_broken = false;
      const std::string title = point.title.empty() ? line.label : point.title;
      marks += svg::mark_at(label.x, label.line_y, as, title);
      if (!point.is_ringed) continue;
      marks += "<circle cx=\"" + number(label.x) + "\" cy=\"" + number(label.line_y) +
               "\" r=\"8\" fill=\"none\" class=\"front\" stroke-width=\"1.4\"" +
               attribute("stroke", svg::ink) + "/>\n";
    }
    if (path.empty()) continue;
    strokes += "<path d=\"" + path + "\" fill=\"none\" stroke-linejoin=\"round\"" +
               attribute("stroke-width", panel.has_legend ? "1.2" : "2") + svg::stroke_of(as) +
               (as.dashes.empty() ? "" : attribute("stroke-dasharray", as.dashes)) + "/>\n";
    labels.push_back(label);
  }
  return strokes + marks;
}

std::string draw_labels(const plot_panel& panel, const std::vector<end_label>& labels,
                        double text_x) {
  std::string out;
  for (const end_label& label : labels) {
    if (panel.has_legend) {
      out += svg::mark_at(text_x - 10, label.text_y, label.as);
    } else {
      out += "<path d=\"M" + number(label.x + 6) + " " + number(label.line_y) + "L" +
             number(text_x - 4) + " " + number(label.text_y) +
             "\" fill=\"none\" stroke-width=\"0.8\"" + svg::stroke_of(label.as) + "/>\n";
    }
    out += svg::text_at(text_x, label.text_y + 4.5, label.text, svg::fill_of(label.as, "line"));
  }
  return out;
}

/// What is written beside points, each clear of all points and of the notes before it; where there
/// is no such place the note is left out, for the point's title says the same.
std::string draw_notes(const plot_panel& panel, const svg::axis& x, const svg::axis& y) {
  struct spot {
    double x;
    double y;
  };
  std::vector<spot> points;
  for (const plot_line& line : panel.lines) {
    for (const plot_point& point : line.points) {
      if (is_drawn(panel, point)) points.push_back({x(point.x), y(point.y)});
    }
  }
  std::vector<spot> taken;  // middles of notes
  std::string out;
  for (const plot_line& line : panel.lines) {
    for (const plot_point& point : line.points) {
      if (point.note.empty() || !is_drawn(panel, point)) continue;
      const double width = static_cast<double>(point.note.size()) * 6.2;
      const double aside = 9 + width / 2;
      const spot at{x(point.x), y(point.y)};
      const auto is_free = [&](const spot& tried) {
        const auto is_far = [&](double across, double down) {
          return [=](const spot& other) {
            return std::abs(other.x - tried.x) > across || std::abs(other.y - tried.y) > down;
          };
        };
        return std::all_of(points.begin(), points.end(), is_far(width / 2 + 4, 9)) &&
               std::all_of(taken.begin(), taken.end(), is_far(width, 11));
      };
      for (const spot& tried : {spot{at.x + aside, at.y - 9}, spot{at.x + aside, at.y + 9},
                                spot{at.x - aside, at.y - 9}, spot{at.x - aside, at.y + 9},
                                spot{at.x, at.y - 16}, spot{at.x, at.y + 16}}) {
        if (!is_free(tried)) continue;
        taken.push_back(tried);
        out += svg::text_at(tried.x, tried.y + 4, point.note,
                            " class=\"note\" text-anchor=\"middle\"");
        break;
      }
    }
  }
  return out;
}

std::string draw_panel(const plot_panel& panel, const svg::label_styles& style,
                       const measures& sizes, double panel_left, double panel_top) {
  const double left = panel_left + left_room;
  const double top = panel_top + above;
  const double bottom = top + sizes.axes_height;
  std::vector<double> across = places_of(panel, &plot_point::x);
  across.insert(across.end(), panel.ticks.begin(), panel.ticks.end());
  const svg::axis x = svg::axis_around(across, 1.08, left, left + axes_width);
  const svg::axis y = panel.is_share
                          ? svg::axis{0, 1, bottom, top, true}
                          : svg::axis_around(places_of(panel, &plot_point::y), 1.12, bottom, top);
  std::vector<end_label> labels;
  std::string out = draw_frame(panel, x, y, left, top, bottom);
  out += draw_lines(panel, style, x, y, labels);
  if (panel.has_legend) {
    for (std::size_t k = 0; k < labels.size(); ++k) {
      labels[k].text_y = top + (static_cast<double>(k) + 0.5) * label_spacing;
    }
  } else {
    spread_out(labels, top - label_spacing / 2, bottom + label_spacing / 2);
  }
  return out + draw_labels(panel, labels, left + axes_width + label_offset) +
         draw_notes(panel, x, y);
}

}  // namespace

std::string to_svg(const plot& drawn, bool is_part_of_a_page) {
  std::size_t widest = 1;
  svg::label_styles style;
  for (const auto& row : drawn.rows) {
    widest = std::max(widest, row.size());
    for (const plot_panel& panel : row) {
      for (const plot_line& line : panel.lines) style.add(line.label, line.is_baseline);
    }
  }
  const measures sizes(drawn);
  const double head = is_part_of_a_page ? 0 : header;
  const double side = is_part_of_a_page ? 0 : margin;
  const auto columns = static_cast<double>(widest);
  const auto lines = static_cast<double>(drawn.rows.size());
  const double width = 2 * side + columns * sizes.panel_width() + (columns - 1) * gap;
  const double height = side + head + lines * sizes.panel_height() + (lines - 1) * gap;

  const std::string size = number(width) + "\" height=\"" + number(height);
  std::string out = "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" width=\"" + size +
                    "\" viewBox=\"0 0 " + number(width) + " " + number(height) + "\"" +
                    attribute("fill", svg::ink) + ">\n<title>" + svg::escaped(drawn.title) +
                    "</title>\n<desc>" + svg::escaped(drawn.subtitle) + "</desc>\n";
  if (!is_part_of_a_page) {
    out += "<style>" + plot_style() + "</style>\n<rect width=\"" + size + "\"" +
           attribute("fill", svg::ground) + "/>\n";
    out += svg::text_at(margin, margin + 16, drawn.title, " class=\"title\"");
    out += svg::text_at(margin, margin + 40, drawn.subtitle, " class=\"subtitle\"");
  }
  double top = side + head;
  for (const auto& row : drawn.rows) {
    double left = side;
    for (const plot_panel& panel : row) {
      if (!panel.lines.empty()) out += draw_panel(panel, style, sizes, left, top);
      left += sizes.panel_width() + gap;
    }
    top += sizes.panel_height() + gap;
  }
  return out + "</svg>\n";
}

std::string plot_style() {
  return "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',Helvetica,Arial,"
         "sans-serif;font-size:13px}"
         ".title{font-size:19px;font-weight:600}.panel{font-size:15px;font-weight:600}"
         ".subtitle,.tick,.axis{fill:" +
         std::string(svg::soft_ink) + "}.line{font-weight:600}.note{font-size:11px}";
}

}  // namespace kvfit_tool
