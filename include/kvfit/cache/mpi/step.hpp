// SPDX-License-Identifier: MIT
/// One step that every rank takes on heads of its own, and that fails on all if it fails on one.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "kvfit/cache/heads.hpp"
#include "kvfit/cache/mpi/ranked_heads.hpp"
#include "kvfit/cache/over_heads.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/mpi.hpp"

#if KVFIT_HAS_EXCEPTIONS
#include <exception>
#endif

namespace kvfit::detail {
inline namespace KVFIT_ISA {

#if KVFIT_HAS_EXCEPTIONS
/// The exception under way as an error, for it can't go to another process.
inline result<void> thrown_in(const ranked_heads& heads, index_t own_place) noexcept {
  const auto described = [&](const char* what) {
    return catch_bad_alloc("compact_cache", [&]() -> result<void> {
      const bool is_a_heads = own_place < static_cast<index_t>(heads.own.size());
      return error{errc::policy_threw,
                   is_a_heads ? name(heads.own[static_cast<std::size_t>(own_place)].id) : "",
                   error::none, error::none, what};
    });
  };
  try {
    throw;
  } catch (const std::exception& thrown) {
    return described(thrown.what());
  } catch (...) {
    return described("");
  }
}
#endif

/// `step(failed_at)`, which returns `result<void>` and works on `heads.own` without a message to
/// other ranks. If it fails on any rank it has failed on all, with the error of the first head in
/// the order of all heads; one that is no head's comes after those. `failed_at`: the place in
/// `heads.own`, where the step tells one.
template <class Step>
result<void> in_step(mpi_ranks& ranks, const ranked_heads& heads, Step&& step) {
  index_t failed_at = first_failure::nowhere;
  const auto own = [&]() -> result<void> {
#if KVFIT_HAS_EXCEPTIONS
    try {
#endif
      return catch_bad_alloc("compact_cache", [&]() -> result<void> { return step(failed_at); });
#if KVFIT_HAS_EXCEPTIONS
    } catch (...) {
      return thrown_in(heads, failed_at);
    }
#endif
  }();
  const bool is_a_heads = failed_at < static_cast<index_t>(heads.own.size());
  return ranks.agree(
      own, static_cast<index_t>(is_a_heads ? heads.places[static_cast<std::size_t>(failed_at)]
                                           : heads.tasks.size()));
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
