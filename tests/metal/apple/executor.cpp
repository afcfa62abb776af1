// SPDX-License-Identifier: MIT
// The host side against metal-cpp's own headers: parsed, never linked.
#define KVFIT_METAL
#include "kvfit/metal/executor.hpp"
#include "kvfit/metal/availability.hpp"

kvfit::result<kvfit::attention_output> use(const kvfit::query_set& queries,
                                           const kvfit::kv_block& cache) {
  auto gpu = kvfit::metal::executor::make();
  if (!gpu) return gpu.error();
  return kvfit::metal::attend(*gpu, queries, {cache});
}
