// SPDX-License-Identifier: MIT
// The header of C as C++17 sees it: what llama.cpp and TensorRT-LLM are written in.
#include <kvfit/c/kvfit.h>

#include <cstdio>
#include <memory>
#include <stdexcept>
#include <vector>

static_assert(__cplusplus < 202002L, "this program is there to be compiled as C++17");

namespace {

template <class T, void (*Free)(T*)>
struct freed_by {
  void operator()(T* object) const noexcept { Free(object); }
};
using options_ptr = std::unique_ptr<kvfit_options, freed_by<kvfit_options, kvfit_options_free>>;
using compacted_ptr =
    std::unique_ptr<kvfit_compacted, freed_by<kvfit_compacted, kvfit_compacted_free>>;

kvfit_rows rows_of(const std::vector<float>& numbers, int64_t cols) {
  kvfit_rows rows{};
  rows.struct_size = sizeof rows;
  rows.data = numbers.data();
  rows.rows = static_cast<int64_t>(numbers.size()) / cols;
  rows.cols = cols;
  return rows;
}

void ok(int32_t code, const kvfit_error& error) {
  if (code != KVFIT_OK) throw std::runtime_error(error.message);
}

}  // namespace

int main() try {
  std::vector<float> keys(128 * 8), values(128 * 4), queries(32 * 8);
  unsigned state = 1;
  for (auto* numbers : {&keys, &values, &queries}) {
    for (float& x : *numbers) {
      state = state * 1664525u + 1013904223u;
      x = static_cast<float>(state >> 8) / 8388608.0f - 1.0f;
    }
  }
  const kvfit_rows key_rows = rows_of(keys, 8), value_rows = rows_of(values, 4),
                   query_rows = rows_of(queries, 8);
  kvfit_block cache{};
  cache.struct_size = sizeof cache;
  cache.keys = &key_rows;
  cache.values = &value_rows;
  kvfit_queries asked{};
  asked.struct_size = sizeof asked;
  asked.rows = &query_rows;
  kvfit_error error{};
  error.struct_size = sizeof error;
  kvfit_options* made = nullptr;
  ok(kvfit_options_make("omp", &made, &error), error);
  const options_ptr options(made);
  ok(kvfit_options_set(options.get(), "budget", 16, &error), error);
  kvfit_compacted* fitted = nullptr;
  ok(kvfit_compact(&cache, &asked, 1, options.get(), nullptr, &fitted, &error), error);
  const compacted_ptr small(fitted);
  const kvfit_result* result = kvfit_compacted_result(small.get());
  std::printf("%d rows for %d\n", static_cast<int>(result->rows), 128);
  return result->rows == 16 && result->width == 4 ? 0 : 1;
} catch (const std::exception& cause) {
  std::fprintf(stderr, "%s\n", cause.what());
  return 1;
}
