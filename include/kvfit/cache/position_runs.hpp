// SPDX-License-Identifier: MIT
/// Where consecutive rows of a text stand, in as few numbers as they need.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit {

/// Rows of a text whose positions follow a rule: row i of the run stands at first + i · step.
/// A row's number and its position differ where several rows share a position (the rows of an image
/// under M-RoPE) and where positions are left out behind them.
struct position_run {
  index_t first = 0;  ///< position of the first row, 0 … 2⁵³
  index_t rows = 0;   ///< ≥ 1
  index_t step = 1;   ///< 1: one position a row; 0: all rows at one

  [[nodiscard]] constexpr index_t position(index_t row) const noexcept {
    return first + row * step;
  }

  friend constexpr bool operator==(const position_run&, const position_run&) = default;
};

}  // namespace kvfit

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// Rows and positions stay within it, so that no sum or difference of them overflows.
inline constexpr index_t largest_position = index_t{1} << 53U;

/// Appends `run`, of one row or more, to the rows before it: as part of the last run where that
/// goes on.
inline void add_run(std::vector<position_run>& runs, const position_run& run) {
  if (!runs.empty()) {
    position_run& last = runs.back();
    const index_t step = last.rows > 1 ? last.step : run.first - last.first;
    const bool goes_on = (step == 0 || step == 1) && (run.rows == 1 || run.step == step) &&
                         run.first == last.first + last.rows * step;
    if (goes_on) {
      last.step = step;
      last.rows += run.rows;
      return;
    }
  }
  runs.push_back(run);
}

/// The highest position of `runs`; −1 where there are none.
inline index_t highest_position(std::span<const position_run> runs) noexcept {
  index_t highest = -1;
  for (const position_run& run : runs) highest = (std::max)(highest, run.position(run.rows - 1));
  return highest;
}

/// Takes the first `rows` rows away; there are as many.
inline void drop_first_rows(std::vector<position_run>& runs, index_t rows) noexcept {
  std::size_t whole = 0;
  while (whole < runs.size() && runs[whole].rows <= rows) rows -= runs[whole++].rows;
  runs.erase(runs.begin(), runs.begin() + static_cast<std::ptrdiff_t>(whole));
  if (rows == 0) return;
  runs.front().first = runs.front().position(rows);
  runs.front().rows -= rows;
}

/// Keeps the first `rows` rows alone; there are as many. Returns where the first of the others
/// stood, or `otherwise` where there was none.
inline index_t keep_first_rows(std::vector<position_run>& runs, index_t rows,
                               index_t otherwise) noexcept {
  std::size_t whole = 0;
  while (whole < runs.size() && runs[whole].rows <= rows) rows -= runs[whole++].rows;
  if (whole == runs.size()) return otherwise;
  const index_t next = runs[whole].position(rows);
  runs[whole].rows = rows;
  runs.resize(whole + (rows > 0 ? 1 : 0));
  return next;
}

/// The position of every row.
inline std::vector<index_t> positions_of_rows(std::span<const position_run> runs) {
  index_t rows = 0;
  for (const position_run& run : runs) rows += run.rows;
  std::vector<index_t> positions;
  positions.reserve(static_cast<std::size_t>(rows));
  for (const position_run& run : runs) {
    for (index_t row = 0; row < run.rows; ++row) positions.push_back(run.position(row));
  }
  return positions;
}

/// Runs of `rows` rows in all, none of which stands behind `next_position`.
///
/// Errors: `invalid_option` for a run without rows or with another step than 0 and 1;
/// `invalid_position`; `shape_mismatch` for another number of rows.
inline result<void> check_runs(std::span<const position_run> runs, index_t rows,
                               index_t next_position) {
  constexpr const char* name = "live_positions";
  index_t sum = 0;
  for (std::size_t r = 0; r < runs.size(); ++r) {
    const position_run& run = runs[r];
    const std::string which = "run " + std::to_string(r);
    if (run.rows < 1 || run.rows > largest_position) {
      return error{errc::invalid_option, name, run.rows, 1, which + ": rows"};
    }
    if (run.step != 0 && run.step != 1) {
      return error{errc::invalid_option, name, run.step, 1, which + ": its step must be 0 or 1"};
    }
    if (run.first < 0 || run.first > next_position || run.position(run.rows - 1) > next_position) {
      return error{errc::invalid_position, name, run.first, next_position,
                   which + ": must be at least 0 and not behind the next position"};
    }
    sum += (std::min)(run.rows, largest_position - sum);
  }
  if (sum == rows) return {};
  return error{errc::shape_mismatch, name, sum, rows, "rows; one position for each live row"};
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
