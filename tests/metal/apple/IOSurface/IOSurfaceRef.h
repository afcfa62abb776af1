// SPDX-License-Identifier: MIT
#pragma once

using IOSurfaceRef = struct io_surface*;
