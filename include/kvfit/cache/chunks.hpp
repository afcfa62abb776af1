// SPDX-License-Identifier: MIT
/// A long text in chunks that are compacted one by one: where they begin, and what each may keep.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "kvfit/cache/apportion.hpp"
#include "kvfit/core/bytes.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {

/// Rows first … first + rows − 1 of a text.
struct chunk {
  index_t first = 0;
  index_t rows = 0;

  friend constexpr bool operator==(const chunk&, const chunk&) = default;
};

/// Chunks to compact and the rows that each keeps of all heads together.
struct chunk_plan {
  std::vector<chunk> chunks;     ///< ascending; those asked for, or neighbours of them as one
  std::vector<index_t> budgets;  ///< one a chunk, over all heads
  index_t kept = 0;              ///< rows of a head outside every chunk, which stay as they are
};

}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Refuses a part that is not of the text.
inline result<void> check_part(const chunk& part, index_t rows, const char* argument) {
  if (part.first < 0 || part.first > rows) {
    return error{errc::invalid_position, argument, part.first, rows,
                 "the first row must be within the text"};
  }
  if (part.rows < 1 || part.rows > rows - part.first) {
    return error{errc::invalid_option, argument, part.rows, rows - part.first,
                 "a length must be at least 1, and end with the text"};
  }
  return {};
}

/// Chunks of a text of `rows` rows: in order, none reaching into the next.
inline result<void> check_chunks(std::span<const chunk> chunks, index_t rows) {
  if (chunks.empty()) return error{errc::empty_input, "chunks", 0, error::none, {}};
  index_t end = 0;
  for (const chunk& one : chunks) {
    if (one.first < end) {
      return error{errc::invalid_position, "chunks", one.first, end,
                   "a chunk begins before the one before it ends"};
    }
    if (const auto ok = check_part(one, rows, "chunks"); !ok) return ok;
    end = one.first + one.rows;
  }
  return {};
}

/// Numbers of the chunks that begin a run of chunks without rows between them.
inline std::vector<std::size_t> run_starts(std::span<const chunk> chunks) {
  std::vector<std::size_t> starts;
  for (std::size_t c = 0; c < chunks.size(); ++c) {
    if (c == 0 || chunks[c].first > chunks[c - 1].first + chunks[c - 1].rows) starts.push_back(c);
  }
  return starts;
}

/// Neighbours as one until no more than `most` chunks are left: every run keeps a number of chunks
/// in proportion to its own, and those that become one are as many as in its other chunks, or one
/// more. There are no more than `most` runs.
inline result<std::vector<chunk>> merge_neighbours(std::span<const chunk> chunks, index_t most) {
  const auto starts = run_starts(chunks);
  std::vector<double> shares;
  std::vector<row_bounds> bounds;
  for (std::size_t r = 0; r < starts.size(); ++r) {
    const std::size_t end = r + 1 < starts.size() ? starts[r + 1] : chunks.size();
    shares.push_back(static_cast<double>(end - starts[r]));
    bounds.push_back({1, static_cast<index_t>(end - starts[r])});
  }
  const auto parts = apportion(shares, bounds, most);
  if (!parts) return parts.error();
  std::vector<chunk> merged;
  for (std::size_t r = 0; r < starts.size(); ++r) {
    const index_t count = bounds[r].most;
    const index_t groups = (*parts)[r];
    for (index_t g = 0; g < groups; ++g) {
      // count · g, count and g below the number of chunks that fit memory
      const chunk& first = chunks[starts[r] + static_cast<std::size_t>(count * g / groups)];
      const chunk& last =
          chunks[starts[r] + static_cast<std::size_t>(count * (g + 1) / groups - 1)];
      merged.push_back({first.first, last.first + last.rows - first.first});
    }
  }
  return merged;
}

