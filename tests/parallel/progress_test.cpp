// SPDX-License-Identifier: MIT
#include "kvfit/parallel/progress.hpp"

#include <atomic>
#include <vector>

#include "kvfit/parallel/serial.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "support/catch.hpp"

namespace {

using kvfit::index_t;

TEST_CASE("progress counts every item, one caller at a time", "[parallel][progress]") {
  const int threads = GENERATE(1, 2, 4, 16);
  INFO("threads " << threads);
  kvfit::thread_pool pool(threads);
  std::vector<index_t> seen;  // unguarded on purpose: run_watched promises it may be
  kvfit::watch by;
  by.progress = [&](index_t done, index_t count) {
    CHECK(count == 50);
    seen.push_back(done);
  };
  const auto done = kvfit::run_watched(
      pool, 50, [](index_t) noexcept {}, by);
  REQUIRE(done);
  REQUIRE(seen.size() == 50);
  for (std::size_t i = 0; i < seen.size(); ++i) CHECK(seen[i] == static_cast<index_t>(i) + 1);
}

TEST_CASE("no items: no progress, no error", "[parallel][progress]") {
  kvfit::thread_pool pool(4);
  int calls = 0;
  kvfit::watch by;
  by.progress = [&](index_t, index_t) { ++calls; };
  CHECK(kvfit::run_watched(
      pool, 0, [](index_t) noexcept {}, by));
  CHECK(calls == 0);
}

TEST_CASE("a wish to stop leaves the items not begun", "[parallel][progress][cancel]") {
  kvfit::cancellation stop;
  std::vector<index_t> ran;
  const auto done = kvfit::run_watched(kvfit::serial{}, 10,
                                       [&](index_t i) noexcept {
                                         ran.push_back(i);
                                         if (i == 3) stop.request();
                                       },
                                       {.cancel = &stop});
  REQUIRE_FALSE(done);
  CHECK(done.error().code == kvfit::errc::cancelled);
  CHECK(done.error().actual == 4);
  CHECK(done.error().expected == 10);
  CHECK(ran == std::vector<index_t>{0, 1, 2, 3});
}

TEST_CASE("a pool stops too, and can be used again", "[parallel][progress][cancel]") {
  const int threads = GENERATE(1, 2, 4, 16);
  INFO("threads " << threads);
  kvfit::thread_pool pool(threads);
  kvfit::cancellation stop;
  std::atomic<index_t> ran{0};
  const auto body = [&](index_t) noexcept {
    if (++ran == 20) stop.request();
  };
  const auto cut = kvfit::run_watched(pool, 100'000, body, {.cancel = &stop});
  REQUIRE_FALSE(cut);
  CHECK(cut.error().actual == ran.load());
  CHECK(ran.load() < 100'000);
  CHECK(kvfit::run_watched(pool, 100, [](index_t) noexcept {}, {}));
}

TEST_CASE("a wish that comes with the last item changes nothing", "[parallel][progress][cancel]") {
  kvfit::cancellation stop;
  const auto done = kvfit::run_watched(kvfit::serial{}, 3,
                                       [&](index_t i) noexcept {
                                         if (i == 2) stop.request();
                                       },
                                       {.cancel = &stop});
  CHECK(done);
}

}  // namespace
