// SPDX-License-Identifier: MIT
/// Who runs independent items: the interface that `serial`, `thread_pool` and `external_executor`
/// share.
#pragma once

#include <concepts>
#include <type_traits>

#include "kvfit/core/index.hpp"

namespace kvfit {

/// What is done for one item: `body(i)`, on any thread, at the same time as others.
///
/// It must be declared `noexcept`, for there is nobody on a worker thread to catch: what goes wrong
/// is stored beside the item's result. It must write to places of its own alone, so that results
/// depend on i and not on who ran it when.
template <class Body>
concept item_body = std::is_nothrow_invocable_v<Body&, index_t>;

namespace detail {

/// Stands for any body in the concept below.
struct some_body {
  void operator()(index_t) const noexcept {}
};

}  // namespace detail

/// `how.run(count, body)` calls `body(i)` once for each i in [0, count), in any order, and returns
/// after the last has ended; what the bodies wrote is then visible to the caller. No items: returns
/// at once.
///
/// A body may itself call `run` on the same executor, and takes up to some 40 KB of stack. Where
/// `run` itself throws `std::bad_alloc`, the entry points return `out_of_memory`.
template <class E>
concept executor = requires(E& how, index_t count, const detail::some_body& body) {
  { how.run(count, body) } -> std::same_as<void>;
};

}  // namespace kvfit
