// SPDX-License-Identifier: MIT
// A head of any type in any layout compacts to the same bytes as contiguous fp32.
#include <cstring>

#include "kvfit/compact.hpp"
#include "support/catch.hpp"
#include "support/random_matrix.hpp"
#include "support/stored_rows.hpp"

namespace kvfit_test {
namespace {

template <class M>
bool equal_bytes(const M& a, const M& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         std::memcmp(a.data(), b.data(),
                     static_cast<std::size_t>(a.size()) * sizeof(typename M::Scalar)) == 0;
}

}  // namespace

TEST_CASE("§9.23 compacting every type in every layout equals contiguous fp32, byte for byte",
          "[compact][layout]") {
  const std::vector<arrangement> all = all_arrangements();
  for (std::size_t k = 0; k < all.size(); ++k) {
    const arrangement& of_keys = all[k];
    const arrangement& of_values = all[(k * 7 + 5) % all.size()];
    const arrangement& of_queries = all[(k * 11 + 3) % all.size()];
    CAPTURE(of_keys.name(), of_values.name(), of_queries.name());
    const stored_rows keys(of_keys, 96, 32, 5);
    const stored_rows values(of_values, 96, 32, 6);
    const stored_rows queries(of_queries, 64, 32, 7);
    const kvfit::compact_options options{.budget = 12, .protect = {.first = 2, .last = 3}};
    const auto stored = kvfit::compact(keys.view(), values.view(), queries.view(), options);
    const auto plain = kvfit::compact(keys.exact(), values.exact(), queries.exact(), options);
    REQUIRE(stored);
    REQUIRE(plain);
    CHECK(stored->positions == plain->positions);
    CHECK(equal_bytes(stored->keys, plain->keys));
    CHECK(equal_bytes(stored->values, plain->values));
    CHECK(equal_bytes(stored->bias, plain->bias));
  }
}

TEST_CASE("Results are rounded to fp8 where they will be stored so", "[compact][layout]") {
  const kvfit::matrix keys = random_matrix(96, 32, 1);
  const kvfit::matrix values = random_matrix(96, 32, 2);
  const kvfit::matrix queries = random_matrix(64, 32, 3);
  const auto fitted = kvfit::compact(keys, values, queries,
                                     {.budget = 12, .storage = {.rows = kvfit::dtype::fp8_e4m3}});
  REQUIRE(fitted);
  for (const float x : fitted->keys.reshaped()) {
    CHECK(kvfit::to_float(kvfit::to_fp8_e4m3(x)) == x);
  }
  kvfit::matrix large = values;
  large(7, 3) = 1000;
  const auto too_large = kvfit::compact(
      keys, large, queries, {.budget = 96, .storage = {.rows = kvfit::dtype::fp8_e4m3}});
  REQUIRE_FALSE(too_large);
  CHECK(too_large.error().code == kvfit::errc::storage_overflow);
  CHECK(too_large.error().actual == 7);
  CHECK(too_large.error().expected == 3);
  for (const kvfit::dtype type :
       {kvfit::dtype::q8_0, kvfit::dtype::q4_0, kvfit::dtype::int8, kvfit::dtype::decoded}) {
    const auto refused =
        kvfit::compact(keys, values, queries, {.budget = 12, .storage = {.rows = type}});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == kvfit::errc::invalid_option);
    CHECK(refused.error().argument == "storage.rows");
  }
}

}  // namespace kvfit_test
