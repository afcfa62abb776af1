// SPDX-License-Identifier: MIT
/// What the common subset of C++ and of shader languages needs: integers of fixed width, constants,
/// and the functions that each language calls by another name.
///
/// Headers in this directory are included by the host and by shaders. They hold arguments and
/// arithmetic, and know neither address spaces nor threads: a unit for another GPU takes them as
/// they are.
#pragma once

#ifdef __METAL_VERSION__
#include <metal_stdlib>
#define KVFIT_CONSTANT constant constexpr
#define KVFIT_SHARED inline
#define KVFIT_TANH(x) ::metal::precise::tanh(x)
#else
#include <stdint.h>

#include <cmath>
#define KVFIT_CONSTANT inline constexpr
#define KVFIT_SHARED inline
#define KVFIT_TANH(x) ::std::tanh(x)
#endif
