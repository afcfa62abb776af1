// SPDX-License-Identifier: MIT
/// All ranks of the test, and what they have in common.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvfit/parallel/mpi.hpp"

namespace kvfit_test {

/// Messages are short by default, so that nearly everything is sent in parts.
inline kvfit::mpi_ranks world(kvfit::index_t message_bytes = 256) {
  auto ranks = kvfit::mpi_ranks::over(MPI_COMM_WORLD, message_bytes);
  if (!ranks) MPI_Abort(MPI_COMM_WORLD, 3);
  return std::move(*ranks);
}

/// Whether it holds on every rank: all go on, or none does.
inline bool on_all(kvfit::mpi_ranks& ranks, bool holds) {
  kvfit::result<void> own;
  if (!holds) own = kvfit::error{kvfit::errc::invalid_option, "test"};
  return ranks.agree(own).has_value();
}

/// The lists of all ranks, each its `own`; none where MPI failed.
template <class T>
std::vector<std::vector<T>> lists_of_all(kvfit::mpi_ranks& ranks, const std::vector<T>& own) {
  std::vector<std::vector<T>> lists(static_cast<std::size_t>(ranks.size()));
  lists[static_cast<std::size_t>(ranks.rank())] = own;
  if (!ranks.share(std::span(lists))) lists.clear();
  return lists;
}

inline bool is_same_text(kvfit::mpi_ranks& ranks, const std::string& text) {
  const std::vector<char> own(text.begin(), text.end());
  const auto all = lists_of_all(ranks, own);
  return on_all(ranks, std::count(all.begin(), all.end(), own) == ranks.size());
}

/// The error that every rank has, word for word; else "different" or "none".
template <class T>
std::string error_of_all(kvfit::mpi_ranks& ranks, const kvfit::result<T>& found) {
  if (!on_all(ranks, !found.has_value())) return "none";
  const std::string text = found.error().message();
  return is_same_text(ranks, text) ? text : "different";
}

}  // namespace kvfit_test
