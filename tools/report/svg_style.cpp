// SPDX-License-Identifier: MIT
#include "report/svg_style.hpp"

#include <array>

#include "report/svg_text.hpp"

namespace kvfit_tool::svg {

namespace {

struct colour_pair {
  std::string_view light;
  std::string_view dark;
};

// Each at least 4.5 : 1 against its ground, told apart by the colour-blind too; marks and dashes
// help.
constexpr std::array<colour_pair, 7> colours = {{{"#0b62a8", "#6cb4f2"},
                                                 {"#b3400e", "#f2945c"},
                                                 {"#1a7a3e", "#5fc988"},
                                                 {"#7a3aa6", "#c79bea"},
                                                 {"#b0175f", "#f285b5"},
                                                 {"#0d7377", "#4fc4c9"},
                                                 {"#7a5c00", "#d9b64a"}}};
constexpr colour_pair baseline_colour = {"#5f6672", "#a3aab5"};
constexpr std::array<std::string_view, 4> baseline_dashes = {"2 4", "7 4", "9 3 2 3", "1 2"};

// The dark side of the inks.
constexpr std::string_view dark_ink = "#e7eaee";
constexpr std::string_view dark_soft_ink = "#aab2bd";
constexpr std::string_view dark_grid_ink = "#343a43";
constexpr std::string_view dark_ground = "#15181d";

}  // namespace

void label_styles::add(std::string_view label, bool is_baseline) {
  if (find(label) != nullptr) return;
  label_style made;
  if (is_baseline) {
    made = {baseline_colour.light, baseline_dashes[baselines_ % baseline_dashes.size()], baselines_,
            "sb"};
    ++baselines_;
  } else {
    const std::size_t colour = others_ % colours.size();
    made = {colours[colour].light, {}, others_, "s" + std::to_string(colour)};
    ++others_;
  }
  known_.emplace_back(label, made);
}

const label_style& label_styles::operator[](std::string_view label) const {
  return *find(label);
}

const label_style* label_styles::find(std::string_view label) const {
  for (const auto& [name, as] : known_) {
    if (name == label) return &as;
  }
  return nullptr;
}

std::string stroke_of(const label_style& as) {
  return attribute("class", as.name + "-stroke") + attribute("stroke", as.colour);
}

std::string fill_of(const label_style& as, std::string_view more_classes) {
  const std::string classes =
      as.name + "-fill" + (more_classes.empty() ? "" : " " + std::string(more_classes));
  return attribute("class", classes) + attribute("fill", as.colour);
}

std::string mark_at(double x, double y, const label_style& as, std::string_view title) {
  const auto point = [&](double dx, double dy) { return number(x + dx) + "," + number(y + dy); };
  const std::string said = title.empty() ? std::string() : "<title>" + escaped(title) + "</title>";
  const auto element = [&](const std::string& name, const std::string& shape) {
    return "<" + name + " " + shape + fill_of(as, "mark") + attribute("stroke", ground) +
           (said.empty() ? "/>\n" : ">" + said + "</" + name + ">\n");
  };
  switch (as.mark % 4) {
    case 0:
      return element("circle", "cx=\"" + number(x) + "\" cy=\"" + number(y) + "\" r=\"4\"");
    case 1:
      return element("polygon", "points=\"" + point(-3.6, -3.6) + " " + point(3.6, -3.6) + " " +
                                    point(3.6, 3.6) + " " + point(-3.6, 3.6) + "\"");
    case 2:
      return element("polygon", "points=\"" + point(0, -5) + " " + point(4.6, 3.6) + " " +
                                    point(-4.6, 3.6) + "\"");
    default:
      return element("polygon", "points=\"" + point(0, -5.2) + " " + point(5.2, 0) + " " +
                                    point(0, 5.2) + " " + point(-5.2, 0) + "\"");
  }
}

std::string dark_style() {
  const auto rule = [](const std::string& of, std::string_view what, std::string_view colour) {
    return of + "{" + std::string(what) + ":" + std::string(colour) + "}\n";
  };
  std::string css = rule("text,.ink-fill", "fill", dark_ink) +
                    rule(".subtitle,.tick,.axis", "fill", dark_soft_ink) +
                    rule(".axis-line,.front", "stroke", dark_soft_ink) +
                    rule(".grid", "stroke", dark_grid_ink) + rule(".mark", "stroke", dark_ground);
  const auto add = [&](const std::string& name, const colour_pair& pair) {
    css += rule("." + name + "-stroke", "stroke", pair.dark) +
           rule("." + name + "-fill", "fill", pair.dark);
  };
  for (std::size_t c = 0; c < colours.size(); ++c) add("s" + std::to_string(c), colours[c]);
  add("sb", baseline_colour);
  return css;
}

}  // namespace kvfit_tool::svg
