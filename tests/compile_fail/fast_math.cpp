// SPDX-License-Identifier: MIT
// What -ffast-math tells the headers: they refuse it.
// expect: can't be compiled with -ffast-math
#ifdef KVFIT_BAD
#define __FAST_MATH__ 1
#endif
#include "kvfit/core/config.hpp"
