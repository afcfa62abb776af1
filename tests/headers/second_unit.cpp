// SPDX-License-Identifier: MIT
// Every header again, in the second of two units, where macros are named min and max as after
// windows.h. They stand behind the headers of others, which have to deal with them in their own way.
#include "foreign_headers.hpp"

#undef min
#undef max
#define min(a, b) kvfit_calls_min_without_parentheses
#define max(a, b) kvfit_calls_max_without_parentheses
#include "all_headers.hpp"

#if !defined(min) || !defined(max)
#error "a header of kvfit took the includer's macros away"
#endif

const char* version_in_second_unit();
const char* version_in_second_unit() {
  return kvfit::version;
}
