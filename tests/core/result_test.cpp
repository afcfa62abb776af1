// SPDX-License-Identifier: MIT
#include "kvfit/core/result.hpp"

#include <memory>
#include <new>

#include "support/catch.hpp"

namespace kvfit_test {
namespace {

using kvfit::errc;
using kvfit::error;
using kvfit::result;

result<int> half_of(int x) {
  if (x % 2 != 0) return error{errc::invalid_option, "x", x};
  return x / 2;
}

result<void> check_even(int x) {
  if (const auto half = half_of(x); !half) return half.error();
  return {};
}

/// As a map of MSVC's library: moving it may allocate, and so throw.
struct may_throw_when_moved {
  explicit may_throw_when_moved(bool* when) : stops(when) {}
  may_throw_when_moved(may_throw_when_moved&& other) noexcept(false) : stops(other.stops) {
#if KVFIT_HAS_EXCEPTIONS
    if (*stops) throw std::bad_alloc();
#endif
  }
  may_throw_when_moved& operator=(may_throw_when_moved&&) = delete;

  bool* stops;
};

}  // namespace

static_assert(!std::is_default_constructible_v<result<int>>);
static_assert(!std::is_convertible_v<result<int>, bool>);  // only explicitly
static_assert(std::is_constructible_v<bool, result<int>>);
static_assert(std::is_nothrow_move_constructible_v<result<std::unique_ptr<int>>>);
static_assert(!std::is_nothrow_move_constructible_v<result<may_throw_when_moved>>);
static_assert(!std::is_copy_constructible_v<result<std::unique_ptr<int>>>);
static_assert(std::is_same_v<result<int>::value_type, int>);
static_assert(std::is_same_v<result<int>::error_type, error>);

TEST_CASE("A result holds a value", "[core][result]") {
  result<int> half = half_of(12);
  REQUIRE(half);
  CHECK(half.has_value());
  CHECK(*half == 6);
  *half = 7;
  CHECK(*half == 7);
  const result<int>& constant = half;
  CHECK(*constant == 7);
}

TEST_CASE("A result holds an error with its sizes", "[core][result]") {
  const result<int> half = half_of(13);
  REQUIRE_FALSE(half);
  CHECK_FALSE(half.has_value());
  CHECK(half.error().code == errc::invalid_option);
  CHECK(half.error().argument == "x");
  CHECK(half.error().actual == 13);
  CHECK(half.error().expected == error::none);
}

TEST_CASE("A false or empty value is a value", "[core][result]") {
  CHECK(result<bool>(false).has_value());
  CHECK(result<int*>(nullptr).has_value());
  CHECK(result<std::string>("")->empty());
}

TEST_CASE("A result's members are reached by arrow", "[core][result]") {
  result<std::string> word(std::string("cache"));
  CHECK(word->size() == 5);
  word->push_back('s');
  const result<std::string>& constant = word;
  CHECK(constant->back() == 's');
}

TEST_CASE("A value that only moves can be taken out", "[core][result]") {
  result<std::unique_ptr<int>> held(std::make_unique<int>(3));
  REQUIRE(held);
  const std::unique_ptr<int> taken = *std::move(held);
  REQUIRE(taken);
  CHECK(*taken == 3);
  CHECK(held.has_value());  // an empty pointer is still a value
  CHECK(*held == nullptr);
}

TEST_CASE("Results are copied and assigned, values over errors and back", "[core][result]") {
  const result<int> good = half_of(8);
  const result<int> bad = half_of(7);
  result<int> any = good;
  CHECK(*any == 4);
  any = bad;
  REQUIRE_FALSE(any);
  CHECK(any.error().actual == 7);
  any = good;
  REQUIRE(any);
  CHECK(*any == 4);
}

TEST_CASE("A step without value passes an error on", "[core][result]") {
  CHECK(check_even(2));
  CHECK(check_even(2).has_value());
  const result<void> odd = check_even(3);
  REQUIRE_FALSE(odd);
  CHECK_FALSE(odd.has_value());
  CHECK(odd.error().code == errc::invalid_option);
  CHECK(odd.error().actual == 3);
}

TEST_CASE("A value whose move may throw is held and moved like any other", "[core][result]") {
  bool stops = false;
  result<may_throw_when_moved> from{may_throw_when_moved(&stops)};
  result<may_throw_when_moved> to = std::move(from);
  REQUIRE(to);
  CHECK(to->stops == &stops);
  to = error{errc::invalid_option, "x", 1};
  REQUIRE_FALSE(to);
  CHECK(to.error().actual == 1);
  to = may_throw_when_moved(&stops);
  REQUIRE(to);
  CHECK(to->stops == &stops);
}

#if KVFIT_HAS_EXCEPTIONS
TEST_CASE("A move that throws leaves an error in the result assigned to", "[core][result]") {
  bool stops = false;
  result<may_throw_when_moved> from{may_throw_when_moved(&stops)};
  result<may_throw_when_moved> holds_value{may_throw_when_moved(&stops)};
  result<may_throw_when_moved> holds_error = error{errc::invalid_option, "x", 1};
  stops = true;
  CHECK_THROWS_AS(holds_value = std::move(from), std::bad_alloc);
  CHECK_FALSE(holds_value);
  CHECK(holds_value.error().argument.empty());
  CHECK_THROWS_AS(holds_error = std::move(from), std::bad_alloc);
  CHECK_FALSE(holds_error);
  CHECK(holds_error.error().argument.empty());
}

TEST_CASE("value() gives the value or throws the error's message", "[core][result]") {
  result<int> good = half_of(10);
  CHECK(good.value() == 5);
  CHECK(std::as_const(good).value() == 5);
  CHECK(half_of(10).value() == 5);
  CHECK_NOTHROW(check_even(2).value());

  result<int> bad = half_of(9);
  CHECK_THROWS_AS(bad.value(), kvfit::bad_result);
  CHECK_THROWS_AS(std::as_const(bad).value(), kvfit::bad_result);
  CHECK_THROWS_AS(half_of(9).value(), kvfit::bad_result);
  CHECK_THROWS_AS(check_even(1).value(), kvfit::bad_result);
  try {
    (void)bad.value();
  } catch (const std::runtime_error& thrown) {
    CHECK(std::string(thrown.what()) == bad.error().message());
    const auto* cause = dynamic_cast<const kvfit::bad_result*>(&thrown);
    REQUIRE(cause != nullptr);
    CHECK(cause->cause().actual == 9);
  }
}
#endif

}  // namespace kvfit_test
