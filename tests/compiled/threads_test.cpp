// SPDX-License-Identifier: MIT
// Threads within one head, at sizes where every stage has work to share: the score pass, joint
// selection, the fits, the judge. This is what the thread sanitizer watches (preset clang-tsan),
// which is why it goes through the library: compiled once for all modules.
#include <cstring>
#include <string_view>
#include <thread>
#include <vector>

#include "kvfit/compact.hpp"
#include "kvfit/parallel/external_executor.hpp"
#include "kvfit/parallel/thread_pool.hpp"
#include "kvfit/presets.hpp"
#include "support/catch.hpp"
#include "support/random_matrix.hpp"

using namespace kvfit_test;

namespace {

struct shared_head {
  kvfit::matrix keys = random_matrix(900, 32, 1);
  kvfit::matrix values = random_matrix(900, 48, 2);
  kvfit::matrix queries = random_matrix(640, 32, 3, 1.5F);

  [[nodiscard]] kvfit::result<kvfit::compacted> fit(const kvfit::compact_options& options,
                                                    const kvfit::executor_ref& threads) const {
    return kvfit::compact({.keys = keys, .values = values}, queries, options, {}, threads);
  }
};

bool same_fit(const kvfit::compacted& a, const kvfit::compacted& b) {
  const auto same = [](const auto& one, const auto& other) {
    return one.size() == other.size() &&
           std::memcmp(one.data(), other.data(),
                       static_cast<std::size_t>(one.size()) * sizeof(float)) == 0;
  };
  return a.positions == b.positions && same(a.keys, b.keys) && same(a.bias, b.bias) &&
         same(a.values, b.values);
}

kvfit::compact_options shared_options(std::string_view preset) {
  kvfit::compact_options options = kvfit::presets::find(preset)->make(150);
  options.queries.per_row = 0;
  if (preset == "default") options.refine.steps = 2;
  return options;
}

}  // namespace

TEST_CASE("threads share every stage of one head and change no byte", "[compiled][threads]") {
  const shared_head head;
  for (const std::string_view name : {"highest_attention", "zero_bias", "default"}) {
    CAPTURE(name);
    const kvfit::compact_options options = shared_options(name);
    const auto alone = head.fit(options, {});
    REQUIRE(alone);
    int loops = 0;
    kvfit::external_executor backwards{[&](kvfit::index_t count, const auto& body) {
      ++loops;
      for (kvfit::index_t i = count; i-- > 0;) body(i);
    }};
    const auto turned = head.fit(options, kvfit::executor_ref(backwards, 3));
    REQUIRE(turned);
    CHECK(same_fit(*alone, *turned));
    CHECK(loops > 10);  // there was work to share
    kvfit::thread_pool pool(3);
    const auto shared = head.fit(options, pool);
    REQUIRE(shared);
    CHECK(same_fit(*alone, *shared));
  }
}

TEST_CASE("two heads may be shared among the same threads at once", "[compiled][threads]") {
  const shared_head head;
  const kvfit::compact_options options = shared_options("highest_attention");
  kvfit::thread_pool pool(3);
  std::vector<kvfit::result<kvfit::compacted>> fitted(2, kvfit::error{});
  {
    std::thread other([&] { fitted[0] = head.fit(options, pool); });
    fitted[1] = head.fit(options, pool);
    other.join();
  }
  REQUIRE(fitted[0]);
  REQUIRE(fitted[1]);
  CHECK(same_fit(*fitted[0], *fitted[1]));
}
