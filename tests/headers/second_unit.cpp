// SPDX-License-Identifier: MIT
// Every header again, in the second of two units.
#include "all_headers.hpp"

const char* version_in_second_unit();
const char* version_in_second_unit() {
  return kvfit::version;
}
