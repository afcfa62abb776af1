// SPDX-License-Identifier: MIT
/// The heads of one layer, on their way to be compacted by itself.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "kvfit/cache/cache_view.hpp"
#include "kvfit/cache/check_cache.hpp"
#include "kvfit/cache/head_task.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit::detail {
inline namespace KVFIT_ISA {

/// The heads of a layer that is compacted by itself, with the queries of their groups.
inline result<std::vector<head_task>> tasks_of_layer(const cache_layer& layer,
                                                     std::span<const query_block> queries) {
  if (layer.kind != layer_kind::global) {
    return error{errc::invalid_option, "layer " + std::to_string(layer.number), error::none,
                 error::none, "only global layers are compacted"};
  }
  std::vector<head_task> tasks;
  if (const auto ok = add_tasks(layer, 0, queries, tasks); !ok) return ok.error();
  return tasks;
}

}  // namespace KVFIT_ISA
}  // namespace kvfit::detail
