// SPDX-License-Identifier: MIT
#include "kvfit/core/workspace.hpp"

#include <cstdint>
#include <vector>

#include "support/allocations.hpp"
#include "support/catch.hpp"

namespace {

using kvfit::workspace;
using size_type = kvfit::index_t;

/// One of every kind.
struct listed_buffers {
  kvfit::matrix floats;
  kvfit::double_matrix doubles;
  Eigen::MatrixXd square;
  kvfit::vector column;
  Eigen::VectorXd double_column;
  std::vector<char> flags;
  std::vector<size_type> rows;

  void declare(workspace& space, size_type n, size_type t) {
    space.add_matrices(n, t, floats, doubles);
    space.add(square, t, t);
    space.add_vectors(n, column, double_column);
    space.add(flags, n, t, char{1});
    space.reserve(rows, t);
  }
};

}  // namespace

TEST_CASE("a list of buffers counts what it allocates, and allocates nothing to count",
          "[core][workspace]") {
  const double wanted = 70 * 30 * (4 + 8) + 30 * 30 * 8 + 70 * (4 + 8) + 70 * 30 + 30 * 8;
  workspace space;
  listed_buffers none;
  const auto counting = kvfit_test::count_allocations([&] { none.declare(space, 70, 30); });
  CHECK(space.most() == wanted);
  CHECK(none.floats.size() == 0);
  CHECK(none.rows.capacity() == 0);
  listed_buffers own;
  const auto allocating = kvfit_test::count_allocations([&] { kvfit::make_room(own, 70, 30); });
  CHECK(own.floats.rows() == 70);
  CHECK(own.square.cols() == 30);
  CHECK(own.flags == std::vector<char>(70 * 30, 1));
  CHECK(own.rows.empty());
  CHECK(own.rows.capacity() >= 30);
  if (!can_count) return;
  CHECK(counting.calls == 0);
  CHECK(allocating.calls == 7);
  CHECK(static_cast<double>(allocating.peak_bytes) >= wanted);
  CHECK(static_cast<double>(allocating.peak_bytes) <= wanted + 7 * 64);
}

TEST_CASE("buffers that have room are left alone, and no vector lies in memory twice as it grows",
          "[core][workspace]") {
  listed_buffers own;
  kvfit::make_room(own, 70, 30);
  own.rows.assign(30, 5);
  const auto again = kvfit_test::count_allocations([&] { kvfit::make_room(own, 70, 30); });
  CHECK(own.rows == std::vector<size_type>(30, 5));
  std::vector<double> one(1000, 1.0);
  workspace space(workspace::purpose::allocate);
  const auto growing = kvfit_test::count_allocations([&] { space.add(one, 100, 100, 2.0); });
  CHECK(one == std::vector<double>(10000, 2.0));
  if (!can_count) return;
  CHECK(again.calls == 0);
  CHECK(growing.peak_bytes <= 10000 * 8 + 64);
}

TEST_CASE("a phase gives back what was added in it, and the peak stays", "[core][workspace]") {
  workspace space;
  space.count(100);
  {
    const workspace::phase first(space);
    space.count(50);
    {
      const workspace::phase inner(space);
      space.count(30);
    }
    space.count(20);
  }
  CHECK(space.most() == 180);
  {
    const workspace::phase second(space);
    space.count(79);
  }
  CHECK(space.most() == 180);
  space.count(81);
  CHECK(space.most() == 181);
  std::vector<float> growing;
  space.grow(growing, 10);  // old memory beside the new
  CHECK(space.most() == 181 + 3 * 40);
  CHECK(growing.capacity() == 0);
}

TEST_CASE("sizes that never were are counted without overflow", "[core][workspace]") {
  constexpr size_type huge = size_type{1} << 60;
  workspace space;
  std::vector<double> one;
  kvfit::matrix two;
  space.add(one, huge, huge);
  space.add(two, huge, huge);
  CHECK(space.most() > 1e36);
}
