// SPDX-License-Identifier: MIT
#include <map>
#include <string>

#include "cli/cli.hpp"
#include "cli/cli_shared.hpp"
#include "measure/settings.hpp"

namespace kvfit_tool {

namespace {

const std::map<std::string, kvfit::dtype>& storage_types() {
  static const std::map<std::string, kvfit::dtype> all = {
      {"fp32", kvfit::dtype::fp32}, {"fp16", kvfit::dtype::fp16}, {"bf16", kvfit::dtype::bf16}};
  return all;
}

}  // namespace

CLI::App* add_compact(CLI::App& app, compact_arguments& to, typed_methods& typed) {
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
  command->add_option("--method", to.what.method, "one of those that `kvfit methods` lists")
      ->type_name("NAME")
      ->check(CLI::Validator(check_method, ""))
      ->capture_default_str();
  command->add_option("--set", typed.settings, "value of a setting; may be given again for others")
      ->type_name("NAME=VALUE")
      ->allow_extra_args(false)
      ->check(CLI::Validator(check_sweep, ""));
  command
      ->add_option(
          "--storage", to.storage,
          "type of the stored keys and values [default: that of the capture's keys; bf16 for "
          "F8]")
      ->transform(CLI::CheckedTransformer(storage_types()).description(""))
      ->type_name("fp32|fp16|bf16");
  command->add_option("--protect-first", to.protect_first, "first rows to keep exactly as they are")
      ->check(check_count)
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--protect-last", to.protect_last, "last rows to keep exactly as they are")
      ->check(check_count)
      ->type_name("N")
      ->capture_default_str();
  command
      ->add_option("--protect-rows", to.protect_rows,
                   "numbers of rows to keep exactly as they are, of every head")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(check_count)
      ->type_name("ROW,...");
  command
      ->add_option("--budgets", typed.budgets,
                   "how heads share the rows: uniform, pyramid, global (one ranking of all keys), "
                   "or a JSON file of shares (docs/formats.md)")
      ->type_name("NAME|FILE.json")
      ->capture_default_str();
  command->add_flag("--copy-failed", to.copies_failed,
                    "where a head's method fails, keep copied rows and say so, instead of ending");
  add_seed(*command, to.seed);
  add_threads(*command, to.threads);
  command->footer(list_of_settings());
  return command;
}

void finish_compact(compact_arguments& arguments, const typed_methods& typed) {
  if (typed.budgets == "pyramid") {
    arguments.shares = share_policy::pyramid;
  } else if (typed.budgets == "global") {
    arguments.shares = share_policy::global;
  } else if (typed.budgets != "uniform") {
    arguments.shares = share_policy::given;
    arguments.shares_file = typed.budgets;
    refuse_own_input({arguments.shares_file}, {arguments.output});
  }
  refuse_own_input({arguments.capture}, {arguments.output});
  const auto all = candidates_of({{arguments.what.method}, typed.settings});
  if (all.size() != 1) throw CLI::ValidationError("--set", "takes one value here");
  arguments.what = all.front();
  for (const setting_value& value : arguments.what.settings) {
    if (value.name != "storage") continue;
    const kvfit::dtype type = storage_types().at(value.text);
    if (arguments.storage && *arguments.storage != type) {
      throw CLI::ValidationError("--set", "storage is not what --storage says");
    }
    arguments.storage = type;
  }
}

}  // namespace kvfit_tool
