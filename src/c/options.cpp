// SPDX-License-Identifier: MIT
#include "options.hpp"

#include <cfloat>
#include <cmath>
#include <kvfit/presets.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "convert.hpp"

namespace {

using kvfit::errc;
using kvfit::error;
using kvfit::result;

// Whole numbers that a double holds exactly.
constexpr double largest_whole = 9007199254740992.0;

result<void> refuse_value(std::string_view name, const char* why) {
  return error{errc::invalid_option, name, error::none, error::none, why};
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

struct number_option {
  std::string_view name;
  result<void> (*put)(kvfit_options& to, double value, std::string_view name);
};

#define KVFIT_C_NUMBER(name, field)                                     \
  {                                                                     \
    name, [](kvfit_options& to, double value, std::string_view which) { \
      return put(to.field, value, which);                               \
    }                                                                   \
  }

const number_option number_options[] = {
    KVFIT_C_NUMBER("budget", head.budget),
    KVFIT_C_NUMBER("rule.scale", head.rule.scale),
    KVFIT_C_NUMBER("rule.soft_cap", head.rule.soft_cap),
    KVFIT_C_NUMBER("rule.causal", head.rule.causal),
    KVFIT_C_NUMBER("rule.window", head.rule.window),
    KVFIT_C_NUMBER("queries.held_out", head.queries.held_out),
    KVFIT_C_NUMBER("queries.per_row", head.queries.per_row),
    KVFIT_C_NUMBER("queries.at_least", head.queries.at_least),
    KVFIT_C_NUMBER("protect.first", head.protect.first),
    KVFIT_C_NUMBER("protect.last", head.protect.last),
    KVFIT_C_NUMBER("memory.cap", head.memory.cap),
    KVFIT_C_NUMBER("memory.selection", head.memory.selection),
    KVFIT_C_NUMBER("replace_dead_keys", head.replace_dead_keys),
    KVFIT_C_NUMBER("keep_better_values", head.keep_better_values),
    KVFIT_C_NUMBER("tied_values_from", head.tied_values_from),
    KVFIT_C_NUMBER("refine.steps", head.refine.steps),
    KVFIT_C_NUMBER("refine.work", head.refine.work),
    KVFIT_C_NUMBER("refine.mass_weight", head.refine.mass_weight),
    KVFIT_C_NUMBER("refine.sets", head.refine.sets),
    KVFIT_C_NUMBER("refine.seed", head.refine.seed),
    KVFIT_C_NUMBER("cache.budget", cache.budget),
    KVFIT_C_NUMBER("cache.at_least", cache.limits.at_least),
    KVFIT_C_NUMBER("cache.max_ratio", cache.limits.max_ratio),
    KVFIT_C_NUMBER("cache.heads_at_once", cache.heads_at_once),
    KVFIT_C_NUMBER("cache.memory", cache.memory),
    KVFIT_C_NUMBER("rolling.trigger", rolling.trigger),
    KVFIT_C_NUMBER("rolling.target", rolling.target),
    KVFIT_C_NUMBER("rolling.sinks", rolling.sinks),
    KVFIT_C_NUMBER("rolling.recent", rolling.recent),
    {"cache.last_share",
     [](kvfit_options& to, double value, std::string_view name) -> result<void> {
       auto* pyramid = std::get_if<kvfit::budgets::pyramid>(&to.cache.shares);
       if (pyramid == nullptr) return refuse_value(name, "is of cache.shares pyramid");
       pyramid->last_share = value;
       return {};
     }},
};
#undef KVFIT_C_NUMBER

result<void> set_number(kvfit_options& to, std::string_view name, double value) {
  for (const number_option& one : number_options) {
    if (one.name == name) return one.put(to, value, name);
  }
  return refuse_value(name, "is no option that is a number");
}

result<void> set_type(kvfit::dtype& to, std::string_view name, std::string_view value) {
  for (auto type = kvfit::dtype::fp32; kvfit::is_number(type);
       type = static_cast<kvfit::dtype>(static_cast<int>(type) + 1)) {
    if (kvfit::name(type) != value) continue;
    to = type;
    return {};
  }
  return refuse_value(name, "must be fp32, fp16, bf16, fp8_e4m3 or fp8_e5m2");
}

result<void> set_precision(kvfit::precision_kind& to, std::string_view name,
                           std::string_view value) {
  if (value == "fp32") {
    to = kvfit::precision_kind::fp32;
  } else if (value == "bf16x3") {
    to = kvfit::precision_kind::bf16x3;
  } else if (value == "bf16") {
    to = kvfit::precision_kind::bf16;
  } else {
    return refuse_value(name, "must be fp32, bf16x3 or bf16");
  }
  return {};
}

result<void> set_shares(kvfit::any_budget& to, std::string_view name, std::string_view value) {
  if (value == "uniform") {
    to = kvfit::budgets::uniform{};
  } else if (value == "pyramid") {
    to = kvfit::budgets::pyramid{};
  } else if (value == "global_ranking") {
    to = kvfit::budgets::global_ranking{};
  } else if (value == "layer_ranking") {
    to = kvfit::budgets::layer_ranking{};
  } else {
    return refuse_value(name, "must be uniform, pyramid, global_ranking or layer_ranking");
  }
  return {};
}

result<void> set_fallback(kvfit::head_fallback& to, std::string_view name, std::string_view value) {
  if (value != "none" && value != "copies") return refuse_value(name, "must be none or copies");
  to = value == "copies" ? kvfit::head_fallback::copies : kvfit::head_fallback::none;
  return {};
}

result<void> set_word(kvfit_options& to, std::string_view name, std::string_view value) {
  if (name == "storage.rows") return set_type(to.head.storage.rows, name, value);
  if (name == "storage.bias") return set_type(to.head.storage.bias, name, value);
  if (name == "precision") return set_precision(to.head.precision, name, value);
  if (name == "cache.shares") return set_shares(to.cache.shares, name, value);
  if (name == "cache.fallback") return set_fallback(to.cache.fallback, name, value);
  return refuse_value(name, "is no option that is a word");
}

result<void> set_list(kvfit_options& to, std::string_view name, std::vector<int64_t> values) {
  if (name == "protect.rows") {
    to.head.protect.rows = std::move(values);
  } else if (name == "selection.rows") {
    to.head.selection = kvfit::selection::given{std::move(values)};
  } else if (name == "cache.skip") {
    to.cache.skip = std::move(values);
  } else if (name == "cache.rows") {
    to.cache.shares = kvfit::budgets::rows{std::move(values)};
  } else {
    return refuse_value(name, "is no option that is a list");
  }
  return {};
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
    return set_number(*options, name, value);
  });
}

int32_t kvfit_options_set_word(kvfit_options* options, const char* name, const char* value,
                               kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = need_both(options, name); !ok) return ok;
    if (const auto ok = kvfit_c::need(value, "value"); !ok) return ok;
    return set_word(*options, name, value);
  });
}

int32_t kvfit_options_set_list(kvfit_options* options, const char* name, const int64_t* values,
                               size_t count, kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = need_both(options, name); !ok) return ok;
    if (count > 0) {
      if (const auto ok = kvfit_c::need(values, "values"); !ok) return ok;
    }
    std::vector<int64_t> copied;
    if (count > 0) copied.assign(values, values + count);
    return set_list(*options, name, std::move(copied));
  });
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
