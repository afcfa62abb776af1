// SPDX-License-Identifier: MIT
#include "kvfit/cache/padded.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "cache/layer_case.hpp"
#include "kvfit/cache/engine_bias.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"

using kvfit::errc;
using kvfit_test::layer_case;

TEST_CASE("attention over padded heads is that over ragged ones", "[cache][padded]") {
  const layer_case made(3);
  const auto layer = kvfit_test::ragged(made, {9, 0, 14});
  const auto padded = kvfit::pad(layer, GENERATE(1, 16));
  REQUIRE(padded);
  CHECK(padded->lengths == std::vector<kvfit::index_t>{9, 0, 14});
  CHECK(padded->length == (padded->keys.rows() == 48 ? 16 : 14));
  for (const std::size_t h : {std::size_t{0}, std::size_t{2}}) {
    const auto wanted = kvfit::attend(made.group(h), {layer.block(h)});
    const auto found = kvfit::attend(made.group(h), {padded->block(h)});
    REQUIRE(wanted);
    REQUIRE(found);
    CHECK((found->output - wanted->output).cwiseAbs().maxCoeff() < 2e-6F);
    CHECK((found->log_mass - wanted->log_mass).cwiseAbs().maxCoeff() < 4e-6F);
  }
  const auto nothing = kvfit::attend(made.group(1), {padded->block(1)});
  REQUIRE(nothing);
  CHECK(nothing->output.cwiseAbs().maxCoeff() == 0);
  CHECK(nothing->log_mass.maxCoeff() == -std::numeric_limits<float>::infinity());
}

TEST_CASE("padding is zeros that nothing sees", "[cache][padded]") {
  const layer_case made(2);
  const auto padded = kvfit::pad(kvfit_test::ragged(made, {5, 3}));
  REQUIRE(padded);
  REQUIRE(padded->length == 5);
  REQUIRE(padded->keys.rows() == 10);
  for (kvfit::index_t row = 8; row < 10; ++row) {
    const auto at = static_cast<std::size_t>(row);
    CHECK(padded->keys.row(row).cwiseAbs().maxCoeff() == 0);
    CHECK(padded->values.row(row).cwiseAbs().maxCoeff() == 0);
    CHECK(padded->bias[row] == -std::numeric_limits<float>::infinity());
    CHECK(padded->positions[at] == -1);
    CHECK(padded->key_positions[at] == 0);
  }
  CHECK(padded->bias.head(8).array().isFinite().all());
}

TEST_CASE("what is padded is unpadded to the same bits", "[cache][padded]") {
  const layer_case made(3);
  auto layer = kvfit_test::ragged(made, {4, 7, 0});
  layer.heads[1].outcome = kvfit::head_outcome::fallback;
  layer.heads[1].cause = kvfit::error{errc::all_masked, "queries", 0, 5, "why"};
  layer.heads[1].report.dead_keys = 17;
  const auto padded = kvfit::pad(layer, 8);
  REQUIRE(padded);
  const auto again = kvfit::unpad(*padded);
  REQUIRE(again);
  CHECK(kvfit_test::same_layer(*again, layer));
  CHECK(again->heads[1].outcome == kvfit::head_outcome::fallback);
  REQUIRE(again->heads[1].cause);
  CHECK(again->heads[1].cause->message() == layer.heads[1].cause->message());
  CHECK(again->heads[1].report.dead_keys == 17);
  CHECK(again->heads[2].outcome == kvfit::head_outcome::empty);
}

TEST_CASE("a layer without any row pads to length 0", "[cache][padded]") {
  const layer_case made(2);
  auto layer = kvfit_test::ragged(made, {0, 0});
  const auto padded = kvfit::pad(layer, 8);
  REQUIRE(padded);
  CHECK(padded->length == 0);
  const auto again = kvfit::unpad(*padded);
  REQUIRE(again);
  CHECK(again->offsets == std::vector<kvfit::index_t>{0, 0, 0});
}

TEST_CASE("a padded layer or a kernel's bias beyond its cap is refused before it is made",
          "[cache][padded][memory]") {
  if (!can_count) return;
  const layer_case made(2);
  const auto layer = kvfit_test::ragged(made, {5, 40});
  const auto check = [&](const auto& make) {
    kvfit::index_t cap = 1;
    std::ptrdiff_t held = 0;
    bool is_made = false;
    for (int attempt = 0; attempt < 2; ++attempt) {
      kvfit::error cause;
      held = kvfit_test::count_allocations([&] {
               const auto result = make(cap);
               is_made = result.has_value();
               if (!is_made) cause = result.error();
             }).peak_bytes;
      if (is_made) break;
      CHECK(attempt == 0);
      CHECK(cause.code == errc::memory_cap_exceeded);
      CHECK(cause.expected == 1);
      CHECK(held < 1000);
      cap = cause.actual;
    }
    CHECK(is_made);
    CHECK(held > cap / 2);
    CHECK(held <= cap + 16384);  // an allocator rounds large blocks up to pages
    CHECK_FALSE(make(cap - 1));
    CHECK(make(-1).error().code == errc::invalid_option);
  };
  check([&](kvfit::index_t cap) { return kvfit::pad(layer, 4096, cap); });
  const auto layout = kvfit::bias_layouts::ggml_mask(4, 100, 500);
  check([&](kvfit::index_t cap) { return kvfit::make_engine_bias(layer, layout, cap); });
}

