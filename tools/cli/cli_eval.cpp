// SPDX-License-Identifier: MIT
#include <algorithm>
#include <string>
#include <vector>

#include "cli/cli.hpp"
#include "cli/cli_shared.hpp"
#include "measure/figures.hpp"
#include "measure/query_source.hpp"
#include "measure/requirement.hpp"

namespace kvfit_tool {

namespace {

std::vector<std::string> capture_methods() {
  return {"first", "last",     "random",    "topk",   "highest_attention",
          "omp",   "omp_fast", "zero_bias", "default"};
}

std::vector<std::string> engine_methods() {
  return {"last", "first", "h2o", "snapkv", "highest_attention", "omp", "default", "refined"};
}

std::string joined(const std::vector<std::string>& names) {
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ",") + name;
  return list;
}

std::string check_queries(const std::string& name) {
  if (find_query_source(name) != nullptr) return {};
  std::string names;
  for (const query_source& each : query_sources()) {
    names += (names.empty() ? "" : ", ") + std::string(each.name);
  }
  return "unknown source of queries \"" + name + "\"; there are " + names;
}

constexpr const char* budget_names = "uniform|measured|measured_facts|global|adakv|FILE.json";

constexpr const char* about_budgets =
    "with --engine: who shares rows out among heads: uniform; measured: by what the model says "
    "when one head alone is compacted; measured_facts: the same, judged on answers that the "
    "context has as much as on text; global: by one ranking of the keys of all heads, a row a head "
    "at least (KVzip: method kvzip with queries of a repeat); adakv: by one ranking a layer, a "
    "fifth of the uniform rows a head at least (Ada-SnapKV: method snapkv); or a file of shares "
    "(docs/formats.md). Rankings are by what the method ranks keys by, else by the maximum "
    "attention";

/// "SOURCE:BUDGETS[:METHOD+METHOD...]". Returns what is wrong, or nothing.
std::string parse_pair(const std::string& text, engine_pair& to) {
  const std::size_t first = text.find(':');
  if (first == std::string::npos) {
    return "\"" + text + "\" is not of the form SOURCE:BUDGETS[:METHOD+METHOD...]";
  }
  const std::size_t second = text.find(':', first + 1);
  to.queries = text.substr(0, first);
  to.budgets = text.substr(first + 1, second == std::string::npos ? second : second - first - 1);
  if (std::string wrong = check_queries(to.queries); !wrong.empty()) return wrong;
  if (to.budgets.empty()) return "\"" + text + "\" names no budgets";
  if (second == std::string::npos) return {};
  for (std::size_t at = second + 1;;) {
    const std::size_t end = std::min(text.find('+', at), text.size());
    to.methods.push_back(text.substr(at, end - at));
    if (std::string wrong = check_method(to.methods.back()); !wrong.empty()) return wrong;
    if (end == text.size()) return {};
    at = end + 1;
  }
}

std::string check_pair(const std::string& text) {
  engine_pair ignored;
  return parse_pair(text, ignored);
}

/// Queries, budgets, and which methods are run with which of them.
void add_settings(CLI::App& command, typed_methods& typed, CLI::Option* engine) {
  std::string sources;
  for (const query_source& each : query_sources()) {
    sources += "; " + std::string(each.name) + ": " + std::string(each.summary);
  }
  CLI::Option* const queries =
      command
          .add_option("--queries", typed.engine_queries,
                      "with --engine: where reference queries are from" + sources +
                          ". Several, or several budgets: all methods are run with each pair")
          ->delimiter(',')
          ->allow_extra_args(false)
          ->check(CLI::Validator(check_queries, ""))
          ->type_name("SOURCE,...")
          ->capture_default_str()
          ->needs(engine);
  CLI::Option* const budgets = command.add_option("--budgets", typed.engine_budgets, about_budgets)
                                   ->delimiter(',')
                                   ->allow_extra_args(false)
                                   ->type_name(std::string(budget_names) + ",...")
                                   ->capture_default_str()
                                   ->needs(engine);
  command
      .add_option("--settings", typed.engine_settings,
                  "with --engine, in place of --queries and --budgets: pairs of both, and which of "
                  "the methods are run with each; without methods, all. The full cross costs time: "
                  "\"repeat:uniform:h2o+omp,repeat:global:kvzip,mixture:measured:default\"")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Validator(check_pair, ""))
      ->type_name("SOURCE:BUDGETS[:METHOD+...],...")
      ->needs(engine)
      ->excludes(queries)
      ->excludes(budgets);
}

