// SPDX-License-Identifier: MIT
// One head, three lines: compact a cache of 4,096 rows to 256 and attend over it.
#include <cstdio>
#include <cstdlib>
#include <kvfit/kvfit.hpp>

int main() {
  // An engine has these in memory: 4,096 cached keys and values, 1,024 recent queries, head
  // size 64.
  std::srand(1);
  const kvfit::matrix keys = kvfit::matrix::Random(4096, 64);
  const kvfit::matrix values = kvfit::matrix::Random(4096, 64);
  const kvfit::matrix queries = kvfit::matrix::Random(1024, 64);

  const auto fitted = kvfit::compact(keys, values, queries, {.budget = 256});
  if (!fitted) {
    std::puts(fitted.error().message().c_str());
    return 1;
  }
  const auto& report = fitted->report;
  std::printf("%d of %d rows kept; held-out mass error %.1f %%, output error %.1f %%\n",
              static_cast<int>(fitted->keys.rows()), static_cast<int>(keys.rows()),
              100 * report.held_out->mass_error, 100 * report.held_out->output_error);
}
