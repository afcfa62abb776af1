// SPDX-License-Identifier: MIT
/// The calls of metal-cpp that a host of compute kernels makes, answered by the emulator: code that
/// includes <Metal/Metal.hpp> runs unchanged. Kernels are those linked into the program; a library
/// made from a source finds them by name, and the source itself is not compiled.
///
/// Like metal-cpp's, objects are counted: who calls alloc, new… or Create… releases. `failures()`
/// makes calls fail on purpose; `live_objects()` tells what was not released. What Metal's
/// validation layer refuses is noted (`device_log::misuses`), and no command buffer runs after it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "metal/emulator/emulator.hpp"

namespace metal_emulator {

/// What is to fail; all of it works by default.
struct failure_plan {
  static constexpr std::uint64_t never = std::numeric_limits<std::uint64_t>::max();
  bool no_device = false;
  bool no_queue = false;
  bool library = false;                   ///< sources do not compile
  std::string function;                   ///< this function is missing from libraries
  std::string pipeline;                   ///< no pipeline can be made of this function
  std::uint64_t buffers = never;          ///< so many buffers can be made, then no more
  std::uint64_t command_buffers = never;  ///< so many run, the next one faults
  std::int64_t command_buffer_code = 1;   ///< MTLCommandBufferError of that fault; 2 is a time-out
  std::size_t max_buffer_length = std::size_t{1} << 40;
  bool simdgroup_matrices = true;  ///< the device is of family Apple7
  bool unified_memory = true;
  std::uint32_t threads_per_group = 1024;  ///< that pipelines allow at most
  bool shared_pages = true;                ///< memory of the caller can become a buffer
  /// Command buffers do not begin before release_commands(): a GPU that hangs.
  bool hangs = false;
};

/// What has happened since reset().
struct device_log {
  std::uint64_t buffers = 0, command_buffers = 0, dispatches = 0, waits = 0;
  std::map<std::string, counts> cost;  ///< by kernel, summed over dispatches
  fault last_fault;                    ///< of a kernel
  order how;                           ///< in which order threads run from now on
  std::vector<std::string> misuses;    ///< calls that Metal's validation layer refuses
};

[[nodiscard]] inline failure_plan& failures() {
  static failure_plan plan;
  return plan;
}
[[nodiscard]] inline device_log& activity() {
  static device_log all;
  return all;
}
/// Objects alive, of any thread.
[[nodiscard]] inline std::atomic<std::int64_t>& object_count() {
  static std::atomic<std::int64_t> n = 0;
  return n;
}
[[nodiscard]] inline std::int64_t live_objects() {
  return object_count();
}

/// Notes a call that Metal's validation layer refuses.
inline void misuse(const std::string& what) {
  activity().misuses.push_back(what);
}

/// A buffer of this label is to stand where a kernel reads nothing: any access of it is a fault.
inline constexpr const char* untouched_label = "kvfit: not read";

/// Ends the command buffers that hang, and with them `failure_plan::hangs`.
inline void release_commands();

}  // namespace metal_emulator

namespace NS {

using UInteger = std::uintptr_t;
using Integer = std::intptr_t;

enum StringEncoding : UInteger { ASCIIStringEncoding = 1, UTF8StringEncoding = 4 };

/// An object with a count of its owners.
class Object {
 public:
  Object() { ++metal_emulator::object_count(); }
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  void release() {
    if (--owners_ == 0) delete this;
  }
  [[nodiscard]] UInteger retainCount() const { return owners_; }

 protected:
  virtual ~Object() { --metal_emulator::object_count(); }
  UInteger owners_ = 1;
};

template <class Derived, class Base = Object>
class Referencing : public Base {
 public:
  Derived* retain() {
    ++this->owners_;
    return static_cast<Derived*>(this);
  }
  Derived* autorelease();
};

/// Releases what was handed to it when it is released itself.
class AutoreleasePool : public Referencing<AutoreleasePool> {
 public:
  static AutoreleasePool* alloc() { return new AutoreleasePool; }
  AutoreleasePool* init() {
    outer_ = std::exchange(current(), this);
    return this;
  }
  void drain() { release(); }
  static AutoreleasePool*& current() {
    thread_local AutoreleasePool* innermost = nullptr;
    return innermost;
  }
  void add(Object* object) { objects_.push_back(object); }

