// SPDX-License-Identifier: MIT
/// `result<T>`: a value or an `error`, with the member names of `std::expected`.
///
/// C++20 has no `std::expected`; switching to it by language mode would let translation units of
/// one program disagree about the type, so this small one is used everywhere.
#pragma once

#include <cassert>
#include <new>
#include <type_traits>
#include <utility>

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
/// none. Moving it throws what moving a `T` throws, as a `std::map` does with MSVC's library; the
/// result that was assigned to has an error then.
template <class T>
class [[nodiscard]] result {
 private:
  static constexpr bool moves_safely = std::is_nothrow_move_constructible_v<T>;

 public:
  using value_type = T;
  using error_type = kvfit::error;

  result(T value)  // NOLINT(*-explicit-*)
      : value_(std::move(value)), has_value_(true) {}
  result(kvfit::error cause) noexcept  // NOLINT(*-explicit-*)
      : cause_(std::move(cause)), has_value_(false) {}

  // clang-format off
  result(const result& other) requires std::is_copy_constructible_v<T>
      : has_value_(other.has_value_) {
    if (has_value_) {
      ::new (static_cast<void*>(&value_)) T(other.value_);
    } else {
      ::new (static_cast<void*>(&cause_)) kvfit::error(other.cause_);
    }
  }
  result& operator=(const result& other) requires std::is_copy_constructible_v<T> {
    return *this = result(other);
  }
  // clang-format on
  result(result&& other) noexcept(moves_safely) : has_value_(other.has_value_) {
    take(std::move(other));
  }
  result& operator=(result&& other) noexcept(moves_safely) {
    if (this == &other) return *this;
    destroy();
    if constexpr (moves_safely) {
      has_value_ = other.has_value_;
      take(std::move(other));
    } else {
      error_unless_done guard{this};
      has_value_ = other.has_value_;
      take(std::move(other));
      guard.unfinished = nullptr;
    }
    return *this;
  }
  ~result() { destroy(); }

  [[nodiscard]] bool has_value() const noexcept { return has_value_; }
  explicit operator bool() const noexcept { return has_value(); }

  T& operator*() & noexcept { return *get(); }
  const T& operator*() const& noexcept { return *get(); }
  T&& operator*() && noexcept { return std::move(*get()); }
  T* operator->() noexcept { return get(); }
  const T* operator->() const noexcept { return get(); }

  [[nodiscard]] const kvfit::error& error() const noexcept {
    assert(!has_value());
    return cause_;
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
  /// What a move that throws leaves behind: an error, not half a value.
  struct error_unless_done {
    result* unfinished;
    ~error_unless_done() {
      if (unfinished == nullptr) return;
      ::new (static_cast<void*>(&unfinished->cause_)) kvfit::error();
      unfinished->has_value_ = false;
    }
  };

  T* get() noexcept {
    assert(has_value());
    return &value_;
  }
  const T* get() const noexcept {
    assert(has_value());
    return &value_;
  }

  /// Constructs what `other` has, `has_value_` being that of `other`.
  void take(result&& other) noexcept(moves_safely) {
    if (has_value_) {
      ::new (static_cast<void*>(&value_)) T(std::move(other.value_));
    } else {
      ::new (static_cast<void*>(&cause_)) kvfit::error(std::move(other.cause_));
    }
  }
  void destroy() noexcept {
    if (has_value_) {
      value_.~T();
    } else {
      cause_.~error();
    }
  }

  union {  // a variant costs a compiler much for every T
    T value_;
    kvfit::error cause_;
  };
  bool has_value_;
};

/// A step that yields nothing but may fail.
template <>
class [[nodiscard]] result<void> {
 public:
  using value_type = void;
  using error_type = kvfit::error;

  result() noexcept : failed_(false) {}
  result(kvfit::error cause) noexcept  // NOLINT(*-explicit-*)
      : cause_(std::move(cause)), failed_(true) {}

  result(const result& other) : failed_(other.failed_) {
    if (failed_) ::new (static_cast<void*>(&cause_)) kvfit::error(other.cause_);
  }
  result(result&& other) noexcept : failed_(other.failed_) { take(std::move(other)); }
  result& operator=(const result& other) { return *this = result(other); }
  result& operator=(result&& other) noexcept {
    if (this == &other) return *this;
    destroy();
    failed_ = other.failed_;
    take(std::move(other));
    return *this;
  }
  ~result() { destroy(); }

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
  /// Constructs what `other` has, `failed_` being that of `other`.
  void take(result&& other) noexcept {
    if (failed_) ::new (static_cast<void*>(&cause_)) kvfit::error(std::move(other.cause_));
  }
  void destroy() noexcept {
    if (failed_) cause_.~error();
  }

  union {
    kvfit::error cause_;
  };
  bool failed_;
};

}  // namespace kvfit
