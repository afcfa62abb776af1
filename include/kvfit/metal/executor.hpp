// SPDX-License-Identifier: MIT
/// kvfit::metal: the hot stages of `compact()`, `compact_cache()` and `attend()` on an Apple GPU.
/// Link the target kvfit::metal, which exists on Apple when asked for.
#pragma once

#include "kvfit/metal/device_executor.hpp"
#include "kvfit/metal/run_attend.hpp"
#include "kvfit/metal/run_compact.hpp"
#include "kvfit/metal/run_compact_cache.hpp"
