// SPDX-License-Identifier: MIT
#include "kvfit/core/index.hpp"

#include <strings.h>

#include <type_traits>

#include "support/catch.hpp"

namespace using_directive {

using namespace kvfit;  // NOLINT(*-build-using-namespace): what is tested

index_t twice(index_t rows) {
  return 2 * rows;
}

}  // namespace using_directive

TEST_CASE("sizes keep their type beside POSIX's index(), under a using-directive", "[core]") {
  STATIC_REQUIRE(std::is_same_v<kvfit::index_t, std::int64_t>);
  CHECK(using_directive::twice(21) == 42);
  CHECK(::index("ab", 'b') != nullptr);  // the function that a type of that name collides with
}
