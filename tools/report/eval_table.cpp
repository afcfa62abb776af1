// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <utility>

#include "report/eval_output.hpp"

namespace kvfit_tool {

namespace {

constexpr int cell_width = 8;

std::string padded(const std::string& text, std::size_t width) {
  return text.size() >= width ? text : std::string(width - text.size(), ' ') + text;
}

struct metric {
  const char* title;
  std::function<std::string(const score_row&)> cell;
};

/// One metric beside another: a line a candidate, a column a ratio each.
class metric_table {
 public:
  explicit metric_table(std::vector<const score_row*> rows) : rows_(std::move(rows)) {
    for (const score_row* row : rows_) {
      if (std::find(methods_.begin(), methods_.end(), row->label) == methods_.end()) {
        methods_.push_back(row->label);
        name_width_ = std::max(name_width_, row->label.size());
      }
      if (std::find(ratios_.begin(), ratios_.end(), row->ratio) == ratios_.end()) {
        ratios_.push_back(row->ratio);
      }
    }
  }

  [[nodiscard]] std::string text(const metric& left, const metric& right) const {
    return text({&left, &right});
  }

  [[nodiscard]] std::string text(const std::vector<const metric*>& shown) const {
    std::string out(name_width_, ' ');
    for (const metric* each : shown) {
      std::string title = each->title;
      title.resize(std::max(title.size(), ratios_.size() * cell_width - 2), ' ');
      out += "    " + title;
    }
    out.erase(out.find_last_not_of(' ') + 1);
    out += "\n" + std::string("method") +
           std::string(name_width_ - std::min(name_width_, std::size_t{6}), ' ');
    for (std::size_t part = 0; part < shown.size(); ++part) {
      out += "  ";
      for (const double ratio : ratios_) out += padded(ratio_text(ratio) + "x", cell_width);
    }
    out += "\n";
    for (const std::string& method : methods_) {
      out += method + std::string(name_width_ - method.size(), ' ');
      for (const metric* each : shown) {
        out += "  ";
        for (const double ratio : ratios_) out += padded(cell(*each, method, ratio), cell_width);
      }
      out += "\n";
    }
    return out;
  }

 private:
  [[nodiscard]] std::string cell(const metric& of, const std::string& method, double ratio) const {
    const auto found = std::find_if(rows_.begin(), rows_.end(), [&](const score_row* row) {
      return row->label == method && row->ratio == ratio;
    });
    return found == rows_.end() ? "-" : of.cell(**found);
  }

  std::vector<const score_row*> rows_;
  std::vector<std::string> methods_;
  std::vector<double> ratios_;
  std::size_t name_width_ = 6;
};

std::string heading(const capture_facts& capture, const std::vector<const score_row*>& rows,
                    int threads) {
  const std::string heads = std::to_string(capture.heads) + " KV heads in " +
                            std::to_string(capture.layers) + " layers, " +
                            std::to_string(capture.rows) + " rows";
  std::string out = capture.name + ": " + heads + ", " + std::to_string(threads) +
                    (threads == 1 ? " thread\n" : " threads\n");
  const bool is_tested = std::all_of(
      rows.begin(), rows.end(), [](const score_row* row) { return row->on == judged_on::test; });
  if (is_tested) {
    out += "Means over heads, on " + std::to_string(capture.test_queries) +
           " test queries that no method was fitted on.\n";
  } else {
    out +=
        "NOTE: the capture has no test queries (q_test). Errors are the compactions' own: on\n"
        "queries held out from the fit (marked h), else on those fitted on (marked t). Figures\n"
        "with different marks do not compare.\n";
  }
  return out;
}

/// Behind each figure that was not measured on test queries.
std::string mark(const score_row& row) {
  return row.on == judged_on::test ? "" : row.on == judged_on::held_out ? "h" : "t";
}

}  // namespace

std::string three_digits(double x) {
  char text[32];
  if (!std::isfinite(x)) return x > 0 ? "inf" : "nan";
  if (x != 0 && (std::abs(x) < 9.995e-4 || std::abs(x) >= 99999.5)) {
    std::snprintf(text, sizeof text, "%.1e", x);
  } else {
    std::snprintf(text, sizeof text, "%.2e",
                  x);  // rounded first: 0.9999 has a digit before the point
    const double rounded = std::abs(std::strtod(text, nullptr));
    const int whole = x == 0 ? 1 : static_cast<int>(std::floor(std::log10(rounded))) + 1;
    std::snprintf(text, sizeof text, "%.*f", std::clamp(3 - whole, 0, 5), x);
  }
  return text;
}

std::string four_decimals(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4f", x);
  return text;
}

std::string ratio_text(double ratio) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", ratio);
  return text;
}

std::string to_table(const evaluation& measured) {
  const metric output = {"output error", [](const score_row& row) {
                           return three_digits(row.output_error.mean) + mark(row);
                         }};
  const metric weighted = {"rms output error", [](const score_row& row) {
                             return three_digits(row.rms_output_error.mean) + mark(row);
                           }};
  const metric mass = {"mass error", [](const score_row& row) {
                         return three_digits(row.mass_error.mean) + mark(row);
                       }};
  const metric cosine = {
      "cosine", [](const score_row& row) { return four_decimals(row.cosine.mean) + mark(row); }};
  const metric time = {"milliseconds a head",
                       [](const score_row& row) { return three_digits(row.milliseconds); }};
  const auto from_comparison = [](auto shown) {
    return [shown](const score_row& row) {
      return row.against ? shown(*row.against) : std::string("-");
    };
  };
  const metric output_ratio = {"output error ratio", from_comparison([](const comparison& against) {
                                 return three_digits(against.output_error);
                               })};
  const metric mass_ratio = {"mass error ratio", from_comparison([](const comparison& against) {
                               return three_digits(against.mass_error);
                             })};
  const metric output_worse = {"heads worse in output",
                               from_comparison([](const comparison& against) {
                                 return std::to_string(against.output_worse);
                               })};
  const metric mass_worse = {"heads worse in mass", from_comparison([](const comparison& against) {
                               return std::to_string(against.mass_worse);
                             })};
  std::string out;
  for (const capture_facts& capture : measured.captures) {
    std::vector<const score_row*> rows;
    for (const score_row& row : measured.rows) {
      if (row.capture == capture.name) rows.push_back(&row);
    }
    if (rows.empty()) continue;
    const metric_table table(rows);
    if (!out.empty()) out += "\n";
    out += heading(capture, rows, measured.threads) + "\n" + table.text(output, mass) + "\n" +
           table.text(cosine, time) + "\n" + table.text({&weighted});
    const auto compared = std::find_if(
        rows.begin(), rows.end(), [](const score_row* row) { return row->against.has_value(); });
    if (compared == rows.end()) continue;
    out += "\nAgainst " + (*compared)->against->name +
           ", head by head: geometric mean of the ratios of errors, and heads more than 2 % "
           "worse.\n\n" +
           table.text(output_ratio, mass_ratio) + "\n" + table.text(output_worse, mass_worse);
  }
  return out;
}

}  // namespace kvfit_tool
