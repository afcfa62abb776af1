// SPDX-License-Identifier: MIT
#include "metal/emulator/emulator.hpp"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "metal/emulator/types.hpp"
#include "support/catch.hpp"

namespace {

using namespace metal_emulator;

struct scale_params {
  std::uint32_t n;
  float factor;
};

std::vector<float> counted(std::size_t n) {
  std::vector<float> x(n);
  for (std::size_t i = 0; i < n; ++i) x[i] = static_cast<float>(i % 97) - 30.0f;
  return x;
}

TEST_CASE("A kernel runs over a grid that its threadgroups do not divide", "[metal]") {
  const std::vector<float> x = counted(10);
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
  const std::vector<float> x = counted(n * groups);
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
    CHECK(run.cost.threadgroup.stores == groups * 3);
    CHECK(run.cost.threadgroup.loads == groups * 3);
    CHECK(run.cost.device.loaded_bytes == x.size() * sizeof(float));
    CHECK(run.cost.buffers.at(1).stored_bytes == groups * sizeof(float));
  }
}

/// Runs a planted kernel on 64 threads in two threadgroups of 32, or one of 64, in every order.
/// Returns the faults, one for each order.
struct planted_run {
  const char* kernel;
  fault_kind expected;
  extent groups, threads;
};

std::vector<outcome> run_planted(const planted_run& what, bool mended) {
  std::vector<outcome> all;
  const std::vector<float> x = counted(256);
  for (const order& o : orders()) {
    buffer in = buffer::of(x), out = buffer::output<float>(256), more(1024);
    all.push_back(call(what.kernel)
                      .memory(0, in)
                      .memory(1, out)
                      .memory(2, more)
                      .constant(0, mended)
                      .groups(what.groups, what.threads, o));
  }
  return all;
}

TEST_CASE("Faults planted in kernels are found in every order, and their mended twins run",
          "[metal]") {
  const extent one{1, 1, 1}, two{2, 1, 1}, t32{32, 1, 1}, t64{64, 1, 1};
  const planted_run all[] = {
      {"reverse_without_barrier", fault_kind::race, one, t64},
      {"reuse_without_barrier", fault_kind::race, one, t64},
      {"reverse_with_other_memory", fault_kind::race, one, t64},
      {"reverse_in_device_memory", fault_kind::race, one, t64},
      {"reverse_behind_simdgroup_barrier", fault_kind::race, one, t64},
      {"swap_lanes_without_barrier", fault_kind::race, one, t64},
      {"barrier_in_a_branch", fault_kind::divergence, one, t64},
      {"barriers_of_two_branches", fault_kind::divergence, one, t64},
      {"sum_in_a_branch", fault_kind::divergence, one, t64},
      {"sums_of_two_branches", fault_kind::divergence, one, t64},
      {"all_write_one", fault_kind::race, one, t64},
      {"all_write_one", fault_kind::race, two, one},
      {"groups_overlap", fault_kind::race, two, t32},
      {"read_of_another_group", fault_kind::race, two, t32},
      {"clear_while_counting", fault_kind::race, one, t64},
      {"read_before_the_beginning", fault_kind::out_of_range, one, t64},
      {"past_the_row_of_a_tile", fault_kind::out_of_range, one, t32},
      {"component_that_is_not_there", fault_kind::out_of_range, one, t64},
      {"vectors_off_their_boundary", fault_kind::misaligned, one, {16, 1, 1}},
      {"read_before_it_is_written", fault_kind::uninitialised, one, t64},
      {"read_its_own_output", fault_kind::uninitialised, one, t64},
      {"too_much_threadgroup_memory", fault_kind::bad_launch, one, t64},
  };
  for (const planted_run& what : all) {
    for (const outcome& run : run_planted(what, false)) {
      INFO(what.kernel << ": " << run.error.message);
      CHECK(run.error.kind == what.expected);
      CHECK(run.error.kernel == what.kernel);
      CHECK(run.error.message.find(what.kernel) != std::string::npos);
    }
    for (const outcome& run : run_planted(what, true)) {
      INFO(what.kernel << ", mended: " << run.error.message);
      CHECK(run.ok());
    }
  }
}

