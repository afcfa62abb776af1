// SPDX-License-Identifier: MIT
#include "query_source.hpp"

#include <algorithm>

namespace kvfit_tool {

namespace {

/// The model reads the prefix once more, word for word, behind itself.
kvfit::result<llama::captured_queries> repeat(const llama::model& engine,
                                              const read_prefix& prefix) {
  llama::live_cache again(engine, prefix.cache.next_position());
  llama::captured_queries queries;
  const auto read = llama::forward(engine, prefix.tokens, prefix.cache.view(), again, &queries);
  if (!read) return read.error();
  return queries;
}

/// Those of the first reading, each let to see all of the prefix.
kvfit::result<llama::captured_queries> context(const llama::model&, const read_prefix& prefix) {
  return prefix.queries;
}

}  // namespace

const std::vector<query_source>& query_sources() {
  static const std::vector<query_source> all = {
      {"repeat", "the model reads the prefix once more, word for word", repeat},
      {"context", "the queries that read the prefix, as they were", context}};
  return all;
}

const query_source* find_query_source(std::string_view name) {
  const auto& all = query_sources();
  const auto found = std::find_if(all.begin(), all.end(),
                                  [&](const query_source& each) { return each.name == name; });
  return found == all.end() ? nullptr : &*found;
}

}  // namespace kvfit_tool
