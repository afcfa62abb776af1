// SPDX-License-Identifier: MIT
#include "measure/settings.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <type_traits>
#include <utility>

#include "cli/method_options.hpp"
#include "kvfit/compact/policy_functions.hpp"
#include "kvfit/core/settings.hpp"

namespace kvfit_tool {

namespace {

using kvfit::compact_options;
using kvfit::index_t;
namespace selection = kvfit::selection;
namespace bias = kvfit::bias;
namespace values = kvfit::values;
namespace linalg = kvfit::linalg;

// ---- Values as text -----------------------------------------------------------------------------
/// The shortest decimal that reads back as `x`.
std::string shortest(double x) {
  char text[40];
  for (int digits = 1; digits <= 17; ++digits) {
    std::snprintf(text, sizeof text, "%.*g", digits, x);
    if (std::strtod(text, nullptr) == x) break;
  }
  return text;
}

std::optional<double> parse_number(const std::string& text) {
  if (text.empty() || text.find_first_not_of("0123456789+-.eE") != std::string::npos) return {};
  char* end = nullptr;
  const double x = std::strtod(text.c_str(), &end);
  if (*end != '\0' || !std::isfinite(x)) return {};
  return x == 0 ? 0.0 : x;  // no "-0"
}

// ---- Where a setting lies: functions that return its place, null where the method has none
// -------
/// A field of the options themselves.
template <class T>
auto own(T compact_options::*field) {
  return [field](method_options& options) { return &(options.*field); };
}

/// A field of one of the groups of options.
template <class Group, class T>
auto own(Group compact_options::*group, T Group::*field) {
  return [group, field](method_options& options) { return &(options.*group.*field); };
}

/// A field of a policy; null where another policy stands in its place.
template <class Any, class Policy, class T>
auto of(Any compact_options::*place, T Policy::*field) {
  return [place, field](method_options& options) -> T* {
    Policy* const chosen = (options.*place).template get_if<Policy>();
    return chosen == nullptr ? nullptr : &(chosen->*field);
  };
}

/// A field of the refinement; null where a gradient method stands in its place.
template <class T>
auto refining(T kvfit::refinement::*field) {
  return [field](method_options& options) -> T* {
    return options.gradient.holds<kvfit::gradient_keys>() ? nullptr : &(options.refine.*field);
  };
}

/// Its steps, which the options may leave open.
auto refinement_steps() {
  return [](method_options& options) -> int* {
    return options.gradient.holds<kvfit::gradient_keys>() ? nullptr
                                                          : &options.refine.steps.emplace(0);
  };
}

/// A field of the gradient method.
template <class T>
auto descending(T kvfit::gradient_keys::*field) {
  return [field](method_options& options) -> T* {
    auto* const moves = options.gradient.get_if<kvfit::gradient_keys>();
    return moves != nullptr ? &(moves->*field) : nullptr;
  };
}

/// A field of OMP that a schedule of steps would overrule.
auto unscheduled(index_t selection::omp::*field) {
  return [field](method_options& options) -> index_t* {
    auto* const omp = options.selection.get_if<selection::omp>();
    return omp == nullptr || !omp->schedule.empty() ? nullptr : &(omp->*field);
  };
}

constexpr const char* omp_code = "options.selection.get_if<kvfit::selection::omp>()->";
constexpr const char* joint_code = "options.selection.get_if<kvfit::selection::joint>()->";
constexpr const char* ranked_code =
    "options.selection.get_if<kvfit::selection::highest_attention>()->";
constexpr const char* fit_code = "options.values.get_if<kvfit::values::least_squares>()->";

auto assign_to(std::string place) {
  return [place = std::move(place)](const std::string& text) { return place + " = " + text + ";"; };
}

// ---- Kinds of settings --------------------------------------------------------------------------
/// A number from `low` to `high`; whole where the field is. `place` names the field in C++.
template <class Find>
setting number(std::string name, std::string summary, double low, double high, Find find,
               std::string place) {
  using field = std::remove_pointer_t<decltype(find(std::declval<method_options&>()))>;
  constexpr bool is_whole = std::is_integral_v<field>;
  const auto canonical = [=](const std::string& text) -> std::optional<std::string> {
    const auto x = parse_number(text);
    if (!x || *x < low || *x > high || (is_whole && *x != std::floor(*x))) return {};
    return is_whole ? std::to_string(static_cast<long long>(*x)) : shortest(*x);
  };
  const auto apply = [=](method_options& to, const std::string& text) {
    field* const at = find(to);
    if (at != nullptr) *at = static_cast<field>(std::strtod(text.c_str(), nullptr));
    return at != nullptr;
  };
  return {std::move(name),
          std::move(summary),
          shortest(low) + " to " + shortest(high) + (is_whole ? ", whole" : ""),
          canonical,
          apply,
          assign_to(std::move(place))};
}

/// One of a few named values. `type` is what stands before the name in C++.
template <class Value, class Find>
setting choice(std::string name, std::string summary, std::map<std::string, Value> among, Find find,
               std::string place, std::string type) {
  std::string range;
  for (const auto& [text, value] : among) range += (range.empty() ? "" : "|") + text;
  const auto canonical = [=](const std::string& text) -> std::optional<std::string> {
    if (among.count(text) == 0) return {};
    return text;
  };
  const auto apply = [=](method_options& to, const std::string& text) {
    Value* const at = find(to);
    if (at != nullptr) *at = among.at(text);
    return at != nullptr;
  };
  const auto in_code = [=](const std::string& text) { return place + " = " + type + text + ";"; };
  return {std::move(name), std::move(summary), std::move(range), canonical, apply, in_code};
}

template <class Find>
setting flag(std::string name, std::string summary, Find find, std::string place) {
  return choice<bool>(std::move(name), std::move(summary), {{"false", false}, {"true", true}}, find,
                      std::move(place), "");
}

template <class Find>
setting storage(std::string name, std::string summary, Find find, std::string place) {
  return choice<kvfit::dtype>(
      std::move(name), std::move(summary),
      {{"fp32", kvfit::dtype::fp32}, {"fp16", kvfit::dtype::fp16}, {"bf16", kvfit::dtype::bf16}},
      find, std::move(place), "kvfit::dtype::");
}

/// A ridge needs a scale: spectral, unless `ridge_scaling`, which is applied after it, chooses one.
setting ridge() {
  setting made = number("ridge", "ridge of the value fit, times what ridge_scaling says", 0, 1e6,
                        of(&compact_options::values, &values::least_squares::ridge),
                        std::string(fit_code) + "ridge");
  made.apply = [set = made.apply](method_options& to, const std::string& text) {
    if (!set(to, text)) return false;
    to.values.get_if<values::least_squares>()->ridge_scaling = linalg::ridge_mode::spectral;
    return true;
  };
  made.in_code = [set = made.in_code](const std::string& text) {
    return std::string(fit_code) + "ridge_scaling = kvfit::linalg::ridge_mode::spectral;\n" +
           set(text);
  };
  return made;
}

/// Of the weights, whichever policy fits them.
setting bias_lower() {
  const auto find = [](method_options& options) -> double* {
    if (auto* const fit = options.bias.get_if<bias::nnls>()) return &fit->lower;
    if (auto* const fit = options.bias.get_if<bias::projected_gradient>()) return &fit->lower;
    return nullptr;
  };
  setting made = number("bias_lower", "lower bound of the fitted weights", 1e-12, 1e6, find, "");
  made.in_code = [](const std::string& text) {
    std::string code;
    for (const char* policy : {"nnls", "projected_gradient"}) {
      code += std::string(code.empty() ? "" : "\n") +
              "if (auto* fit = options.bias.get_if<kvfit::bias::" + policy +
              ">()) fit->lower = " + text + ";";
    }
    return code;
  };
  return made;
}

/// Of output errors in everything that weighs them: joint selection, refinement, value fit.
setting output_weights() {
  using kvfit::output_weighting;
  const std::map<std::string, output_weighting> among = {{"relative", output_weighting::relative},
                                                         {"absolute", output_weighting::absolute}};
  setting made = choice<output_weighting>("output_weighting",
                                          "how errors of outputs count, wherever they are weighed",
                                          among, refining(&kvfit::refinement::weighting),
                                          "options.refine.weighting", "kvfit::output_weighting::");
  made.apply = [among](method_options& to, const std::string& text) {
    const output_weighting chosen = among.at(text);
    auto* const rows = to.selection.get_if<selection::joint>();
    auto* const fit = to.values.get_if<values::least_squares>();
    if (rows == nullptr && fit == nullptr) return false;
    if (rows != nullptr) rows->weighting = chosen;
    if (fit != nullptr) fit->weighting = chosen;
    to.refine.weighting = chosen;
    return true;
  };
  made.in_code = [](const std::string& text) {
    const std::string value = " = kvfit::output_weighting::" + text + ";";
    return "options.refine.weighting" + value +
           "\nif (auto* rows = options.selection.get_if<kvfit::selection::joint>()) "
           "rows->weighting" +
           value +
           "\nif (auto* fit = options.values.get_if<kvfit::values::least_squares>()) "
           "fit->weighting" +
           value;
  };
  return made;
}

// ---- The table ----------------------------------------------------------------------------------
std::vector<setting> make_settings() {
  using options = compact_options;
  using omp = selection::omp;
  return {
      number("held_out", "share of the queries kept from the fit to judge it", 0, 0.5,
             own(&options::queries, &kvfit::query_use::held_out), "options.queries.held_out"),
      flag("replace_dead_keys", "give the slots of keys that are not needed to others",
           own(&options::replace_dead_keys), "options.replace_dead_keys"),
      flag("keep_better_values", "copied values where they judge better than fitted ones",
           own(&options::keep_better_values), "options.keep_better_values"),
      number("keys_per_round", "keys that OMP adds a round", 1, 1e6,
             unscheduled(&omp::keys_per_round), std::string(omp_code) + "keys_per_round"),
      number("refit_interval", "rounds of OMP from one refit to the next", 1, 1e6,
             unscheduled(&omp::refit_interval), std::string(omp_code) + "refit_interval"),
      number("norm_power", "OMP ranks by c / norm^norm_power", 0, 2,
             of(&options::selection, &omp::norm_power), std::string(omp_code) + "norm_power"),
      number("mass_weight", "weight of the mass beside the output in joint selection", 0, 1e6,
             of(&options::selection, &selection::joint::mass_weight),
             std::string(joint_code) + "mass_weight"),
      number("attention_share", "share of the rows that joint selection chooses by attention", 0, 1,
             of(&options::selection, &selection::joint::attention_share),
             std::string(joint_code) + "attention_share"),
      number("candidates", "keys that joint selection looks among, for each it chooses, 0 for all",
             0, 1e9, of(&options::selection, &selection::joint::candidates),
             std::string(joint_code) + "candidates"),
      number("sketch", "rows that joint selection folds the queries onto, 0 for none", 0, 1e9,
             of(&options::selection, &selection::joint::sketch),
             std::string(joint_code) + "sketch"),
      number("window", "last queries of each head that highest attention uses, 0 for all", 0, 1e9,
             of(&options::selection, &selection::highest_attention::window),
             std::string(ranked_code) + "window"),
      number("queries_per_row", "queries fitted on for each row kept, 0 for all", 0, 1e9,
             own(&options::queries, &kvfit::query_use::per_row), "options.queries.per_row"),
      number("queries_at_least", "and no fewer queries than this", 1, 1e9,
             own(&options::queries, &kvfit::query_use::at_least), "options.queries.at_least"),
      number("reweightings", "value fits toward the least mean error", 0, 100,
             of(&options::values, &values::least_squares::reweightings),
             std::string(fit_code) + "reweightings"),
      number("refine_steps", "steps of the refinement, 0 for none", 0, 1e6, refinement_steps(),
             "options.refine.steps"),
      number("refine_work", "most work of the refinement, in score passes, 0 for any", 0, 1e6,
             refining(&kvfit::refinement::work), "options.refine.work"),
      number("refine_mass_weight", "weight of the mass error in the refinement", 0, 1e6,
             refining(&kvfit::refinement::mass_weight), "options.refine.mass_weight"),
      number("refine_mass_softness", "mass errors under this count by their square", 1e-6, 1e6,
             refining(&kvfit::refinement::mass_softness), "options.refine.mass_softness"),
      number("refine_sets", "sets of queries made against overfitting", 0, 1e4,
             refining(&kvfit::refinement::sets), "options.refine.sets"),
      number("refine_sets_at_once", "of these, taken at a time", 1, 1e4,
             refining(&kvfit::refinement::sets_at_once), "options.refine.sets_at_once"),
      number("refine_steps_a_batch", "steps before the next ones are taken", 1, 1e6,
             refining(&kvfit::refinement::steps_a_batch), "options.refine.steps_a_batch"),
      number("refine_spread", "perturbation of made queries", 0, 100,
             refining(&kvfit::refinement::spread), "options.refine.spread"),
      choice<kvfit::gradient_optimiser>(
          "gradient_optimiser", "what moves keys down a gradient",
          {{"adam", kvfit::gradient_optimiser::adam}, {"lbfgs", kvfit::gradient_optimiser::lbfgs}},
          descending(&kvfit::gradient_keys::optimiser),
          "options.gradient.get_if<kvfit::gradient_keys>()->optimiser",
          "kvfit::gradient_optimiser::"),
      number("gradient_steps", "most steps of a gradient method", 0, 1e6,
             descending(&kvfit::gradient_keys::steps),
             "options.gradient.get_if<kvfit::gradient_keys>()->steps"),
      number("gradient_rate", "learning rate of Adam", 1e-9, 1e6,
             descending(&kvfit::gradient_keys::learning_rate),
             "options.gradient.get_if<kvfit::gradient_keys>()->learning_rate"),
      number("gradient_least_share", "share of the rate that its cosine decay ends at, 1 for none",
             0, 1, descending(&kvfit::gradient_keys::least_share),
             "options.gradient.get_if<kvfit::gradient_keys>()->least_share"),
      number("gradient_mass_weight", "weight of the mass in the joint loss", 0, 1e6,
             descending(&kvfit::gradient_keys::mass_weight),
             "options.gradient.get_if<kvfit::gradient_keys>()->mass_weight"),
      number("gradient_penalty", "weight of the squares of all variables in the loss", 0, 1e6,
             descending(&kvfit::gradient_keys::penalty),
             "options.gradient.get_if<kvfit::gradient_keys>()->penalty"),
      number("gradient_patience", "ends after as many steps that improve too little", 1, 1e6,
             descending(&kvfit::gradient_keys::patience),
             "options.gradient.get_if<kvfit::gradient_keys>()->patience"),
      number("gradient_improvement", "of the loss: what is not more is too little", 0, 1e6,
             descending(&kvfit::gradient_keys::improvement),
             "options.gradient.get_if<kvfit::gradient_keys>()->improvement"),
      output_weights(),
      bias_lower(),
      number("cross_validate_below", "the ridge is cross-validated below this many queries a key",
             0, 1e6, of(&options::values, &values::least_squares::cross_validate_below),
             std::string(fit_code) + "cross_validate_below"),
      ridge(),
      choice<linalg::ridge_mode>(
          "ridge_scaling", "what a ridge is multiplied by, spectral if not set",
          {{"spectral", linalg::ridge_mode::spectral},
           {"frobenius", linalg::ridge_mode::frobenius},
           {"fixed", linalg::ridge_mode::fixed}},
          of(&options::values, &values::least_squares::ridge_scaling),
          std::string(fit_code) + "ridge_scaling", "kvfit::linalg::ridge_mode::"),
      choice<kvfit::precision_kind>("precision", "of the products of the score pass",
                                    {{"fp32", kvfit::precision_kind::fp32},
                                     {"bf16x3", kvfit::precision_kind::bf16x3},
                                     {"bf16", kvfit::precision_kind::bf16}},
                                    own(&options::precision), "options.precision",
                                    "kvfit::precision_kind::"),
      storage("storage", "type that keys and values are rounded to",
              own(&options::storage, &kvfit::storage_types::rows), "options.storage.rows"),
      storage("bias_storage", "type that biases are rounded to",
              own(&options::storage, &kvfit::storage_types::bias), "options.storage.bias"),
  };
}

}  // namespace

const std::vector<setting>& settings() {
  static const std::vector<setting> all = make_settings();
  return all;
}

const setting* find_setting(std::string_view name) {
  const auto found = std::find_if(settings().begin(), settings().end(),
                                  [&](const setting& candidate) { return candidate.name == name; });
  return found == settings().end() ? nullptr : &*found;
}

std::string apply_settings(method_options& to, std::string_view method,
                           const std::vector<setting_value>& chosen) {
  for (const setting_value& value : chosen) {
    const setting* const known = find_setting(value.name);
    if (known == nullptr) return "unknown setting " + value.name;
    if (!known->apply(to, value.text)) {
      return "method " + std::string(method) + " has no setting " + value.name;
    }
  }
  const auto why = [&](const kvfit::error& cause) {
    return "method " + std::string(method) + ": " + cause.message();
  };
  if (const auto ok = kvfit::check_settings(to.selection); !ok) return why(ok.error());
  if (const auto ok = kvfit::check_settings(to.bias); !ok) return why(ok.error());
  if (const auto ok = kvfit::check_settings(to.values); !ok) return why(ok.error());
  return {};
}

}  // namespace kvfit_tool
