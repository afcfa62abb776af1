// SPDX-License-Identifier: MIT
#include "kvfit/parallel/executor.hpp"

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

#include "kvfit/core/random.hpp"
#include "kvfit/parallel/external_executor.hpp"
#include "kvfit/parallel/serial.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "support/catch.hpp"

namespace {

using kvfit::index_t;

/// The host's own loop: one thread an item, as unlike the pool as can be.
struct thread_an_item {
  template <class Body>
  void operator()(index_t count, const Body& body) const {
    std::vector<std::thread> threads;
    for (index_t i = 0; i < count; ++i) threads.emplace_back([&body, i] { body(i); });
    for (std::thread& thread : threads) thread.join();
  }
};

/// Sums that depend on the order of their terms, so that any mixing of items shows.
template <class Executor>
std::vector<float> sums(Executor&& how, index_t count) {
  std::vector<float> out(static_cast<std::size_t>(count));
  how.run(count, [&](index_t i) noexcept {
    kvfit::random_source draw(static_cast<std::uint64_t>(i));
    float sum = 0;
    for (index_t k = 0; k < 1000 * (i % 7); ++k) sum += static_cast<float>(draw.uniform());
    out[static_cast<std::size_t>(i)] = sum;
  });
  return out;
}

/// How often each item was run.
template <class Executor>
std::vector<int> visits(Executor&& how, index_t count) {
  std::vector<int> out(static_cast<std::size_t>(count), 0);
  how.run(count, [&](index_t i) noexcept { ++out[static_cast<std::size_t>(i)]; });
  return out;
}

/// rows × cols numbers, each written by a loop within a loop on the same executor.
template <class Executor>
std::vector<index_t> nested(Executor&& how, index_t rows, index_t cols) {
  std::vector<index_t> out(static_cast<std::size_t>(rows * cols), -1);
  how.run(rows, [&](index_t i) noexcept {
    how.run(cols,
            [&, i](index_t j) noexcept { out[static_cast<std::size_t>(i * cols + j)] = i * j; });
  });
  return out;
}

bool all_ones(const std::vector<int>& counts) {
  return std::all_of(counts.begin(), counts.end(), [](int n) { return n == 1; });
}

TEST_CASE("a serial executor runs items in order", "[parallel][serial]") {
  std::vector<index_t> order;
  kvfit::serial{}.run(4, [&](index_t i) noexcept { order.push_back(i); });
  CHECK(order == std::vector<index_t>{0, 1, 2, 3});
}

TEST_CASE("a pool gives the same bytes at any number of threads", "[parallel][thread_pool]") {
  const std::vector<float> expected = sums(kvfit::serial{}, 97);
  const int threads = GENERATE(1, 2, 4, 16);
  INFO("threads " << threads);
  kvfit::thread_pool pool(threads);
  CHECK(pool.threads() == threads);
  for (int round = 0; round < 5; ++round) CHECK(sums(pool, 97) == expected);
}

TEST_CASE("every item runs exactly once", "[parallel][thread_pool][external_executor]") {
  const index_t count = GENERATE(0, 1, 2, 3, 100);
  INFO("items " << count);
  CHECK(all_ones(visits(kvfit::serial{}, count)));
  kvfit::thread_pool pool(8);  // more threads than items for most counts
  CHECK(all_ones(visits(pool, count)));
  kvfit::external_executor own{thread_an_item{}};
  CHECK(all_ones(visits(own, count)));
}

TEST_CASE("a caller's own loop gives the same bytes", "[parallel][external_executor]") {
  kvfit::external_executor own{thread_an_item{}};
  static_assert(kvfit::executor<decltype(own)>);
  CHECK(sums(own, 23) == sums(kvfit::serial{}, 23));
}

TEST_CASE("loops nest on one pool", "[parallel][thread_pool]") {
  const std::vector<index_t> expected = nested(kvfit::serial{}, 9, 31);
  const int threads = GENERATE(1, 2, 4, 16);
  INFO("threads " << threads);
  kvfit::thread_pool pool(threads);
  for (int round = 0; round < 20; ++round) CHECK(nested(pool, 9, 31) == expected);
}

TEST_CASE("several threads share one pool", "[parallel][thread_pool]") {
  kvfit::thread_pool pool(3);
  std::vector<std::vector<float>> results(4);
  std::vector<std::thread> users;
  for (auto& own : results) users.emplace_back([&pool, &own] { own = sums(pool, 40); });
  for (std::thread& user : users) user.join();
  for (const auto& own : results) CHECK(own == sums(kvfit::serial{}, 40));
}

TEST_CASE("many short loops neither hang nor lose items", "[parallel][thread_pool]") {
  kvfit::thread_pool pool(4);
  index_t wrong = 0;
  for (int round = 0; round < 5000; ++round) wrong += all_ones(visits(pool, round % 6)) ? 0 : 1;
  CHECK(wrong == 0);
}

TEST_CASE("a pool of no stated size has the machine's threads", "[parallel][thread_pool]") {
  const kvfit::thread_pool pool;
  CHECK(pool.threads() == kvfit::thread_pool::hardware_threads());
  CHECK(pool.threads() >= 1);
}

TEST_CASE("a body that may throw is no item body", "[parallel][executor]") {
  const auto careless = [](index_t) {};
  const auto careful = [](index_t) noexcept {};
  CHECK_FALSE(kvfit::item_body<decltype(careless)>);
  CHECK(kvfit::item_body<decltype(careful)>);
}

}  // namespace
