// SPDX-License-Identifier: MIT
// Every header, in the first of two units; also the small program run without exceptions.
#include "all_headers.hpp"

#include <cstdio>
#include <string_view>
#include <vector>

const char* version_in_second_unit();

namespace {

int failures = 0;

/// A plain check: Catch2 itself wants exceptions, and this program is built without them too.
void check(bool holds, const char* what) {
  if (holds) return;
  ++failures;
  std::printf("failed: %s\n", what);
}

}  // namespace

int main() {
  check(version_in_second_unit() == std::string_view(kvfit::version),
        "both units know one version");

  const kvfit::result<int> good = 3;
  const kvfit::result<int> bad = kvfit::error{kvfit::errc::empty_input, "keys"};
  check(good.has_value() && *good == 3, "a result holds its value");
  check(!bad && bad.error().message() == "empty_input: keys", "a result holds its error");

  const std::vector<float> rows = {1, 2, 3, 4, 5, 6};
  const auto view = kvfit::make_view(rows, 2, 3);
  check(view.has_value() && (*view)(1, 0) == 4.0F, "a view reads where the rows lie");
  check(!kvfit::make_view(rows, 2, 2), "a view refuses a wrong length");

  if (failures == 0) std::printf("kvfit %s: all checks hold\n", kvfit::version);
  return failures == 0 ? 0 : 1;
}
