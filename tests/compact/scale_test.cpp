// SPDX-License-Identifier: MIT
// No constant hides small numbers: a cache whose values are tiny or huge, or whose keys are, is
// compacted like the same cache of ordinary size, bit for bit.
#include <string_view>

#include "compact/entry_point.hpp"
#include "kvfit/presets.hpp"
#include "support/random_matrix.hpp"

using namespace kvfit_test;
namespace presets = kvfit::presets;

namespace {

struct scaled_head {
  kvfit::matrix keys = random_matrix(160, 16, 1, 2);
  kvfit::matrix values = random_matrix(160, 12, 2);
  kvfit::matrix queries = random_matrix(240, 16, 3, 2);

  [[nodiscard]] kvfit::compacted compacted_by(std::string_view method) const {
    return compacted_head({.keys = keys, .values = values}, queries,
                          presets::find(method)->make(16));
  }
};

/// The published gradient methods lower an absolute squared error, which has a scale.
bool has_a_scale(std::string_view method) {
  return method == "gradient_mass" || method == "gradient_joint";
}

void check_same_errors(const kvfit::fidelity& a, const kvfit::fidelity& b) {
  CHECK(a.output_error == b.output_error);
  CHECK(a.output_error_max == b.output_error_max);
  CHECK(a.mass_error == b.mass_error);
  CHECK(a.cosine == b.cosine);
  CHECK(a.cosine_min == b.cosine_min);
}

}  // namespace

TEST_CASE("K: values of any size are compacted alike, and reported alike", "[compact][scale]") {
  const scaled_head ordinary;
  for (const auto& preset : presets::all) {
    if (has_a_scale(preset.name)) continue;
    CAPTURE(preset.name);
    const kvfit::compacted want = ordinary.compacted_by(preset.name);
    for (const float factor : {0x1p-40F, 0x1p40F}) {  // exact
      CAPTURE(factor);
      scaled_head other = ordinary;
      other.values *= factor;
      kvfit::compacted found = other.compacted_by(preset.name);
      check_same_errors(found.report.train, want.report.train);
      REQUIRE(found.report.held_out.has_value() == want.report.held_out.has_value());
      if (want.report.held_out) check_same_errors(*found.report.held_out, *want.report.held_out);
      found.values /= factor;
      CHECK(same_result(found, want));
    }
  }
}

TEST_CASE("K: keys and queries of any size are compacted alike while logits stay",
          "[compact][scale]") {
  const scaled_head ordinary;
  for (const auto& preset : presets::all) {
    if (has_a_scale(preset.name)) continue;
    CAPTURE(preset.name);
    const kvfit::compacted want = ordinary.compacted_by(preset.name);
    for (const float factor : {0x1p-30F, 0x1p30F}) {
      CAPTURE(factor);
      scaled_head other = ordinary;
      other.keys *= factor;
      other.queries /= factor;
      kvfit::compacted found = other.compacted_by(preset.name);
      check_same_errors(found.report.train, want.report.train);
      found.keys /= factor;
      CHECK(same_result(found, want));
    }
  }
}

TEST_CASE("K: the report of tiny values says what a fresh judge says", "[compact][scale]") {
  scaled_head tiny;
  tiny.values *= 1e-12F;
  const kvfit::compacted found = tiny.compacted_by("default");
  const kvfit::kv_block full{.keys = tiny.keys, .values = tiny.values};
  kvfit::kv_block scaled_full = full;
  const kvfit::matrix ordinary_values = tiny.values * 1e12F;
  const kvfit::matrix ordinary_found = found.values * 1e12F;
  scaled_full.values = ordinary_values;
  kvfit::kv_block compact = found.block();
  const kvfit::fidelity as_is = errors_of(tiny.queries, full, compact);
  compact.values = ordinary_found;
  const kvfit::fidelity fresh = errors_of(tiny.queries, scaled_full, compact);
  CHECK(as_is.output_error == Approx(fresh.output_error).epsilon(1e-4));
  CHECK(as_is.cosine == Approx(fresh.cosine).epsilon(1e-4));
  CHECK(found.report.train.output_error > 0.3 * fresh.output_error);  // 0.005 of it before
}
