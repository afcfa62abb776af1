// SPDX-License-Identifier: MIT
#include <array>
#include <span>
#include <vector>

#include "compact/door.hpp"
#include "kvfit/attention/attend.hpp"
#include "kvfit/compact.hpp"
#include "support/catch.hpp"

namespace kvfit_test {

kvfit::result<kvfit::compacted> try_compact(const kvfit::kv_block& cache,
                                            const kvfit::query_set& queries,
                                            const kvfit::compact_options& options,
                                            const kvfit::stop_when& stop) {
  return kvfit::compact(cache, queries, options, stop);
}

kvfit::compacted compacted_head(const kvfit::kv_block& cache, const kvfit::query_set& queries,
                                const kvfit::compact_options& options) {
  auto fitted = kvfit::compact(cache, queries, options);
  INFO((fitted ? "fitted" : fitted.error().message()));
  REQUIRE(fitted);
  return std::move(*fitted);
}

kvfit::fidelity errors_of(const kvfit::query_set& queries, std::span<const kvfit::kv_block> full,
                          std::span<const kvfit::kv_block> compact, const kvfit::logit_rule& rule) {
  const auto wanted = kvfit::attend(queries, full, rule);
  const auto found = kvfit::attend(queries, compact, rule);
  INFO((wanted ? "full" : wanted.error().message()));
  INFO((found ? "compact" : found.error().message()));
  REQUIRE(wanted);
  REQUIRE(found);
  return kvfit::compare(wanted->output, wanted->log_mass, found->output, found->log_mass);
}

}  // namespace kvfit_test

using namespace kvfit_test;

TEST_CASE("the plain door takes matrices, maps and views, and is the door over a block",
          "[compact][door]") {
  const head made = make_head(1);
  const auto by_block = kvfit::compact(made.cache(), made.queries, {.budget = 12});
  const auto by_matrix = kvfit::compact(made.keys, made.values, made.queries, {.budget = 12});
  const Eigen::Map<const kvfit::matrix> keys(made.keys.data(), made.keys.rows(), made.keys.cols());
  const std::array<kvfit::query_block, 1> blocks = {kvfit::row_view(made.queries)};
  const auto by_map = kvfit::compact(keys, made.values, std::span<const kvfit::query_block>(blocks),
                                     {.budget = 12});
  REQUIRE(by_block);
  REQUIRE(by_matrix);
  REQUIRE(by_map);
  CHECK(by_block->positions.size() == 12);
  CHECK(same_result(*by_block, *by_matrix));
  CHECK(same_result(*by_block, *by_map));
}

TEST_CASE("the composed door over shipped policies is the plain door", "[compact][door]") {
  const head made = make_head(2);
  kvfit::compaction<kvfit::selection::joint, kvfit::bias::nnls, kvfit::values::least_squares>
      options;
  options.budget = 12;
  const auto composed = kvfit::compact(made.cache(), made.queries, options);
  const auto plain = kvfit::compact(made.cache(), made.queries, {.budget = 12});
  REQUIRE(composed);
  REQUIRE(plain);
  CHECK(same_result(*composed, *plain));
  CHECK(composed->report.train.output_error == plain->report.train.output_error);
}
