// SPDX-License-Identifier: MIT
#include "options.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <iterator>
#include <kvfit/presets.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "convert.hpp"

namespace {

using kvfit::errc;
using kvfit::error;
using kvfit::result;

// Whole numbers that a double holds exactly.
constexpr double largest_whole = 9007199254740992.0;

result<void> refuse_value(std::string_view name, std::string why) {
  return error{errc::invalid_option, name, error::none, error::none, std::move(why)};
}

result<void> put(int64_t& to, double value, std::string_view name) {
  if (!(value == std::floor(value) && std::abs(value) <= largest_whole)) {
    return refuse_value(name, "must be a whole number");
  }
  to = static_cast<int64_t>(value);
  return {};
}

result<void> put(int& to, double value, std::string_view name) {
  int64_t whole = 0;
  if (const auto ok = put(whole, value, name); !ok) return ok;
  if (whole < INT32_MIN || whole > INT32_MAX) return refuse_value(name, "must fit 32 bits");
  to = static_cast<int>(whole);
  return {};
}

result<void> put(std::uint64_t& to, double value, std::string_view name) {
  int64_t whole = 0;
  if (const auto ok = put(whole, value, name); !ok) return ok;
  if (whole < 0) return refuse_value(name, "must not be negative");
  to = static_cast<std::uint64_t>(whole);
  return {};
}

result<void> put(double& to, double value, std::string_view) {
  to = value;
  return {};
}

result<void> put(float& to, double value, std::string_view name) {
  if (std::isfinite(value) && std::abs(value) > static_cast<double>(FLT_MAX)) {
    return refuse_value(name, "must fit fp32");
  }
  to = static_cast<float>(value);
  return {};
}

result<void> put(bool& to, double value, std::string_view name) {
  if (value != 0 && value != 1) return refuse_value(name, "must be 0 or 1");
  to = value == 1;
  return {};
}

template <class Number>
result<void> put(std::optional<Number>& to, double value, std::string_view name) {
  Number number{};
  if (const auto ok = put(number, value, name); !ok) return ok;
  to = number;
  return {};
}

// One of the words of an enumeration.
template <class Enum>
struct named {
  std::string_view word;
  Enum value;
};

template <class Enum>
result<void> put_word(Enum& to, std::string_view value, std::string_view name,
                      std::span<const named<Enum>> words) {
  std::string all;
  for (const named<Enum>& one : words) {
    if (one.word == value) {
      to = one.value;
      return {};
    }
    all.append(all.empty() ? "must be one of " : ", ").append(one.word);
  }
  return refuse_value(name, all);
}

result<void> put(kvfit::dtype& to, std::string_view value, std::string_view name) {
  std::string all;
  for (auto type = kvfit::dtype::fp32; kvfit::is_number(type);
       type = static_cast<kvfit::dtype>(static_cast<int>(type) + 1)) {
    if (kvfit::name(type) == value) {
      to = type;
      return {};
    }
    all.append(all.empty() ? "must be one of " : ", ").append(kvfit::name(type));
  }
  return refuse_value(name, all);
}

// KVFIT_C_WORDS(ENUM, …): how words become values of ENUM.
#define KVFIT_C_WORDS(Enum, ...)                                              \
  result<void> put(Enum& to, std::string_view value, std::string_view name) { \
    using enum Enum;                                                          \
    static constexpr named<Enum> words[] = {__VA_ARGS__};                     \
    return put_word(to, value, name, std::span<const named<Enum>>(words));    \
  }
KVFIT_C_WORDS(kvfit::precision_kind, {"fp32", fp32}, {"bf16x3", bf16x3}, {"bf16", bf16})
KVFIT_C_WORDS(kvfit::head_fallback, {"none", none}, {"copies", copies})
KVFIT_C_WORDS(kvfit::budgets::missing_share, {"refused", refused}, {"mean", mean})
KVFIT_C_WORDS(kvfit::mass_weighting, {"relative", relative}, {"absolute", absolute})
KVFIT_C_WORDS(kvfit::output_weighting, {"relative", relative}, {"absolute", absolute})
KVFIT_C_WORDS(kvfit::importance_kind, {"mean", mean}, {"rms", rms}, {"max", max})
KVFIT_C_WORDS(kvfit::pooling_kind, {"none", none}, {"average", average}, {"max", max})
KVFIT_C_WORDS(kvfit::linalg::least_squares_method, {"ranked", ranked}, {"cholesky", cholesky})
KVFIT_C_WORDS(kvfit::linalg::ridge_mode, {"none", none}, {"spectral", spectral},
              {"frobenius", frobenius}, {"fixed", fixed})
KVFIT_C_WORDS(kvfit::gradient_loss, {"log_mass", log_mass}, {"joint", joint})
KVFIT_C_WORDS(kvfit::gradient_optimiser, {"adam", adam}, {"lbfgs", lbfgs})
#undef KVFIT_C_WORDS

// What the options hold there, if they do: a policy of a handle, or a share of rows.
template <class Policy, class Handle>
Policy* held(Handle& handle) {
  return handle.template get_if<Policy>();
}
template <class Policy>
Policy* held(kvfit::any_budget& shares) {
  return std::get_if<Policy>(&shares);
}

// A setting of whichever of `Policies` is chosen; `of` names them.
template <class... Policies, class Handle, class Put>
result<void> of_chosen(Handle& handle, std::string_view name, const char* of, const Put& put_into) {
  result<void> ok = refuse_value(name, std::string("is of ") + of);
  (void)((held<Policies>(handle) != nullptr ? (ok = put_into(*held<Policies>(handle)), true)
                                            : false) ||
         ...);
  return ok;
}

// Policies by their words, as their defaults have them.
result<void> put(kvfit::any_selection& to, std::string_view value, std::string_view name) {
  using namespace kvfit::selection;
  if (value == "joint") {
    to = joint{};
  } else if (value == "omp") {
    to = omp{};
  } else if (value == "highest_attention") {
    to = highest_attention{};
  } else if (value == "expected_attention") {
    to = expected_attention{};
  } else if (value == "first") {
    to = first{};
  } else if (value == "last") {
    to = last{};
  } else if (value == "random") {
    to = kvfit::selection::random{};
  } else {
    return refuse_value(name,
                        "must be one of joint, omp, highest_attention, expected_attention, first, "
                        "last, random");
  }
  return {};
}

result<void> put(kvfit::any_bias& to, std::string_view value, std::string_view name) {
  using namespace kvfit::bias;
  if (value == "nnls") {
    to = nnls{};
  } else if (value == "projected_gradient") {
    to = projected_gradient{};
  } else if (value == "zero") {
    to = zero{};
  } else if (value == "from_selection") {
    to = from_selection{};
  } else {
    return refuse_value(name, "must be one of nnls, projected_gradient, zero, from_selection");
  }
  return {};
}

result<void> put(kvfit::any_values& to, std::string_view value, std::string_view name) {
  using namespace kvfit::values;
  if (value == "least_squares") {
    to = least_squares{};
  } else if (value == "unpivoted_qr") {
    to = unpivoted_qr{};
  } else if (value == "copy") {
    to = kvfit::values::copy{};
  } else {
    return refuse_value(name, "must be one of least_squares, unpivoted_qr, copy");
  }
  return {};
}

result<void> put(kvfit::any_gradient& to, std::string_view value, std::string_view name) {
  if (value == "none") {
    to = kvfit::no_gradient{};
  } else if (value == "keys") {
    to = kvfit::gradient_keys{};
  } else {
    return refuse_value(name, "must be one of none, keys");
  }
  return {};
}

result<void> put(kvfit::any_budget& to, std::string_view value, std::string_view name) {
  using namespace kvfit::budgets;
  if (value == "uniform") {
    to = uniform{};
  } else if (value == "pyramid") {
    to = pyramid{};
  } else if (value == "global_ranking") {
    to = global_ranking{};
  } else if (value == "layer_ranking") {
    to = layer_ranking{};
  } else {
    return refuse_value(name, "must be one of uniform, pyramid, global_ranking, layer_ranking");
  }
  return {};
}

template <class Value>
struct option {
  std::string_view name;
  result<void> (*put)(kvfit_options& to, Value value, std::string_view name);
};

// A field that is always there, and one of a policy that may be chosen.
#define KVFIT_C_FIELD(name, field)                                                    \
  {                                                                                   \
    name, [](kvfit_options& to, auto value, std::string_view which) -> result<void> { \
      return put(to.field, value, which);                                             \
    }                                                                                 \
  }
#define KVFIT_C_OF(name, handle, of, field, ...)                                              \
  {                                                                                           \
    name, [](kvfit_options& to, auto value, std::string_view which) -> result<void> {         \
      return of_chosen<__VA_ARGS__>(to.handle, which, of,                                     \
                                    [&](auto& own) { return put(own.field, value, which); }); \
    }                                                                                         \
  }

namespace selections = kvfit::selection;
namespace biases = kvfit::bias;
namespace value_fits = kvfit::values;
namespace shares = kvfit::budgets;
constexpr const char* ranking = "cache.shares global_ranking or layer_ranking";

const option<double> number_options[] = {
    KVFIT_C_FIELD("budget", head.budget),
    KVFIT_C_FIELD("rule.scale", head.rule.scale),
    KVFIT_C_FIELD("rule.soft_cap", head.rule.soft_cap),
    KVFIT_C_FIELD("rule.causal", head.rule.causal),
    KVFIT_C_FIELD("rule.window", head.rule.window),
    KVFIT_C_FIELD("queries.held_out", head.queries.held_out),
    KVFIT_C_FIELD("queries.per_row", head.queries.per_row),
    KVFIT_C_FIELD("queries.at_least", head.queries.at_least),
    KVFIT_C_FIELD("protect.first", head.protect.first),
    KVFIT_C_FIELD("protect.last", head.protect.last),
    KVFIT_C_FIELD("memory.cap", head.memory.cap),
    KVFIT_C_FIELD("memory.selection", head.memory.selection),
    KVFIT_C_FIELD("replace_dead_keys", head.replace_dead_keys),
    KVFIT_C_FIELD("keep_better_values", head.keep_better_values),
    KVFIT_C_FIELD("tied_values_from", head.tied_values_from),
    KVFIT_C_FIELD("refine.steps", head.refine.steps),
    KVFIT_C_FIELD("refine.work", head.refine.work),
    KVFIT_C_FIELD("refine.output_weight", head.refine.output_weight),
    KVFIT_C_FIELD("refine.mass_weight", head.refine.mass_weight),
    KVFIT_C_FIELD("refine.mass_softness", head.refine.mass_softness),
    KVFIT_C_FIELD("refine.fits_bias", head.refine.fits_bias),
    KVFIT_C_FIELD("refine.batch", head.refine.batch),
    KVFIT_C_FIELD("refine.steps_a_batch", head.refine.steps_a_batch),
    KVFIT_C_FIELD("refine.sets", head.refine.sets),
    KVFIT_C_FIELD("refine.sets_at_once", head.refine.sets_at_once),
    KVFIT_C_FIELD("refine.spread", head.refine.spread),
    KVFIT_C_FIELD("refine.seed", head.refine.seed),
    KVFIT_C_OF("selection.mass_weight", head.selection, "selection joint", mass_weight,
               selections::joint),
    KVFIT_C_OF("selection.attention_share", head.selection, "selection joint", attention_share,
               selections::joint),
    KVFIT_C_OF("selection.candidates", head.selection, "selection joint", candidates,
               selections::joint),
    KVFIT_C_OF("selection.sweep", head.selection, "selection joint", sweep, selections::joint),
    KVFIT_C_OF("selection.sketch", head.selection, "selection joint", sketch, selections::joint),
    KVFIT_C_OF("selection.keys_per_round", head.selection, "selection omp", keys_per_round,
               selections::omp),
    KVFIT_C_OF("selection.refit_interval", head.selection, "selection omp", refit_interval,
               selections::omp),
    KVFIT_C_OF("selection.norm_power", head.selection, "selection omp", norm_power,
               selections::omp),
    KVFIT_C_OF("selection.absolute", head.selection, "selection omp", absolute, selections::omp),
    KVFIT_C_OF("selection.lower", head.selection, "selection omp", lower, selections::omp),
    KVFIT_C_OF("selection.upper", head.selection, "selection omp", upper, selections::omp),
    KVFIT_C_OF("selection.drop_below", head.selection, "selection omp", drop_below,
               selections::omp),
    KVFIT_C_OF("selection.drop_passes", head.selection, "selection omp", drop_passes,
               selections::omp),
    KVFIT_C_OF("selection.final_refit", head.selection, "selection omp", final_refit,
               selections::omp),
    KVFIT_C_OF("selection.pooling_width", head.selection, "selection highest_attention",
               pooling_width, selections::highest_attention),
    KVFIT_C_OF("selection.window", head.selection, "selection highest_attention", window,
               selections::highest_attention),
    KVFIT_C_OF("selection.epsilon", head.selection, "selection expected_attention", epsilon,
               selections::expected_attention),
    KVFIT_C_OF("selection.seed", head.selection, "selection random", seed, selections::random),
    KVFIT_C_OF("bias.lower", head.bias, "bias nnls or projected_gradient", lower, biases::nnls,
               biases::projected_gradient),
    KVFIT_C_OF("bias.upper", head.bias, "bias nnls or projected_gradient", upper, biases::nnls,
               biases::projected_gradient),
    KVFIT_C_OF("bias.iterations", head.bias, "bias projected_gradient", iterations,
               biases::projected_gradient),
    KVFIT_C_OF("values.ridge", head.values, "values least_squares or unpivoted_qr", ridge,
               value_fits::least_squares, value_fits::unpivoted_qr),
    KVFIT_C_OF("values.cross_validate_below", head.values, "values least_squares",
               cross_validate_below, value_fits::least_squares),
    KVFIT_C_OF("values.toward_original", head.values, "values least_squares", toward_original,
               value_fits::least_squares),
    KVFIT_C_OF("values.reweightings", head.values, "values least_squares", reweightings,
               value_fits::least_squares),
    KVFIT_C_OF("gradient.steps", head.gradient, "gradient keys", steps, kvfit::gradient_keys),
    KVFIT_C_OF("gradient.learning_rate", head.gradient, "gradient keys", learning_rate,
               kvfit::gradient_keys),
    KVFIT_C_OF("gradient.least_share", head.gradient, "gradient keys", least_share,
               kvfit::gradient_keys),
    KVFIT_C_OF("gradient.mass_weight", head.gradient, "gradient keys", mass_weight,
               kvfit::gradient_keys),
    KVFIT_C_OF("gradient.penalty", head.gradient, "gradient keys", penalty, kvfit::gradient_keys),
    KVFIT_C_OF("gradient.patience", head.gradient, "gradient keys", patience, kvfit::gradient_keys),
    KVFIT_C_OF("gradient.improvement", head.gradient, "gradient keys", improvement,
               kvfit::gradient_keys),
    KVFIT_C_FIELD("cache.budget", cache.budget),
    KVFIT_C_FIELD("cache.at_least", cache.limits.at_least),
    KVFIT_C_FIELD("cache.max_ratio", cache.limits.max_ratio),
    KVFIT_C_FIELD("cache.heads_at_once", cache.heads_at_once),
    KVFIT_C_FIELD("cache.memory", cache.memory),
    KVFIT_C_OF("cache.last_share", cache.shares, "cache.shares pyramid", last_share,
               shares::pyramid),
    KVFIT_C_OF("cache.pooling_width", cache.shares, ranking, by.pooling_width,
               shares::global_ranking, shares::layer_ranking),
    KVFIT_C_OF("cache.window", cache.shares, ranking, by.window, shares::global_ranking,
               shares::layer_ranking),
    KVFIT_C_OF("cache.safeguard", cache.shares, "cache.shares layer_ranking", safeguard,
               shares::layer_ranking),
    {"cache.exact_step",
     [](kvfit_options& to, double value, std::string_view name) -> result<void> {
       return of_chosen<shares::influence>(
           to.cache.shares, name, "cache.curves", [&](auto& own) -> result<void> {
             kvfit::dynamic_programming exact = own.exact.value_or(kvfit::dynamic_programming{});
             if (const auto ok = put(exact.step, value, name); !ok) return ok;
             own.exact = exact;
             return {};
           });
     }},
    {"cache.exact_memory",
     [](kvfit_options& to, double value, std::string_view name) -> result<void> {
       return of_chosen<shares::influence>(
           to.cache.shares, name, "cache.curves", [&](auto& own) -> result<void> {
             kvfit::dynamic_programming exact = own.exact.value_or(kvfit::dynamic_programming{});
             if (const auto ok = put(exact.memory, value, name); !ok) return ok;
             own.exact = exact;
             return {};
           });
     }},
    KVFIT_C_FIELD("rolling.trigger", rolling.trigger),
    KVFIT_C_FIELD("rolling.target", rolling.target),
    KVFIT_C_FIELD("rolling.sinks", rolling.sinks),
    KVFIT_C_FIELD("rolling.recent", rolling.recent),
};

const option<std::string_view> word_options[] = {
    KVFIT_C_FIELD("storage.rows", head.storage.rows),
    KVFIT_C_FIELD("storage.bias", head.storage.bias),
    KVFIT_C_FIELD("precision", head.precision),
    KVFIT_C_FIELD("selection", head.selection),
    KVFIT_C_OF("selection.weighting", head.selection, "selection joint or omp", weighting,
               selections::joint, selections::omp),
    KVFIT_C_OF("selection.importance", head.selection, "selection highest_attention", importance,
               selections::highest_attention),
    KVFIT_C_OF("selection.pooling", head.selection, "selection highest_attention", pooling,
               selections::highest_attention),
    KVFIT_C_FIELD("bias", head.bias),
    KVFIT_C_OF("bias.weighting", head.bias, "bias nnls or projected_gradient", weighting,
               biases::nnls, biases::projected_gradient),
    KVFIT_C_FIELD("values", head.values),
    KVFIT_C_OF("values.method", head.values, "values least_squares", method,
               value_fits::least_squares),
    KVFIT_C_OF("values.ridge_scaling", head.values, "values least_squares or unpivoted_qr",
               ridge_scaling, value_fits::least_squares, value_fits::unpivoted_qr),
    KVFIT_C_OF("values.weighting", head.values, "values least_squares", weighting,
               value_fits::least_squares),
    KVFIT_C_FIELD("refine.weighting", head.refine.weighting),
    KVFIT_C_FIELD("gradient", head.gradient),
    KVFIT_C_OF("gradient.loss", head.gradient, "gradient keys", loss, kvfit::gradient_keys),
    KVFIT_C_OF("gradient.optimiser", head.gradient, "gradient keys", optimiser,
               kvfit::gradient_keys),
    KVFIT_C_FIELD("cache.shares", cache.shares),
    KVFIT_C_OF("cache.importance", cache.shares, ranking, by.importance, shares::global_ranking,
               shares::layer_ranking),
    KVFIT_C_OF("cache.pooling", cache.shares, ranking, by.pooling, shares::global_ranking,
               shares::layer_ranking),
    KVFIT_C_OF("cache.missing", cache.shares, "cache.given", missing, shares::given),
    KVFIT_C_FIELD("cache.fallback", cache.fallback),
};
#undef KVFIT_C_FIELD
#undef KVFIT_C_OF

using whole_numbers = std::span<const int64_t>;
using numbers = std::span<const double>;

// Lists of three numbers for each entry.
result<void> check_threes(std::size_t count, std::string_view name, const char* of) {
  if (count % 3 == 0) return {};
  return error{errc::invalid_option, name, static_cast<int64_t>(count), 3,
               std::string("must be threes of ") + of};
}

const option<whole_numbers> list_options[] = {
    {"protect.rows",
     [](kvfit_options& to, whole_numbers values, std::string_view) -> result<void> {
       to.head.protect.rows.assign(values.begin(), values.end());
       return {};
     }},
    {"selection.rows",
     [](kvfit_options& to, whole_numbers values, std::string_view) -> result<void> {
       to.head.selection = selections::given{{values.begin(), values.end()}};
       return {};
     }},
    {"selection.schedule",
     [](kvfit_options& to, whole_numbers values, std::string_view name) -> result<void> {
       if (const auto ok = check_threes(values.size(), name, "limit, keys and rounds"); !ok) {
         return ok;
       }
       return of_chosen<selections::omp>(
           to.head.selection, name, "selection omp", [&](auto& own) -> result<void> {
             own.schedule.clear();
             for (std::size_t i = 0; i < values.size(); i += 3) {
               own.schedule.push_back({values[i], values[i + 1], values[i + 2]});
             }
             return {};
           });
     }},
    {"cache.skip",
     [](kvfit_options& to, whole_numbers values, std::string_view) -> result<void> {
       to.cache.skip.assign(values.begin(), values.end());
       return {};
     }},
    {"cache.rows",
     [](kvfit_options& to, whole_numbers values, std::string_view) -> result<void> {
       to.cache.shares = shares::rows{{values.begin(), values.end()}};
       return {};
     }},
};

// The head that entry i of `values` is of.
result<kvfit::head_id> head_of(numbers values, std::size_t i, std::string_view name) {
  kvfit::head_id id;
  if (const auto ok = put(id.layer, values[i], name); !ok) return ok.error();
  if (const auto ok = put(id.head, values[i + 1], name); !ok) return ok.error();
  return id;
}

result<void> put_shares(kvfit_options& to, numbers values, std::string_view name) {
  if (const auto ok = check_threes(values.size(), name, "layer, head and share"); !ok) return ok;
  shares::given given;
  for (std::size_t i = 0; i < values.size(); i += 3) {
    const auto id = head_of(values, i, name);
    if (!id) return id.error();
    given.shares.push_back({.id = *id, .share = values[i + 2]});
  }
  to.cache.shares = std::move(given);
  return {};
}

// One curve a head; heads are counted from 0 in the order of the cache.
result<void> put_curves(kvfit_options& to, numbers values, std::string_view name) {
  if (const auto ok = check_threes(values.size(), name, "head, rows and loss"); !ok) return ok;
  shares::influence influence;
  for (std::size_t i = 0; i < values.size(); i += 3) {
    int64_t head = 0;
    kvfit::influence_point point{.rows = 0, .loss = values[i + 2]};
    if (const auto ok = put(head, values[i], name); !ok) return ok;
    if (const auto ok = put(point.rows, values[i + 1], name); !ok) return ok;
    const auto heads = static_cast<int64_t>(influence.curves.size());
    if (head < 0 || (head != heads && head != heads - 1)) {
      return error{errc::invalid_option, name, head, heads,
                   "heads must follow one another from 0 on"};
    }
    if (head == heads) influence.curves.emplace_back();
    influence.curves.back().points.push_back(point);
  }
  to.cache.shares = std::move(influence);
  return {};
}

const option<numbers> numbers_options[] = {
    {"selection.prior",
     [](kvfit_options& to, numbers values, std::string_view name) -> result<void> {
       return of_chosen<selections::joint>(
           to.head.selection, name, "selection joint", [&](auto& own) -> result<void> {
             std::vector<float> prior(values.size());
             for (std::size_t i = 0; i < values.size(); ++i) {
               if (const auto ok = put(prior[i], values[i], name); !ok) return ok;
             }
             own.prior = std::move(prior);
             return {};
           });
     }},
    {"cache.given", put_shares},
    {"cache.curves", put_curves},
};

template <class Value, std::size_t Count>
result<void> set(const option<Value> (&options)[Count], kvfit_options& to, std::string_view name,
                 Value value, const char* kind) {
  for (const option<Value>& one : options) {
    if (one.name == name) return one.put(to, value, name);
  }
  return refuse_value(name, std::string("is no option that is ") + kind);
}

// As long as a caller's memory can be: a count that is not must not be taken for a span.
template <class Number>
result<std::span<const Number>> list_of(const Number* values, std::size_t count) {
  if (count == 0) return std::span<const Number>();
  if (const auto ok = kvfit_c::need(values, "values"); !ok) return ok.error();
  if (count > (std::size_t{1} << 32U)) {
    return kvfit::error{errc::invalid_option, "count",
                        static_cast<int64_t>(std::min<std::size_t>(count, INT64_MAX)),
                        int64_t{1} << 32U, "numbers"};
  }
  return std::span<const Number>(values, count);
}

result<void> need_both(const void* options, const void* name) {
  if (const auto ok = kvfit_c::need(options, "options"); !ok) return ok;
  return kvfit_c::need(name, "name");
}

}  // namespace

