// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstdint>

using CFTimeInterval = double;
using dispatch_data_t = struct dispatch_data*;
using dispatch_queue_t = struct dispatch_queue*;
using kern_return_t = int;
using task_id_token_t = unsigned;
using mach_port_t = unsigned;
