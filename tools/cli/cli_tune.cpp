// SPDX-License-Identifier: MIT
#include <cmath>
#include <map>
#include <string>

#include "cli/cli.hpp"
#include "cli/cli_shared.hpp"
#include "measure/tune_candidates.hpp"

namespace kvfit_tool {

namespace {

std::string check_milliseconds(const std::string& text) {
  double time = 0;
  if (CLI::detail::lexical_cast(text, time) && std::isfinite(time) && time > 0) return {};
  return "a time is a number above 0, not \"" + text + "\"";
}

}  // namespace

CLI::App* add_tune(CLI::App& app, tune_arguments& to, typed_methods& typed) {
  CLI::App* const command = app.add_subcommand(
      "tune", "Find the method and settings that lose least in the time there is");
  add_captures(*command, to.captures, "captures to tune on (docs/formats.md)");
  command->add_option("--ratio", to.ratio, "ratio T / t to tune for")
      ->required()
      ->type_name("NUMBER")
      ->check(CLI::Validator(check_ratio_text, ""));
  command
      ->add_option("--milliseconds-per-head", to.milliseconds_per_head,
                   "longest mean time of a head's compaction, in each capture")
      ->required()
      ->type_name("NUMBER")
      ->check(CLI::Validator(check_milliseconds, ""));
  add_methods(*command, typed.names)
      ->description("methods, separated by commas [default: all that are worth trying]");
  add_sweeps(*command, typed.settings);
  command
      ->add_option("--by", to.by,
                   "error that is to be small: output, mass, or the root of the sum of their "
                   "squares (joint) [default: joint]")
      ->transform(
          CLI::CheckedTransformer(std::map<std::string, tune_goal>{{"joint", tune_goal::joint},
                                                                   {"output", tune_goal::output},
                                                                   {"mass", tune_goal::mass}})
              .description(""))
      ->type_name("joint|output|mass");
  add_seed(*command, to.seed);
  add_threads(*command, to.threads);
  command->footer(
      "An eighth of the capture's reference queries (q) is held out from every candidate's fit "
      "and\n"
      "judges it. Test queries (q_test) are not looked at: they stay unseen, for `kvfit eval`.\n"
      "Without --set, methods are tried as they are and with settings that are known to matter.\n"
      "Times are those of this machine; more threads than one make them longer.\n\n" +
      list_of_settings());
  return command;
}

void finish_tune(tune_arguments& arguments, const typed_methods& typed) {
  refuse_repeats(arguments.captures, "captures");
  if (typed.settings.empty()) {
    refuse_repeats(typed.names, "--methods");
    arguments.candidates = tune_candidates(typed.names);
    return;
  }
  if (typed.names.empty()) throw CLI::RequiresError("--set", "--methods");
  arguments.candidates = candidates_of(typed);
}

}  // namespace kvfit_tool
