// SPDX-License-Identifier: MIT
#include "cli/cli_shared.hpp"

#include <cmath>
#include <filesystem>
#include <system_error>
#include <utility>

#include "measure/heads.hpp"
#include "measure/settings.hpp"
#include "measure/sweep.hpp"

namespace kvfit_tool {

namespace {

std::string all_names() {
  std::string names;
  for (const method& each : methods()) {
    names += (names.empty() ? "" : ", ") + std::string(each.name);
  }
  return names;
}

}  // namespace

std::string check_method(const std::string& name) {
  if (find_method(name) != nullptr) return {};
  return "unknown method \"" + name + "\"; there are " + all_names();
}

std::string check_ratio_text(const std::string& text) {
  double ratio = 0;
  if (CLI::detail::lexical_cast(text, ratio) && std::isfinite(ratio) && ratio >= 1) return {};
  return "a ratio is a number of at least 1, not \"" + text + "\"";
}

std::string check_sweep(const std::string& text) {
  sweep ignored;
  return parse_sweep(text, ignored);
}

void add_threads(CLI::App& command, int& threads) {
  command.add_option("--threads", threads, "threads to work with; 0: as many as the machine has")
      ->check(CLI::Range(0, 4096).description(""))
      ->type_name("N")
      ->capture_default_str();
}

void add_seed(CLI::App& command, std::uint64_t& seed) {
  command
      .add_option("--seed", seed,
                  "seed of methods that draw: random, gradient_mass, gradient_joint")
      ->type_name("N")
      ->capture_default_str();
}

CLI::Option* add_captures(CLI::App& command, std::vector<std::string>& captures,
                          const std::string& summary) {
  return command.add_option("captures", captures, summary)
      ->required()
      ->type_name("CAPTURE.safetensors");
}

CLI::Option* add_methods(CLI::App& command, std::vector<std::string>& methods) {
  return command.add_option("--methods", methods, "methods, separated by commas")
      ->type_name("NAME,...")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Validator(check_method, ""));
}

void add_sweeps(CLI::App& command, std::vector<std::string>& settings) {
  command
      .add_option("--set", settings,
                  "values of a setting to try, of every method or of the one before the colon; may "
                  "be given again: all combinations are tried")
      ->type_name("[METHOD:]NAME=VALUE,...")
      ->allow_extra_args(false)
      ->check(CLI::Validator(check_sweep, ""));
}

std::string list_of_settings() {
  std::size_t width = 0;
  for (const setting& each : settings()) width = std::max(width, each.name.size());
  std::string list = "Settings for --set:\n";
  for (const setting& each : settings()) {
    list += "  " + each.name + std::string(width - each.name.size(), ' ') + "  " + each.summary +
            " (" + each.range + ")\n";
  }
  list.pop_back();
  return list;
}

std::vector<candidate> candidates_of(const typed_methods& typed) {
  refuse_repeats(typed.names, "--methods");
  std::vector<sweep> sweeps(typed.settings.size());
  std::vector<std::string> places;
  for (std::size_t s = 0; s < sweeps.size(); ++s) {
    const std::string wrong = parse_sweep(typed.settings[s], sweeps[s]);
    if (!wrong.empty()) throw CLI::ValidationError("--set", wrong);
    const std::string& whom = sweeps[s].method;
    places.push_back(whom + ":" + sweeps[s].name);
    if (!whom.empty() &&
        std::find(typed.names.begin(), typed.names.end(), whom) == typed.names.end()) {
      throw CLI::ValidationError("--set", whom + " is not among the methods");
    }
  }
  refuse_repeats(places, "--set");
  std::vector<candidate> all = combine(typed.names, sweeps);
  for (const candidate& each : all) {
    const std::string wrong = check_candidate(each);
    if (!wrong.empty()) throw CLI::ValidationError("--set", wrong);
  }
  return all;
}

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

}  // namespace kvfit_tool
