// SPDX-License-Identifier: MIT
#include "measure/requirement.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <optional>
#include <string_view>

namespace kvfit_tool {

namespace {

struct named_relation {
  std::string_view text;
  relation is;
};

/// The longer ones first: "<" begins "<=".
constexpr std::array<named_relation, 4> relations = {{{"<=", relation::at_most},
                                                      {">=", relation::at_least},
                                                      {"<", relation::less},
                                                      {">", relation::more}}};

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view spaces = " \t\r\n";
  const std::size_t first = text.find_first_not_of(spaces);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(spaces) - first + 1);
}

std::string in_quotes(std::string_view text) {
  return "\"" + std::string(text) + "\"";
}

/// A decimal number, all of the text: no hexadecimal, infinity or NaN, which strtod would take.
std::optional<double> number_in(std::string_view text) {
  if (text.empty() || text.find_first_not_of("+-.0123456789eE") != std::string_view::npos) {
    return std::nullopt;
  }
  const std::string copy(text);
  char* end = nullptr;
  const double number = std::strtod(copy.c_str(), &end);
  const bool is_lost = number == 0 && text.find_first_of("123456789") < text.find_first_of("eE");
  if (*end != '\0' || !std::isfinite(number) || is_lost) return std::nullopt;
  return number;
}

std::string parse_condition(std::string_view text, condition& to) {
  const std::size_t at = text.find_first_of("<>");
  const auto wrong = [&](const std::string& why) { return in_quotes(text) + ": " + why; };
  if (at == std::string_view::npos) return wrong("needs FIGURE <=, <, >= or > NUMBER");
  const auto* const found = std::find_if(
      relations.begin(), relations.end(),
      [&](const named_relation& each) { return text.substr(at).starts_with(each.text); });
  const std::string_view figure = trimmed(text.substr(0, at));
  const std::string_view limit = trimmed(text.substr(at + found->text.size()));
  if (figure.empty()) return wrong("names no figure");
  const auto number = number_in(limit);
  if (!number) return wrong(in_quotes(limit) + " is no number");
  to = {.figure = std::string(figure),
        .is = found->is,
        .limit = *number,
        .text = std::string(figure) + " " + std::string(found->text) + " " + std::string(limit)};
  return {};
}

/// False for NaN.
bool holds(const condition& of, double x) {
  switch (of.is) {
    case relation::at_most:
      return x <= of.limit;
    case relation::less:
      return x < of.limit;
    case relation::at_least:
      return x >= of.limit;
    case relation::more:
      return x > of.limit;
  }
  return false;
}

/// Three digits, or as many as it takes for what is read to fail the condition, too.
std::string shown(const condition& failed, double x) {
  std::array<char, 40> text{};
  for (int digits = 3; digits <= std::numeric_limits<double>::max_digits10; ++digits) {
    std::snprintf(text.data(), text.size(), "%.*g", digits, x);
    if (std::isnan(x) || !holds(failed, std::strtod(text.data(), nullptr))) break;
  }
  return std::isnan(x) ? "nan" : text.data();
}

double figure_of(const judged_row& row, const std::string& name) {
  for (const auto& [figure, value] : row.figures) {
    if (figure == name) return value;
  }
  return std::numeric_limits<double>::quiet_NaN();
}

template <class Items, class Text>
std::string listed(const Items& items, Text&& text) {
  std::vector<std::string> seen;
  std::string list;
  for (const auto& each : items) {
    const std::string next = text(each);
    if (std::find(seen.begin(), seen.end(), next) != seen.end()) continue;
    list += (list.empty() ? "" : ", ") + next;
    seen.push_back(next);
  }
  return list;
}

std::string ratio_named(double ratio) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%g", ratio);
  return text.data();
}

}  // namespace

std::string parse_requirement(const std::string& text, requirement& to) {
  const std::string_view all = text;
  const std::size_t at = all.rfind('@');
  const std::size_t colon = at == std::string_view::npos ? at : all.find(':', at);
  if (colon == std::string_view::npos) {
    return "needs METHOD@RATIO: FIGURE <= NUMBER, ..., not " + in_quotes(all);
  }
  const std::string_view method = trimmed(all.substr(0, at));
  const std::string_view ratio = trimmed(all.substr(at + 1, colon - at - 1));
  if (method.empty()) return "no method before the @ in " + in_quotes(all);
  const auto number = number_in(ratio);
  if (!number || *number < 1) {
    return "a ratio is a number of at least 1, not " + in_quotes(ratio) + ", in " + in_quotes(all);
  }
  requirement made{.method = std::string(method),
                   .ratio = *number,
                   .name = std::string(method) + "@" + std::string(ratio),
                   .conditions = {}};
  std::string_view rest = all.substr(colon + 1);
  for (bool is_last = false; !is_last;) {
    const std::size_t comma = rest.find(',');
    is_last = comma == std::string_view::npos;
    const std::string wrong =
        parse_condition(trimmed(rest.substr(0, comma)), made.conditions.emplace_back());
    if (!wrong.empty()) return wrong + ", in " + in_quotes(all);
    if (!is_last) rest.remove_prefix(comma + 1);
  }
  to = std::move(made);
  return {};
}

bool is_about(const requirement& asked, const row_name& row) {
  return asked.ratio == row.ratio && (asked.method == row.label || asked.method == row.method);
}

std::string check_requirement(const requirement& asked, std::span<const row_name> rows,
                              std::span<const std::string> figures) {
  const auto is_method = [&](const row_name& row) {
    return asked.method == row.label || asked.method == row.method;
  };
  const auto about = [&](const row_name& row) { return is_about(asked, row); };
  if (std::none_of(rows.begin(), rows.end(), is_method)) {
    return in_quotes(asked.method) + " of " + asked.name + " is not measured here; there are " +
           listed(rows, [](const row_name& row) { return row.label; });
  }
  if (std::none_of(rows.begin(), rows.end(), about)) {
    return asked.name + " is of no ratio that is measured here; there are " +
           listed(rows, [](const row_name& row) { return ratio_named(row.ratio); });
  }
  for (const condition& each : asked.conditions) {
    if (std::find(figures.begin(), figures.end(), each.figure) != figures.end()) continue;
    return in_quotes(each.figure) + " of " + asked.name + " is no figure; there are " +
           listed(figures, [](const std::string& name) { return name; });
  }
  return {};
}

std::vector<std::string> failures_of(std::span<const requirement> asked,
                                     std::span<const judged_row> rows) {
  std::vector<std::string> lines;
  for (const requirement& each : asked) {
    const auto count = std::count_if(
        rows.begin(), rows.end(), [&](const judged_row& row) { return is_about(each, row.what); });
    for (const condition& of : each.conditions) {
      const std::string required = "required " + each.name + ": " + of.text;
      if (count == 0) lines.push_back(required + ", measured nothing");
      for (const judged_row& row : rows) {
        if (!is_about(each, row.what)) continue;
        const double x = figure_of(row, of.figure);
        if (holds(of, x)) continue;
        std::string line = required + ", measured " + shown(of, x);
        if (count > 1) {
          line += " (" + row.what.label + (row.place.empty() ? "" : ", " + row.place) + ")";
        }
        lines.push_back(std::move(line));
      }
    }
  }
  return lines;
}

}  // namespace kvfit_tool
