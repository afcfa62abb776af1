// SPDX-License-Identifier: MIT
/// What can go wrong in the server, and the HTTP status of each.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace server {

enum class fault : std::uint8_t {
  bad_request,   ///< malformed, or an option outside its range
  unauthorised,  ///< the token is missing or wrong
  not_found,     ///< no such slot, state or path
  timed_out,     ///< the request's deadline has passed
  conflict,      ///< the slot is in use
  too_large,     ///< a body or prompt beyond its limit
  refused,       ///< the quality gate did not let a compact cache in
  overloaded,    ///< the queue is full, or the memory cap leaves no space
  bad_state,     ///< a state file that is damaged, or of another model or rule
  engine,        ///< the model or a fit failed
  cancelled,     ///< the client went away, or the server stops
  storage,       ///< the device takes no more, or the quota of states is used up
};

constexpr std::string_view name(fault what) noexcept {
  switch (what) {
    case fault::bad_request:
      return "bad_request";
    case fault::unauthorised:
      return "unauthorised";
    case fault::not_found:
      return "not_found";
    case fault::timed_out:
      return "timed_out";
    case fault::conflict:
      return "conflict";
    case fault::too_large:
      return "too_large";
    case fault::refused:
      return "refused";
    case fault::overloaded:
      return "overloaded";
    case fault::bad_state:
      return "bad_state";
    case fault::engine:
      return "engine";
    case fault::cancelled:
      return "cancelled";
    case fault::storage:
      return "storage";
  }
  return "unknown";
}

constexpr int http_status(fault what) noexcept {
  switch (what) {
    case fault::bad_request:
      return 400;
    case fault::unauthorised:
      return 401;
    case fault::not_found:
      return 404;
    case fault::timed_out:
      return 408;
    case fault::conflict:
      return 409;
    case fault::too_large:
      return 413;
    case fault::refused:
    case fault::bad_state:
      return 422;
    case fault::overloaded:
      return 429;
    case fault::engine:
      return 500;
    case fault::cancelled:
      return 503;
    case fault::storage:
      return 507;
  }
  return 500;
}

struct failure {
  fault what = fault::engine;
  std::string message;
};

/// A value or a failure; `*` needs the one, `why()` the other.
template <class T>
class [[nodiscard]] outcome {
 public:
  outcome(T value) : held_(std::in_place_index<0>, std::move(value)) {}  // NOLINT(*-explicit-*)
  outcome(failure cause) : held_(std::in_place_index<1>, std::move(cause)) {}  // NOLINT
  explicit operator bool() const noexcept { return held_.index() == 0; }
  T& operator*() { return *std::get_if<0>(&held_); }
  const T& operator*() const { return *std::get_if<0>(&held_); }
  T* operator->() { return std::get_if<0>(&held_); }
  const T* operator->() const { return std::get_if<0>(&held_); }
  [[nodiscard]] const failure& why() const { return *std::get_if<1>(&held_); }

 private:
  std::variant<T, failure> held_;
};

struct nothing {};
using done = outcome<nothing>;

}  // namespace server
