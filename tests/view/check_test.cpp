// SPDX-License-Identifier: MIT
#include "kvfit/view/check.hpp"

#include "support/catch.hpp"

namespace kvfit_test {
namespace {

using kvfit::check_view;
using kvfit::errc;
using kvfit::error;
using kvfit::index_t;
using kvfit::row_view;

constexpr float infinite = std::numeric_limits<float>::infinity();

void check_error(const kvfit::result<void>& found, errc code, std::int64_t actual,
                 std::int64_t expected) {
  REQUIRE_FALSE(found);
  INFO(found.error().message());
  CHECK(found.error().code == code);
  CHECK(found.error().argument == "keys");
  CHECK(found.error().actual == actual);
  CHECK(found.error().expected == expected);
}

}  // namespace

TEST_CASE("A view of finite numbers passes", "[view][check]") {
  kvfit::matrix m = kvfit::matrix::Constant(5, 300, std::numeric_limits<float>::max());
  m(0, 0) = -std::numeric_limits<float>::max();
  m(4, 299) = std::numeric_limits<float>::denorm_min();
  CHECK(check_view(m, "keys"));
  CHECK(check_view(m.transpose(), "keys"));
}

TEST_CASE("§9.27 a view without rows, columns or memory is refused with its sizes",
          "[view][check]") {
  const std::vector<float> memory(20);
  check_error(check_view(row_view(), "keys"), errc::empty_input, 0, error::none);
  check_error(check_view(row_view(memory.data(), 0, 4), "keys"), errc::empty_input, 0, error::none);
  check_error(check_view(row_view(memory.data(), 5, 0), "keys"), errc::empty_input, 5, error::none);
  check_error(check_view(row_view(memory.data(), -3, 4), "keys"), errc::empty_input, -3,
              error::none);
  CHECK(check_view(row_view(memory.data(), 5, 0), "keys").error().detail == "5 rows x 0 columns");
  check_error(check_view(row_view(static_cast<const float*>(nullptr), 5, 4), "keys"),
              errc::null_data, error::none, error::none);
}

TEST_CASE("§9.10 a number that is not finite is found in every place and type", "[view][check]") {
  const float bad = GENERATE(
      as<float>{}, infinite, -infinite, std::numeric_limits<float>::quiet_NaN(),
      std::numeric_limits<float>::signaling_NaN(), -std::numeric_limits<float>::quiet_NaN());
  const index_t column = GENERATE(as<index_t>{}, 0, 1, 15, 16, 254, 255, 256, 257, 299);
  const index_t row = GENERATE(as<index_t>{}, 0, 1, 4);
  CAPTURE(bad, row, column);
  Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> single =
      kvfit::matrix::Ones(5, 300);
  Eigen::Matrix<Eigen::half, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> half =
      single.cast<Eigen::half>();
  Eigen::Matrix<Eigen::bfloat16, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> bfloat =
      single.cast<Eigen::bfloat16>();
  single(row, column) = bad;
  half(row, column) = static_cast<Eigen::half>(bad);
  bfloat(row, column) = static_cast<Eigen::bfloat16>(bad);
  for (const row_view& view : {row_view(single), row_view(half), row_view(bfloat)}) {
    CAPTURE(kvfit::name(view.type()));
    check_error(check_view(view, "keys"), errc::non_finite, row, column);
    check_error(check_view(view.transposed(), "keys"), errc::non_finite, column, row);
  }
}

TEST_CASE("The first bad number is reported, row by row", "[view][check]") {
  kvfit::matrix m = kvfit::matrix::Ones(5, 300);
  m(3, 290) = infinite;
  m(3, 7) = infinite;
  m(4, 0) = infinite;
  check_error(check_view(m, "keys"), errc::non_finite, 3, 7);
  m(1, 299) = infinite;
  check_error(check_view(m, "keys"), errc::non_finite, 1, 299);
}

TEST_CASE("Numbers beside the view are not looked at", "[view][check]") {
  kvfit::matrix m = kvfit::matrix::Constant(9, 9, infinite);
  m.block(2, 3, 4, 5).setOnes();
  CHECK(check_view(m.block(2, 3, 4, 5), "keys"));
  check_error(check_view(m.block(2, 3, 4, 6), "keys"), errc::non_finite, 0, 5);
  check_error(check_view(m.block(2, 3, 5, 5), "keys"), errc::non_finite, 4, 0);
}

}  // namespace kvfit_test
