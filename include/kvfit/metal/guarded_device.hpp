// SPDX-License-Identifier: MIT
/// A device, used by one thread at a time, and what it was used for.
#pragma once

#include <memory>
#include <mutex>
#include <utility>

#include "kvfit/core/config.hpp"
#include "kvfit/core/index.hpp"
#include "kvfit/metal/device.hpp"
#include "kvfit/metal/placement.hpp"

namespace kvfit::metal {

/// Stages that an executor has run since it was made.
struct stage_counts {
  index_t score_passes = 0;  ///< on the GPU, of heads
  index_t attentions = 0;    ///< on the GPU, of heads
  index_t selections = 0;
  index_t fits = 0;  ///< of weights or values
  index_t handed_over =
      0;  ///< begun on the GPU and left to the CPU: not finite, or too ill-conditioned
};

}  // namespace kvfit::metal

namespace kvfit::metal {
inline namespace KVFIT_ISA {

struct guarded_device {
  std::mutex mutex;
  std::unique_ptr<device> gpu;
  placement from;
  stage_counts counts;
};

}  // namespace KVFIT_ISA
}  // namespace kvfit::metal