 private:
  ~AutoreleasePool() override {
    if (current() == this) current() = outer_;
    for (Object* o : objects_) o->release();
  }
  AutoreleasePool* outer_ = nullptr;
  std::vector<Object*> objects_;
};

template <class Derived, class Base>
Derived* Referencing<Derived, Base>::autorelease() {
  // Without a pool the object is never released, as on Apple; live_objects() shows it.
  if (AutoreleasePool::current() != nullptr) AutoreleasePool::current()->add(this);
  return static_cast<Derived*>(this);
}

class String : public Referencing<String> {
 public:
  static String* string(const char* text, StringEncoding) {
    return (new String(text))->autorelease();
  }
  [[nodiscard]] const char* utf8String() const { return text_.c_str(); }
  [[nodiscard]] UInteger length() const { return text_.size(); }
  explicit String(std::string text) : text_(std::move(text)) {}

 private:
  std::string text_;
};

class Error : public Referencing<Error> {
 public:
  static Error* make(Integer code, const std::string& text) {
    return (new Error(code, text))->autorelease();
  }
  Error(Integer code, const std::string& text) : code_(code), text_(new String(text)) {}
  [[nodiscard]] Integer code() const { return code_; }
  [[nodiscard]] String* localizedDescription() const { return text_; }

 private:
  ~Error() override { text_->release(); }
  Integer code_;
  String* text_;
};

/// Owns one count of an object.
template <class T>
class SharedPtr {
 public:
  SharedPtr() = default;
  SharedPtr(const SharedPtr& other) : object_(other.object_) {
    if (object_ != nullptr) object_->retain();
  }
  SharedPtr(SharedPtr&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  SharedPtr& operator=(SharedPtr other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~SharedPtr() { reset(); }
  void reset() {
    if (object_ != nullptr) std::exchange(object_, nullptr)->release();
  }
  [[nodiscard]] T* get() const { return object_; }
  T* operator->() const { return object_; }
  explicit operator bool() const { return object_ != nullptr; }

  template <class U>
  friend SharedPtr<U> TransferPtr(U* object);
  template <class U>
  friend SharedPtr<U> RetainPtr(U* object);

 private:
  T* object_ = nullptr;
};
template <class T>
[[nodiscard]] SharedPtr<T> TransferPtr(T* object) {
  SharedPtr<T> p;
  p.object_ = object;
  return p;
}
template <class T>
[[nodiscard]] SharedPtr<T> RetainPtr(T* object) {
  if (object != nullptr) object->retain();
  return TransferPtr(object);
}

}  // namespace NS

namespace MTL {

class Device;
class CommandBuffer;

struct Size {
  Size() = default;
  Size(NS::UInteger w, NS::UInteger h, NS::UInteger d) : width(w), height(h), depth(d) {}
  static Size Make(NS::UInteger w, NS::UInteger h, NS::UInteger d) { return {w, h, d}; }
  NS::UInteger width = 0, height = 0, depth = 0;
};

using ResourceOptions = NS::UInteger;
inline constexpr ResourceOptions ResourceStorageModeShared = 0;
inline constexpr ResourceOptions ResourceStorageModePrivate = 32;
inline constexpr ResourceOptions ResourceHazardTrackingModeUntracked = 256;

enum GPUFamily : NS::Integer {
  GPUFamilyApple7 = 1007,
  GPUFamilyApple8 = 1008,
  GPUFamilyMetal3 = 5001
};
enum DataType : NS::UInteger {
  DataTypeFloat = 3,
  DataTypeInt = 29,
  DataTypeUInt = 33,
  DataTypeBool = 53
};
enum DispatchType : NS::UInteger { DispatchTypeSerial = 0, DispatchTypeConcurrent = 1 };
enum BarrierScope : NS::UInteger { BarrierScopeBuffers = 1 };
enum LanguageVersion : NS::UInteger { LanguageVersion3_0 = 196608, LanguageVersion3_1 = 196609 };
enum CommandBufferStatus : NS::UInteger {
  CommandBufferStatusNotEnqueued = 0,
  CommandBufferStatusEnqueued = 1,
  CommandBufferStatusCommitted = 2,
  CommandBufferStatusScheduled = 3,
  CommandBufferStatusCompleted = 4,
  CommandBufferStatusError = 5,
};
enum CommandBufferError : NS::UInteger {
  CommandBufferErrorNone = 0,
  CommandBufferErrorInternal = 1,
  CommandBufferErrorTimeout = 2,
  CommandBufferErrorPageFault = 3,
  CommandBufferErrorOutOfMemory = 8,
};

class Buffer : public NS::Referencing<Buffer> {
 public:
  explicit Buffer(std::size_t bytes)
      : owned_(std::make_unique<metal_emulator::buffer>(bytes)),
        contents_(owned_->as<char>().data()) {}
  Buffer(void* memory, std::size_t bytes)
      : contents_(memory),
        borrowed_(std::make_unique<metal_emulator::allocation>(
            metal_emulator::space::device, "a buffer", static_cast<std::byte*>(memory), bytes,
            true)) {}
  [[nodiscard]] void* contents() { return contents_; }
  [[nodiscard]] NS::UInteger length() const {
    return owned_ != nullptr ? owned_->size_bytes() : borrowed_->size();
  }
  void didModifyRange(...) = delete;  // of managed memory, which Apple silicon has not
  void setLabel(const NS::String* label) {
    if (label == nullptr ||
        std::strcmp(label->utf8String(), metal_emulator::untouched_label) != 0) {
      return;
    }
    untouched_ = std::make_unique<metal_emulator::allocation>(
        metal_emulator::space::device, "a buffer that nothing reads",
        static_cast<std::byte*>(contents_), 0, true);
  }
  [[nodiscard]] metal_emulator::allocation* memory() const {
    if (untouched_ != nullptr) return untouched_.get();
    return owned_ != nullptr ? owned_->memory() : borrowed_.get();
  }

