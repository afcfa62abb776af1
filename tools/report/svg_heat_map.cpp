// SPDX-License-Identifier: MIT
#include "report/svg_heat_map.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "report/svg_axis.hpp"
#include "report/svg_style.hpp"
#include "report/svg_text.hpp"

namespace kvfit_tool {

namespace {

using svg::attribute;
using svg::number;

constexpr double map_letter_width = 8.8;
constexpr double heading_height = 26;
constexpr double map_gap = 16;     // between maps
constexpr double scale_room = 66;  // above the maps
constexpr double scale_width = 260;
constexpr int scale_steps = 52;

struct rgb {
  double red;
  double green;
  double blue;
};

// From little to much: darker to lighter in even steps, so that it reads without colours too.
constexpr std::array<rgb, 6> ramp = {
    {{45, 33, 110}, {54, 84, 160}, {38, 132, 148}, {72, 170, 110}, {172, 200, 60}, {250, 226, 70}}};

/// `share` in [0, 1].
std::string colour_at(double share) {
  const double at = std::clamp(share, 0.0, 1.0) * static_cast<double>(ramp.size() - 1);
  const auto low = std::min(static_cast<std::size_t>(at), ramp.size() - 2);
  const double part = at - static_cast<double>(low);
  const auto mixed = [&](double rgb::*channel) {
    return static_cast<int>(
        std::lround((1 - part) * (ramp[low].*channel) + part * (ramp[low + 1].*channel)));
  };
  char text[8];
  std::snprintf(text, sizeof text, "#%02x%02x%02x", mixed(&rgb::red) & 255,
                mixed(&rgb::green) & 255, mixed(&rgb::blue) & 255);
  return text;
}

std::string box(double x, double y, double width, double height, const std::string& colour) {
  return "<rect x=\"" + number(x) + "\" y=\"" + number(y) + "\" width=\"" + number(width) +
         "\" height=\"" + number(height) + "\"" + attribute("fill", colour);
}

std::vector<double> values_of(const heat_table& drawn) {
  std::vector<double> values;
  for (const heat_table::line& line : drawn.lines) {
    for (const auto& map : line.maps) {
      for (const heat_cell& cell : map) values.push_back(cell.value);
    }
  }
  return values;
}

std::string draw_scale(const heat_table& drawn, const svg::axis& scale, double left) {
  std::string out = svg::text_at(left, 14, drawn.scale_label, " class=\"axis\"");
  const double step = scale_width / scale_steps;
  for (int k = 0; k < scale_steps; ++k) {
    const double share = (k + 0.5) / scale_steps;
    out += box(left + k * step, 22, step + 0.3, 12, colour_at(share)) + "/>\n";
  }
  for (const double tick : svg::ticks_between(scale.low, scale.high, 6)) {
    out += svg::text_at(left + scale(tick) * scale_width, 48, svg::short_number(tick),
                        " class=\"tick\" text-anchor=\"middle\"");
  }
  return out;
}

}  // namespace

std::string to_svg(const heat_table& drawn) {
  const int longest = std::max({1, drawn.map_columns, drawn.map_rows});
  const double cell = std::clamp(260.0 / longest, 7.0, 20.0);
  const double map_width = std::max(cell * drawn.map_columns, 56.0);  // a heading fits
  const double map_height = std::max(cell * drawn.map_rows, 18.0);
  std::size_t letters = 9;
  for (const heat_table::line& line : drawn.lines) letters = std::max(letters, line.label.size());
  const double left = static_cast<double>(letters) * map_letter_width + 14;
  const auto columns = static_cast<double>(drawn.headings.size());
  const auto lines = static_cast<double>(drawn.lines.size());
  const double width = std::max(left + columns * (map_width + map_gap), left + scale_width + 24);
  const double height = scale_room + heading_height + lines * (map_height + map_gap);
  const svg::axis scale = svg::axis_around(values_of(drawn), 1.02, 0, 1);

  const std::string size = number(width) + "\" height=\"" + number(height);
  std::string out = "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" width=\"" + size +
                    "\" viewBox=\"0 0 " + number(width) + " " + number(height) + "\"" +
                    attribute("fill", svg::ink) + ">\n<title>" + svg::escaped(drawn.title) +
                    "</title>\n" + draw_scale(drawn, scale, left);
  for (std::size_t c = 0; c < drawn.headings.size(); ++c) {
    out += svg::text_at(left + static_cast<double>(c) * (map_width + map_gap),
                        scale_room + heading_height - 10, drawn.headings[c], " class=\"line\"");
  }
  double top = scale_room + heading_height;
  for (const heat_table::line& line : drawn.lines) {
    out += svg::text_at(left - 12, top + map_height / 2 + 4.5, line.label,
                        " class=\"line\" text-anchor=\"end\"");
    for (std::size_t c = 0; c < line.maps.size(); ++c) {
      const double map_left = left + static_cast<double>(c) * (map_width + map_gap);
      for (const heat_cell& one : line.maps[c]) {
        const bool is_drawn = svg::can_be_drawn(one.value);
        out += box(map_left + cell * one.column, top + cell * one.row, cell, cell,
                   is_drawn ? colour_at(scale(one.value)) : "none") +
               " class=\"grid\"" + attribute("stroke", svg::grid_ink) + "><title>" +
               svg::escaped(one.title) + "</title></rect>\n";
      }
    }
    top += map_height + map_gap;
  }
  return out + "</svg>\n";
}

}  // namespace kvfit_tool
