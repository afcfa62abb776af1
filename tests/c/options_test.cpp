// SPDX-License-Identifier: MIT
// Every option of the C++ structs has a name in C. Each struct is taken apart into all of its
// fields: a field that is added there does not compile here until it is listed.
#include <kvfit/c/kvfit.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "options.hpp"
#include "support/catch.hpp"

namespace kvfit_test {

namespace {

/// Sets options by name and looks for them in the C++ structs.
struct option_checker {
  kvfit_options* options = nullptr;
  std::map<std::string, int32_t> seen;

  /// A number: two values, so that neither is there by chance.
  template <class Field>
  void number(const char* name, const Field& field, double first = 3, double second = 5) {
    CAPTURE(name);
    seen.emplace(name, KVFIT_NUMBER);
    for (const double value : {first, second}) {
      REQUIRE(kvfit_options_set(options, name, value, nullptr) == KVFIT_OK);
      if constexpr (requires { field.value(); }) {
        REQUIRE(field.has_value());
        CHECK(static_cast<double>(*field) == value);
      } else {
        CHECK(static_cast<double>(field) == value);
      }
    }
  }
  void number(const char* name, const bool& field) { number(name, field, 0, 1); }

  /// A word: each gives another value.
  template <class Field, class Value>
  void word(const char* name, const Field& field, const Value& value_of,
            const std::vector<const char*>& words) {
    CAPTURE(name);
    seen.emplace(name, KVFIT_WORD);
    std::set<std::size_t> values;
    for (const char* one : words) {
      CAPTURE(one);
      REQUIRE(kvfit_options_set_word(options, name, one, nullptr) == KVFIT_OK);
      values.insert(value_of(field));
    }
    CHECK(values.size() == words.size());
    kvfit_error error{};
    error.struct_size = sizeof error;
    CHECK(kvfit_options_set_word(options, name, "nonesuch", &error) == KVFIT_INVALID_OPTION);
    for (const char* one : words) CHECK(std::string(error.message).find(one) != std::string::npos);
  }
  template <class Enum>
  void word(const char* name, const Enum& field, const std::vector<const char*>& words) {
    static_assert(std::is_enum_v<Enum>);
    word(
        name, field, [](const Enum& value) { return static_cast<std::size_t>(value); }, words);
  }
  template <class Handle>
  void policy(const char* name, const Handle& handle, const std::vector<const char*>& words) {
    word(
        name, handle, [](const Handle& value) { return value.index(); }, words);
  }
  void choose(const char* name, const char* value) {
    REQUIRE(kvfit_options_set_word(options, name, value, nullptr) == KVFIT_OK);
  }
  void list(const char* name, const std::vector<int64_t>& values) {
    CAPTURE(name);
    seen.emplace(name, KVFIT_LIST);
    REQUIRE(kvfit_options_set_list(options, name, values.data(), values.size(), nullptr) ==
            KVFIT_OK);
  }
  void numbers(const char* name, const std::vector<double>& values) {
    CAPTURE(name);
    seen.emplace(name, KVFIT_NUMBERS);
    REQUIRE(kvfit_options_set_numbers(options, name, values.data(), values.size(), nullptr) ==
            KVFIT_OK);
  }
};

using words = std::vector<const char*>;
const words weightings = {"relative", "absolute"};
const words types = {"fp32", "fp16", "bf16", "fp8_e4m3", "fp8_e5m2"};
const words importances = {"mean", "rms", "max"};
const words poolings = {"none", "average", "max"};

void check_selection(option_checker& is, kvfit::any_selection& handle) {
  using namespace kvfit::selection;
  is.policy("selection", handle,
            {"joint", "omp", "highest_attention", "expected_attention", "first", "last", "random"});
  is.choose("selection", "joint");
  {
    auto& [mass_weight, attention_share, weighting, candidates, sweep, sketch, prior] =
        *handle.get_if<joint>();
    is.number("selection.mass_weight", mass_weight);
    is.number("selection.attention_share", attention_share);
    is.word("selection.weighting", weighting, weightings);
    is.number("selection.candidates", candidates);
    is.number("selection.sweep", sweep);
    is.number("selection.sketch", sketch);
    is.numbers("selection.prior", {1, 0.5, 0});
    CHECK(prior == std::vector<float>{1, 0.5F, 0});
  }
  is.choose("selection", "omp");
  {
    auto& [keys_per_round, refit_interval, schedule, norm_power, absolute, weighting, lower, upper,
           drop_below, drop_passes, final_refit] = *handle.get_if<omp>();
    is.number("selection.keys_per_round", keys_per_round);
    is.number("selection.refit_interval", refit_interval);
    is.list("selection.schedule", {300, 1, 1, INT64_MAX, 4, 2});
    REQUIRE(schedule.size() == 2);
    auto& [limit, keys, rounds] = schedule[1];
    CHECK(limit == INT64_MAX);
    CHECK(keys == 4);
    CHECK(rounds == 2);
    is.number("selection.norm_power", norm_power);
    is.number("selection.absolute", absolute);
    is.word("selection.weighting", weighting, weightings);
    is.number("selection.lower", lower);
    is.number("selection.upper", upper);
    is.number("selection.drop_below", drop_below);
    is.number("selection.drop_passes", drop_passes);
    is.number("selection.final_refit", final_refit);
  }
  is.choose("selection", "highest_attention");
  {
    auto& [importance, pooling, pooling_width, window] = *handle.get_if<highest_attention>();
    is.word("selection.importance", importance, importances);
    is.word("selection.pooling", pooling, poolings);
    is.number("selection.pooling_width", pooling_width);
    is.number("selection.window", window);
  }
  is.choose("selection", "expected_attention");
  {
    auto& [epsilon] = *handle.get_if<expected_attention>();
    is.number("selection.epsilon", epsilon);
  }
  is.choose("selection", "random");
  {
    auto& [seed] = *handle.get_if<kvfit::selection::random>();
    is.number("selection.seed", seed);
  }
  is.list("selection.rows", {3, 7});
  {
    auto& [positions] = *handle.get_if<given>();
    CHECK(positions == std::vector<kvfit::index_t>{3, 7});
  }
}

void check_bias(option_checker& is, kvfit::any_bias& handle) {
  using namespace kvfit::bias;
  is.policy("bias", handle, {"nnls", "projected_gradient", "zero", "from_selection"});
  is.choose("bias", "nnls");
  {
    auto& [weighting, lower, upper] = *handle.get_if<nnls>();
    is.word("bias.weighting", weighting, weightings);
    is.number("bias.lower", lower);
    is.number("bias.upper", upper);
  }
  is.choose("bias", "projected_gradient");
  auto& [weighting, lower, upper, iterations] = *handle.get_if<projected_gradient>();
  is.word("bias.weighting", weighting, weightings);
  is.number("bias.lower", lower);
  is.number("bias.upper", upper);
  is.number("bias.iterations", iterations);
}

void check_values(option_checker& is, kvfit::any_values& handle) {
  using namespace kvfit::values;
  const words scalings = {"none", "spectral", "frobenius", "fixed"};
  is.policy("values", handle, {"least_squares", "unpivoted_qr", "copy"});
  is.choose("values", "unpivoted_qr");
  {
    auto& [ridge_scaling, ridge] = *handle.get_if<unpivoted_qr>();
    is.word("values.ridge_scaling", ridge_scaling, scalings);
    is.number("values.ridge", ridge);
  }
  is.choose("values", "least_squares");
  auto& [method, ridge_scaling, ridge, cross_validate_below, toward_original, weighting,
         reweightings] = *handle.get_if<least_squares>();
  is.word("values.method", method, {"ranked", "cholesky"});
  is.word("values.ridge_scaling", ridge_scaling, scalings);
  is.number("values.ridge", ridge);
  is.number("values.cross_validate_below", cross_validate_below);
  is.number("values.toward_original", toward_original);
  is.word("values.weighting", weighting, weightings);
  is.number("values.reweightings", reweightings);
}

void check_refinement(option_checker& is, kvfit::refinement& refine) {
  auto& [steps, work, output_weight, weighting, mass_weight, mass_softness, fits_bias, batch,
         steps_a_batch, sets, sets_at_once, spread, rotation, seed] = refine;
  is.number("refine.steps", steps);
  is.number("refine.work", work);
  is.number("refine.output_weight", output_weight);
  is.word("refine.weighting", weighting, weightings);
  is.number("refine.mass_weight", mass_weight);
  is.number("refine.mass_softness", mass_softness);
  is.number("refine.fits_bias", fits_bias);
  is.number("refine.batch", batch);
  is.number("refine.steps_a_batch", steps_a_batch);
  is.number("refine.sets", sets);
  is.number("refine.sets_at_once", sets_at_once);
  is.number("refine.spread", spread);
  kvfit_rope turned{};
  turned.struct_size = sizeof turned;
  turned.base = 500000;
  REQUIRE(kvfit_options_set_rotation(is.options, &turned, nullptr) == KVFIT_OK);
  REQUIRE(rotation.has_value());
  CHECK(rotation->base == 500000);
  is.number("refine.seed", seed);
}

void check_gradient(option_checker& is, kvfit::any_gradient& handle) {
  is.policy("gradient", handle, {"none", "keys"});
  auto& [loss, optimiser, steps, learning_rate, least_share, mass_weight, penalty, patience,
         improvement] = *handle.get_if<kvfit::gradient_keys>();
  is.word("gradient.loss", loss, {"log_mass", "joint"});
  is.word("gradient.optimiser", optimiser, {"adam", "lbfgs"});
  is.number("gradient.steps", steps);
  is.number("gradient.learning_rate", learning_rate);
  is.number("gradient.least_share", least_share);
  is.number("gradient.mass_weight", mass_weight);
  is.number("gradient.penalty", penalty);
  is.number("gradient.patience", patience);
  is.number("gradient.improvement", improvement);
}

void check_head(option_checker& is, kvfit::compact_options& head) {
  // `score_by` is a C++ object that runs on a device: C has none.
  auto& [budget, rule, selection, bias, values, refine, gradient, protect, queries, storage, memory,
         replace_dead_keys, keep_better_values, tied_values_from, precision, score_by] = head;
  is.number("budget", budget);
  {
    auto& [scale, soft_cap, causal, window] = rule;
    is.number("rule.scale", scale);
    is.number("rule.soft_cap", soft_cap);
    is.number("rule.causal", causal);
    is.number("rule.window", window);
  }
  check_selection(is, selection);
  check_bias(is, bias);
  check_values(is, values);
  check_refinement(is, refine);
  check_gradient(is, gradient);
  {
    auto& [first, last, rows] = protect;
    is.number("protect.first", first);
    is.number("protect.last", last);
    is.list("protect.rows", {3, 7});
    CHECK(rows == std::vector<kvfit::index_t>{3, 7});
  }
  {
    auto& [held_out, per_row, at_least] = queries;
    is.number("queries.held_out", held_out);
    is.number("queries.per_row", per_row);
    is.number("queries.at_least", at_least);
  }
  {
    auto& [rows, bias_type] = storage;
    is.word("storage.rows", rows, types);
    is.word("storage.bias", bias_type, types);
  }
  {
    auto& [cap, of_selection] = memory;
    is.number("memory.cap", cap);
    is.number("memory.selection", of_selection);
  }
  is.number("replace_dead_keys", replace_dead_keys);
  is.number("keep_better_values", keep_better_values);
  is.number("tied_values_from", tied_values_from);
  is.word("precision", precision, {"fp32", "bf16x3", "bf16"});
}

void check_ranking(option_checker& is, kvfit::selection::highest_attention& by) {
  auto& [importance, pooling, pooling_width, window] = by;
  is.word("cache.importance", importance, importances);
  is.word("cache.pooling", pooling, poolings);
  is.number("cache.pooling_width", pooling_width);
  is.number("cache.window", window);
}

void check_shares(option_checker& is, kvfit::any_budget& shares) {
  using namespace kvfit::budgets;
  // Seven of them: another needs a name.
  static_assert(std::variant_size_v<kvfit::any_budget> == 7);
  is.policy("cache.shares", shares, {"uniform", "pyramid", "global_ranking", "layer_ranking"});
  is.choose("cache.shares", "pyramid");
  {
    auto& [last_share] = std::get<pyramid>(shares);
    is.number("cache.last_share", last_share);
  }
  is.choose("cache.shares", "global_ranking");
  {
    auto& [by] = std::get<global_ranking>(shares);
    check_ranking(is, by);
  }
  is.choose("cache.shares", "layer_ranking");
  {
    auto& [by, safeguard] = std::get<layer_ranking>(shares);
    check_ranking(is, by);
    is.number("cache.safeguard", safeguard);
  }
  is.list("cache.rows", {5, 6});
  {
    auto& [each] = std::get<rows>(shares);
    CHECK(each == std::vector<kvfit::index_t>{5, 6});
  }
  is.numbers("cache.given", {0, 0, 0.5, 0, 1, 0.25});
  {
    auto& [each, missing] = std::get<given>(shares);
    REQUIRE(each.size() == 2);
    CHECK(each[1].id == kvfit::head_id{0, 1});
    CHECK(each[1].share == 0.25);
    is.word("cache.missing", missing, {"refused", "mean"});
  }
  is.numbers("cache.curves", {0, 4, 1.5, 0, 8, 0.5, 1, 4, 2});
  {
    auto& [curves, exact] = std::get<influence>(shares);
    REQUIRE(curves.size() == 2);
    REQUIRE(curves[0].points.size() == 2);
    CHECK(curves[0].points[1].rows == 8);
    CHECK(curves[1].points[0].loss == 2);
    CHECK_FALSE(exact.has_value());
    REQUIRE(kvfit_options_set(is.options, "cache.exact_step", 2, nullptr) == KVFIT_OK);
    REQUIRE(exact.has_value());
    auto& [step, memory] = *exact;
    is.number("cache.exact_step", step);
    is.number("cache.exact_memory", memory);
  }
}

void check_cache(option_checker& is, kvfit::cache_options& cache) {
  // `head` is what `check_head` goes through.
  auto& [budget, head, shares, limits, skip, fallback, heads_at_once, memory] = cache;
  is.number("cache.budget", budget);
  check_shares(is, shares);
  {
    auto& [at_least, max_ratio] = limits;
    is.number("cache.at_least", at_least);
    is.number("cache.max_ratio", max_ratio);
  }
  is.list("cache.skip", {1, 4});
  CHECK(skip == std::vector<kvfit::index_t>{1, 4});
  is.word("cache.fallback", fallback, {"none", "copies"});
  is.number("cache.heads_at_once", heads_at_once);
  is.number("cache.memory", memory);
}

void check_rolling(option_checker& is, kvfit::rolling_options& rolling) {
  // `cache` is what `check_cache` goes through.
  auto& [trigger, target, sinks, recent, cache] = rolling;
  is.number("rolling.trigger", trigger);
  is.number("rolling.target", target);
  is.number("rolling.sinks", sinks);
  is.number("rolling.recent", recent);
}

std::map<std::string, int32_t> all_names() {
  std::map<std::string, int32_t> names;
  int32_t kind = -1;
  for (std::size_t i = 0; const char* name = kvfit_option_name(i, &kind); ++i) {
    CAPTURE(name);
    CHECK(names.emplace(name, kind).second);  // once
  }
  return names;
}

kvfit_options* default_options() {
  kvfit_options* options = nullptr;
  REQUIRE(kvfit_options_make(nullptr, &options, nullptr) == KVFIT_OK);
  return options;
}

}  // namespace

TEST_CASE("every field of the C++ options is set by a name of C, and every name is of a field",
          "[c]") {
  option_checker is{.options = default_options(), .seen = {}};
  check_head(is, is.options->head);
  check_cache(is, is.options->cache);
  check_rolling(is, is.options->rolling);
  CHECK(is.seen == all_names());
  kvfit_options_free(is.options);
}

TEST_CASE("the C header lists every option, and no other under these prefixes", "[c]") {
  std::ifstream file(KVFIT_TEST_C_HEADER);
  REQUIRE(file);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const std::size_t first = text.find("What a compaction is asked");
  const std::size_t end = text.find("typedef struct kvfit_options kvfit_options;");
  REQUIRE(first < end);
  REQUIRE(end < text.size());
  std::set<std::string> words_there;
  std::string word;
  for (const char letter : text.substr(first, end - first)) {
    if ((letter >= 'a' && letter <= 'z') || letter == '_' || letter == '.') {
      word += letter;
      continue;
    }
    while (!word.empty() && word.back() == '.') word.pop_back();
    words_there.insert(word);
    word.clear();
  }
  const auto names = all_names();
  for (const auto& [name, kind] : names) {
    CAPTURE(name);
    CHECK(words_there.count(name) == 1);
  }
  for (const std::string& one : words_there) {
    CAPTURE(one);
    if (one.find('.') != std::string::npos) CHECK(names.count(one) == 1);
  }
}

TEST_CASE("an option of a policy that is not chosen is refused, with the policy's name", "[c]") {
  kvfit_options* options = default_options();
  kvfit_error error{};
  error.struct_size = sizeof error;
  const auto refused = [&](const char* name, const char* of) {
    CAPTURE(name);
    CHECK(kvfit_options_set(options, name, 1, &error) == KVFIT_INVALID_OPTION);
    CHECK(std::string(error.argument) == name);
    CHECK(std::string(error.message).find(of) != std::string::npos);
  };
  refused("selection.keys_per_round", "selection omp");
  refused("bias.iterations", "bias projected_gradient");
  refused("gradient.steps", "gradient keys");
  refused("cache.safeguard", "cache.shares layer_ranking");
  refused("cache.window", "global_ranking or layer_ranking");
  refused("cache.exact_step", "cache.curves");
  kvfit_options_free(options);
}

TEST_CASE("lists of another form, and numbers that a field does not hold, change nothing", "[c]") {
  kvfit_options* options = default_options();
  const double half_head[] = {0, 0.5, 1};
  const double two[] = {0, 1};
  const double gap[] = {0, 1, 1, 2, 1, 1};
  CHECK(kvfit_options_set_numbers(options, "cache.given", two, 2, nullptr) != KVFIT_OK);
  CHECK(kvfit_options_set_numbers(options, "cache.given", half_head, 3, nullptr) != KVFIT_OK);
  CHECK(kvfit_options_set_numbers(options, "cache.curves", gap, 6, nullptr) != KVFIT_OK);
  const double before_the_first[] = {-1, 1, 1};
  CHECK(kvfit_options_set_numbers(options, "cache.curves", before_the_first, 3, nullptr) ==
        KVFIT_INVALID_OPTION);
  CHECK(kvfit_options_set_numbers(options, "cache.curves", nullptr, 3, nullptr) == KVFIT_NULL_DATA);
  CHECK(kvfit_options_set_numbers(options, "cache.curves", two, SIZE_MAX, nullptr) ==
        KVFIT_INVALID_OPTION);
  CHECK(std::holds_alternative<kvfit::budgets::uniform>(options->cache.shares));
  const double curve[] = {0, 1, 1};
  REQUIRE(kvfit_options_set_numbers(options, "cache.curves", curve, 3, nullptr) == KVFIT_OK);
  CHECK(kvfit_options_set(options, "cache.exact_step", 0.5, nullptr) == KVFIT_INVALID_OPTION);
  CHECK_FALSE(std::get<kvfit::budgets::influence>(options->cache.shares).exact.has_value());
  const int64_t steps[] = {300, 1};
  REQUIRE(kvfit_options_set_word(options, "selection", "omp", nullptr) == KVFIT_OK);
  CHECK(kvfit_options_set_list(options, "selection.schedule", steps, 2, nullptr) ==
        KVFIT_INVALID_OPTION);
  CHECK(kvfit_options_set(options, "refine.seed", -1, nullptr) == KVFIT_INVALID_OPTION);
  kvfit_options_free(options);
}

namespace {

kvfit_rope scaled_rope(int32_t scaling) {
  kvfit_rope rope{};
  rope.struct_size = sizeof rope;
  rope.scaling = scaling;
  return rope;
}

/// The rotation that C's becomes.
kvfit::rope read(const kvfit_rope& rope) {
  kvfit_options* options = default_options();
  REQUIRE(kvfit_options_set_rotation(options, &rope, nullptr) == KVFIT_OK);
  kvfit::rope out = *options->head.refine.rotation;
  kvfit_options_free(options);
  return out;
}

std::string refused_field(const kvfit_rope& rope) {
  kvfit_options* options = default_options();
  kvfit_error error{};
  error.struct_size = sizeof error;
  CHECK(kvfit_options_set_rotation(options, &rope, &error) != KVFIT_OK);
  CHECK_FALSE(options->head.refine.rotation.has_value());
  kvfit_options_free(options);
  return error.argument;
}

}  // namespace

TEST_CASE("scalings of a rotation are those of C++, and 0 is their default", "[c]") {
  using namespace kvfit::rope_scaling;
  CHECK(std::holds_alternative<none>(read(scaled_rope(KVFIT_ROPE_UNSCALED)).scaling));
  {
    kvfit_rope rope = scaled_rope(KVFIT_ROPE_LINEAR);
    rope.factor = 4;
    auto [factor] = std::get<linear>(read(rope).scaling);
    CHECK(factor == 4);
  }
  {
    kvfit_rope rope = scaled_rope(KVFIT_ROPE_YARN);
    rope.original_positions = 4096;
    {
      auto [factor, original, fast, slow, rounds] = std::get<yarn>(read(rope).scaling);
      CHECK(factor == yarn{}.factor);
      CHECK(original == 4096);
      CHECK(fast == yarn{}.fast);
      CHECK(slow == yarn{}.slow);
      CHECK(rounds);
    }
    rope.factor = 16;
    rope.fast = 20;
    rope.slow = 2;
    rope.unrounded = 1;
    auto [factor, original, fast, slow, rounds] = std::get<yarn>(read(rope).scaling);
    CHECK(factor == 16);
    CHECK(fast == 20);
    CHECK(slow == 2);
    CHECK_FALSE(rounds);
  }
  {
    kvfit_rope rope = scaled_rope(KVFIT_ROPE_LLAMA3);
    {
      auto [factor, low, high, original] = std::get<llama3>(read(rope).scaling);
      CHECK(factor == llama3{}.factor);
      CHECK(low == llama3{}.low);
      CHECK(high == llama3{}.high);
      CHECK(original == llama3{}.original_positions);
    }
    rope.factor = 32;
    rope.low = 2;
    rope.high = 5;
    rope.original_positions = 1024;
    auto [factor, low, high, original] = std::get<llama3>(read(rope).scaling);
    CHECK(factor == 32);
    CHECK(low == 2);
    CHECK(high == 5);
    CHECK(original == 1024);
  }
  {
    const double frequencies[] = {1, 0.5};
    kvfit_rope rope = scaled_rope(KVFIT_ROPE_GIVEN);
    rope.frequencies = frequencies;
    rope.frequency_count = 2;
    auto [each] = std::get<given>(read(rope).scaling);
    CHECK(each == std::vector<double>{1, 0.5});
    rope.frequency_count = -1;
    CHECK(refused_field(rope) == "rotation.frequency_count");
    rope.frequencies = nullptr;
    rope.frequency_count = 2;
    CHECK(refused_field(rope) == "rotation.frequencies");
  }
  CHECK(refused_field(scaled_rope(9)) == "rotation.scaling");
}

TEST_CASE("settings that a scaling does not use are refused", "[c]") {
  kvfit_rope rope = scaled_rope(KVFIT_ROPE_UNSCALED);
  rope.factor = 2;
  CHECK(refused_field(rope) == "rotation.factor");
  rope = scaled_rope(KVFIT_ROPE_LINEAR);
  rope.original_positions = 2;
  CHECK(refused_field(rope) == "rotation.original_positions");
  rope = scaled_rope(KVFIT_ROPE_YARN);
  rope.high = 2;
  CHECK(refused_field(rope) == "rotation.high");
  rope = scaled_rope(KVFIT_ROPE_LLAMA3);
  rope.unrounded = 1;
  CHECK(refused_field(rope) == "rotation.unrounded");
  rope = scaled_rope(KVFIT_ROPE_LLAMA3);
  rope.frequency_count = 1;
  CHECK(refused_field(rope) == "rotation.frequency_count");
}

TEST_CASE("a rotation of a caller that was compiled before there were scalings is read", "[c]") {
  kvfit_rope rope = scaled_rope(77);  // memory behind the caller's struct
  rope.struct_size = offsetof(kvfit_rope, scaling);
  rope.base = 1000;
  const kvfit::rope out = read(rope);
  CHECK(out.base == 1000);
  CHECK(std::holds_alternative<kvfit::rope_scaling::none>(out.scaling));
  rope.struct_size -= 8;
  CHECK(refused_field(rope) == "rotation.struct_size");
}

}  // namespace kvfit_test
