// SPDX-License-Identifier: MIT
// The emulator's metal-cpp, as a host uses it.
#include <Metal/Metal.hpp>

#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#define KVFIT_METAL
#include "kvfit/metal/availability.hpp"
#include "support/catch.hpp"

namespace {

using metal_emulator::activity;
using metal_emulator::failures;
using metal_emulator::live_objects;

/// Every test begins with a device that works.
struct fresh {
  fresh() {
    failures() = {};
    activity() = {};
    live = live_objects();
  }
  ~fresh() { failures() = {}; }
  std::int64_t live;
};

NS::String* text(const char* s) {
  return NS::String::string(s, NS::UTF8StringEncoding);
}

/// Sums 100 numbers in each of 3 threadgroups; "" or what went wrong.
std::string sum_on_device(std::vector<float>& sums) {
  auto pool = NS::TransferPtr(NS::AutoreleasePool::alloc()->init());
  const auto device = NS::TransferPtr(MTL::CreateSystemDefaultDevice());
  if (!device) return "no device";
  const auto queue = NS::TransferPtr(device->newCommandQueue());
  if (!queue) return "no queue";
  NS::Error* error = nullptr;
  const auto library = NS::TransferPtr(device->newLibrary(text("source"), nullptr, &error));
  if (!library) return error->localizedDescription()->utf8String();
  const auto function = NS::TransferPtr(library->newFunction(text("sum_tile_float")));
  if (!function) return "no function";
  const auto pipeline = NS::TransferPtr(device->newComputePipelineState(function.get(), &error));
  if (!pipeline) return error->localizedDescription()->utf8String();

  std::vector<float> x(300);
  std::iota(x.begin(), x.end(), 0.0f);
  const auto in = NS::TransferPtr(
      device->newBuffer(x.data(), x.size() * sizeof(float), MTL::ResourceStorageModeShared));
  const auto out =
      NS::TransferPtr(device->newBuffer(3 * sizeof(float), MTL::ResourceStorageModeShared));
  if (!in || !out) return "no memory";

  MTL::CommandBuffer* commands = queue->commandBuffer();
  MTL::ComputeCommandEncoder* encoder = commands->computeCommandEncoder();
  encoder->setComputePipelineState(pipeline.get());
  encoder->setBuffer(in.get(), 0, 0);
  encoder->setBuffer(out.get(), 0, 1);
  const std::uint32_t n = 100;
  encoder->setBytes(&n, sizeof(n), 2);
  encoder->setThreadgroupMemoryLength(128, 0);
  encoder->dispatchThreadgroups(MTL::Size(3, 1, 1), MTL::Size(64, 1, 1));
  encoder->endEncoding();
  int completed = 0;
  commands->addCompletedHandler([&](MTL::CommandBuffer*) { ++completed; });
  commands->commit();
  commands->waitUntilCompleted();
  if (completed != 1) return "the handler was not called";
  if (commands->status() != MTL::CommandBufferStatusCompleted) {
    return "code " + std::to_string(commands->error()->code()) + ": " +
           commands->error()->localizedDescription()->utf8String();
  }
  const auto* y = static_cast<const float*>(out->contents());
  sums.assign(y, y + 3);
  return "";
}

TEST_CASE("A host's calls of metal-cpp run a kernel, and leave no object behind", "[metal]") {
  const fresh start;
  std::vector<float> sums;
  CHECK(sum_on_device(sums).empty());
  CHECK(sums == std::vector<float>{4950, 14950, 24950});
  CHECK(live_objects() == start.live);
  CHECK(activity().dispatches == 1);
  CHECK(activity().waits == 1);
  CHECK(activity().cost.at("sum_tile_float").device.loaded_bytes == 1200);
}

TEST_CASE("Calls of metal-cpp fail as planned, and leave no object behind", "[metal]") {
  const fresh start;
  std::vector<float> sums;
  const auto fails_with = [&](const std::string& wanted) {
    const std::string got = sum_on_device(sums);
    INFO(got);
    CHECK(got.find(wanted) != std::string::npos);
    CHECK(live_objects() == start.live);
    CHECK(sums.empty());
    failures() = {};
    activity() = {};
  };
  failures().no_device = true;
  fails_with("no device");
  failures().no_queue = true;
  fails_with("no queue");
  failures().library = true;
  fails_with("does not compile");
  failures().function = "sum_tile_float";
  fails_with("no function");
  failures().pipeline = "sum_tile_float";
  fails_with("no pipeline");
  for (const std::uint64_t buffers : {0u, 1u}) {
    failures().buffers = buffers;
    fails_with("no memory");
  }
  failures().max_buffer_length = 100;
  fails_with("no memory");
  failures().command_buffers = 0;
  failures().command_buffer_code = MTL::CommandBufferErrorTimeout;
  fails_with("code 2");
  failures().command_buffers = 1;  // the first still runs
  CHECK(sum_on_device(sums).empty());
}

TEST_CASE("A kernel's fault is an error of its command buffer", "[metal]") {
  const fresh start;
  {
    auto pool = NS::TransferPtr(NS::AutoreleasePool::alloc()->init());
    const auto device = NS::TransferPtr(MTL::CreateSystemDefaultDevice());
    const auto queue = NS::TransferPtr(device->newCommandQueue());
    const auto library = NS::TransferPtr(device->newLibrary(text("source"), nullptr, nullptr));
    const auto constants = NS::TransferPtr(MTL::FunctionConstantValues::alloc()->init());
    const bool mended = false;
    constants->setConstantValue(&mended, MTL::DataTypeBool, 0);
    const auto function =
        NS::TransferPtr(library->newFunction(text("all_write_one"), constants.get(), nullptr));
    REQUIRE(function);
    const auto pipeline = NS::TransferPtr(device->newComputePipelineState(function.get(), nullptr));
    const auto out = NS::TransferPtr(device->newBuffer(64, MTL::ResourceStorageModeShared));
    MTL::CommandBuffer* commands = queue->commandBuffer();
    MTL::ComputeCommandEncoder* encoder = commands->computeCommandEncoder();
    encoder->setComputePipelineState(pipeline.get());
    encoder->setBuffer(out.get(), 0, 1);
    encoder->dispatchThreads(MTL::Size(8, 1, 1), MTL::Size(8, 1, 1));
    encoder->endEncoding();
    commands->commit();
    CHECK(commands->status() == MTL::CommandBufferStatusError);
    CHECK(activity().last_fault.kind == metal_emulator::fault_kind::race);
  }
  CHECK(live_objects() == start.live);
}

TEST_CASE("Dispatches that may run at once must not share what one of them writes", "[metal]") {
  const fresh start;
  // Whether two sums run into the same output, one after the other's barrier or not.
  const auto runs = [](MTL::DispatchType type, bool has_barrier, bool has_own_output) {
    auto pool = NS::TransferPtr(NS::AutoreleasePool::alloc()->init());
    const auto device = NS::TransferPtr(MTL::CreateSystemDefaultDevice());
    const auto queue = NS::TransferPtr(device->newCommandQueue());
    const auto library = NS::TransferPtr(device->newLibrary(text("source"), nullptr, nullptr));
    const auto function = NS::TransferPtr(library->newFunction(text("sum_tile_float")));
    const auto pipeline = NS::TransferPtr(device->newComputePipelineState(function.get(), nullptr));
    const std::vector<float> x(100, 1.0F);
    const auto in = NS::TransferPtr(device->newBuffer(x.data(), 400, 0));
    const auto out = NS::TransferPtr(device->newBuffer(4, 0));
    const auto other = NS::TransferPtr(device->newBuffer(4, 0));
    MTL::CommandBuffer* commands = queue->commandBuffer();
    MTL::ComputeCommandEncoder* encoder = commands->computeCommandEncoder(type);
    const std::uint32_t n = 100;
    for (int k = 0; k < 2; ++k) {
      encoder->setComputePipelineState(pipeline.get());
      encoder->setBuffer(in.get(), 0, 0);
      encoder->setBuffer(k == 1 && has_own_output ? other.get() : out.get(), 0, 1);
      encoder->setBytes(&n, sizeof(n), 2);
      encoder->setThreadgroupMemoryLength(128, 0);
      encoder->dispatchThreadgroups(MTL::Size(1, 1, 1), MTL::Size(64, 1, 1));
      if (has_barrier) encoder->memoryBarrier(MTL::BarrierScopeBuffers);
    }
    encoder->endEncoding();
    commands->commit();
    return commands->status() == MTL::CommandBufferStatusCompleted;
  };
  CHECK(runs(MTL::DispatchTypeSerial, false, false));
  CHECK(runs(MTL::DispatchTypeConcurrent, true, false));
  CHECK(runs(MTL::DispatchTypeConcurrent, false, true));
  CHECK(!runs(MTL::DispatchTypeConcurrent, false, false));
  CHECK(activity().last_fault.kind == metal_emulator::fault_kind::race);
  CHECK(live_objects() == start.live);
}

/// What the emulator notes of calls on an encoder that may dispatch a sum of 100 numbers.
template <class Calls>
std::vector<std::string> misuses_of(const Calls& calls) {
  activity() = {};
  auto pool = NS::TransferPtr(NS::AutoreleasePool::alloc()->init());
  const auto device = NS::TransferPtr(MTL::CreateSystemDefaultDevice());
  const auto queue = NS::TransferPtr(device->newCommandQueue());
  const auto library = NS::TransferPtr(device->newLibrary(text("source"), nullptr, nullptr));
  const auto function = NS::TransferPtr(library->newFunction(text("sum_tile_float")));
  const auto pipeline = NS::TransferPtr(device->newComputePipelineState(function.get(), nullptr));
  const auto memory = NS::TransferPtr(device->newBuffer(400, MTL::ResourceStorageModeShared));
  const auto out = NS::TransferPtr(device->newBuffer(4, MTL::ResourceStorageModeShared));
  MTL::CommandBuffer* commands = queue->commandBuffer();
  MTL::ComputeCommandEncoder* encoder = commands->computeCommandEncoder();
  encoder->setComputePipelineState(pipeline.get());
  encoder->setBuffer(memory.get(), 0, 0);
  encoder->setBuffer(out.get(), 0, 1);
  const std::uint32_t n = 100;
  encoder->setBytes(&n, sizeof(n), 2);
  encoder->setThreadgroupMemoryLength(128, 0);
  calls(*commands, *encoder, *memory.get());
  if (!encoder->ended) encoder->endEncoding();
  if (commands->status() == MTL::CommandBufferStatusNotEnqueued) commands->commit();
  const bool is_done = commands->status() == MTL::CommandBufferStatusCompleted;
  CHECK(is_done == activity().misuses.empty());
  return activity().misuses;
}

TEST_CASE("What Metal's validation layer refuses is noted, and nothing runs after it", "[metal]") {
  const fresh start;
  using commands = MTL::CommandBuffer;
  using encoder = MTL::ComputeCommandEncoder;
  using memory = MTL::Buffer;
  const MTL::Size one(1, 1, 1);
  const MTL::Size threads(64, 1, 1);
  CHECK(misuses_of([&](commands&, encoder& e, memory&) {
          e.dispatchThreadgroups(one, threads);
        }).empty());
  const auto is_refused = [](const std::string& wanted, const auto& calls) {
    const std::vector<std::string> noted = misuses_of(calls);
    INFO(wanted << ": " << (noted.empty() ? "" : noted.front()));
    REQUIRE(noted.size() == 1);
    CHECK(noted.front().find(wanted) != std::string::npos);
  };
  is_refused("without buffer(0)", [&](commands&, encoder& e, memory&) {
    e.setBuffer(nullptr, 0, 0);
    e.dispatchThreadgroups(one, threads);
  });
  is_refused("is no multiple of 4",
             [](commands&, encoder& e, memory& m) { e.setBuffer(&m, 2, 0); });
  is_refused("begins beyond its end",
             [](commands&, encoder& e, memory& m) { e.setBuffer(&m, 400, 0); });
  is_refused("offset into no buffer",
             [](commands&, encoder& e, memory&) { e.setBuffer(nullptr, 4, 0); });
  is_refused("of at most 30", [](commands&, encoder& e, memory& m) { e.setBuffer(&m, 0, 31); });
  is_refused("takes 1 to 4096", [](commands&, encoder& e, memory&) {
    const std::vector<char> many(4097);
    e.setBytes(many.data(), many.size(), 3);
  });
  is_refused("takes 1 to 4096", [](commands&, encoder& e, memory&) { e.setBytes("", 0, 3); });
  is_refused("an empty dispatch", [&](commands&, encoder& e, memory&) {
    e.dispatchThreadgroups(MTL::Size(1, 0, 1), threads);
  });
  is_refused("1025 threads", [&](commands&, encoder& e, memory&) {
    e.dispatchThreadgroups(one, MTL::Size(1025, 1, 1));
  });
  is_refused("setBuffer after endEncoding", [](commands&, encoder& e, memory& m) {
    e.endEncoding();
    e.setBuffer(&m, 0, 0);
  });
  is_refused("commit before endEncoding", [](commands& c, encoder&, memory&) { c.commit(); });
  is_refused("two open encoders",
             [](commands& c, encoder&, memory&) { c.computeCommandEncoder()->endEncoding(); });
  is_refused("was not committed", [](commands& c, encoder&, memory&) { c.waitUntilCompleted(); });
  is_refused("pipeline that is null",
             [](commands&, encoder& e, memory&) { e.setComputePipelineState(nullptr); });
  activity() = {};
  for (const auto& [wanted, call] :
       {std::pair<const char*, void (*)(commands&)>{"commit of a committed",
                                                    [](commands& c) { c.commit(); }},
        {"encoder of a committed", [](commands& c) { c.computeCommandEncoder()->endEncoding(); }},
        {"handler for a committed", [](commands& c) { c.addCompletedHandler([](auto*) {}); }}}) {
    auto pool = NS::TransferPtr(NS::AutoreleasePool::alloc()->init());
    const auto device = NS::TransferPtr(MTL::CreateSystemDefaultDevice());
    const auto queue = NS::TransferPtr(device->newCommandQueue());
    commands* late = queue->commandBuffer();
    late->commit();
    call(*late);
    REQUIRE(activity().misuses.size() == 1);
    CHECK(activity().misuses.front().find(wanted) != std::string::npos);
    activity() = {};
  }
  {  // never ended
    auto pool = NS::TransferPtr(NS::AutoreleasePool::alloc()->init());
    const auto device = NS::TransferPtr(MTL::CreateSystemDefaultDevice());
    const auto queue = NS::TransferPtr(device->newCommandQueue());
    (void)queue->commandBuffer()->computeCommandEncoder();
  }
  REQUIRE(activity().misuses.size() == 1);
  CHECK(activity().misuses.front() == "an encoder is released without endEncoding");
  CHECK(live_objects() == start.live);
  activity() = {};
}

TEST_CASE("A buffer that nothing is to read may be bound, and not be read", "[metal]") {
  const fresh start;
  CHECK(misuses_of([&](MTL::CommandBuffer& c, MTL::ComputeCommandEncoder& e, MTL::Buffer& m) {
          m.setLabel(text(metal_emulator::untouched_label));
          e.setBuffer(&m, 0, 0);
          e.dispatchThreadgroups(MTL::Size(1, 1, 1), MTL::Size(64, 1, 1));
          e.endEncoding();
          c.commit();
          CHECK(c.status() == MTL::CommandBufferStatusError);
          CHECK(activity().last_fault.kind == metal_emulator::fault_kind::out_of_range);
          activity().misuses.emplace_back("read");  // of what misuses_of says
        }) == std::vector<std::string>{"read"});
  CHECK(live_objects() == start.live);
  activity() = {};
}

TEST_CASE("A command buffer that hangs does not begin before it is let", "[metal]") {
  const fresh start;
  {
    auto pool = NS::TransferPtr(NS::AutoreleasePool::alloc()->init());
    const auto device = NS::TransferPtr(MTL::CreateSystemDefaultDevice());
    const auto queue = NS::TransferPtr(device->newCommandQueue());
    failures().hangs = true;
    MTL::CommandBuffer* commands = queue->commandBuffer();
    int completed = 0;
    commands->addCompletedHandler([&](MTL::CommandBuffer*) { ++completed; });
    commands->commit();
    CHECK(completed == 0);
    CHECK(commands->status() == MTL::CommandBufferStatusScheduled);
    metal_emulator::release_commands();
    CHECK(completed == 1);
    CHECK(commands->status() == MTL::CommandBufferStatusCompleted);
  }
  CHECK(live_objects() == start.live);
}

TEST_CASE("Memory of the caller becomes a buffer only where pages allow it", "[metal]") {
  const fresh start;
  {
    const auto device = NS::TransferPtr(MTL::CreateSystemDefaultDevice());
    std::vector<char> bytes(3 * 16384);
    const auto address = reinterpret_cast<std::uintptr_t>(bytes.data());
    char* page = bytes.data() + (16384 - address % 16384) % 16384;
    const auto shared =
        NS::TransferPtr(device->newBuffer(page, 16384, MTL::ResourceStorageModeShared, nullptr));
    REQUIRE(shared);
    CHECK(shared->contents() == page);
    CHECK(device->newBuffer(page + 16, 16384, MTL::ResourceStorageModeShared, nullptr) == nullptr);
    CHECK(device->newBuffer(page, 16000, MTL::ResourceStorageModeShared, nullptr) == nullptr);
  }
  CHECK(live_objects() == start.live);
}

TEST_CASE("Where kvfit::metal is built, the system is asked for its device", "[metal]") {
  const fresh start;
  using kvfit::metal::availability;
  CHECK(kvfit::metal::find_availability() == availability::available);
  failures().no_device = true;
  CHECK(kvfit::metal::find_availability() == availability::no_device);
  CHECK(live_objects() == start.live);
}

}  // namespace