TEST_CASE("A fault names the kernel, the thread, and the place of the barrier", "[metal]") {
  buffer out = buffer::output<float>(64);
  outcome run =
      call("barrier_in_a_branch").memory(1, out).constant(0, false).groups({1, 1, 1}, {64, 1, 1});
  CHECK(run.error.kernel == "barrier_in_a_branch");
  CHECK(run.error.thread == extent{0, 0, 0});
  CHECK(run.error.message.find("barriers.metal:") != std::string::npos);
  CHECK(run.error.message.find("thread 32 of threadgroup (0, 0, 0) has ended") !=
        std::string::npos);

  buffer in = buffer::of(counted(64)), second = buffer::output<float>(64);
  run = call("swap_lanes_without_barrier")
            .memory(0, in)
            .memory(1, second)
            .constant(0, false)
            .groups({1, 1, 1}, {64, 1, 1});
  CHECK(run.error.thread == extent{1, 0, 0});
  CHECK(run.error.message.find("of tile (threadgroup)") != std::string::npos);
  CHECK(run.error.message.find("thread 0 of threadgroup (0, 0, 0)") != std::string::npos);
}

TEST_CASE("Threads beyond the edge of a grid that return before a barrier are found", "[metal]") {
  const std::uint32_t n = 50;
  for (const order& o : orders()) {
    for (const bool mended : {false, true}) {
      buffer out = buffer::output<float>(n);
      const outcome run = call("return_before_barrier")
                              .memory(1, out)
                              .bytes(2, n)
                              .constant(0, mended)
                              .groups({1, 1, 1}, {64, 1, 1}, o);
      INFO(run.error.message);
      CHECK(run.error.kind == (mended ? fault_kind::none : fault_kind::divergence));
    }
  }
}

TEST_CASE("Indices past the end of buffers and threadgroup memory are found", "[metal]") {
  const std::uint32_t n = 63;
  for (const order& o : orders()) {
    for (const bool mended : {false, true}) {
      const fault_kind expected = mended ? fault_kind::none : fault_kind::out_of_range;
      buffer out = buffer::output<float>(n);
      CHECK(call("write_past_the_end")
                .memory(1, out)
                .bytes(2, n)
                .constant(0, mended)
                .groups({1, 1, 1}, {64, 1, 1}, o)
                .error.kind == expected);
      // The same where the buffer is bound from its last quarter on.
      buffer four = buffer::output<float>(4 * n);
      CHECK(call("write_past_the_end")
                .memory(1, four, 3 * n * 4)
                .bytes(2, n)
                .constant(0, mended)
                .groups({1, 1, 1}, {64, 1, 1}, o)
                .error.kind == expected);
      buffer result = buffer::output<float>(64);
      CHECK(call("past_the_end_of_threadgroup_memory")
                .memory(1, result)
                .threadgroup(0, 256)
                .constant(0, mended)
                .groups({1, 1, 1}, {64, 1, 1}, o)
                .error.kind == expected);
    }
  }
}

TEST_CASE("Offsets beyond 2^32 elements reach their place", "[metal]") {
  const std::uint64_t far = (std::uint64_t{1} << 32) + 5;
  buffer big((far + 64) * sizeof(float));
  const auto y = big.as<float>();
  const auto run = [&](bool mended) {
    return call("write_far")
        .memory(1, big)
        .bytes(2, far)
        .constant(0, mended)
        .groups({1, 1, 1}, {32, 1, 1});
  };
  REQUIRE(run(true).ok());
  CHECK(y[far + 31] == 1.0f);
  CHECK(y[5] == 0.0f);
  REQUIRE(run(false).ok());
  CHECK(y[5] == 1.0f);  // what an index of 32 bits does
}

TEST_CASE("Writes to a buffer bound for reading are found", "[metal]") {
  for (const bool mended : {false, true}) {
    buffer in = buffer::of(counted(64)), out = buffer::output<float>(64);
    in.read_only();
    CHECK(call("write_its_input")
              .memory(0, in)
              .memory(1, out)
              .constant(0, mended)
              .groups({1, 1, 1}, {64, 1, 1})
              .error.kind == (mended ? fault_kind::none : fault_kind::read_only));
  }
}

