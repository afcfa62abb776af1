// SPDX-License-Identifier: MIT
/// `kvfit`: compacts captures, and measures how well.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <map>
#include <string>
#include <system_error>
#include <vector>

#include "commands.hpp"
#include "exit_code.hpp"
#include "heads.hpp"
#include "interrupt.hpp"
#include "kvfit/core/version.hpp"
#include "say.hpp"

namespace {

using namespace kvfit_tool;

std::string all_names() {
  std::string names;
  for (const method& each : methods()) {
    names += (names.empty() ? "" : ", ") + std::string(each.name);
  }
  return names;
}

/// Why the argument is wrong, or nothing: what CLI11 asks of a check.
std::string check_method(const std::string& name) {
  if (find_method(name) != nullptr) return {};
  return "unknown method \"" + name + "\"; there are " + all_names();
}

std::string check_ratio_text(const std::string& text) {
  double ratio = 0;
  if (CLI::detail::lexical_cast(text, ratio) && std::isfinite(ratio) && ratio >= 1) return {};
  return "a ratio is a number of at least 1, not \"" + text + "\"";
}

template <class T>
void refuse_repeats(std::vector<T> list, const std::string& option) {
  std::sort(list.begin(), list.end());
  if (std::adjacent_find(list.begin(), list.end()) != list.end()) {
    throw CLI::ValidationError(option, "one is named twice");
  }
}

void add_threads(CLI::App& command, int& threads) {
  command.add_option("--threads", threads, "threads to work with; 0: as many as the machine has")
      ->check(CLI::Range(0, 4096).description(""))
      ->type_name("N")
      ->capture_default_str();
}

void add_seed(CLI::App& command, std::uint64_t& seed) {
  command.add_option("--seed", seed, "seed of methods that draw: random")
      ->type_name("N")
      ->capture_default_str();
}

CLI::App* add_compact(CLI::App& app, compact_arguments& to) {
  CLI::App* const command =
      app.add_subcommand("compact", "Compact every head of a capture and write the result file");
  command->add_option("capture", to.capture, "capture to compact (docs/formats.md)")
      ->required()
      ->type_name("CAPTURE.safetensors");
  command->add_option("-o,--output", to.output, "result file to write; replaced if there")
      ->required()
      ->type_name("OUT.safetensors");
  const CLI::Validator check_count = CLI::Validator(CLI::NonNegativeNumber).description("");
  command
      ->add_option("--ratio", to.ratio,
                   "keep floor(T / ratio) of a head's T rows; 1 keeps all as they are")
      ->required()
      ->type_name("NUMBER")
      ->check(CLI::Validator(check_ratio_text, ""));
  command->add_option("--method", to.method, "one of those that `kvfit methods` lists")
      ->type_name("NAME")
      ->check(CLI::Validator(check_method, ""))
      ->capture_default_str();
  command
      ->add_option("--storage", to.storage,
                   "type of the stored keys and values [default: that of the capture's keys]")
      ->transform(
          CLI::CheckedTransformer(std::map<std::string, kvfit::dtype>{{"fp32", kvfit::dtype::fp32},
                                                                      {"fp16", kvfit::dtype::fp16},
                                                                      {"bf16", kvfit::dtype::bf16}})
              .description(""))
      ->type_name("fp32|fp16|bf16");
  command->add_option("--protect-first", to.protect_first, "first rows to keep exactly as they are")
      ->check(check_count)
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--protect-last", to.protect_last, "last rows to keep exactly as they are")
      ->check(check_count)
      ->type_name("N")
      ->capture_default_str();
  add_seed(*command, to.seed);
  add_threads(*command, to.threads);
  return command;
}

CLI::App* add_eval(CLI::App& app, eval_arguments& to) {
  to.methods = {"first", "last",     "random",    "topk",   "highest_attention",
                "omp",   "omp_fast", "zero_bias", "default"};
  to.ratios = {5, 10, 20, 50};
  CLI::App* const command = app.add_subcommand(
      "eval", "Compact the heads of captures by several methods and compare with full attention");
  command->add_option("captures", to.captures, "captures to measure on (docs/formats.md)")
      ->required()
      ->type_name("CAPTURE.safetensors");
  command->add_option("--methods", to.methods, "methods, separated by commas")
      ->type_name("NAME,...")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Validator(check_method, ""))
      ->capture_default_str();
  command->add_option("--ratios", to.ratios, "ratios T / t, separated by commas")
      ->type_name("NUMBER,...")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Validator(check_ratio_text, ""))
      ->capture_default_str();
  command->add_option("--json", to.json, "file to write all figures to (docs/formats.md)")
      ->type_name("OUT.json");
  command->add_option("--svg", to.svg, "file to write a plot of error against ratio to")
      ->type_name("OUT.svg");
  add_seed(*command, to.seed);
  add_threads(*command, to.threads);
  command->footer(
      "Each head is compacted on the capture's reference queries (q) and judged on its test\n"
      "queries (q_test). Results are kept in fp32, whatever the capture's type.");
  return command;
}

/// A file can't be read and replaced by one run, nor hold two outputs.
void refuse_own_input(std::vector<std::string> taken, const std::vector<std::string>& outputs) {
  for (const std::string& output : outputs) {
    if (output.empty()) continue;
    for (const std::string& other : taken) {
      std::error_code unknown;  // no file there yet: then the names decide
      const bool is_same = std::filesystem::equivalent(other, output, unknown) ||
                           std::filesystem::absolute(other).lexically_normal() ==
                               std::filesystem::absolute(output).lexically_normal();
      if (is_same) throw CLI::ValidationError(output, "would be written over " + other);
    }
    taken.push_back(output);
  }
}

int run(int argc, char** argv) {
  CLI::App app("kvfit fits a small KV cache to a big one.", "kvfit");
  app.set_version_flag("--version", std::string("kvfit ") + kvfit::version);
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 done, 1 a file or a computation failed, 2 wrong arguments, 130 stopped by\n"
      "Ctrl-C. Files are written whole or not at all. `kvfit COMMAND --help` says more.");

  compact_arguments compacting;
  eval_arguments evaluating;
  bool as_json = false;
  const CLI::App* const compact_command = add_compact(app, compacting);
  const CLI::App* const eval_command = add_eval(app, evaluating);
  CLI::App* const methods_command = app.add_subcommand("methods", "List the methods");
  methods_command->add_flag("--json", as_json, "as JSON");

  try {
    app.parse(argc, argv);
    if (*compact_command) refuse_own_input({compacting.capture}, {compacting.output});
    if (*eval_command) {
      refuse_own_input(evaluating.captures, {evaluating.json, evaluating.svg});
      refuse_repeats(evaluating.captures, "captures");
      refuse_repeats(evaluating.methods, "--methods");
      refuse_repeats(evaluating.ratios, "--ratios");
    }
  } catch (const CLI::ParseError& wrong) {
    // CLI11 has a code of its own for each mistake; ours are fewer.
    return app.exit(wrong) == 0 ? exit_done : exit_usage;
  }
  catch_interrupt();
  if (*compact_command) return run_compact(compacting);
  if (*eval_command) return run_eval(evaluating);
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
