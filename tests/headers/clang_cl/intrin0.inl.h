// SPDX-License-Identifier: MIT
// Stands in for the header of this name of Microsoft's compiler.
#pragma once

#include <intrin.h>
