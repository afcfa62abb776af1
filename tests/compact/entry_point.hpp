// SPDX-License-Identifier: MIT
/// The entry points under test, compiled once (entry_point_test.cpp).
#pragma once

#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "kvfit/attention/fidelity.hpp"
#include "kvfit/attention/inputs.hpp"
#include "kvfit/compact/compacted.hpp"
#include "kvfit/compact/options.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/executor_ref.hpp"
#include "kvfit/parallel/stop.hpp"
#include "selection/heads.hpp"
#include "support/catch.hpp"

namespace kvfit_test {

/// `kvfit::compact`.
kvfit::result<kvfit::compacted> try_compact(const kvfit::kv_block& cache,
                                            const kvfit::query_set& queries,
                                            const kvfit::compact_options& options,
                                            const kvfit::stop_when& stop = {},
                                            const kvfit::executor_ref& threads = {});

/// The same where it must succeed.
kvfit::compacted compacted_head(const kvfit::kv_block& cache, const kvfit::query_set& queries,
                                const kvfit::compact_options& options);

/// `kvfit::attend`, which must succeed, then `kvfit::compare`: how near attention over `compact`
/// comes to attention over `full`.
kvfit::fidelity errors_of(const kvfit::query_set& queries, std::span<const kvfit::kv_block> full,
                          std::span<const kvfit::kv_block> compact,
                          const kvfit::logit_rule& rule = {});

inline kvfit::fidelity errors_of(const kvfit::query_set& queries, const kvfit::kv_block& full,
                                 const kvfit::kv_block& compact,
                                 const kvfit::logit_rule& rule = {}) {
  return errors_of(queries, std::span(&full, 1), std::span(&compact, 1), rule);
}

template <class Numbers>
bool same_numbers(const Numbers& a, const Numbers& b) {
  if (a.rows() != b.rows() || a.cols() != b.cols()) return false;
  if (a.size() == 0) return true;  // whose memory may be null, which memcmp must not get
  return std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(float)) == 0;
}

inline bool same_result(const kvfit::compacted& a, const kvfit::compacted& b) {
  return a.positions == b.positions && same_numbers(a.keys, b.keys) &&
         same_numbers(a.bias, b.bias) && same_numbers(a.values, b.values);
}

/// What every result promises: t rows in ascending order, their keys untouched, finite numbers.
inline void check_sound(const kvfit::compacted& c, const kvfit::kv_block& cache,
                        index_t expected_rows) {
  REQUIRE(static_cast<index_t>(c.positions.size()) == expected_rows);
  REQUIRE(c.keys.rows() == expected_rows);
  REQUIRE(c.bias.size() == expected_rows);
  REQUIRE(c.values.rows() == expected_rows);
  REQUIRE(c.keys.cols() == cache.keys.cols());
  REQUIRE(c.values.cols() == cache.values.cols());
  bool is_ascending = true;
  bool has_own_keys = true;
  index_t previous = -1;
  for (index_t j = 0; j < expected_rows; ++j) {
    const index_t row = c.positions[static_cast<std::size_t>(j)];
    REQUIRE((row >= 0 && row < cache.keys.rows()));
    is_ascending = is_ascending && row > previous;
    previous = row;
    for (index_t k = 0; k < c.keys.cols(); ++k) {
      has_own_keys = has_own_keys && c.keys(j, k) == cache.keys(row, k);
    }
  }
  CHECK(is_ascending);
  if (c.report.refinement.kept_steps + c.report.gradient.kept_steps == 0) CHECK(has_own_keys);
  CHECK(c.bias.allFinite());
  CHECK(c.values.allFinite());
}

}  // namespace kvfit_test
