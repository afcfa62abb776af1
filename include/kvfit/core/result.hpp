// SPDX-License-Identifier: MIT
/// `result<T>`: a value or an `error`, with the member names of `std::expected`.
///
/// C++20 has no `std::expected`; switching to it by language mode would let translation units of
/// one program disagree about the type, so this small one is used everywhere.
#pragma once

#include <cassert>
#include <type_traits>
#include <utility>
#include <variant>

#include "kvfit/core/config.hpp"
#include "kvfit/core/error.hpp"

#if KVFIT_HAS_EXCEPTIONS
#include <stdexcept>
#endif

namespace kvfit {

#if KVFIT_HAS_EXCEPTIONS
/// Thrown by `result::value()` alone, for callers who prefer exceptions; kvfit never calls it.
class bad_result : public std::runtime_error {
 public:
  explicit bad_result(error cause)
      : std::runtime_error(cause.message()), cause_(std::move(cause)) {}
  [[nodiscard]] const error& cause() const noexcept { return cause_; }

 private:
  error cause_;
};
#endif

/// Either a `T` or an `error`. `*r` and `r->` require a value (asserted); `r.error()` requires
/// none.
template <class T>
class [[nodiscard]] result {
 public:
  using value_type = T;
  using error_type = kvfit::error;

  result(T value) : state_(std::in_place_index<0>, std::move(value)) {}  // NOLINT(*-explicit-*)
  result(kvfit::error cause)                                             // NOLINT(*-explicit-*)
      : state_(std::in_place_index<1>, std::move(cause)) {}

  [[nodiscard]] bool has_value() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return has_value(); }

  T& operator*() & noexcept { return *get(); }
  const T& operator*() const& noexcept { return *get(); }
  T&& operator*() && noexcept { return std::move(*get()); }
  T* operator->() noexcept { return get(); }
  const T* operator->() const noexcept { return get(); }

  [[nodiscard]] const kvfit::error& error() const noexcept {
    assert(!has_value());
    return *std::get_if<1>(&state_);
  }

#if KVFIT_HAS_EXCEPTIONS
  /// The value; throws `bad_result` where there is none.
  T& value() & {
    if (!has_value()) throw bad_result(error());
    return *get();
  }
  const T& value() const& {
    if (!has_value()) throw bad_result(error());
    return *get();
  }
  T&& value() && {
    if (!has_value()) throw bad_result(error());
    return std::move(*get());
  }
#endif

 private:
  T* get() noexcept {
    assert(has_value());
    return std::get_if<0>(&state_);
  }
  const T* get() const noexcept {
    assert(has_value());
    return std::get_if<0>(&state_);
  }

  std::variant<T, kvfit::error> state_;
};

/// A step that yields nothing but may fail.
template <>
class [[nodiscard]] result<void> {
 public:
  using value_type = void;
  using error_type = kvfit::error;

  result() = default;
  result(kvfit::error cause) : failed_(true), cause_(std::move(cause)) {}  // NOLINT(*-explicit-*)

  [[nodiscard]] bool has_value() const noexcept { return !failed_; }
  explicit operator bool() const noexcept { return has_value(); }
  [[nodiscard]] const kvfit::error& error() const noexcept {
    assert(failed_);
    return cause_;
  }
#if KVFIT_HAS_EXCEPTIONS
  void value() const {
    if (failed_) throw bad_result(cause_);
  }
#endif

 private:
  bool failed_ = false;
  kvfit::error cause_;
};

}  // namespace kvfit