extern "C" {

int32_t kvfit_options_make(const char* preset, kvfit_options** out, kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = kvfit_c::need(out, "out"); !ok) return ok;
    const std::string_view name = preset == nullptr ? "default" : preset;
    const auto found = kvfit::presets::find(name);
    if (!found) {
      return kvfit::error{errc::invalid_option, "preset", kvfit::error::none, kvfit::error::none,
                          "no preset \"" + std::string(name.substr(0, 64)) + "\""};
    }
    *out = new kvfit_options{.head = found->make(0), .cache = {}, .rolling = {}};
    return {};
  });
}

int32_t kvfit_options_copy(const kvfit_options* from, kvfit_options** out, kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = kvfit_c::need(from, "options"); !ok) return ok;
    if (const auto ok = kvfit_c::need(out, "out"); !ok) return ok;
    *out = new kvfit_options(*from);
    return {};
  });
}

int32_t kvfit_options_set(kvfit_options* options, const char* name, double value,
                          kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = need_both(options, name); !ok) return ok;
    return set(number_options, *options, name, value, "a number");
  });
}

int32_t kvfit_options_set_word(kvfit_options* options, const char* name, const char* value,
                               kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = need_both(options, name); !ok) return ok;
    if (const auto ok = kvfit_c::need(value, "value"); !ok) return ok;
    return set(word_options, *options, name, std::string_view(value), "a word");
  });
}

