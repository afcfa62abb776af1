// SPDX-License-Identifier: MIT
// Whether there is a GPU is asked everywhere; elsewhere than on Apple the answer is no.
#include <cstdio>

#include "kvfit/metal/availability.hpp"
#include "kvfit/metal/sources.hpp"

int main() {
  const auto found = kvfit::metal::find_availability();
  bool has_texts = false;
  for (const auto& source : kvfit::metal::sources) has_texts = !source.text.empty();
  std::printf("metal: %d\n", static_cast<int>(found));
#if defined(__APPLE__)
  const bool is_right = found != kvfit::metal::availability::not_built;
#else
  const bool is_right = found == kvfit::metal::availability::not_built;
#endif
  return is_right && has_texts ? 0 : 1;
}
