// SPDX-License-Identifier: MIT
/// What is measured: a method with some of its settings changed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvfit_tool {

/// A setting's name and the value it is given, spelled in the one way of `setting::canonical`.
struct setting_value {
  std::string name;
  std::string text;
  friend bool operator==(const setting_value&, const setting_value&) = default;
};

/// Who shares rows out among heads.
enum class share_policy : std::uint8_t { uniform, pyramid, global, given };

/// A preset and what is set on top of it, in the order of the table of settings.
struct candidate {
  std::string method;
  std::vector<setting_value> settings = {};
  friend bool operator==(const candidate&, const candidate&) = default;
};

/// "omp", "omp{norm_power=0.5,storage=fp16}".
std::string label_of(const candidate& what);

/// As `eval --engine` shows it: "h2o mixture measured rolling". `queries` and `budgets` are empty
/// where they are those of the first pair.
std::string label_of(const candidate& what, const std::string& queries, const std::string& budgets,
                     int rounds);

}  // namespace kvfit_tool
