// SPDX-License-Identifier: MIT
/// The commands' arguments: options, help, and what is wrong usage.
///
/// `add_…` describes a command to CLI11; `finish_…` is for after the parse and checks what takes
/// more than one option to see. Both throw CLI11's errors, which main() turns into exit codes.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "cli/commands.hpp"
#include "measure/sweep.hpp"

namespace kvfit_tool {

/// Methods and settings as they were typed.
struct typed_methods {
  std::vector<std::string> names;
  std::vector<std::string> settings;
  std::string budgets = "uniform";        ///< of `compact`
  std::vector<std::string> rolling = {};  ///< of `eval --engine`
  /// Of `eval --engine`: as many names in both, or one of either.
  std::vector<std::string> engine_queries = {"repeat"};
  std::vector<std::string> engine_budgets = {"uniform"};
  std::vector<std::string> engine_settings = {};  ///< "SOURCE:BUDGETS[:METHOD+...]", in their place
  std::vector<std::string> required = {};         ///< of `eval`
};

CLI::App* add_compact(CLI::App& app, compact_arguments& to, typed_methods& typed);
void finish_compact(compact_arguments& arguments, const typed_methods& typed);

CLI::App* add_eval(CLI::App& app, eval_arguments& to, engine_arguments& engine,
                   typed_methods& typed);
/// `engine.folder` says which of the two is meant; that one is complete afterwards.
void finish_eval(eval_arguments& arguments, engine_arguments& engine, typed_methods& typed);

CLI::App* add_tune(CLI::App& app, tune_arguments& to, typed_methods& typed);
void finish_tune(tune_arguments& arguments, const typed_methods& typed);

}  // namespace kvfit_tool
