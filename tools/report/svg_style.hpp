// SPDX-License-Identifier: MIT
/// Colours, marks and dashes, by label, on light ground and on dark.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kvfit_tool::svg {

// On light ground, as attributes: they hold wherever no style sheet is read.
inline constexpr std::string_view ink = "#1b1f24";
inline constexpr std::string_view soft_ink = "#4b5563";
inline constexpr std::string_view grid_ink = "#e3e6ea";
inline constexpr std::string_view ground = "#ffffff";

/// How a line is drawn.
struct label_style {
  std::string_view colour;
  std::string_view dashes;  ///< empty: solid
  std::size_t mark = 0;
  std::string name;  ///< "s0", "s1", …, "sb" for baselines: the colour, for style sheets
};

/// Styles by label, in the order in which labels are added.
class label_styles {
 public:
  void add(std::string_view label, bool is_baseline);
  [[nodiscard]] const label_style& operator[](std::string_view label) const;

 private:
  [[nodiscard]] const label_style* find(std::string_view label) const;
  std::vector<std::pair<std::string, label_style>> known_;
  std::size_t baselines_ = 0;
  std::size_t others_ = 0;
};

/// Attributes that draw, or fill, in that colour; style sheets can override them.
std::string stroke_of(const label_style& as);
std::string fill_of(const label_style& as, std::string_view more_classes = {});

/// A filled circle, square, triangle or diamond; `title` is read on hover.
std::string mark_at(double x, double y, const label_style& as, std::string_view title = {});

/// CSS that swaps all these colours for ones that can be read on dark ground ("#15181d").
std::string dark_style();

}  // namespace kvfit_tool::svg
