// SPDX-License-Identifier: MIT
#include "heads.hpp"

#include <algorithm>
#include <chrono>
#include <new>
#include <utility>
#include <variant>

#include "kvfit/attention/attend.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/presets.hpp"
#include "settings.hpp"

namespace kvfit_tool {

namespace {

std::vector<kvfit::query_block> blocks_of(std::span<const kvfit::row_view> queries) {
  return {queries.begin(), queries.end()};
}

/// `step()` with the one exception that attention can meet turned into its error, as `compact`
/// does.
template <class Step>
auto without_bad_alloc(Step&& step) -> decltype(step()) {
  try {
    return step();
  } catch (const std::bad_alloc&) {
    return kvfit::error{kvfit::errc::out_of_memory, "attend"};
  }
}

}  // namespace

const std::vector<method>& methods() {
  static const std::vector<method> all = [] {
    std::vector<method> list;
    for (const kvfit::presets::preset& preset : kvfit::presets::all) {
      const kvfit::compact_options options = preset.make(1);
      const bool is_fitted = !std::holds_alternative<kvfit::bias::zero>(options.bias) ||
                             !std::holds_alternative<kvfit::values::copy>(options.values);
      list.push_back({preset.name, preset.summary, is_fitted});
    }
    return list;
  }();
  return all;
}

const method* find_method(std::string_view name) {
  const auto found = std::find_if(methods().begin(), methods().end(),
                                  [&](const method& candidate) { return candidate.name == name; });
  return found == methods().end() ? nullptr : &*found;
}

kvfit::result<small_head> compact(const head_view& head, const head_plan& plan) {
  const auto preset = kvfit::presets::find(plan.what.method);
  if (!preset) {
    return kvfit::error{kvfit::errc::invalid_option, "method", kvfit::error::none,
                        kvfit::error::none, "no method " + plan.what.method};
  }
  kvfit::compact_options options = preset->make(plan.budget);
  options.rule.scale = head.scale;
  options.refine.rotation = head.rotation;
  options.refine.seed = plan.seed;
  options.storage = plan.storage;
  options.protect_first = plan.protect_first;
  options.protect_last = plan.protect_last;
  if (auto* drawn = std::get_if<kvfit::selection::random>(&options.selection)) {
    drawn->seed = plan.seed;
  }
  if (const std::string wrong = apply_settings(options, plan.what.method, plan.what.settings);
      !wrong.empty()) {
    return kvfit::error{kvfit::errc::invalid_option, "settings", kvfit::error::none,
                        kvfit::error::none, wrong};
  }
  return without_bad_alloc([&]() -> kvfit::result<small_head> {
    const std::vector<kvfit::query_block> queries = blocks_of(head.queries);
    const auto start = std::chrono::steady_clock::now();
    auto fitted = kvfit::compact(head.keys, head.values,
                                 std::span<const kvfit::query_block>(queries), options);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    if (!fitted) return fitted.error();
    return small_head{.positions = std::move(fitted->positions),
                      .keys = std::move(fitted->keys),
                      .bias = std::move(fitted->bias),
                      .values = std::move(fitted->values),
                      .train = fitted->report.train,
                      .held_out = fitted->report.held_out,
                      .seconds = taken.count()};
  });
}

kvfit::result<full_attention> attend_full(const head_view& head) {
  return without_bad_alloc([&]() -> kvfit::result<full_attention> {
    const std::vector<kvfit::query_block> queries = blocks_of(head.test_queries);
    auto full = kvfit::attend(std::span<const kvfit::query_block>(queries),
                              {{.keys = head.keys, .values = head.values}}, {.scale = head.scale});
    if (!full) return full.error();
    return full_attention{std::move(full->output), std::move(full->log_mass)};
  });
}

kvfit::result<kvfit::fidelity> judge(const head_view& head, const full_attention& full,
                                     const small_head& small) {
  return without_bad_alloc([&]() -> kvfit::result<kvfit::fidelity> {
    const std::vector<kvfit::query_block> queries = blocks_of(head.test_queries);
    const std::span<const float> bias(small.bias.data(),
                                      static_cast<std::size_t>(small.bias.size()));
    const auto fitted = kvfit::attend(
        std::span<const kvfit::query_block>(queries),
        {{.keys = small.keys, .values = small.values, .bias = bias, .positions = small.positions}},
        {.scale = head.scale});
    if (!fitted) return fitted.error();
    return kvfit::compare(full.output, full.log_mass, fitted->output, fitted->log_mass);
  });
}

}  // namespace kvfit_tool
