// SPDX-License-Identifier: MIT
// metal-cpp wants its implementation in one unit of a program: this one.
#define NS_PRIVATE_IMPLEMENTATION
#define MTL_PRIVATE_IMPLEMENTATION
#include <Metal/Metal.hpp>
