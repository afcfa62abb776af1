// SPDX-License-Identifier: MIT
#include "metal/emulator/emulator.hpp"

#include <cstdint>
#include <vector>

#include "support/catch.hpp"

namespace {

using namespace metal_emulator;

struct scale_params {
  std::uint32_t n;
  float factor;
};

TEST_CASE("A kernel runs over a grid that its threadgroups do not divide", "[metal]") {
  const std::vector<float> x{1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  for (const order& o : orders()) {
    buffer in = buffer::of(x), out = buffer::output<float>(x.size());
    const outcome run = call("scale_float")
                            .memory(0, in)
                            .memory(1, out)
                            .bytes(2, scale_params{10, 3.0f})
                            .threads({10, 1, 1}, {4, 1, 1}, o);
    INFO(name_of(o) << ": " << run.error.message);
    REQUIRE(run.ok());
    for (std::size_t i = 0; i < x.size(); ++i) CHECK(out.as<float>()[i] == 3.0f * x[i]);
    CHECK(run.cost.buffers.at(0).loaded_bytes == 40);
    CHECK(run.cost.device.stores == 10);
  }
}

TEST_CASE("Threads share sums through simd_sum and threadgroup memory", "[metal]") {
  const std::uint32_t n = 100, groups = 3, threads = 70;
  std::vector<float> x(n * groups);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 17);
  for (const order& o : orders()) {
    buffer in = buffer::of(x), out = buffer::output<float>(groups);
    const outcome run = call("sum_tile_float")
                            .memory(0, in)
                            .memory(1, out)
                            .bytes(2, n)
                            .threadgroup(0, 128)
                            .groups({groups, 1, 1}, {threads, 1, 1}, o);
    INFO(name_of(o) << ": " << run.error.message);
    REQUIRE(run.ok());
    for (std::uint32_t g = 0; g < groups; ++g) {
      float sum = 0;
      for (std::uint32_t i = 0; i < n; ++i) sum += x[g * n + i];
      CHECK(out.as<float>()[g] == sum);
    }
    CHECK(run.cost.barriers == groups);
    CHECK(run.cost.simdgroup_operations == groups * 3);
    CHECK(run.cost.threadgroup_bytes == 128);
  }
}

}  // namespace
