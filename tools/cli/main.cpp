// SPDX-License-Identifier: MIT
/// `kvfit`: compacts captures, and measures how well.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <string>

#include "cli/cli.hpp"
#include "cli/commands.hpp"
#include "cli/exit_code.hpp"
#include "cli/interrupt.hpp"
#include "cli/say.hpp"
#include "kvfit/core/version.hpp"

namespace {

using namespace kvfit_tool;

int run(int argc, char** argv) {
  CLI::App app("kvfit fits a small KV cache to a big one.", "kvfit");
  app.set_version_flag("--version", std::string("kvfit ") + kvfit::version);
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 done, 1 a file or a computation failed or a requirement is not met (eval\n"
      "--require), 2 wrong arguments, 130 stopped by Ctrl-C. Files are written whole or not at\n"
      "all. `kvfit COMMAND --help` says more.");

  compact_arguments compacting;
  eval_arguments evaluating;
  engine_arguments asking;
  tune_arguments tuning;
  typed_methods typed_compact;
  typed_methods typed_eval;
  typed_methods typed_tune;
  bool as_json = false;
  const CLI::App* const compact_command = add_compact(app, compacting, typed_compact);
  const CLI::App* const eval_command = add_eval(app, evaluating, asking, typed_eval);
  const CLI::App* const tune_command = add_tune(app, tuning, typed_tune);
  CLI::App* const methods_command = app.add_subcommand("methods", "List the methods");
  methods_command->add_flag("--json", as_json, "as JSON");

  try {
    app.parse(argc, argv);
    if (*compact_command) finish_compact(compacting, typed_compact);
    if (*eval_command) finish_eval(evaluating, asking, typed_eval);
    if (*tune_command) finish_tune(tuning, typed_tune);
  } catch (const CLI::ParseError& wrong) {
    // CLI11 has a code of its own for each mistake; ours are fewer.
    return app.exit(wrong) == 0 ? exit_done : exit_usage;
  }
  catch_interrupt();
  if (*compact_command) return run_compact(compacting);
  if (*eval_command) {
    return asking.folder.empty() ? run_eval(evaluating) : run_engine_eval(asking);
  }
  if (*tune_command) return run_tune(tuning);
  return run_methods(as_json);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& unforeseen) {
    warn(unforeseen.what());
    return exit_failed;
  }
}
