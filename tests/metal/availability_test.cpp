// SPDX-License-Identifier: MIT
#include "kvfit/metal/availability.hpp"

#include "support/catch.hpp"

namespace {

TEST_CASE("Without kvfit::metal the answer is no, and the header needs nothing of Apple's",
          "[metal]") {
  CHECK(kvfit::metal::find_availability() == kvfit::metal::availability::not_built);
}

}  // namespace