 private:
  std::unique_ptr<metal_emulator::allocation> untouched_;
  std::unique_ptr<metal_emulator::buffer> owned_;
  void* contents_;
  std::unique_ptr<metal_emulator::allocation> borrowed_;
};

class FunctionConstantValues : public NS::Referencing<FunctionConstantValues> {
 public:
  static FunctionConstantValues* alloc() { return new FunctionConstantValues; }
  FunctionConstantValues* init() { return this; }
  void setConstantValue(const void* value, DataType type, NS::UInteger index) {
    const std::size_t size = type == DataTypeBool ? 1 : 4;
    const auto* first = static_cast<const std::byte*>(value);
    values[static_cast<unsigned>(index)].assign(first, first + size);
  }
  std::map<unsigned, std::vector<std::byte>> values;
};

class Function : public NS::Referencing<Function> {
 public:
  const metal_emulator::kernel* which = nullptr;
  std::map<unsigned, std::vector<std::byte>> constants;
  [[nodiscard]] NS::String* name() const {
    return NS::String::string(which->name.c_str(), NS::UTF8StringEncoding);
  }
};

class CompileOptions : public NS::Referencing<CompileOptions> {
 public:
  static CompileOptions* alloc() { return new CompileOptions; }
  CompileOptions* init() { return this; }
  void setFastMathEnabled(bool on) { fast_math = on; }
  void setLanguageVersion(LanguageVersion v) { version = v; }
  bool fast_math = true;  // Metal's default
  LanguageVersion version = LanguageVersion3_1;
};

class Library : public NS::Referencing<Library> {
 public:
  Function* newFunction(const NS::String* name) {
    const auto& all = metal_emulator::kernels();
    const auto found = all.find(name->utf8String());
    if (found == all.end() || found->first == metal_emulator::failures().function) return nullptr;
    auto* f = new Function;
    f->which = &found->second;
    return f;
  }
  Function* newFunction(const NS::String* name, const FunctionConstantValues* constants,
                        NS::Error** error) {
    Function* f = newFunction(name);
    if (f == nullptr) {
      if (error != nullptr) *error = NS::Error::make(1, "no such function");
      return nullptr;
    }
    f->constants = constants->values;
    return f;
  }
};

class ComputePipelineState : public NS::Referencing<ComputePipelineState> {
 public:
  const metal_emulator::kernel* which = nullptr;
  std::map<unsigned, std::vector<std::byte>> constants;
  [[nodiscard]] NS::UInteger maxTotalThreadsPerThreadgroup() const {
    return std::min<NS::UInteger>(which->max_threads, metal_emulator::failures().threads_per_group);
  }
  [[nodiscard]] NS::UInteger threadExecutionWidth() const { return metal_emulator::simd_width; }
};

/// Records commands; they run when their buffer is committed.
class ComputeCommandEncoder : public NS::Referencing<ComputeCommandEncoder> {
 public:
  static constexpr NS::UInteger largest_index = 30;  // of buffers and threadgroup memory

