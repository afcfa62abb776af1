// SPDX-License-Identifier: MIT
#include "kvfit/core/active_isa.hpp"

#include <cstdio>

#ifndef KVFIT_COMPILED
#error "kvfit-compiled does not say that kvfit is compiled"
#endif

int main() {
  const auto isa = kvfit::active_isa();  // asks the library
  std::printf("kvfit runs on %.*s\n", static_cast<int>(isa.size()), isa.data());
  return isa.empty() ? 1 : 0;
}
