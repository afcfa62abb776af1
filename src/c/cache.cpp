// SPDX-License-Identifier: MIT
#include <algorithm>
#include <kvfit/cache/compact_cache.hpp>
#include <memory>

#include "call.hpp"
#include "convert.hpp"
#include "options.hpp"
#include "results.hpp"

namespace {

using kvfit::errc;
using kvfit::result;

}  // namespace

extern "C" {

int32_t kvfit_compact_cache(const kvfit_layer* layers, size_t layer_count,
                            const kvfit_layer_queries* queries, size_t query_count,
                            const kvfit_options* options, const kvfit_call* call, kvfit_cache** out,
                            kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = kvfit_c::need(options, "options"); !ok) return ok;
    if (const auto ok = kvfit_c::need(out, "out"); !ok) return ok;
    kvfit_c::inputs in;
    const auto view = in.cache(layers, layer_count);
    if (!view) return view.error();
    const auto asked = in.cache_queries(queries, query_count);
    if (!asked) return asked.error();
    auto how = kvfit_c::read_call(call, true, true);
    if (!how) return how.error();
    auto fitted = kvfit::compact_cache(*view, *asked, kvfit_c::cache_options_of(*options),
                                       how->threads, how->by);
    if (!fitted) return fitted.error();
    *out = new kvfit_cache(std::make_shared<const kvfit::compacted_cache>(std::move(*fitted)));
    return {};
  });
}

const kvfit_cache_result* kvfit_cache_get(const kvfit_cache* cache) {
  return cache == nullptr ? nullptr : &cache->result;
}

void kvfit_cache_free(kvfit_cache* cache) {
  delete cache;
}

int32_t kvfit_plan_cache(const kvfit_layer* layers, size_t layer_count,
                         const kvfit_layer_queries* queries, size_t query_count,
                         const kvfit_options* options, const kvfit_call* call, int64_t* rows,
                         size_t* count, kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = kvfit_c::need(options, "options"); !ok) return ok;
    if (const auto ok = kvfit_c::need(count, "count"); !ok) return ok;
    if (*count > 0) {
      if (const auto ok = kvfit_c::need(rows, "rows"); !ok) return ok;
    }
    kvfit_c::inputs in;
    const auto view = in.cache(layers, layer_count);
    if (!view) return view.error();
    const auto asked = in.cache_queries(queries, query_count);
    if (!asked) return asked.error();
    auto how = kvfit_c::read_call(call, true, false);
    if (!how) return how.error();
    const auto plan = kvfit::plan_cache(*view, *asked, kvfit_c::cache_options_of(*options),
                                        how->threads, how->by);
    if (!plan) return plan.error();
    const std::size_t heads = plan->rows.size();
    const std::size_t space = *count;
    *count = heads;
    if (heads > space) {
      return kvfit::error{errc::shape_mismatch, "rows", static_cast<int64_t>(space),
                          static_cast<int64_t>(heads), "one for each head"};
    }
    std::copy(plan->rows.begin(), plan->rows.end(), rows);
    return {};
  });
}

}  // extern "C"