  ComputeCommandEncoder(CommandBuffer* owner, DispatchType type)
      : owner_(owner), is_concurrent_(type == DispatchTypeConcurrent) {}
  void setComputePipelineState(const ComputePipelineState* state) {
    check_open("setComputePipelineState");
    if (state == nullptr) metal_emulator::misuse("a pipeline that is null");
    pipeline_ = state;
  }
  void setBuffer(const Buffer* b, NS::UInteger offset, NS::UInteger index) {
    check_open("setBuffer");
    check_index(index);
    if (b == nullptr && offset != 0) metal_emulator::misuse("an offset into no buffer");
    if (b != nullptr && offset >= b->length()) {
      metal_emulator::misuse("buffer(" + std::to_string(index) + ") begins beyond its end");
    }
    // Constant memory wants 4 bytes on Apple's GPUs; so does the layer of all memory.
    if (offset % 4 != 0) {
      metal_emulator::misuse("offset " + std::to_string(offset) + " of buffer(" +
                             std::to_string(index) + ") is no multiple of 4");
    }
    const auto i = static_cast<unsigned>(index);
    bytes_.erase(i);
    bound_[i] = NS::RetainPtr(const_cast<Buffer*>(b));
    next_.buffers[i] = b == nullptr ? nullptr : b->memory();
    next_.offsets[i] = static_cast<std::int64_t>(offset);
  }
  void setBytes(const void* data, NS::UInteger length, NS::UInteger index) {
    check_open("setBytes");
    check_index(index);
    if (data == nullptr || length == 0 || length > 4096) {
      metal_emulator::misuse(std::to_string(length) + " bytes by setBytes, which takes 1 to 4096");
      return;
    }
    const auto i = static_cast<unsigned>(index);
    auto held = std::make_shared<passed>(length);
    std::memcpy(held->words.data(), data, length);
    bytes_[i] = held;
    next_.buffers[i] = &held->memory;
    next_.offsets[i] = 0;
  }
  void setThreadgroupMemoryLength(NS::UInteger length, NS::UInteger index) {
    check_open("setThreadgroupMemoryLength");
    check_index(index);
    next_.threadgroup_sizes[static_cast<unsigned>(index)] = length;
  }
  void dispatchThreadgroups(Size groups, Size threads) {
    record({groups.width * threads.width, groups.height * threads.height,
            groups.depth * threads.depth},
           threads);
  }
  void dispatchThreads(Size grid, Size threads) { record(grid, threads); }
  /// Dispatches run one after the other in any case; those of a concurrent encoder between two
  /// barriers must not depend on each other.
  void memoryBarrier(BarrierScope) {
    check_open("memoryBarrier");
    ++interval_;
  }
  void endEncoding() {
    check_open("endEncoding");
    ended = true;
  }
  bool ended = false;

 private:
  struct passed {
    explicit passed(std::size_t bytes)
        : words((bytes + sizeof(std::max_align_t) - 1) / sizeof(std::max_align_t)),
          memory(metal_emulator::space::constant, "bytes",
                 reinterpret_cast<std::byte*>(words.data()), bytes, true) {}
    std::vector<std::max_align_t> words;
    metal_emulator::allocation memory;
  };
  static metal_emulator::extent extent_of(Size s) {
    return {static_cast<std::uint32_t>(s.width), static_cast<std::uint32_t>(s.height),
            static_cast<std::uint32_t>(s.depth)};
  }
  ~ComputeCommandEncoder() override {
    if (!ended) metal_emulator::misuse("an encoder is released without endEncoding");
  }
  void check_open(const std::string& call) const {
    if (ended) metal_emulator::misuse(call + " after endEncoding");
  }
  static void check_index(NS::UInteger index) {
    if (index > largest_index) {
      metal_emulator::misuse("index " + std::to_string(index) + ", of at most 30");
    }
  }
  void record(Size grid, Size threads);

