// SPDX-License-Identifier: MIT
/// Where `kvfit eval --engine` takes reference queries from.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/forward.hpp"
#include "kvfit/core/result.hpp"

namespace kvfit_tool {

/// A prefix as it was read: its full cache, and the queries that read it.
struct read_prefix {
  std::span<const llama::token> tokens;
  llama::live_cache cache;
  llama::captured_queries queries;
};

/// One way to make reference queries of a prefix.
struct query_source {
  std::string_view name;
  std::string_view summary;
  kvfit::result<llama::captured_queries> (*make)(const llama::model& engine,
                                                 const read_prefix& prefix);
};

/// All of them, the default first.
const std::vector<query_source>& query_sources();

/// The source of that name, or none.
const query_source* find_query_source(std::string_view name);

}  // namespace kvfit_tool
