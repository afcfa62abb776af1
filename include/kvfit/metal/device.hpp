// SPDX-License-Identifier: MIT
/// The GPU, its queue, and the pipelines of kvfit's shaders. Needs metal-cpp and the header of
/// shader sources that `kvfit_embed_shaders` writes.
#pragma once

#include <Metal/Metal.hpp>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/metal/kernels/shared/tile_sizes.h"
#include "kvfit/metal/sources.hpp"

namespace kvfit::metal {

/// How a device is used.
struct device_options {
  /// Bytes ≥ 0 from which memory of the caller becomes a buffer as it lies, without a copy; less is
  /// copied.
  index_t share_from = index_t{1} << 20;
  /// Multiply tiles by simdgroup matrices where the device has them (Apple7 and later).
  bool uses_simdgroup_matrices = true;
  /// Seconds > 0 that a call waits for a command buffer at most. None: until the system ends what
  /// takes too long. A command buffer that was begun can't be taken back, so with a limit nothing
  /// of the caller's becomes a buffer: all is copied.
  std::optional<double> longest_wait = std::nullopt;
};

/// A kernel: the shader file that it stands in, and its name there.
struct kernel_name {
  std::string_view source;
  std::string name;
};

}  // namespace kvfit::metal

namespace kvfit::metal {
inline namespace KVFIT_ISA {

/// Releases, at its end, what metal-cpp hands out without an owner.
class autorelease_scope {
 public:
  autorelease_scope() : pool_(NS::TransferPtr(NS::AutoreleasePool::alloc()->init())) {}
  autorelease_scope(const autorelease_scope&) = delete;
  autorelease_scope& operator=(const autorelease_scope&) = delete;
  ~autorelease_scope() = default;

 private:
  NS::SharedPtr<NS::AutoreleasePool> pool_;
};

/// A text as metal-cpp takes it; its owner is the innermost `autorelease_scope`.
inline NS::String* ns_string(const std::string& text) {
  return NS::String::string(text.c_str(), NS::UTF8StringEncoding);
}

/// What the system says of an error, or nothing.
inline std::string text_of(const NS::Error* cause) {
  if (cause == nullptr || cause->localizedDescription() == nullptr) return "no reason given";
  return cause->localizedDescription()->utf8String();
}

/// The system's default GPU. Shaders are compiled at the first use of a kernel of their file, once;
/// a pipeline is made once. Neither thread-safe nor copyable: `executor` guards it.
class device {
 public:
  /// `no_device` where the system offers no GPU, or one without unified memory, or no queue of it;
  /// `out_of_memory`.
  static result<std::unique_ptr<device>> open(const device_options& options) {
    const autorelease_scope scope;
    auto gpu = NS::TransferPtr(MTL::CreateSystemDefaultDevice());
    if (!gpu) return error{errc::no_device, "metal", error::none, error::none, "no GPU"};
    if (!gpu->hasUnifiedMemory()) {
      return error{errc::no_device, "metal", error::none, error::none,
                   "the GPU does not share the CPU's memory"};
    }
    auto queue = NS::TransferPtr(gpu->newCommandQueue());
    if (!queue) return error{errc::no_device, "metal", error::none, error::none, "no queue"};
    // More than any one element that a kernel reads, as Metal's validation wants of a binding.
    constexpr NS::UInteger bytes = 256;
    auto nothing = NS::TransferPtr(gpu->newBuffer(bytes, MTL::ResourceStorageModeShared));
    if (!nothing) return error{errc::out_of_memory, "metal buffer", bytes};
    nothing->setLabel(ns_string("kvfit: not read"));
    return std::unique_ptr<device>(
        new device(options, std::move(gpu), std::move(queue), std::move(nothing)));
  }

  device(const device&) = delete;
  device& operator=(const device&) = delete;
  ~device() = default;

  [[nodiscard]] const device_options& options() const noexcept { return options_; }
  [[nodiscard]] MTL::Device& gpu() noexcept { return *gpu_.get(); }
  [[nodiscard]] MTL::CommandQueue& queue() noexcept { return *queue_.get(); }
  /// What stands for a buffer that a kernel is not to read: Metal's validation wants every argument
  /// bound.
  [[nodiscard]] MTL::Buffer* nothing() const noexcept { return nothing_.get(); }

  /// Keeps a command buffer that was given up on.
  void set_late(NS::SharedPtr<MTL::CommandBuffer> commands) { late_ = std::move(commands); }
  /// Whether one that was given up on still runs. Then nothing that is committed begins.
  [[nodiscard]] bool is_late() {
    if (!late_) return false;
    const auto status = late_->status();
    if (status != MTL::CommandBufferStatusCompleted && status != MTL::CommandBufferStatusError) {
      return true;
    }
    late_.reset();
    return false;
  }

  /// NAME for simdgroup matrices, NAME_plain without them.
  [[nodiscard]] std::string tiled(std::string name) const {
    return has_matrices_ ? std::move(name) : std::move(name) + "_plain";
  }

  /// `shader_failed` where the file does not compile, has no such kernel, or no pipeline of enough
  /// threads can be made of it.
  result<MTL::ComputePipelineState*> pipeline(const kernel_name& of) {
    if (const auto found = pipelines_.find(of.name); found != pipelines_.end()) {
      return found->second.get();
    }
    const auto library = library_of(of.source);
    if (!library) return library.error();
    const auto function = NS::TransferPtr((*library)->newFunction(ns_string(of.name)));
    if (!function) return failed(of.name, "the shader has no such kernel");
    NS::Error* cause = nullptr;
    auto made = NS::TransferPtr(gpu_->newComputePipelineState(function.get(), &cause));
    if (!made) return failed(of.name, text_of(cause));
    if (made->maxTotalThreadsPerThreadgroup() < kernels::group_threads ||
        made->threadExecutionWidth() != 32) {
      return failed(of.name, "the GPU can't run four simdgroups of 32 threads of it");
    }
    return pipelines_.emplace(of.name, std::move(made)).first->second.get();
  }

 private:
  device(const device_options& options, NS::SharedPtr<MTL::Device> gpu,
         NS::SharedPtr<MTL::CommandQueue> queue, NS::SharedPtr<MTL::Buffer> nothing)
      : options_(options),
        gpu_(std::move(gpu)),
        queue_(std::move(queue)),
        nothing_(std::move(nothing)),
        has_matrices_(options.uses_simdgroup_matrices &&
                      gpu_->supportsFamily(MTL::GPUFamilyApple7)) {}

  static error failed(std::string_view what, const std::string& why) {
    return error{errc::shader_failed, what, error::none, error::none, why};
  }

  result<MTL::Library*> library_of(std::string_view source) {
    if (const auto found = libraries_.find(source); found != libraries_.end()) {
      return found->second.get();
    }
    for (const shader_source& shader : sources) {
      if (shader.name != source) continue;
      // Only the instances that this device is asked for.
      const std::string text = std::string("#define KVFIT_TILES ") + (has_matrices_ ? "2" : "1") +
                               "\n#define KVFIT_QUERIES_ARE_FP32\n" + std::string(shader.text);
      const auto how = NS::TransferPtr(MTL::CompileOptions::alloc()->init());
      how->setFastMathEnabled(false);
      how->setLanguageVersion(MTL::LanguageVersion3_1);
      NS::Error* cause = nullptr;
      auto made = NS::TransferPtr(gpu_->newLibrary(ns_string(text), how.get(), &cause));
      if (!made) return failed(source, text_of(cause));
      return libraries_.emplace(shader.name, std::move(made)).first->second.get();
    }
    return failed(source, "kvfit has no such shader");
  }

  device_options options_;
  NS::SharedPtr<MTL::Device> gpu_;
  NS::SharedPtr<MTL::CommandQueue> queue_;
  NS::SharedPtr<MTL::Buffer> nothing_;
  NS::SharedPtr<MTL::CommandBuffer> late_;
  bool has_matrices_;
  std::map<std::string_view, NS::SharedPtr<MTL::Library>> libraries_;
  std::map<std::string, NS::SharedPtr<MTL::ComputePipelineState>, std::less<>> pipelines_;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::metal
