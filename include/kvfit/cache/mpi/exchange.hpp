// SPDX-License-Identifier: MIT
/// What ranks found of their heads, handed to all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "kvfit/cache/compacted_cache.hpp"
#include "kvfit/cache/fit_head.hpp"
#include "kvfit/cache/mpi/ranked_heads.hpp"
#include "kvfit/cache/mpi/step.hpp"
#include "kvfit/compact/report.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/mpi.hpp"
#include "kvfit/parallel/wire_error.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// A `head_report` as it is sent; the head is known by its place.
struct sent_report {
  index_t rows_before = 0;
  index_t rows = 0;
  head_outcome outcome = head_outcome::fitted;
  bool has_cause = false;
  wire_error cause;
  compact_report report;
};

static_assert(std::is_trivially_copyable_v<sent_report>);

/// Gives every rank the reports of all heads; `heads[p]` of each rank's own places is there.
inline result<void> exchange_reports(mpi_ranks& ranks, const ranked_heads& all,
                                     std::vector<compacted_head>& heads) {
  std::vector<sent_report> own;
  auto ok = in_step(ranks, all, [&](index_t&) -> result<void> {
    for (const std::size_t place : all.places) {
      const head_report& from = heads[place].report;
      sent_report& to = own.emplace_back();
      to.rows_before = from.rows_before;
      to.rows = from.rows;
      to.outcome = from.outcome;
      to.has_cause = from.cause.has_value();
      if (from.cause) to.cause = wire_error(*from.cause);
      to.report = from.report;
    }
    return {};
  });
  if (!ok) return ok;
  const auto lists = ranks.gather(own);
  if (!lists) return lists.error();
  return in_step(ranks, all, [&](index_t&) -> result<void> {
    std::vector<std::size_t> next(lists->size());
    for (std::size_t place = 0; place < heads.size(); ++place) {
      const auto r = static_cast<std::size_t>(all.ranks[place]);
      const sent_report& from = (*lists)[r][next[r]++];
      head_report& to = heads[place].report;
      to.id = all.tasks[place].id;
      to.rows_before = from.rows_before;
      to.rows = from.rows;
      to.outcome = from.outcome;
      to.cause.reset();
      if (from.has_cause) to.cause = from.cause.received();
      to.report = from.report;
    }
    return {};
  });
}

/// Gives every rank the rows of all heads, whose reports it has.
inline result<void> exchange_rows(mpi_ranks& ranks, const ranked_heads& all,
                                  std::vector<compacted_head>& heads) {
  auto ok = in_step(ranks, all, [&](index_t&) -> result<void> {
    for (std::size_t place = 0; place < heads.size(); ++place) {
      if (all.ranks[place] == ranks.rank()) continue;
      compacted& into = heads[place].rows;
      const kv_block& from = all.tasks[place].block;
      const index_t rows = heads[place].report.rows;
      into.positions.resize(static_cast<std::size_t>(rows));
      into.key_positions.resize(static_cast<std::size_t>(rows));
      into.keys.resize(rows, from.keys.cols());
      into.bias.resize(rows);
      into.values.resize(rows, from.values.cols());
    }
    return {};
  });
  // Straight into the place where it stays: nothing is packed, and nothing held twice.
  for (std::size_t place = 0; ok && place < heads.size(); ++place) {
    compacted& head = heads[place].rows;
    const int from = all.ranks[place];
    const auto floats = [](auto& numbers) {
      return std::span(numbers.data(), static_cast<std::size_t>(numbers.size()));
    };
    ok = ranks.broadcast(std::span(head.positions), from);
    if (ok) ok = ranks.broadcast(std::span(head.key_positions), from);
    if (ok) ok = ranks.broadcast(floats(head.keys), from);
    if (ok) ok = ranks.broadcast(floats(head.bias), from);
    if (ok) ok = ranks.broadcast(floats(head.values), from);
  }
  return ok;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
