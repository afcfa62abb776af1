// SPDX-License-Identifier: MIT
/// The end of what kvfit/core/undefine_min_max.hpp began.
#pragma pop_macro("max")
#pragma pop_macro("min")
