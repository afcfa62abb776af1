// SPDX-License-Identifier: MIT
#include <kvfit/c/kvfit.h>

#include <cstdio>

int main() {
  float keys[4 * 2] = {1, 0, 0, 1, 1, 1, 0.5F, 0};
  kvfit_rows rows{};
  rows.struct_size = sizeof rows;
  rows.data = keys;
  rows.rows = 4;
  rows.cols = 2;
  kvfit_block cache{};
  cache.struct_size = sizeof cache;
  cache.keys = &rows;
  cache.values = &rows;
  kvfit_queries queries{};
  queries.struct_size = sizeof queries;
  queries.rows = &rows;
  kvfit_error error{};
  error.struct_size = sizeof error;
  kvfit_options* options = nullptr;
  kvfit_compacted* small = nullptr;
  if (kvfit_options_make(nullptr, &options, &error) != KVFIT_OK ||
      kvfit_options_set(options, "budget", 2, &error) != KVFIT_OK ||
      kvfit_compact(&cache, &queries, 1, options, nullptr, &small, &error) != KVFIT_OK) {
    std::fprintf(stderr, "%s\n", error.message);
    return 1;
  }
  const bool is_right = kvfit_compacted_result(small)->rows == 2;
  std::printf("kvfit_c %s on %s\n", kvfit_version(), kvfit_instruction_set());
  kvfit_compacted_free(small);
  kvfit_options_free(options);
  return is_right ? 0 : 1;
}