int32_t kvfit_options_set_list(kvfit_options* options, const char* name, const int64_t* values,
                               size_t count, kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = need_both(options, name); !ok) return ok;
    const auto list = list_of(values, count);
    if (!list) return list.error();
    return set(list_options, *options, name, *list, "a list of whole numbers");
  });
}

int32_t kvfit_options_set_numbers(kvfit_options* options, const char* name, const double* values,
                                  size_t count, kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = need_both(options, name); !ok) return ok;
    const auto list = list_of(values, count);
    if (!list) return list.error();
    return set(numbers_options, *options, name, *list, "a list of numbers");
  });
}

const char* kvfit_option_name(size_t index, int32_t* kind) {
  const auto found = [&](int32_t of_kind, std::string_view name) {
    if (kind != nullptr) *kind = of_kind;
    return name.data();  // of a literal: it ends with 0
  };
  if (index < std::size(number_options)) return found(KVFIT_NUMBER, number_options[index].name);
  index -= std::size(number_options);
  if (index < std::size(word_options)) return found(KVFIT_WORD, word_options[index].name);
  index -= std::size(word_options);
  if (index < std::size(list_options)) return found(KVFIT_LIST, list_options[index].name);
  index -= std::size(list_options);
  if (index < std::size(numbers_options)) return found(KVFIT_NUMBERS, numbers_options[index].name);
  return nullptr;
}

int32_t kvfit_options_set_rotation(kvfit_options* options, const kvfit_rope* rotation,
                                   kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = kvfit_c::need(options, "options"); !ok) return ok;
    const auto read = kvfit_c::rope_of(rotation, "rotation");
    if (!read) return read.error();
    options->head.refine.rotation = *read;
    return {};
  });
}

void kvfit_options_free(kvfit_options* options) {
  delete options;
}

int32_t kvfit_cancel_make(kvfit_cancel** out, kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = kvfit_c::need(out, "out"); !ok) return ok;
    *out = new kvfit_cancel;
    return {};
  });
}

void kvfit_cancel_request(kvfit_cancel* cancel) {
  if (cancel != nullptr) cancel->wish.request();
}

void kvfit_cancel_free(kvfit_cancel* cancel) {
  delete cancel;
}

}  // extern "C"