TEST_CASE("A kernel that does not end is stopped after the accesses it was allowed", "[metal]") {
  for (const bool mended : {false, true}) {
    buffer out = buffer::output<float>(64);
    CHECK(call("never_ends")
              .memory(1, out)
              .constant(0, mended)
              .max_accesses(1000)
              .groups({1, 1, 1}, {64, 1, 1})
              .error.kind == (mended ? fault_kind::none : fault_kind::runaway));
  }
}

TEST_CASE("Atomic additions race with nothing but plain accesses", "[metal]") {
  for (const order& o : orders()) {
    for (const bool mended : {false, true}) {
      buffer plain(12), counts(12);
      const outcome run = call("count_without_atomics")
                              .memory(1, plain)
                              .memory(2, counts)
                              .constant(0, mended)
                              .groups({3, 1, 1}, {31, 1, 1}, o);
      INFO(run.error.message);
      CHECK(run.error.kind == (mended ? fault_kind::none : fault_kind::race));
      if (mended) {
        for (const std::uint32_t n : counts.as<std::uint32_t>()) CHECK(n == 31);
        CHECK(run.cost.device.atomics == 93);
      }
    }
  }
}

TEST_CASE("Threads that write neighbours in one word do not race, and those that share a byte do",
          "[metal]") {
  for (const order& o : orders()) {
    for (const bool mended : {false, true}) {
      buffer halves = buffer::output<std::uint16_t>(64), bytes = buffer::output<std::uint8_t>(64);
      const outcome run = call("neighbours_in_a_word")
                              .memory(1, halves)
                              .memory(2, bytes)
                              .constant(0, mended)
                              .groups({2, 1, 1}, {32, 1, 1}, o);
      INFO(run.error.message);
      CHECK(run.error.kind == (mended ? fault_kind::none : fault_kind::race));
    }
  }
}

TEST_CASE("Launches that a device would refuse are refused", "[metal]") {
  const auto kind = [](const outcome& o) { return o.error.kind; };
  buffer out = buffer::output<float>(2048);
  CHECK(kind(call("no_such_kernel").groups({1, 1, 1}, {1, 1, 1})) == fault_kind::bad_launch);
  CHECK(kind(call("at_most_64_threads").memory(1, out).groups({1, 1, 1}, {65, 1, 1})) ==
        fault_kind::bad_launch);
  CHECK(kind(call("at_most_64_threads").memory(1, out).groups({2, 1, 1}, {64, 1, 1})) ==
        fault_kind::none);
  CHECK(kind(call("at_most_64_threads").groups({1, 1, 1}, {1, 1, 1})) == fault_kind::bad_launch);
  CHECK(kind(call("at_most_64_threads").memory(1, out).groups({0, 1, 1}, {1, 1, 1})) ==
        fault_kind::bad_launch);
  CHECK(kind(call("write_past_the_end").memory(1, out).groups({1, 1, 1}, {1, 1, 1})) ==
        fault_kind::bad_launch);  // n is not bound
  const auto tile = [&](std::size_t bytes) {
    call c("past_the_end_of_threadgroup_memory");
    c.memory(1, out).constant(0, true);
    if (bytes > 0) c.threadgroup(0, bytes);
    return c.groups({1, 1, 1}, {4, 1, 1}).error.kind;
  };
  CHECK(tile(0) == fault_kind::bad_launch);
  CHECK(tile(20) == fault_kind::bad_launch);
  CHECK(tile(32784) == fault_kind::bad_launch);
  CHECK(tile(32768) == fault_kind::none);
  CHECK(kind(call("never_ends").memory(1, out).groups({1, 1, 1}, {1, 1, 1})) ==
        fault_kind::bad_launch);  // its function constant is not set
}

// ---- Simdgroups ---------------------------------------------------------------------------------

