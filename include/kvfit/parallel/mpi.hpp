// SPDX-License-Identifier: MIT
/// Processes that work together over MPI, and never leave one another waiting for one that failed.
///
/// Needs <mpi.h>: link `kvfit::mpi`. No other header of kvfit but those that say so needs it.
#pragma once

// The C++ bindings that MPI 3 took out would add nothing but warnings and a library.
#ifndef OMPI_SKIP_MPICXX
#define OMPI_SKIP_MPICXX 1
#endif
#ifndef MPICH_SKIP_MPICXX
#define MPICH_SKIP_MPICXX 1
#endif
#include <mpi.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/parallel/wire_error.hpp"

namespace kvfit {
inline namespace KVFIT_ISA {

/// The processes (ranks) of a communicator. Not an `executor`, whose items share memory: here each
/// rank works on items of its own, with an executor of its own, and what it found is exchanged.
///
/// Every function but `rank` and `size` is collective: all ranks call it, in the same order, each
/// from one thread at a time. Between steps that may fail on one rank alone stands `agree`, so that
/// either all ranks go on to the next exchange or none does. Ranks run the same program on machines
/// of one kind: numbers are sent as they lie in memory. A rank whose executor has threads asks MPI
/// for MPI_THREAD_FUNNELED at least.
///
///     MPI_Init(&argc, &argv);  // and MPI_Finalize: the caller's
///     {
///       auto ranks = kvfit::mpi_ranks::over(MPI_COMM_WORLD);
///       if (!ranks) return ranks.error();
///       const auto mine = fit(heads_of(ranks->rank()));
///       if (auto ok = ranks->agree(mine); !ok) return ok.error();  // of whichever rank failed
///       ...
///     }
///
/// Errors: `communication_failed` with the name of the MPI function, its error number and MPI's own
/// words. MPI then promises nothing about the other ranks: they may wait for ever, and the caller
/// should end the program (`MPI_Abort`). Nothing here reads the environment or prints.
class mpi_ranks {
 public:
  /// Longest message in bytes: MPI counts in `int`.
  static constexpr index_t most_message = (std::numeric_limits<int>::max)();

  /// A communicator of its own with the ranks of `of`, which stays the caller's. (While it is made,
  /// errors go to the handler of `of`; MPI's own default ends the program.)
  ///
  /// message_bytes: what is longer is sent in parts, 1 … `most_message`, the same on all ranks.
  /// Errors: `communication_failed` where MPI was not begun or has ended; `invalid_option`.
  [[nodiscard]] static result<mpi_ranks> over(MPI_Comm of,
                                              index_t message_bytes = index_t{1} << 30) {
    int is_begun = 0;
    int is_ended = 0;
    if (MPI_Initialized(&is_begun) != MPI_SUCCESS || MPI_Finalized(&is_ended) != MPI_SUCCESS ||
        is_begun == 0 || is_ended != 0) {
      return error{errc::communication_failed, "MPI_Initialized", error::none, error::none,
                   "MPI was not begun, or has ended"};
    }
    if (of == MPI_COMM_NULL) return refuse_communicator("must not be null");
    int is_between_groups = 0;
    auto ok = called("MPI_Comm_test_inter", MPI_Comm_test_inter(of, &is_between_groups));
    if (ok && is_between_groups != 0) ok = refuse_communicator("must not join two groups");
    mpi_ranks ranks;
    if (ok) ok = called("MPI_Comm_dup", MPI_Comm_dup(of, &ranks.own_));
    if (ok) ok = ranks.set_up(message_bytes);
    if (!ok) return ok.error();
    return ranks;
  }

  mpi_ranks(mpi_ranks&& other) noexcept { *this = std::move(other); }
  mpi_ranks& operator=(mpi_ranks&& other) noexcept {
    std::swap(own_, other.own_);
    std::swap(rank_, other.rank_);
    std::swap(size_, other.size_);
    std::swap(message_bytes_, other.message_bytes_);
    return *this;
  }
  mpi_ranks(const mpi_ranks&) = delete;
  mpi_ranks& operator=(const mpi_ranks&) = delete;

  /// Gives the communicator back, on all ranks and before MPI_Finalize; later it does nothing.
  ~mpi_ranks() {
    int is_ended = 0;
    if (own_ == MPI_COMM_NULL || MPI_Finalized(&is_ended) != MPI_SUCCESS || is_ended != 0) return;
    MPI_Comm_free(&own_);
  }

  [[nodiscard]] int rank() const noexcept { return rank_; }
  [[nodiscard]] int size() const noexcept { return size_; }

  /// Success where every rank has it; else one error on all: that at the lowest `place`, of equal
  /// places the lowest rank's. Texts beyond 251 (argument) and 508 bytes (detail) are cut.
  ///
  /// place: where among all ranks' items this rank failed, ≥ 0; not used on success. Cost: one
  /// reduction of 8 bytes; two more messages where somebody failed.
  [[nodiscard]] result<void> agree(const result<void>& own, index_t place = 0) {
    constexpr index_t nowhere = (std::numeric_limits<index_t>::max)();
    const index_t mine = own ? nowhere : (std::min)(place, nowhere - 1);
    index_t lowest = mine;
    auto ok = reduce_to_least(&lowest, MPI_INT64_T);
    if (!ok || lowest == nowhere) return ok;
    int first = mine == lowest ? rank_ : size_;
    ok = reduce_to_least(&first, MPI_INT);
    if (!ok) return ok;
    detail::wire_error told;
    if (first == rank_) told = detail::wire_error(own.error());
    ok = broadcast(std::span(&told, 1), first);
    if (!ok) return ok;
    return detail::catch_bad_alloc("agree", [&]() -> result<void> { return told.received(); });
  }

  /// `invalid_option` for `what`, on all ranks, where one brings another number than rank 0.
  [[nodiscard]] result<void> check_same(std::uint64_t number, const char* what) {
    std::uint64_t first = number;
    if (const auto ok = broadcast(std::span(&first, 1), 0); !ok) return ok;
    return agree(detail::catch_bad_alloc(what, [&]() -> result<void> {
      if (number == first) return {};
      return error{errc::invalid_option, what, error::none, error::none,
                   "must be the same on all ranks"};
    }));
  }

  /// `numbers` of rank `from`, on all ranks; as many on each.
  template <class T>
  [[nodiscard]] result<void> broadcast(std::span<T> numbers, int from) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto bytes = std::as_writable_bytes(numbers);
    const auto longest = static_cast<std::size_t>(message_bytes_);
    for (std::size_t at = 0; at < bytes.size(); at += longest) {
      const std::size_t count = (std::min)(longest, bytes.size() - at);
      const auto ok = called(
          "MPI_Bcast", MPI_Bcast(bytes.data() + at, static_cast<int>(count), MPI_BYTE, from, own_));
      if (!ok) return ok;
    }
    return {};
  }

  /// `lists[i]` of rank `from[i]`, on all ranks; of any length, as many on each. Without `from`
  /// that of rank i. Errors besides: `out_of_memory`, on all.
  template <class T>
  [[nodiscard]] result<void> share(std::span<std::vector<T>> lists,
                                   std::span<const int> from = {}) {
    static_assert(std::is_trivially_copyable_v<T> && !std::is_same_v<T, bool>);
    const auto owner = [&](std::size_t i) { return from.empty() ? static_cast<int>(i) : from[i]; };
    std::vector<std::size_t> counts;
    auto ok = agree(detail::catch_bad_alloc("share", [&]() -> result<void> {
      for (const auto& list : lists) counts.push_back(list.size());
      return {};
    }));
    for (std::size_t i = 0; ok && i < lists.size(); ++i) {
      ok = broadcast(std::span(&counts[i], 1), owner(i));
    }
    if (!ok) return ok;
    ok = agree(detail::catch_bad_alloc("share", [&]() -> result<void> {
      for (std::size_t i = 0; i < lists.size(); ++i) lists[i].resize(counts[i]);
      return {};
    }));
    for (std::size_t i = 0; ok && i < lists.size(); ++i) {
      ok = broadcast(std::span(lists[i]), owner(i));
    }
    return ok;
  }

 private:
  mpi_ranks() = default;

  static error refuse_communicator(const char* why) {
    return error{errc::invalid_option, "communicator", error::none, error::none, why};
  }

  /// An MPI call's return as an error.
  static result<void> called(const char* function, int code) {
    if (code == MPI_SUCCESS) return {};
    std::array<char, MPI_MAX_ERROR_STRING + 1> words = {};
    int length = 0;
    if (MPI_Error_string(code, words.data(), &length) != MPI_SUCCESS) length = 0;
    return error{errc::communication_failed,
                 function,
                 code,
                 error::none,
                 {words.data(), static_cast<std::size_t>(length)}};
  }

  result<void> set_up(index_t message_bytes) {
    auto ok = called("MPI_Comm_set_errhandler", MPI_Comm_set_errhandler(own_, MPI_ERRORS_RETURN));
    if (ok) ok = called("MPI_Comm_rank", MPI_Comm_rank(own_, &rank_));
    if (ok) ok = called("MPI_Comm_size", MPI_Comm_size(own_, &size_));
    if (!ok) return ok;
    if (message_bytes < 1 || message_bytes > most_message) {
      ok = error{errc::invalid_option, "message_bytes", message_bytes, most_message,
                 "must be at least 1, and a number of MPI"};
    }
    ok = agree(ok);
    if (ok) ok = check_same(static_cast<std::uint64_t>(message_bytes), "message_bytes");
    if (ok) message_bytes_ = message_bytes;
    return ok;
  }

  result<void> reduce_to_least(void* number, MPI_Datatype type) {
    return called("MPI_Allreduce", MPI_Allreduce(MPI_IN_PLACE, number, 1, type, MPI_MIN, own_));
  }

  MPI_Comm own_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  index_t message_bytes_ = most_message;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit
