// SPDX-License-Identifier: MIT
// What messages of every module say: the rule that was broken and the number that breaks it, once.
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/attention/attend.hpp"
#include "kvfit/attention/rope.hpp"
#include "kvfit/bias/nnls.hpp"
#include "kvfit/cache/apportion.hpp"
#include "kvfit/cache/chunks.hpp"
#include "kvfit/cache/rolling_options.hpp"
#include "kvfit/cache/row_bounds.hpp"
#include "kvfit/cache/shares.hpp"
#include "kvfit/core/refuse_number.hpp"
#include "kvfit/queries/mixture_rows.hpp"
#include "kvfit/refine/gradient_keys.hpp"
#include "kvfit/refine/refinement.hpp"
#include "kvfit/selection/joint.hpp"
#include "kvfit/selection/omp.hpp"
#include "kvfit/values/least_squares.hpp"
#include "support/catch.hpp"

namespace kvfit_test {

namespace {

constexpr double nan_number = std::numeric_limits<double>::quiet_NaN();

template <class T>
std::string message_of(const kvfit::result<T>& refused) {
  return refused ? "accepted" : refused.error().message();
}

std::string rolling_message(kvfit::rolling_options options) {
  return message_of(kvfit::check_rolling(options));
}

std::string query_message(kvfit::index_t first_position, kvfit::index_t position_step) {
  static const kvfit::matrix rows = kvfit::matrix::Ones(2, 4);
  kvfit::query_block block(rows, first_position);
  block.position_step = position_step;
  return message_of(kvfit::check_queries(block, 4));
}

std::string attend_message(const kvfit::attend_options& options) {
  static const kvfit::matrix rows = kvfit::matrix::Ones(2, 4);
  return message_of(kvfit::attend(rows, {kvfit::kv_block{rows, rows}}, {}, options));
}

}  // namespace

TEST_CASE("A message states the rule that was broken, and the number that breaks it",
          "[core][error][messages]") {
  constexpr kvfit::index_t far = (kvfit::index_t{1} << 53U) + 1;
  const kvfit::chunk whole[] = {{0, 8}};
  const std::vector<double> no_shares = {0.5, -1};
  const std::vector<kvfit::row_bounds> bounds(2, kvfit::row_bounds{0, 8});
  const std::vector<double> fractions = {0.5, 1.5};
  const std::vector<std::pair<std::string, std::string>> table = {
      // An upper limit was refused as if it were the lower one.
      {rolling_message({.sinks = far}),
       "invalid_option: sinks: 9007199254740993, limit 1099511627776 (must be at most 2^40)"},
      {rolling_message({.sinks = -1}), "invalid_option: sinks: -1, limit 0 (must not be negative)"},
      {rolling_message({.trigger = far, .target = 8, .sinks = 1, .recent = 1}),
       "invalid_option: trigger: 9007199254740993, limit 1099511627776 (must be at most 2^40)"},
      {rolling_message({.trigger = 8, .target = 8, .sinks = 1, .recent = 1}),
       "invalid_option: trigger: 8, limit 9 (must exceed the target)"},
      {message_of(kvfit::plan_chunks(whole, 8, 1, 4, far)),
       "invalid_option: at_least: 9007199254740993, limit 9007199254740992 (must be at least 1 and "
       "at most 2^53)"},
      {message_of(kvfit::plan_chunks(whole, 0, 1, 4)),
       "invalid_option: rows: 0, limit 1 (must be at least 1 and at most 2^53)"},
      // Bounds that met the rule that the message stated.
      {message_of(check_settings(kvfit::bias::nnls{.lower = 1e30, .upper = 1e31})),
       "invalid_option: nnls.lower (must be above 0 and below 1e30, is 1e+30)"},
      {message_of(check_settings(kvfit::bias::nnls{.lower = 2, .upper = 1})),
       "invalid_option: nnls.upper (must be at least lower, 2, is 1)"},
      {message_of(check_settings(kvfit::selection::omp{.lower = 1e30, .upper = 1e31})),
       "invalid_option: omp.lower (must be above 0 and below 1e30, is 1e+30)"},
      // Two arguments were named where one was at fault.
      {attend_message({.panel = -2}), "invalid_option: panel: -2, limit 0 (must not be negative)"},
      {attend_message({.memory = -3}),
       "invalid_option: memory: -3, limit 0 (must not be negative)"},
      {query_message(0, far),
       "invalid_option: queries.position_step: 9007199254740993, limit 4503599627370496 (must not "
       "be farther from 0, for as many rows)"},
      {query_message(-far, 1),
       "invalid_option: queries.first_position: -9007199254740993, limit 9007199254740992 (must "
       "not be farther from 0)"},
      {message_of(check_settings(kvfit::selection::omp{.drop_passes = -1})),
       "invalid_option: omp.drop_passes: -1, limit 0 (must not be negative)"},
      {message_of(kvfit::check_refinement({.steps_a_batch = 0}, 8)),
       "invalid_option: refine.steps_a_batch: 0, limit 1 (must be at least 1)"},
      {message_of(kvfit::check_gradient_keys({.penalty = -1})),
       "invalid_option: gradient.penalty (must be in [0, 1e6], is -1)"},
      // The number was not told.
      {message_of(kvfit::check_rule({.scale = std::numeric_limits<float>::infinity()})),
       "invalid_option: rule.scale (must be finite, is inf)"},
      {message_of(kvfit::check_rule({.soft_cap = -0.1F})),
       "invalid_option: rule.soft_cap (must be finite and not negative, is -0.1)"},
      {message_of(kvfit::check_rule({.window = -3})),
       "invalid_option: rule.window: -3, limit 0 (must not be negative)"},
      {message_of(kvfit::check_rope({.base = 0}, 8)),
       "invalid_option: rope.base (must be finite and above 0, is 0)"},
      {message_of(kvfit::check_rope(
           {.scaling = kvfit::rope_scaling::llama3{.factor = -8, .original_positions = 512}}, 8)),
       "invalid_option: rope.scaling.factor (must be finite and above 0, is -8)"},
      {message_of(check_settings(kvfit::selection::omp{.norm_power = 3})),
       "invalid_option: omp.norm_power (must be in [0, 2], is 3)"},
      {message_of(check_settings(kvfit::selection::joint{.mass_weight = nan_number})),
       "invalid_option: joint.mass_weight (must be in [0, 1e6], is nan)"},
      {message_of(check_settings(kvfit::values::least_squares{.ridge = -1e-40})),
       "invalid_option: least_squares.ridge (must be finite and not negative, is -1e-40)"},
      {message_of(kvfit::check_refinement({.mass_softness = 2e6}, 8)),
       "invalid_option: refine.mass_softness (must be in (0, 1e6], is 2e+06)"},
      {message_of(kvfit::apportion(no_shares, bounds, 4)),
       "invalid_option: shares: 1 (the share at this place must be finite and not negative, is "
       "-1)"},
      {message_of(kvfit::check_fractions(fractions)),
       "invalid_option: fraction: 1 (the fraction at this place must be above 0 and at most 1, is "
       "1.5)"},
  };
  for (const auto& [message, expected] : table) CHECK(message == expected);
}

TEST_CASE("A number in a message has the fewest digits that give it back",
          "[core][error][messages]") {
  CHECK(kvfit::detail::number_text(0.1F) == "0.1");
  CHECK(kvfit::detail::number_text(0.1) == "0.1");
  CHECK(kvfit::detail::number_text(1e-40) == "1e-40");
  CHECK(kvfit::detail::number_text(-0.0) == "-0");
  CHECK(kvfit::detail::number_text(-nan_number) == "nan");
  CHECK(kvfit::detail::number_text(-std::numeric_limits<float>::infinity()) == "-inf");
  CHECK(kvfit::detail::number_text(0x1.fffffffffffffp+1023) == "1.7976931348623157e+308");
}

}  // namespace kvfit_test