TEST_CASE("Simdgroup matrices multiply, from memory and to memory", "[metal]") {
  const std::uint32_t n = 24;
  std::vector<float> x(n * n), y(n * n);
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>((i * 7) % 11) - 5.0f;
    y[i] = static_cast<float>((i * 5) % 13) - 6.0f;
  }
  const auto check = [&](const char* kernel, buffer& left, buffer& right, bool transposed) {
    for (const order& o : orders()) {
      buffer out = buffer::output<float>(n * n);
      const outcome run =
          call(kernel).memory(0, left).memory(1, right).memory(2, out).bytes(3, n).groups(
              {n / 8, n / 8, 1}, {32, 1, 1}, o);
      INFO(kernel << ": " << run.error.message);
      REQUIRE(run.ok());
      for (std::uint32_t i = 0; i < n; ++i) {
        for (std::uint32_t j = 0; j < n; ++j) {
          float sum = 0;
          for (std::uint32_t k = 0; k < n; ++k) {
            sum += x[i * n + k] * (transposed ? y[j * n + k] : y[k * n + j]);
          }
          CHECK(out.as<float>()[i * n + j] == sum);
        }
      }
      CHECK(run.cost.matrix_multiply_adds == std::uint64_t{n} * n * n);
      CHECK(run.cost.multiply_adds == std::uint64_t{n} * n * n);
    }
  };
  buffer a = buffer::of(x), b = buffer::of(y);
  check("multiply_tiles_float", a, b, false);
  check("multiply_tiles_transposed", a, b, true);
  std::vector<std::uint16_t> xh, yh;  // small integers: fp16 holds them
  for (const float v : x) xh.push_back(half(v).bits);
  for (const float v : y) yh.push_back(half(v).bits);
  buffer ah = buffer::of(xh), bh = buffer::of(yh);
  check("multiply_tiles_half", ah, bh, false);
}

TEST_CASE("A kernel that takes lanes to hold matrices in another layout gives another product",
          "[metal]") {
  std::vector<float> x(64), y(64), product(64);
  for (std::size_t i = 0; i < 64; ++i) {
    x[i] = static_cast<float>((i * 7) % 11) - 5.0f;
    y[i] = static_cast<float>((i * 5) % 13) - 6.0f;
  }
  for (std::size_t i = 0; i < 8; ++i) {
    for (std::size_t j = 0; j < 8; ++j) {
      for (std::size_t k = 0; k < 8; ++k) product[i * 8 + j] += x[i * 8 + k] * y[k * 8 + j];
    }
  }
  for (const bool mended : {false, true}) {
    buffer a = buffer::of(x), b = buffer::of(y), c = buffer::output<float>(64);
    const outcome run = call("multiply_by_thread_elements")
                            .memory(0, a)
                            .memory(1, b)
                            .memory(2, c)
                            .constant(0, mended)
                            .groups({1, 1, 1}, {32, 1, 1});
    INFO(run.error.message);
    REQUIRE(run.ok());
    const auto z = c.as<float>();
    const bool same = std::vector<float>(z.begin(), z.end()) == product;
    CHECK(same == mended);
  }
}

TEST_CASE("A matrix that lanes load from different places is found", "[metal]") {
  for (const bool mended : {false, true}) {
    buffer in = buffer::of(counted(128)), out = buffer::output<float>(64);
    CHECK(call("load_from_two_places")
              .memory(0, in)
              .memory(2, out)
              .constant(0, mended)
              .groups({1, 1, 1}, {32, 1, 1})
              .error.kind == (mended ? fault_kind::none : fault_kind::divergence));
  }
  buffer in = buffer::of(counted(128)), out = buffer::output<float>(64);
  CHECK(call("load_from_two_places")
            .memory(0, in)
            .memory(2, out)
            .constant(0, true)
            .groups({1, 1, 1}, {31, 1, 1})
            .error.kind == fault_kind::bad_launch);  // a simdgroup with a lane missing
}

TEST_CASE("Lanes exchange values as each operation promises", "[metal]") {
  std::vector<float> x(32);
  float sum = 0;
  for (std::size_t i = 0; i < 32; ++i) sum += x[i] = static_cast<float>((i * 7) % 32);
  for (const order& o : orders()) {
    buffer in = buffer::of(x), out = buffer::output<float>(16 * 32);
    const outcome run =
        call("exchanges").memory(0, in).memory(1, out).groups({1, 1, 1}, {32, 1, 1}, o);
    INFO(run.error.message);
    REQUIRE(run.ok());
    const auto y = out.as<float>();
    float before = 0;
    for (std::size_t l = 0; l < 32; ++l) {
      INFO("lane " << l);
      CHECK(y[0 * 32 + l] == sum);
      CHECK(y[1 * 32 + l] == 31);
      CHECK(y[2 * 32 + l] == 0);
      CHECK(y[3 * 32 + l] == x[31 - l]);
      CHECK(y[4 * 32 + l] == x[l ^ 5]);
      CHECK(y[5 * 32 + l] == x[l + 3 < 32 ? l + 3 : l]);
      CHECK(y[6 * 32 + l] == x[l >= 3 ? l - 3 : l]);
      CHECK(y[7 * 32 + l] == x[7]);
      CHECK(y[8 * 32 + l] == x[0]);
      CHECK(y[9 * 32 + l] == before + x[l]);
      CHECK(y[10 * 32 + l] == before);
      CHECK(y[11 * 32 + l] == 1);
      CHECK(y[12 * 32 + l] == 0);
      CHECK(y[13 * 32 + l] == 7);
      CHECK(y[14 * 32 + l] == 1);
      CHECK(y[15 * 32 + l] == 2);
      before += x[l];
    }
    CHECK(run.cost.simdgroup_operations == 16);
  }
}