/// What a model is asked for, beside what captures are.
void add_engine(CLI::App& command, engine_arguments& to, typed_methods& typed) {
  CLI::Option* const engine =
      command
          .add_option("--engine", to.folder,
                      "instead of captures: a folder of a small model and its documents "
                      "(examples/data/tinybooks); measures what the model says over compact caches")
          ->type_name("FOLDER")
          ->check(CLI::Validator(
              [](const std::string& name) { return std::string(name.empty() ? "no name" : ""); },
              ""));
  command
      .add_option("--documents", to.documents,
                  "with --engine: so many texts and so many recall documents; 0: all")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1000000}).description(""))
      ->type_name("N")
      ->capture_default_str()
      ->needs(engine);
  add_settings(command, typed, engine);
  command
      .add_option("--rolling", typed.rolling,
                  "with --engine: methods to measure besides with the prefix compacted in two "
                  "rounds, each as half of it has come")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Validator(check_method, ""))
      ->type_name("METHOD,...")
      ->needs(engine);
  for (const char* other : {"captures", "--html", "--resume", "--against", "--reference"}) {
    engine->excludes(other);
  }
}

std::string check_required(const std::string& text) {
  requirement ignored;
  return parse_requirement(text, ignored);
}

void add_required(CLI::App& command, std::vector<std::string>& required) {
  command
      .add_option(
          "--require", required,
          "figures that rows must have, else exit with 1: \"default@20: output_error <= 0.4, "
          "cosine >= 0.95\"; may be given again. See below")
      ->type_name("METHOD@RATIO:FIGURE<=NUMBER,...")
      ->allow_extra_args(false)
      ->check(CLI::Validator(check_required, ""));
}

std::string lines_of(const std::vector<std::string>& names) {
  constexpr std::size_t width = 92;
  std::string text = " ";
  std::size_t length = 1;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const std::string next = names[i] + (i + 1 < names.size() ? "," : "");
    if (length + 1 + next.size() > width) {
      text += "\n ";
      length = 1;
    }
    text += " " + next;
    length += 1 + next.size();
  }
  return text;
}

constexpr const char* requirement_help =
    R"(--require "METHOD@RATIO: FIGURE OP NUMBER, ...", OP one of <=, <, >= and >. METHOD is a row as
tables name it; a method's name alone means all its rows, whatever their settings, queries,
budgets and rounds. Every such row, of every capture by itself, must meet every condition; a
figure that was not measured, or is NaN, meets none. What falls short is printed, a line each,
after all files are written, and the exit code is 1. Captures must have test queries. Figures
are those of the JSON (docs/formats.md): means over heads where the table has them; _worst and
_worst_tenth over heads, _max and _min over all heads and queries; against. where rows are held
against another. Of captures:
)";

std::string about_requirements() {
  return requirement_help + lines_of(capture_figures(true)) + "\nand with --engine:\n" +
         lines_of(engine_figures()) + "\n\n";
}

/// Reads what is required, which must be of these rows and figures.
std::vector<requirement> requirements_of(const std::vector<std::string>& required,
                                         const std::vector<row_name>& rows,
                                         const std::vector<std::string>& figures) {
  std::vector<requirement> all;
  for (const std::string& text : required) {
    requirement& one = all.emplace_back();
    std::string wrong = parse_requirement(text, one);
    if (wrong.empty()) wrong = check_requirement(one, rows, figures);
    if (!wrong.empty()) throw CLI::ValidationError("--require", wrong);
  }
  return all;
}

std::vector<row_name> rows_of(const eval_arguments& arguments) {
  std::vector<row_name> rows;
  for (const candidate& what : arguments.candidates) {
    const std::string label = label_of(what);
    for (const double ratio : arguments.ratios) rows.push_back({what.method, label, ratio});
  }
  return rows;
}

std::vector<row_name> rows_of(const engine_arguments& arguments) {
  std::vector<row_name> rows;
  const engine_pair& first = arguments.pairs.front();
  for (const engine_pair& pair : arguments.pairs) {
    for (const int rounds : {1, 2}) {
      for (const candidate& what : rounds == 1 ? arguments.candidates : arguments.rolling) {
        if (!pair.runs(what.method)) continue;
        const std::string label =
            label_of(what, pair.queries == first.queries ? "" : pair.queries,
                     pair.budgets == first.budgets ? "" : pair.budgets, rounds);
        for (const double ratio : arguments.ratios) rows.push_back({what.method, label, ratio});
      }
    }
  }
  return rows;
}

/// Queries and budgets as they were typed, in pairs.
std::vector<engine_pair> pairs_of(typed_methods& typed) {
  std::vector<engine_pair> pairs;
  for (const std::string& text : typed.engine_settings) parse_pair(text, pairs.emplace_back());
  if (!pairs.empty()) return pairs;
  const std::size_t count = std::max(typed.engine_queries.size(), typed.engine_budgets.size());
  for (std::vector<std::string>* const names : {&typed.engine_queries, &typed.engine_budgets}) {
    if (names->size() == 1) names->resize(count, names->front());
    if (names->size() == count) continue;
    throw CLI::ValidationError("--queries, --budgets", "one of either, or as many of both");
  }
  for (std::size_t i = 0; i < count; ++i) {
    pairs.push_back({typed.engine_queries[i], typed.engine_budgets[i]});
  }
  return pairs;
}