  CommandBuffer* owner_;
  bool is_concurrent_;
  std::uint64_t interval_ = 0;  // between barriers
  const ComputePipelineState* pipeline_ = nullptr;
  metal_emulator::launch next_;
  std::map<unsigned, std::shared_ptr<passed>> bytes_;
  std::map<unsigned, NS::SharedPtr<Buffer>> bound_;
};

using HandlerFunction = std::function<void(CommandBuffer*)>;

class CommandBuffer : public NS::Referencing<CommandBuffer> {
 public:
  ComputeCommandEncoder* computeCommandEncoder() {
    return computeCommandEncoder(DispatchTypeSerial);
  }
  ComputeCommandEncoder* computeCommandEncoder(DispatchType type) {
    if (is_committed()) metal_emulator::misuse("an encoder of a committed command buffer");
    if (encoder_ && !encoder_->ended) metal_emulator::misuse("two open encoders");
    auto* made = new ComputeCommandEncoder(this, type);
    encoder_ = NS::RetainPtr(made);
    return made->autorelease();
  }
  void addCompletedHandler(const HandlerFunction& f) {
    if (is_committed()) metal_emulator::misuse("a handler for a committed command buffer");
    handlers_.push_back(f);
  }
  /// Runs all that was encoded.
  void commit() {
    if (is_committed()) {
      metal_emulator::misuse("commit of a committed command buffer");
      return;
    }
    if (encoder_ && !encoder_->ended) metal_emulator::misuse("commit before endEncoding");
    encoder_.reset();
    status_ = CommandBufferStatusScheduled;
    metal_emulator::failures().hangs ? hanging().push_back(NS::RetainPtr(this)) : run();
  }
  /// Metal waits for as long as it takes; here a test that would hang ends.
  void waitUntilCompleted() {
    ++metal_emulator::activity().waits;
    if (status_ == CommandBufferStatusCompleted || status_ == CommandBufferStatusError) return;
    metal_emulator::misuse(is_committed() ? "a wait for a command buffer that hangs"
                                          : "a wait for a command buffer that was not committed");
  }
  [[nodiscard]] CommandBufferStatus status() const { return status_; }
  [[nodiscard]] NS::Error* error() const { return error_.get(); }
  [[nodiscard]] double GPUStartTime() const { return 0; }
  [[nodiscard]] double GPUEndTime() const { return 0; }

 private:
  friend class ComputeCommandEncoder;
  friend void metal_emulator::release_commands();
  static std::vector<NS::SharedPtr<CommandBuffer>>& hanging() {
    static std::vector<NS::SharedPtr<CommandBuffer>> all;
    return all;
  }
  [[nodiscard]] bool is_committed() const { return status_ != CommandBufferStatusNotEnqueued; }
  void run() {
    auto& plan = metal_emulator::failures();
    auto& done = metal_emulator::activity();
    const bool fails = done.command_buffers++ >= plan.command_buffers;
    status_ = CommandBufferStatusCompleted;
    if (!done.misuses.empty()) {
      fail(CommandBufferErrorInternal, done.misuses.back());
    } else if (fails) {
      fail(plan.command_buffer_code, "a fault that was asked for");
    } else {
      used_memory used;
      for (const recorded& r : commands_) {
        ++done.dispatches;
        const metal_emulator::outcome run = metal_emulator::run(r.what, done.how);
        add(done.cost[r.what.name], run.cost);
        if (!run.ok()) {
          done.last_fault = run.error;
          fail(CommandBufferErrorPageFault, run.error.message);
          break;
        }
        const std::string conflict = used.take(r.what, run.cost, r.interval, r.is_concurrent);
        if (!conflict.empty()) {
          done.last_fault = {};
          done.last_fault.kind = metal_emulator::fault_kind::race;
          done.last_fault.kernel = r.what.name;
          done.last_fault.message = conflict;
          fail(CommandBufferErrorPageFault, conflict);
          break;
        }
      }
    }
    commands_.clear();
    for (const HandlerFunction& f : std::exchange(handlers_, {})) f(this);
  }

