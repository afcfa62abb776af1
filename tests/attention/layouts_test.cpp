// SPDX-License-Identifier: MIT
// Keys, values, queries and masks of every type in every layout give the same bytes as contiguous
// fp32.
#include <new>

#include "attention/samples.hpp"
#include "kvfit/attention/row_logits.hpp"
#include "kvfit/attention/split.hpp"
#include "support/stored_rows.hpp"

namespace kvfit_test {

using kvfit::index_t;
using kvfit::row_view;

namespace {

template <class M>
bool same_bytes(const M& a, const M& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() &&
         std::memcmp(a.data(), b.data(),
                     static_cast<std::size_t>(a.size()) * sizeof(typename M::Scalar)) == 0;
}

bool same_scores(const kvfit::attention_scores& a, const kvfit::attention_scores& b) {
  return same_bytes(a.log_mass, b.log_mass) && same_bytes(a.output, b.output) &&
         same_bytes(a.importance, b.importance);
}

}  // namespace

TEST_CASE(
    "§9.23 scores from every type in every layout equal those of contiguous fp32, byte for byte",
    "[attention][layout]") {
  const kvfit::matrix queries = random_matrix(40, 64, 3);
  const std::vector<arrangement> all = all_arrangements();
  for (std::size_t k = 0; k < all.size(); ++k) {
    const arrangement& of_keys = all[k];
    const arrangement& of_values =
        all[(k * 7 + 5) % all.size()];  // every pair of neighbours' kinds
    CAPTURE(of_keys.name(), of_values.name());
    const stored_rows keys(of_keys, 160, 64, 5);
    const stored_rows values(of_values, 160, 96, 6);
    const kvfit::kv_block stored{.keys = keys.view(), .values = values.view()};
    const kvfit::kv_block plain{.keys = keys.exact(), .values = values.exact()};
    const auto from_stored = kvfit::score_pass(stored, queries, {});
    const auto from_plain = kvfit::score_pass(plain, queries, {});
    REQUIRE(from_stored);
    REQUIRE(from_plain);
    CHECK(same_scores(*from_stored, *from_plain));

    const std::vector<index_t> rows = {3, 150, 77};
    CHECK(same_bytes(kvfit_test::row_logits(stored, queries, {}, rows),
                     kvfit_test::row_logits(plain, queries, {}, rows)));
  }
}

TEST_CASE(
    "Queries and masks of every type in every layout count as contiguous fp32, split or whole",
    "[attention][layout]") {
  const kvfit::matrix keys = random_matrix(96, 64, 1);
  const kvfit::matrix values = random_matrix(96, 32, 2);
  for (const arrangement& how : all_arrangements()) {
    CAPTURE(how.name());
    const stored_rows queries(how, 128, 64, 8);
    const stored_rows mask(how, 128, 96, 9);
    const std::vector<row_view> stored_masks = {mask.view()};
    const std::vector<row_view> plain_masks = {mask.exact()};
    const auto parts = kvfit::split_queries(queries.view(), stored_masks, 0.125, 0.5);
    const auto plain_parts = kvfit::split_queries(queries.exact(), plain_masks, 0.125, 0.5);
    const kvfit::kv_block cache{.keys = keys, .values = values};
    for (const bool judge : {false, true}) {
      const kvfit::query_part& part = judge ? parts.judge : parts.fit;
      const kvfit::query_part& plain_part = judge ? plain_parts.judge : plain_parts.fit;
      const auto stored = kvfit::score_pass(part.beside(cache), part.set(), {});
      const auto plain = kvfit::score_pass(plain_part.beside(cache), plain_part.set(), {});
      REQUIRE(stored);
      REQUIRE(plain);
      CHECK(same_scores(*stored, *plain));
      const std::vector<index_t> rows = {90, 0, 41};
      CHECK(
          same_bytes(kvfit_test::row_logits(part.beside(cache), part.set(), {}, rows),
                     kvfit_test::row_logits(plain_part.beside(cache), plain_part.set(), {}, rows)));
    }
  }
}

}  // namespace kvfit_test