inline result<chunk_plan> plan_checked(std::span<const chunk> chunks, index_t rows, index_t heads,
                                       index_t budget, index_t at_least) {
  chunk_plan plan{{chunks.begin(), chunks.end()}, {}, rows};
  for (const chunk& one : chunks) plan.kept -= one.rows;
  if (budget >= heads * rows) {
    for (const chunk& one : chunks) plan.budgets.push_back(heads * one.rows);
    return plan;
  }
  const index_t left = budget - heads * plan.kept;
  // How many chunks can have their least; a short chunk's is all it has, so these are no fewer.
  const auto least_of = [&](const chunk& one) { return heads * (std::min)(at_least, one.rows); };
  const auto sum_of_least = [&] {
    index_t sum = 0;
    for (const chunk& one : plan.chunks) sum += least_of(one);
    return sum;
  };
  const auto runs = static_cast<index_t>(run_starts(chunks).size());
  if (sum_of_least() > left) {
    const index_t possible = left / (heads * std::max<index_t>(at_least, 1));
    if (possible < runs) {
      // Sizes as asked for may be far beyond any that are: a budget of all rows always does.
      const index_t needed = many_times(heads, plan.kept + many_times(runs, at_least));
      return error{errc::budget_out_of_range, "budget", budget, (std::min)(heads * rows, needed),
                   "rows outside every chunk, and the least of each stretch between them"};
    }
    auto merged = merge_neighbours(chunks, possible);
    if (!merged) return merged.error();
    plan.chunks = std::move(*merged);
  }
  std::vector<double> shares;
  std::vector<row_bounds> bounds;
  for (const chunk& one : plan.chunks) {
    shares.push_back(static_cast<double>(one.rows));
    bounds.push_back({least_of(one), heads * one.rows});
  }
  auto budgets = apportion(shares, bounds, left);
  if (!budgets) return budgets.error();
  plan.budgets = std::move(*budgets);
  return plan;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail

namespace kvfit {
inline namespace KVFIT_ISA {

/// `part` of a text in chunks of `length` rows, the last one shorter where it has to be.
///
/// Errors: `invalid_position`, `invalid_option` for a part or a length out of range;
/// `out_of_memory`.
///
///     auto chunks = kvfit::split_by_length({prefix, rows - prefix - suffix}, 4096);
[[nodiscard]] inline result<std::vector<chunk>> split_by_length(const chunk& part, index_t length) {
  constexpr index_t most = (std::numeric_limits<index_t>::max)();
  if (const auto ok = detail::check_part(part, most, "part"); !ok) return ok.error();
  if (length < 1) return error{errc::invalid_option, "length", length, 1, "must be at least 1"};
  return detail::catch_bad_alloc("split_by_length", [&]() -> result<std::vector<chunk>> {
    std::vector<chunk> chunks;
    chunks.reserve(static_cast<std::size_t>((part.rows - 1) / length + 1));
    for (index_t done = 0; done < part.rows; done += chunks.back().rows) {
      chunks.push_back({part.first + done, (std::min)(length, part.rows - done)});
    }
    return chunks;
  });
}

/// `part` of a text cut before each of the rows numbered `starts`: at documents, files or turns.
///
/// starts: strictly ascending rows of the part; its first row may be among them.
/// Errors: `invalid_position` with the start at fault; those of `split_by_length`.
[[nodiscard]] inline result<std::vector<chunk>> split_at(const chunk& part,
                                                         std::span<const index_t> starts) {
  constexpr index_t most = (std::numeric_limits<index_t>::max)();
  if (const auto ok = detail::check_part(part, most, "part"); !ok) return ok.error();
  const index_t end = part.first + part.rows;
  index_t before = part.first - 1;
  for (const index_t start : starts) {
    if (start <= before || start >= end) {
      return error{errc::invalid_position, "starts", start, start <= before ? before + 1 : end - 1,
                   "must ascend within the part"};
    }
    before = start;
  }
  return detail::catch_bad_alloc("split_at", [&]() -> result<std::vector<chunk>> {
    std::vector<chunk> chunks;
    chunks.reserve(starts.size() + 1);
    index_t first = part.first;
    for (const index_t start : starts) {
      if (start > first) chunks.push_back({first, start - first});
      first = start;
    }
    chunks.push_back({first, end - first});
    return chunks;
  });
}

/// What each chunk keeps of a budget of `budget` rows, over `heads` heads of `rows` rows each:
///
///     Σ_c t_c + heads · kept = min(budget, heads · rows),   t_c in proportion to the chunk's rows
///
/// with `kept` the rows outside every chunk (prefix, suffix, whatever lies between): no text is
/// dropped because no chunk has it. Every head has `at_least` rows of every chunk, or all the chunk
/// has. Where the budget has not that many, neighbouring chunks become one until it has, so that no
/// chunk goes without and none is cut off by its position; the plan's chunks are then fewer than
/// those given. (Article ratios rounded down chunk by chunk, as published, lose a row each.)
///
/// chunks: ascending, without overlap. heads, rows ≥ 1. at_least ≥ 1.
/// Errors: `budget_out_of_range` where even one chunk for each stretch between kept rows does not
/// fit, with the budget that would; `empty_input`, `invalid_position`, `invalid_option`;
/// `out_of_memory`. Cost: O(C log C). Same input, same bytes.
[[nodiscard]] inline result<chunk_plan> plan_chunks(std::span<const chunk> chunks, index_t rows,
                                                    index_t heads, index_t budget,
                                                    index_t at_least = 1) {
  constexpr index_t largest = index_t{1} << 53U;  // so that shares are exact in double
  if (rows < 1 || rows > largest) {
    return error{errc::invalid_option, "rows", rows, rows < 1 ? 1 : largest,
                 "must be at least 1 and at most 2^53"};
  }
  if (heads < 1 || heads > largest / rows) {
    return error{errc::invalid_option, "heads", heads, heads < 1 ? 1 : largest / rows,
                 "must be at least 1, and rows of all heads at most 2^53"};
  }
  if (at_least < 1 || at_least > largest) {
    return error{errc::invalid_option, "at_least", at_least, at_least < 1 ? 1 : largest,
                 "must be at least 1 and at most 2^53"};
  }
  if (budget < 1) {
    return error{errc::budget_out_of_range, "budget", budget, 1, "must be at least 1"};
  }
  if (const auto ok = detail::check_chunks(chunks, rows); !ok) return ok.error();
  return detail::catch_bad_alloc("plan_chunks", [&] {
    return detail::plan_checked(chunks, rows, heads, budget, (std::min)(at_least, rows));
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