  struct recorded {
    metal_emulator::launch what;
    std::map<unsigned, std::shared_ptr<void>> bytes;  // alive until the command has run,
    std::map<unsigned, NS::SharedPtr<Buffer>> bound;  // as Metal keeps them
    std::uint64_t interval = 0;
    bool is_concurrent = false;
  };
  /// Buffers that dispatches between two barriers have read and written.
  class used_memory {
   public:
    /// Adds those of a dispatch that has run; says what it shares with one it may run beside.
    std::string take(const metal_emulator::launch& what, const metal_emulator::counts& cost,
                     std::uint64_t interval, bool is_concurrent) {
      if (!is_concurrent || interval != interval_) {
        written_.clear();
        read_.clear();
      }
      interval_ = interval;
      std::string conflict;
      for (const auto& [index, traffic] : cost.buffers) {
        const auto bound = what.buffers.find(index);
        if (bound == what.buffers.end() || bound->second == nullptr) continue;
        const auto* memory = bound->second;
        if ((traffic.stores > 0 && (written_.count(memory) + read_.count(memory)) > 0) ||
            (traffic.loads > 0 && written_.count(memory) > 0)) {
          conflict = what.name + " and a dispatch beside it use buffer(" + std::to_string(index) +
                     "), one of them writing, without a barrier between";
        }
      }
      for (const auto& [index, traffic] : cost.buffers) {
        const auto bound = what.buffers.find(index);
        if (bound == what.buffers.end() || bound->second == nullptr) continue;
        if (traffic.stores > 0) written_.insert(bound->second);
        if (traffic.loads > 0) read_.insert(bound->second);
      }
      return conflict;
    }

   private:
    std::uint64_t interval_ = 0;
    std::set<const metal_emulator::allocation*> written_, read_;
  };
  void fail(std::int64_t code, const std::string& text) {
    status_ = CommandBufferStatusError;
    error_ = NS::TransferPtr(new NS::Error(static_cast<NS::Integer>(code), text));
  }
  static void add(metal_emulator::traffic& to, const metal_emulator::traffic& from) {
    to.loads += from.loads, to.stores += from.stores, to.atomics += from.atomics;
    to.loaded_bytes += from.loaded_bytes, to.stored_bytes += from.stored_bytes;
  }
  static void add(metal_emulator::counts& to, const metal_emulator::counts& from) {
    add(to.device, from.device), add(to.constant, from.constant);
    add(to.threadgroup, from.threadgroup);
    for (const auto& [index, t] : from.buffers) add(to.buffers[index], t);
    to.multiply_adds += from.multiply_adds;
    to.matrix_multiply_adds += from.matrix_multiply_adds;
    to.barriers += from.barriers, to.simdgroup_barriers += from.simdgroup_barriers;
    to.simdgroup_operations += from.simdgroup_operations;
    to.threadgroup_bytes = std::max(to.threadgroup_bytes, from.threadgroup_bytes);
  }