/// Refuses pairs named twice, methods that no pair runs or that are none of those named, and
/// rankings of several rounds.
void check_pairs(const std::vector<engine_pair>& pairs, const typed_methods& typed) {
  const auto is_among = [](const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    for (std::size_t k = 0; k < i; ++k) {
      if (pairs[i].queries != pairs[k].queries || pairs[i].budgets != pairs[k].budgets) continue;
      throw CLI::ValidationError("--queries, --budgets, --settings", "a pair is named twice");
    }
    refuse_repeats(pairs[i].methods, "--settings");
    for (const std::string& name : pairs[i].methods) {
      if (is_among(typed.names, name) || is_among(typed.rolling, name)) continue;
      throw CLI::ValidationError("--settings", name + " is not among the methods");
    }
    if (pairs[i].budgets != "global" && pairs[i].budgets != "adakv") continue;
    for (const std::string& name : typed.rolling) {
      if (!pairs[i].runs(name)) continue;
      throw CLI::ValidationError(
          "--rolling", "no rows are ranked over heads in several rounds: " + pairs[i].budgets);
    }
  }
  for (const auto* names : {&typed.names, &typed.rolling}) {
    for (const std::string& name : *names) {
      if (std::any_of(pairs.begin(), pairs.end(),
                      [&](const engine_pair& pair) { return pair.runs(name); })) {
        continue;
      }
      throw CLI::ValidationError("--settings", "no pair runs " + name);
    }
  }
}

/// What rows are held against, where nothing or something that is there was named.
void choose_against(eval_arguments& arguments) {
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

}  // namespace

CLI::App* add_eval(CLI::App& app, eval_arguments& to, engine_arguments& engine,
                   typed_methods& typed) {
  to.ratios = {5, 10, 20, 50};
  CLI::App* const command = app.add_subcommand(
      "eval", "Compact the heads of captures by several methods and compare with full attention");
  add_captures(*command, to.captures, "captures to measure on (docs/formats.md)")->required(false);
  add_methods(*command, typed.names)
      ->default_str(joined(capture_methods()) + "; with --engine " + joined(engine_methods()));
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
  add_required(*command, typed.required);
  add_engine(*command, engine, typed);
  add_seed(*command, to.seed);
  add_threads(*command, to.threads);
  command->footer(
      "Each head is compacted on the capture's reference queries (q) and judged on its test\n"
      "queries (q_test). Results are kept in fp32, whatever the capture's type, unless a setting\n"
      "says otherwise.\n\n" +
      about_requirements() + list_of_settings());
  return command;
}

void finish_eval(eval_arguments& arguments, engine_arguments& engine, typed_methods& typed) {
  const bool is_engine = !engine.folder.empty();
  if (!is_engine && arguments.captures.empty()) throw CLI::RequiredError("captures or --engine");
  if (typed.names.empty()) typed.names = is_engine ? engine_methods() : capture_methods();
  if (is_engine) {
    engine.pairs = pairs_of(typed);
    std::vector<std::string> files;
    for (const engine_pair& pair : engine.pairs) files.push_back(pair.budgets);
    refuse_own_input(files, {arguments.json, arguments.svg});
    check_pairs(engine.pairs, typed);
    for (const std::string& name : typed.rolling) engine.rolling.push_back({.method = name});
    refuse_repeats(typed.rolling, "--rolling");
    refuse_repeats(arguments.ratios, "--ratios");
    engine.candidates = candidates_of(typed);
    engine.ratios = arguments.ratios;
    engine.json = arguments.json;
    engine.svg = arguments.svg;
    engine.seed = arguments.seed;
    engine.threads = arguments.threads;
    engine.requirements = requirements_of(typed.required, rows_of(engine), engine_figures());
    return;
  }
  std::vector<std::string> inputs = arguments.captures;
  if (!arguments.reference.empty()) inputs.push_back(arguments.reference);
  refuse_own_input(inputs, {arguments.json, arguments.svg, arguments.html});
  refuse_repeats(arguments.captures, "captures");
  refuse_repeats(arguments.ratios, "--ratios");
  arguments.candidates = candidates_of(typed);
  choose_against(arguments);
  arguments.requirements = requirements_of(typed.required, rows_of(arguments),
                                           capture_figures(!arguments.against.empty()));
}

}  // namespace kvfit_tool
