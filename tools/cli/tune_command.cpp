// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/commands.hpp"
#include "cli/exit_code.hpp"
#include "cli/interrupt.hpp"
#include "cli/progress.hpp"
#include "cli/say.hpp"
#include "measure/evaluation.hpp"
#include "measure/query_split.hpp"
#include "measure/settings.hpp"
#include "report/eval_output.hpp"

namespace kvfit_tool {

namespace {

/// A candidate over the heads of all captures.
struct trial {
  candidate what;
  std::string label;
  bool is_over = false;     ///< takes longer than it may
  double output_error = 0;  ///< geometric means over heads
  double mass_error = 0;
  double joint_error = 0;
  double cosine = 0;  ///< means over heads
  double milliseconds = 0;
  std::vector<head_score> heads = {};
};

/// Output error and mass error as one: what attention over this cache and live keys beside it loses
/// grows with either.
double joint(const kvfit::fidelity& errors) {
  return std::hypot(errors.output_error, errors.mass_error);
}

void summarise(trial& of) {
  double output = 0;
  double mass = 0;
  double both = 0;
  for (const head_score& head : of.heads) {
    output += std::log(head.errors.output_error);
    mass += std::log(head.errors.mass_error);
    both += std::log(joint(head.errors));
    of.cosine += head.errors.cosine;
    of.milliseconds += head.milliseconds;
  }
  const auto count = static_cast<double>(of.heads.size());
  of.output_error = std::exp(output / count);
  of.mass_error = std::exp(mass / count);
  of.joint_error = std::exp(both / count);
  of.cosine /= count;
  of.milliseconds /= count;
}

double goal_of(const trial& of, tune_goal by) {
  switch (by) {
    case tune_goal::output:
      return of.output_error;
    case tune_goal::mass:
      return of.mass_error;
    case tune_goal::joint:
      break;
  }
  return of.joint_error;
}

void print_trials(const std::vector<const trial*>& fitting, const std::vector<trial>& all) {
  std::size_t width = 9;
  for (const trial* each : fitting) width = std::max(width, each->label.size());
  const int columns = static_cast<int>(width);
  std::printf("%-*s  %8s  %8s  %8s  %8s  %8s\n", columns, "candidate", "joint", "output", "mass",
              "cosine", "ms/head");
  for (const trial* each : fitting) {
    std::printf("%-*s  %8s  %8s  %8s  %8s  %8s\n", columns, each->label.c_str(),
                three_digits(each->joint_error).c_str(), three_digits(each->output_error).c_str(),
                three_digits(each->mass_error).c_str(), four_decimals(each->cosine).c_str(),
                three_digits(each->milliseconds).c_str());
  }
  std::string over;
  for (const trial& each : all) {
    if (each.is_over) over += (over.empty() ? "" : ", ") + each.label;
  }
  if (!over.empty()) std::printf("\nOver the time: %s\n", over.c_str());
}

/// A word that a POSIX shell reads as `text`.
std::string quoted(const std::string& text) {
  constexpr std::string_view plain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-=+:,@";
  if (!text.empty() && text.find_first_not_of(plain) == std::string::npos) return text;
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

/// All digits of an fp32 number, as a literal of a double.
std::string digits(float x) {
  char text[40];
  std::snprintf(text, sizeof text, "%.9g", static_cast<double>(x));
  std::string out = text;
  if (out.find_first_of(".e") == std::string::npos) out += ".0";
  return out;
}

/// The rule of the heads tuned on, as far as they agree.
struct shared_rule {
  std::optional<kvfit::logit_rule> rule = {};  ///< of the first head
  kvfit::index_t depth = 0;                    ///< its d_k
  bool differs = false;                        ///< another head has another one
  bool has_slopes = false;
  bool has_sinks = false;

  void add(const head_view& head) {
    const kvfit::logit_rule& own = head.rule;
    if (!rule) {
      rule = own;
      depth = head.block.keys.cols();
    }
    differs = differs || own.scale != rule->scale || own.soft_cap != rule->soft_cap ||
              own.causal != rule->causal || own.window != rule->window;
    for (const kvfit::query_block& block : head.queries) {
      has_slopes = has_slopes || block.alibi_slope != 0;
      has_sinks = has_sinks || std::isfinite(block.sink_logit);
    }
  }
};

/// The rule in C++: what a default `logit_rule` does not say.
void print_rule(const shared_rule& of) {
  if (of.differs) {
    std::printf("  // Layers differ in their rule: options.rule is that of the head's layer.\n");
  } else if (of.rule) {
    std::string fields;
    const auto add = [&fields](const std::string& field) {
      fields += (fields.empty() ? "" : ", ") + field;
    };
    const float usual = 1 / std::sqrt(static_cast<float>(of.depth));
    if (of.rule->scale && *of.rule->scale != usual) {
      add(".scale = " + digits(*of.rule->scale) + "F");
    }
    if (of.rule->soft_cap != 0) add(".soft_cap = " + digits(of.rule->soft_cap) + "F");
    if (of.rule->causal) add(".causal = true");
    if (of.rule->window != 0) add(".window = " + std::to_string(of.rule->window));
    if (!fields.empty()) std::printf("  options.rule = {%s};\n", fields.c_str());
  }
  if (of.has_slopes) {
    std::printf("  // Each query block has its head's slope: query_block::alibi_slope.\n");
  }
  if (of.has_sinks) {
    std::printf("  // Attention over the result has its heads' sinks: query_block::sink_logit.\n");
  }
}

void print_proposal(const trial& best, const shared_rule& rule, const tune_arguments& arguments) {
  const std::string ratio = ratio_text(arguments.ratio);
  std::printf("\nIn C++, with <kvfit/kvfit.hpp>:\n\n");
  std::printf("  const auto budget = static_cast<kvfit::index_t>(double(keys.rows()) / %s);\n",
              ratio.c_str());
  std::printf("  kvfit::compact_options options = kvfit::presets::find(\"%s\")->make(budget);\n",
              best.what.method.c_str());
  for (const setting_value& value : best.what.settings) {
    std::string code = find_setting(value.name)->in_code(value.text) + "\n";
    for (std::size_t end = code.find('\n'); end != std::string::npos; end = code.find('\n')) {
      std::printf("  %s\n", code.substr(0, end).c_str());
      code.erase(0, end + 1);
    }
  }
  print_rule(rule);
  std::printf("  const auto fitted = kvfit::compact(keys, values, queries, options);\n");
  std::printf("\nOn the command line:\n\n");
  std::string sets;
  for (const setting_value& value : best.what.settings) {
    sets += " --set " + value.name + "=" + value.text;
  }
  std::printf("  kvfit compact %s --ratio %s --method %s%s -o OUT.safetensors\n",
              quoted(arguments.captures.front()).c_str(), ratio.c_str(), best.what.method.c_str(),
              sets.c_str());
}

}  // namespace

int run_tune(const tune_arguments& arguments) {
  kvfit::thread_pool pool(arguments.threads);
  check_threads(pool, arguments.threads);
  std::vector<trial> trials;
  for (const candidate& what : arguments.candidates) {
    trials.push_back({.what = what, .label = label_of(what)});
  }

  kvfit::index_t queries = 0;
  std::size_t heads_in_all = 0;
  shared_rule rule;
  for (const std::string& path : arguments.captures) {
    const auto capture = kvfit::read_capture(path);
    if (!capture) return fail(path, capture.error());
    if (const auto ok = check_ratio(*capture, arguments.ratio); !ok) return fail(path, ok.error());
    const auto split = split_heads::of(*capture);
    if (!split) return fail(path, split.error());
    const std::vector<placed_head>& heads = split->heads();
    heads_in_all += heads.size();
    for (const placed_head& head : heads) {
      rule.add(head.view);
      for (const kvfit::query_block& block : head.view.test_queries) queries += block.rows.rows();
    }

    eval_plan plan{.rows = {},
                   .seed = arguments.seed,
                   .milliseconds_per_head = arguments.milliseconds_per_head};
    std::vector<trial*> tried;
    for (trial& each : trials) {
      if (each.is_over) continue;
      plan.rows.push_back({each.what, arguments.ratio});
      tried.push_back(&each);
    }
    progress_bar bar(static_cast<kvfit::index_t>(heads.size() * plan.rows.size()),
                     "heads compacted and judged");
    bar.show(0);
    const auto rows =
        evaluate(heads, plan, pool,
                 {.cancel = &interrupt(),
                  .progress = [&bar](kvfit::index_t done, kvfit::index_t) { bar.show(done); }},
                 {});
    if (!rows) return fail(path, rows.error());
    for (std::size_t r = 0; r < tried.size(); ++r) {
      const std::vector<head_score>& measured = (*rows)[r].heads;
      tried[r]->is_over = measured.empty();
      tried[r]->heads.insert(tried[r]->heads.end(), measured.begin(), measured.end());
    }
  }

  std::vector<const trial*> fitting;
  for (trial& each : trials) {
    if (each.is_over) continue;
    summarise(each);
    fitting.push_back(&each);
  }
  std::printf("%zu candidates at ratio %s on %zu heads, %d %s; at most %s milliseconds a head.\n",
              trials.size(), ratio_text(arguments.ratio).c_str(), heads_in_all, pool.threads(),
              pool.threads() == 1 ? "thread" : "threads",
              ratio_text(arguments.milliseconds_per_head).c_str());
  std::printf(
      "Judged on %lld reference queries (q) held out from every fit; test queries (q_test)\n"
      "were not looked at, and `kvfit eval` can still judge on them. Errors are geometric\n"
      "means over heads.\n\n",
      static_cast<long long>(queries));
  if (fitting.empty()) {
    warn("no candidate takes " + ratio_text(arguments.milliseconds_per_head) +
         " milliseconds a head or less");
    return exit_failed;
  }
  std::stable_sort(fitting.begin(), fitting.end(), [&](const trial* a, const trial* b) {
    return goal_of(*a, arguments.by) < goal_of(*b, arguments.by);
  });
  print_trials(fitting, trials);
  const trial& best = *fitting.front();
  std::printf("\nProposed: %s (output error %s, mass error %s, %s milliseconds a head)\n",
              best.label.c_str(), three_digits(best.output_error).c_str(),
              three_digits(best.mass_error).c_str(), three_digits(best.milliseconds).c_str());
  print_proposal(best, rule, arguments);
  return exit_done;
}

}  // namespace kvfit_tool
