// SPDX-License-Identifier: MIT
#include "kvfit/compact/stages.hpp"

#include "support/catch.hpp"
#include "support/random_matrix.hpp"

TEST_CASE("stages of a file that links the library refuse the library's gradient methods",
          "[compiled][stages]") {
  const kvfit::matrix keys = kvfit_test::random_matrix(20, 6, 1);
  const kvfit::matrix values = kvfit_test::random_matrix(20, 5, 2);
  const kvfit::matrix queries = kvfit_test::random_matrix(30, 6, 3);
  kvfit::compact_options options{.budget = 5};
  const auto check = [&] {
    return kvfit::stages::check(
        {.cache = {.keys = keys, .values = values}, .queries = queries, .options = options});
  };
  CHECK(check());
  options.gradient = kvfit::gradient_keys{.steps = 3};
  const auto refused = check();
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == kvfit::errc::invalid_option);
  CHECK(refused.error().argument == "gradient");
}
