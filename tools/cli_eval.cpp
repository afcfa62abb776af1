// SPDX-License-Identifier: MIT
#include <algorithm>
#include <string>

#include "cli.hpp"
#include "cli_shared.hpp"

namespace kvfit_tool {

CLI::App* add_eval(CLI::App& app, eval_arguments& to, typed_methods& typed) {
  typed.names = {"first", "last",     "random",    "topk",   "highest_attention",
                 "omp",   "omp_fast", "zero_bias", "default"};
  to.ratios = {5, 10, 20, 50};
  CLI::App* const command = app.add_subcommand(
      "eval", "Compact the heads of captures by several methods and compare with full attention");
  add_captures(*command, to.captures, "captures to measure on (docs/formats.md)");
  add_methods(*command, typed.names)->capture_default_str();
  command->add_option("--ratios", to.ratios, "ratios T / t, separated by commas")
      ->type_name("NUMBER,...")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Validator(check_ratio_text, ""))
      ->capture_default_str();
  add_sweeps(*command, typed.settings);
  CLI::Option* const json =
      command->add_option("--json", to.json, "file to write all figures to (docs/formats.md)")
          ->type_name("OUT.json");
  command
      ->add_flag("--resume", to.resume,
                 "go on with what the --json file holds: its rows are not measured again, and it "
                 "is rewritten after every row")
      ->needs(json);
  command->add_option("--svg", to.svg, "file to write a plot of error against ratio to")
      ->type_name("OUT.svg");
  command->add_option("--html", to.html, "file to write a report with all plots and tables to")
      ->type_name("OUT.html");
  command
      ->add_option("--against", to.against,
                   "hold all errors against this one's, head by head [default: omp, where it is "
                   "among the methods; AM-OMP with --reference]")
      ->type_name("METHOD");
  command
      ->add_option("--reference", to.reference,
                   "hold them against figures published in this file (docs/formats.md)")
      ->type_name("FILE.json");
  add_seed(*command, to.seed);
  add_threads(*command, to.threads);
  command->footer(
      "Each head is compacted on the capture's reference queries (q) and judged on its test\n"
      "queries (q_test). Results are kept in fp32, whatever the capture's type, unless a setting\n"
      "says otherwise.\n\n" +
      list_of_settings());
  return command;
}

void finish_eval(eval_arguments& arguments, const typed_methods& typed) {
  std::vector<std::string> inputs = arguments.captures;
  if (!arguments.reference.empty()) inputs.push_back(arguments.reference);
  refuse_own_input(inputs, {arguments.json, arguments.svg, arguments.html});
  refuse_repeats(arguments.captures, "captures");
  refuse_repeats(arguments.ratios, "--ratios");
  arguments.candidates = candidates_of(typed);
  if (!arguments.reference.empty()) {
    if (arguments.against.empty()) arguments.against = "AM-OMP";
    return;
  }
  std::string labels;
  const std::string wanted = arguments.against.empty() ? "omp" : arguments.against;
  for (const candidate& each : arguments.candidates) {
    const std::string label = label_of(each);
    if (label == wanted) {
      arguments.against = wanted;
      return;
    }
    labels += (labels.empty() ? "" : ", ") + label;
  }
  if (arguments.against.empty()) return;
  throw CLI::ValidationError("--against",
                             arguments.against + " is not measured here; there are " + labels);
}

}  // namespace kvfit_tool
