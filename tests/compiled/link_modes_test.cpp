// SPDX-License-Identifier: MIT
// Options that pass between files that link kvfit::compiled (this one) and files that do not.
#include <cstring>
#include <string>
#include <vector>

#include "compiled/header_only.hpp"
#include "kvfit/compact.hpp"
#include "support/catch.hpp"
#include "support/need_error.hpp"
#include "support/random_matrix.hpp"

using namespace kvfit_test;

namespace {

struct small_head {
  kvfit::matrix keys = random_matrix(64, 8, 1);
  kvfit::matrix values = random_matrix(64, 6, 2);
  kvfit::matrix queries = random_matrix(40, 8, 3);

  [[nodiscard]] kvfit::kv_block cache() const { return {.keys = keys, .values = values}; }
};

}  // namespace

TEST_CASE("the default options mean the same in files of either kind", "[compiled][link_modes]") {
  const small_head head;
  const kvfit::compact_options options{.budget = 10};
  const auto here = kvfit::compact(head.cache(), head.queries, options);
  const auto there = header_only::compact(head.cache(), head.queries, options);
  REQUIRE(here);
  REQUIRE(there);
  CHECK(here->report.train.output_error == Approx(there->report.train.output_error).epsilon(0.05));
}

TEST_CASE("a policy of a file that links the library is refused by one that can't run it",
          "[compiled][link_modes]") {
  const small_head head;
  const auto refused = [&](const kvfit::compact_options& options, const std::string& which) {
    CHECK(kvfit::compact(head.cache(), head.queries, options));
    need_error(header_only::compact(head.cache(), head.queries, options),
               kvfit::errc::invalid_option, which);
  };
  refused({.budget = 10, .selection = kvfit::selection::omp{}}, "selection");
  refused({.budget = 10, .bias = kvfit::bias::zero{}}, "bias");
  refused({.budget = 10, .values = kvfit::values::unpivoted_qr{}}, "values");
  refused({.budget = 10, .gradient = kvfit::gradient_keys{.steps = 2}}, "gradient");
}

TEST_CASE("a refit refuses such a policy, too, though it takes the place of the selection",
          "[compiled][link_modes]") {
  const small_head head;
  const std::vector<kvfit::kv_block> heads = {head.cache()};
  const kvfit::cache_layer layer{.heads = heads};
  const std::vector<kvfit::query_block> queries = {kvfit::query_block(head.queries)};
  const std::vector<std::vector<kvfit::index_t>> rows = {{1, 5, 9}};
  REQUIRE(header_only::refit_layer(layer, rows, queries, {}));
  need_error(header_only::refit_layer(layer, rows, queries, {.selection = kvfit::selection::omp{}}),
             kvfit::errc::invalid_option, "selection");
}

TEST_CASE("the library runs its own code for a policy that it knows, whoever made the handle",
          "[compiled][link_modes]") {
  const small_head head;
  const auto own = kvfit::compact(head.cache(), head.queries,
                                  {.budget = 10, .selection = kvfit::selection::omp{}});
  const auto foreign =
      kvfit::compact(head.cache(), head.queries, {.budget = 10, .selection = header_only::omp()});
  REQUIRE(own);
  REQUIRE(foreign);
  CHECK(own->positions == foreign->positions);
  CHECK(own->keys == foreign->keys);
  CHECK(own->bias == foreign->bias);
  CHECK(own->values == foreign->values);
}
