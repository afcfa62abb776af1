// SPDX-License-Identifier: MIT
#include <set>

#include "metal/kernels/single_runs.hpp"
#include "support/catch.hpp"

namespace {
namespace offsets_of_kernels {

using namespace kernel_tests;

TEST_CASE("Every kernel gives the same bytes for numbers beyond 2^32 elements",
          "[metal][offsets]") {
  std::set<std::string> reached;
  for (const auto& [name, run] : all_kernels()) {
    INFO(name);
    reached.insert(name);
    const auto near = run(0).results;
    const auto far = run((std::int64_t{1} << 32) + 8).results;
    REQUIRE(!near.empty());
    CHECK((near == far));
  }
  // All there are, but for the other types of queries and keys.
  for (const auto& [name, kernel] : metal_emulator::kernels()) {
    if (name.find("fp16") != std::string::npos || name.find("bf16") != std::string::npos) continue;
    INFO(name);
    CHECK(reached.count(name) == 1);
  }
}

}  // namespace offsets_of_kernels
}  // namespace