  CommandBufferStatus status_ = CommandBufferStatusNotEnqueued;
  NS::SharedPtr<ComputeCommandEncoder> encoder_;
  NS::SharedPtr<NS::Error> error_;
  std::vector<recorded> commands_;
  std::vector<HandlerFunction> handlers_;
};

inline void ComputeCommandEncoder::record(Size grid, Size threads) {
  check_open("a dispatch");
  if (pipeline_ == nullptr) {
    metal_emulator::misuse("a dispatch without a pipeline");
    return;
  }
  metal_emulator::launch what = next_;
  what.which = pipeline_->which;
  what.name = pipeline_->which->name;
  what.constants = pipeline_->constants;
  if (grid.width == 0 || grid.height == 0 || grid.depth == 0) {
    metal_emulator::misuse("an empty dispatch of " + what.name);
  }
  const NS::UInteger together = threads.width * threads.height * threads.depth;
  if (together == 0 || together > pipeline_->maxTotalThreadsPerThreadgroup()) {
    metal_emulator::misuse(std::to_string(together) + " threads in a threadgroup of " + what.name);
  }
  // Whether a kernel would read an argument or not: it must be bound.
  for (const metal_emulator::parameter& p : what.which->parameters) {
    if (p.what != metal_emulator::parameter::kind::buffer) continue;
    const auto found = what.buffers.find(p.index);
    if (found == what.buffers.end() || found->second == nullptr) {
      metal_emulator::misuse(what.name + " without buffer(" + std::to_string(p.index) + ")");
    }
  }
  what.grid = extent_of(grid);
  what.threads = extent_of(threads);
  CommandBuffer::recorded r{std::move(what), {}, bound_, interval_, is_concurrent_};
  for (const auto& [index, held] : bytes_) r.bytes[index] = held;
  owner_->commands_.push_back(std::move(r));
}

class CommandQueue : public NS::Referencing<CommandQueue> {
 public:
  CommandBuffer* commandBuffer() { return (new CommandBuffer)->autorelease(); }
};

class Device : public NS::Referencing<Device> {
 public:
  [[nodiscard]] NS::String* name() const {
    return NS::String::string("Metal emulator", NS::UTF8StringEncoding);
  }
  [[nodiscard]] bool supportsFamily(GPUFamily) const {
    return metal_emulator::failures().simdgroup_matrices;
  }
  [[nodiscard]] bool hasUnifiedMemory() const { return metal_emulator::failures().unified_memory; }
  [[nodiscard]] NS::UInteger maxBufferLength() const {
    return metal_emulator::failures().max_buffer_length;
  }
  [[nodiscard]] NS::UInteger maxThreadgroupMemoryLength() const { return 32768; }
  Library* newLibrary(const NS::String* source, const CompileOptions*, NS::Error** error) {
    if (metal_emulator::failures().library || source == nullptr || source->length() == 0) {
      if (error != nullptr) *error = NS::Error::make(3, "the source does not compile");
      return nullptr;
    }
    return new Library;
  }
  ComputePipelineState* newComputePipelineState(const Function* f, NS::Error** error) {
    if (f == nullptr || f->which->name == metal_emulator::failures().pipeline) {
      if (error != nullptr) *error = NS::Error::make(2, "no pipeline can be made");
      return nullptr;
    }
    auto* p = new ComputePipelineState;
    p->which = f->which;
    p->constants = f->constants;
    return p;
  }
  Buffer* newBuffer(NS::UInteger length, ResourceOptions) {
    return may_make(length) ? new Buffer(length) : nullptr;
  }
  Buffer* newBuffer(const void* data, NS::UInteger length, ResourceOptions options) {
    Buffer* b = newBuffer(length, options);
    if (b != nullptr) std::memcpy(b->contents(), data, length);
    return b;
  }
  /// The caller's memory itself: whole pages of it, as Metal wants them.
  Buffer* newBuffer(void* memory, NS::UInteger length, ResourceOptions, std::nullptr_t) {
    constexpr std::uintptr_t page = 16384;  // of Apple silicon
    if (reinterpret_cast<std::uintptr_t>(memory) % page != 0 || length % page != 0) return nullptr;
    if (!metal_emulator::failures().shared_pages) return nullptr;
    return may_make(length) ? new Buffer(memory, length) : nullptr;
  }
  CommandQueue* newCommandQueue() {
    return metal_emulator::failures().no_queue ? nullptr : new CommandQueue;
  }

 private:
  static bool may_make(NS::UInteger length) {
    const auto& plan = metal_emulator::failures();
    return length > 0 && length <= plan.max_buffer_length &&
           metal_emulator::activity().buffers++ < plan.buffers;
  }
};

inline Device* CreateSystemDefaultDevice() {
  return metal_emulator::failures().no_device ? nullptr : new Device;
}

}  // namespace MTL

namespace metal_emulator {

inline void release_commands() {
  failures().hangs = false;
  for (const auto& one : std::exchange(MTL::CommandBuffer::hanging(), {})) one->run();
}

}  // namespace metal_emulator
