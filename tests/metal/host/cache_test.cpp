// SPDX-License-Identifier: MIT
// Whole caches, and calls that must give the same bytes.
#include <vector>

#include "kvfit/parallel/thread_pool.hpp"
#include "metal/host/fixture.hpp"

using namespace host_tests;

namespace {

struct small_cache {
  std::vector<kvfit::matrix> numbers;
  kvfit::cache_view cache;
  kvfit::cache_queries queries;

  explicit small_cache(std::size_t layers = 2, std::size_t heads = 3) {
    std::mt19937 draw(11);
    numbers.reserve(layers * heads * 3);
    const auto add = [&](kvfit::index_t rows) -> const kvfit::matrix& {
      numbers.push_back(random_matrix(draw, rows, 16));
      return numbers.back();
    };
    for (std::size_t l = 0; l < layers; ++l) {
      kvfit::cache_layer layer;
      kvfit::layer_queries asked;
      layer.number = asked.layer = static_cast<kvfit::index_t>(l);
      for (std::size_t h = 0; h < heads; ++h) {
        layer.heads.push_back({.keys = add(80), .values = add(80)});
        asked.heads.emplace_back(kvfit::row_view(add(48)));
      }
      cache.layers.push_back(std::move(layer));
      queries.push_back(std::move(asked));
    }
  }
};

bool same_bytes(const kvfit::compacted_cache& a, const kvfit::compacted_cache& b) {
  bool same = a.layers.size() == b.layers.size();
  for (std::size_t l = 0; same && l < a.layers.size(); ++l) {
    same = a.layers[l].positions == b.layers[l].positions && a.layers[l].keys == b.layers[l].keys &&
           a.layers[l].bias == b.layers[l].bias && a.layers[l].values == b.layers[l].values;
  }
  return same;
}

kvfit::cache_options options_of(const char* method) {
  return {.budget = 60, .head = kvfit::presets::find(method)->make(1)};
}

}  // namespace

TEST_CASE("Score passes of a cache's heads are one command buffer, waited for once",
          "[metal][host][cache]") {
  const fresh start;
  const small_cache of;
  const kvfit::metal::executor gpu = gpu_with(all_on_gpu());
  const auto found = kvfit::metal::compact_cache(gpu, of.cache, of.queries, options_of("topk"));
  INFO((found ? "" : found.error().message()));
  REQUIRE(found);
  CHECK(activity().waits == 1);
  CHECK(activity().command_buffers == 1);
  CHECK(gpu.counts().score_passes == 6);
  const auto wanted = kvfit::compact_cache(of.cache, of.queries, options_of("topk"));
  REQUIRE(wanted);
  CHECK(same_bytes(*found, *wanted));  // rows and values are copies
}

TEST_CASE("A cache of more heads than a group is scored group by group", "[metal][host][cache]") {
  const fresh start;
  const small_cache of(3, 6);
  const kvfit::metal::executor gpu = gpu_with(all_on_gpu());
  kvfit::cache_options options = options_of("topk");
  options.budget = 18 * 4;
  const auto found = kvfit::metal::compact_cache(gpu, of.cache, of.queries, options);
  REQUIRE(found);
  CHECK(activity().waits == 2);
  CHECK(gpu.counts().score_passes == 18);
}

TEST_CASE("A cache compacted on the GPU has the same bytes at any number of threads",
          "[metal][host][cache]") {
  const fresh start;
  const small_cache of(1, 4);
  for (const char* method : {"omp", "highest_attention"}) {
    kvfit::cache_options options = options_of(method);
    options.budget = 24;
    const kvfit::metal::executor gpu = gpu_with(all_on_gpu());
    const auto one = kvfit::metal::compact_cache(gpu, of.cache, of.queries, options);
    INFO((one ? "" : one.error().message()));
    REQUIRE(one);
    kvfit::thread_pool pool(3);
    activity().how = {metal_emulator::order::kind::shuffled, 7};
    const auto many = kvfit::metal::compact_cache(gpu, of.cache, of.queries, options, pool);
    REQUIRE(many);
    CHECK(same_bytes(*one, *many));
    activity().how = {metal_emulator::order::kind::backward, 0};
    const auto again = kvfit::metal::compact_cache(gpu, of.cache, of.queries, options);
    REQUIRE(again);
    CHECK(same_bytes(*one, *again));
  }
}

TEST_CASE("A device that fails within a cache ends the call with a typed error",
          "[metal][host][cache][errors]") {
  const fresh start;
  const small_cache of;
  const kvfit::metal::executor gpu = gpu_with(all_on_gpu());
  failures().command_buffers = 0;
  failures().command_buffer_code = 2;
  const auto found = kvfit::metal::compact_cache(gpu, of.cache, of.queries, options_of("topk"));
  REQUIRE(!found);
  CHECK(found.error().code == kvfit::errc::device_timeout);
}

TEST_CASE("A cap without space for the GPU's memory leaves a cache to the CPU",
          "[metal][host][cache]") {
  const fresh start;
  const small_cache of;
  const kvfit::metal::executor gpu = gpu_with(all_on_gpu());
  kvfit::cache_options options = options_of("topk");
  options.memory = 1 << 18;
  const auto wanted = kvfit::compact_cache(of.cache, of.queries, options);
  const auto found = kvfit::metal::compact_cache(gpu, of.cache, of.queries, options);
  REQUIRE(wanted.has_value() == found.has_value());
  if (!wanted) {
    CHECK(found.error().message() == wanted.error().message());
  }
  options.memory = 1 << 26;
  const auto within = kvfit::metal::compact_cache(gpu, of.cache, of.queries, options);
  REQUIRE(within);
  CHECK(gpu.counts().score_passes >= 6);
}
