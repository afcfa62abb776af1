// SPDX-License-Identifier: MIT
/// One KV head on its way to be compacted.
#pragma once

#include <cstddef>
#include <vector>

#include "kvfit/attention/inputs.hpp"
#include "kvfit/cache/heads.hpp"
#include "kvfit/core/index.hpp"

namespace kvfit {

/// One KV head that is to be compacted: its cache, the queries of its group, its layer's rule.
struct head_task {
  head_id id;
  std::size_t layer = 0;  ///< place in `cache_view::layers`
  kv_block block;
  std::vector<query_block> queries;  ///< of its group, in the order of `queries_of_layer`
  index_t visible = 0;               ///< rows that no bias hides
};

}  // namespace kvfit
