// SPDX-License-Identifier: MIT
#include "kvfit/parallel/executor_ref.hpp"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <numeric>
#include <thread>
#include <type_traits>
#include <vector>

#include "kvfit/parallel/external_executor.hpp"
#include "kvfit/parallel/serial.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "support/catch.hpp"

namespace {

/// Which items ran, in order, on a loop of one thread.
std::vector<kvfit::index_t> order_of(const kvfit::executor_ref& how, kvfit::index_t count) {
  std::vector<kvfit::index_t> order;
  how.run(count, [&](kvfit::index_t i) noexcept { order.push_back(i); });
  return order;
}

}  // namespace

TEST_CASE("a loop of nobody runs items in order on the calling thread", "[parallel][loop]") {
  const kvfit::executor_ref nobody;
  CHECK(nobody.threads() == 1);
  CHECK(order_of(nobody, 4) == std::vector<kvfit::index_t>{0, 1, 2, 3});
  CHECK(order_of(nobody, 0).empty());
  std::thread::id where;
  nobody.run(1, [&](kvfit::index_t) noexcept { where = std::this_thread::get_id(); });
  CHECK(where == std::this_thread::get_id());
}

TEST_CASE("a loop runs every item once, on the executor it refers to", "[parallel][loop]") {
  kvfit::thread_pool pool(3);
  const kvfit::executor_ref how = pool;
  CHECK(how.threads() == pool.threads());
  CHECK(kvfit::executor_ref(pool, 7).threads() == 7);
  const kvfit::serial one_by_one;
  CHECK(kvfit::executor_ref(one_by_one).threads() == 1);
  CHECK(order_of(one_by_one, 3) == std::vector<kvfit::index_t>{0, 1, 2});
  const kvfit::executor_ref copy = how;  // refers to the same
  std::vector<std::atomic<int>> visits(1000);
  copy.run(1000, [&](kvfit::index_t i) noexcept { ++visits[static_cast<std::size_t>(i)]; });
  CHECK(std::all_of(visits.begin(), visits.end(), [](const auto& n) { return n == 1; }));

  // Items that wait for one another end only where there are threads for both.
  if (pool.threads() > 1) {
    std::atomic<int> arrived{0};
    how.run(2, [&](kvfit::index_t) noexcept {
      ++arrived;
      while (arrived < 2) std::this_thread::yield();
    });
    CHECK(arrived == 2);
  }
}

TEST_CASE("a loop may refer to a caller's own, and be nested", "[parallel][loop]") {
  int asked = 0;
  kvfit::external_executor mine{[&](kvfit::index_t count, const auto& body) {
    ++asked;
    for (kvfit::index_t i = count; i-- > 0;) body(i);
  }};
  const kvfit::executor_ref how = mine;
  CHECK(how.threads() >= 1);
  CHECK(order_of(how, 3) == std::vector<kvfit::index_t>{2, 1, 0});
  CHECK(asked == 1);
  CHECK(order_of(how, 1) == std::vector<kvfit::index_t>{0});
  CHECK(asked == 1);  // nothing to share
  kvfit::index_t sum = 0;
  how.run(3, [&](kvfit::index_t i) noexcept {
    how.run(4, [&](kvfit::index_t j) noexcept { sum += 10 * i + j; });
  });
  CHECK(sum == 138);
  static_assert(kvfit::executor<kvfit::executor_ref>);
  static_assert(!std::is_constructible_v<kvfit::executor_ref, int&>);
}

TEST_CASE("a loop may be told to take memory for fewer, or to leave small work alone",
          "[parallel][loop]") {
  int asked = 0;
  kvfit::external_executor mine{[&](kvfit::index_t count, const auto& body) {
    ++asked;
    for (kvfit::index_t i = 0; i < count; ++i) body(i);
  }};
  const kvfit::executor_ref how(mine, 4);
  CHECK(how.at_most(9).threads() == 4);
  CHECK(how.at_most(4).threads() == 4);
  CHECK(how.at_most(1).threads() == 1);
  CHECK(kvfit::executor_ref().at_most(3).threads() == 1);
  CHECK(order_of(how.at_most(1), 3) == std::vector<kvfit::index_t>{0, 1, 2});
  CHECK(asked == 1);  // the executor is the same
  CHECK(how.for_work(1e9).threads() == 4);
  CHECK(order_of(how.for_work(1e9), 3).size() == 3);
  CHECK(asked == 2);
  CHECK(how.for_work(10).threads() == 1);
  CHECK(order_of(how.for_work(10), 3) == std::vector<kvfit::index_t>{0, 1, 2});
  CHECK(asked == 2);  // nobody was asked
}

TEST_CASE("pieces cover a range once, and are cut alike for everybody", "[parallel][loop]") {
  kvfit::thread_pool pool(2);
  for (const kvfit::index_t count : {0, 1, 9, 10, 11, 95}) {
    for (const kvfit::executor_ref& how : {kvfit::executor_ref(), kvfit::executor_ref(pool)}) {
      std::vector<int> covered(static_cast<std::size_t>(count), 0);
      std::atomic<bool> are_cut_right{true};
      kvfit::over_pieces(how, count, 10, [&](kvfit::index_t first, kvfit::index_t many) noexcept {
        if (first % 10 != 0 || many != std::min<kvfit::index_t>(10, count - first)) {
          are_cut_right = false;
        }
        for (kvfit::index_t i = first; i < first + many; ++i)
          ++covered[static_cast<std::size_t>(i)];
      });
      CHECK(are_cut_right);
      CHECK(std::accumulate(covered.begin(), covered.end(), kvfit::index_t{0}) == count);
      CHECK(std::all_of(covered.begin(), covered.end(), [](int n) { return n == 1; }));
    }
  }
}