TEST_CASE("layers whose parts do not fit together are refused", "[cache][padded]") {
  struct damage {
    const char* what;
    errc code;
    void (*apply)(kvfit::compacted_layer&);
  };
  const damage kinds[] = {
      {"negative number", errc::invalid_option, [](auto& layer) { layer.number = -1; }},
      {"no offsets", errc::empty_input, [](auto& layer) { layer.offsets.clear(); }},
      {"no head", errc::empty_input, [](auto& layer) { layer.offsets = {0}; }},
      {"offsets start with 1", errc::shape_mismatch, [](auto& layer) { layer.offsets[0] = 1; }},
      {"offsets fall", errc::shape_mismatch, [](auto& layer) { layer.offsets[1] = 8; }},
      {"offsets end early", errc::shape_mismatch, [](auto& layer) { layer.offsets[2] = 6; }},
      {"a report too few", errc::shape_mismatch, [](auto& layer) { layer.heads.pop_back(); }},
      {"a position too few", errc::shape_mismatch, [](auto& layer) { layer.positions.pop_back(); }},
      {"a key position too many", errc::shape_mismatch,
       [](auto& layer) { layer.key_positions.push_back(0); }},
      {"a bias too few", errc::shape_mismatch,
       [](auto& layer) { layer.bias.conservativeResize(6); }},
      {"a value too few", errc::shape_mismatch,
       [](auto& layer) { layer.values.conservativeResize(6, 8); }},
      {"no columns", errc::empty_input, [](auto& layer) { layer.values.resize(7, 0); }},
      {"a negative position", errc::invalid_position, [](auto& layer) { layer.positions[4] = -1; }},
      {"a position twice", errc::invalid_position,
       [](auto& layer) { layer.positions[6] = layer.positions[5]; }},
      {"a key that is NaN", errc::non_finite,
       [](auto& layer) { layer.keys(6, 3) = std::nanf(""); }},
      {"an infinite value", errc::non_finite,
       [](auto& layer) { layer.values(6, 3) = std::numeric_limits<float>::infinity(); }},
      {"a hidden key", errc::non_finite,
       [](auto& layer) { layer.bias[6] = -std::numeric_limits<float>::infinity(); }},
  };
  const layer_case made(2);
  const auto whole = kvfit_test::ragged(made, {4, 3});
  REQUIRE(kvfit::check_layer(whole));
  for (const damage& kind : kinds) {
    INFO(kind.what);
    auto layer = whole;
    kind.apply(layer);
    const auto padded = kvfit::pad(layer);
    REQUIRE_FALSE(padded.has_value());
    CHECK(padded.error().code == kind.code);
  }
  auto layer = whole;
  layer.keys(6, 3) = std::nanf("");
  const auto cause = kvfit::check_layer(layer).error();
  CHECK(cause.argument == "layer 3 keys");
  CHECK(cause.actual == 6);
  CHECK(cause.expected == 3);
  CHECK(kvfit::pad(whole, 0).error().code == errc::invalid_option);
}

TEST_CASE("padded layers whose lengths do not fit are refused", "[cache][padded]") {
  const layer_case made(2);
  const auto whole = kvfit::pad(kvfit_test::ragged(made, {4, 3}));
  REQUIRE(whole);
  const auto cause = [&](auto&& apply) {
    auto padded = *whole;
    apply(padded);
    const auto again = kvfit::unpad(padded);
    REQUIRE_FALSE(again.has_value());
    return again.error().code;
  };
  CHECK(cause([](auto& padded) { padded.lengths[1] = 5; }) == errc::shape_mismatch);
  CHECK(cause([](auto& padded) { padded.lengths[0] = -1; }) == errc::shape_mismatch);
  CHECK(cause([](auto& padded) { padded.lengths.pop_back(); }) == errc::shape_mismatch);
  CHECK(cause([](auto& padded) { padded.length = 5; }) == errc::shape_mismatch);
  CHECK(cause([](auto& padded) { padded.length = -1; }) == errc::invalid_option);
  CHECK(cause([](auto& padded) { padded.positions.pop_back(); }) == errc::shape_mismatch);
  // Padding taken for rows: its bias is no number.
  CHECK(cause([](auto& padded) { padded.lengths[1] = 4; }) == errc::invalid_position);
}