// ---- The language -------------------------------------------------------------------------------

TEST_CASE("The language's types, vectors, literals and references mean what they mean in Metal",
          "[metal]") {
  buffer y = buffer::output<float>(28), h(16), pairs(64), v(64);
  const outcome run = call("speak").memory(0, y).memory(1, h).memory(2, pairs).memory(3, v).groups(
      {1, 1, 1}, {1, 1, 1});
  INFO(run.error.message);
  REQUIRE(run.ok());
  const float expected[] = {
      2,  7, 6, 1,  1, 28, 5,  2048, 0.333251953125f, 1, 3, 1.5f, 127, 2, 1, 1, 2.5f, 7, 3, 3,
      18, 6, 8, 22, 3, 37, 11, 1};
  for (std::size_t i = 0; i < 28; ++i) {
    INFO("element " << i);
    CHECK(y.as<float>()[i] == expected[i]);
  }
  CHECK(v.as<float>()[0] == half(0.1f));
  CHECK(v.as<float>()[2] == half(0.1f) + 1.0f);
}

TEST_CASE("half rounds every float to the nearest of its numbers, ties to even", "[metal]") {
  // Every half, the middle between it and the next, and the floats beside the middle.
  for (std::uint32_t bits = 0; bits < 0x7C00u; ++bits) {
    const float x = half_value(static_cast<std::uint16_t>(bits));
    const auto above = static_cast<std::uint16_t>(bits + 1);
    const double next = bits + 1 == 0x7C00u ? 65536.0 : static_cast<double>(half_value(above));
    const auto middle = static_cast<float>((static_cast<double>(x) + next) / 2);
    const auto even = static_cast<std::uint16_t>(bits % 2 == 0 ? bits : bits + 1);
    const bool right = half_bits(x) == bits && half_bits(-x) == (bits | 0x8000u) &&
                       half_bits(middle) == even &&
                       half_bits(std::nextafter(middle, 0.0f)) == bits &&
                       half_bits(std::nextafter(middle, 1e9f)) == above;
    if (!right) FAIL("at " << x);
  }
  CHECK(half_bits(std::numeric_limits<float>::infinity()) == 0x7C00u);
  CHECK((half_bits(std::numeric_limits<float>::quiet_NaN()) & 0x7FFFu) > 0x7C00u);
  CHECK(half_bits(std::numeric_limits<float>::denorm_min()) == 0);
}

TEST_CASE("bfloat rounds every float to the nearest of its numbers, ties to even", "[metal]") {
  for (std::uint32_t bits = 0; bits < 0x7F80u; ++bits) {
    const float x = bfloat_value(static_cast<std::uint16_t>(bits));
    const auto above = static_cast<std::uint16_t>(bits + 1);
    const float middle = std::bit_cast<float>(bits << 16 | 0x8000u);
    const auto even = static_cast<std::uint16_t>(bits % 2 == 0 ? bits : bits + 1);
    const bool right = bfloat_bits(x) == bits && bfloat_bits(-x) == (bits | 0x8000u) &&
                       bfloat_bits(middle) == even &&
                       bfloat_bits(std::bit_cast<float>(bits << 16 | 0x7FFFu)) == bits &&
                       bfloat_bits(std::bit_cast<float>(bits << 16 | 0x8001u)) == above;
    if (!right) FAIL("at " << x);
  }
  CHECK((bfloat_bits(std::numeric_limits<float>::quiet_NaN()) & 0x7FFFu) > 0x7F80u);
}

}  // namespace
