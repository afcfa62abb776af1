// SPDX-License-Identifier: MIT
// One executor, used from several threads.
#include <thread>
#include <vector>

#include "metal/host/fixture.hpp"

using namespace host_tests;

TEST_CASE("An executor is used from several threads at once: the bytes of one after the other",
          "[metal][host]") {
  const fresh start;
  const kvfit::metal::executor gpu = gpu_with(all_on_gpu());
  const std::vector<const char*> methods = {"highest_attention", "omp", "zero_bias"};
  struct outcome {
    kvfit::matrix output;
    std::vector<kvfit::compacted> fitted;
  };
  const auto work = [&](unsigned seed) {
    std::mt19937 draw(seed);
    const kvfit::matrix keys = random_matrix(draw, 90, 16);
    const kvfit::matrix values = random_matrix(draw, 90, 16);
    const kvfit::matrix queries = random_matrix(draw, 70, 16);
    outcome out;
    for (const char* method : methods) {
      auto fitted =
          kvfit::metal::compact(gpu, keys, values, queries, kvfit::presets::find(method)->make(8));
      if (fitted) out.fitted.push_back(std::move(*fitted));
    }
    auto found = kvfit::metal::attend(gpu, queries, {{.keys = keys, .values = values}});
    if (found) out.output = std::move(found->output);
    return out;
  };
  constexpr unsigned callers = 4;
  std::vector<outcome> wanted;
  for (unsigned k = 0; k < callers; ++k) wanted.push_back(work(k));
  std::vector<outcome> found(callers);
  std::vector<std::thread> threads;
  for (unsigned k = 0; k < callers; ++k) threads.emplace_back([&, k] { found[k] = work(k); });
  for (std::thread& one : threads) one.join();
  for (unsigned k = 0; k < callers; ++k) {
    CHECK(found[k].output == wanted[k].output);
    REQUIRE(found[k].fitted.size() == methods.size());
    REQUIRE(wanted[k].fitted.size() == methods.size());
    for (std::size_t m = 0; m < methods.size(); ++m) {
      CHECK(found[k].fitted[m].positions == wanted[k].fitted[m].positions);
      CHECK(found[k].fitted[m].bias == wanted[k].fitted[m].bias);
      CHECK(found[k].fitted[m].values == wanted[k].fitted[m].values);
    }
  }
  CHECK(gpu.counts().attentions == 2 * callers);
}
