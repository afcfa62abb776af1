// SPDX-License-Identifier: MIT
/// What the commands' arguments have in common.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string>
#include <vector>

#include "cli/cli.hpp"
#include "measure/candidate.hpp"

namespace kvfit_tool {

/// What CLI11 asks of a check: why the argument is wrong, or nothing.
std::string check_method(const std::string& name);
std::string check_ratio_text(const std::string& text);
std::string check_sweep(const std::string& text);

void add_threads(CLI::App& command, int& threads);
void add_seed(CLI::App& command, std::uint64_t& seed);
/// CAPTURE..., one or more.
CLI::Option* add_captures(CLI::App& command, std::vector<std::string>& captures,
                          const std::string& summary);
CLI::Option* add_methods(CLI::App& command, std::vector<std::string>& methods);
void add_sweeps(CLI::App& command, std::vector<std::string>& settings);

/// The settings there are, a line each, for the foot of a command's help.
std::string list_of_settings();

/// Methods × settings. What does not go together is a validation error.
std::vector<candidate> candidates_of(const typed_methods& typed);

/// A file can't be read and replaced by one run, nor hold two outputs.
void refuse_own_input(std::vector<std::string> taken, const std::vector<std::string>& outputs);

template <class T>
void refuse_repeats(std::vector<T> list, const std::string& option) {
  std::sort(list.begin(), list.end());
  if (std::adjacent_find(list.begin(), list.end()) != list.end()) {
    throw CLI::ValidationError(option, "one is named twice");
  }
}

}  // namespace kvfit_tool
