// SPDX-License-Identifier: MIT
/// The last of a header's includes, where it or xsimd calls functions named min and max: windows.h defines macros of
/// these names unless NOMINMAX is defined. They are put aside until the header ends with
/// kvfit/core/restore_min_max.hpp, and are then as they were. No guard: each header has its own pair.
#pragma push_macro("min")
#pragma push_macro("max")
#undef min
#undef max
