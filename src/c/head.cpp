// SPDX-License-Identifier: MIT
#include <algorithm>
#include <kvfit/attention/attend.hpp>
#include <kvfit/compact.hpp>
#include <kvfit/compact/memory_plan.hpp>
#include <kvfit/core/active_isa.hpp>
#include <kvfit/core/version.hpp>
#include <kvfit/view/make_view.hpp>
#include <kvfit/view/store.hpp>

#include "call.hpp"
#include "convert.hpp"
#include "options.hpp"
#include "results.hpp"

namespace {

using kvfit::errc;
using kvfit::result;

// The cache and queries of a call over one head.
struct head_inputs {
  kvfit::kv_block cache;
  kvfit::query_set queries;
};

result<head_inputs> read_head(kvfit_c::inputs& in, const kvfit_block* cache,
                              const kvfit_queries* queries, std::size_t query_count) {
  const auto given = kvfit_c::read_struct(cache, "cache");
  if (!given) return given.error();
  const auto block = in.block(*given, "cache");
  if (!block) return block.error();
  const auto asked = in.queries(queries, query_count);
  if (!asked) return asked.error();
  return head_inputs{*block, kvfit::query_set(*asked)};
}

}  // namespace

extern "C" {

const char* kvfit_version(void) {
  return kvfit::version;
}

const char* kvfit_instruction_set(void) {
  return kvfit::active_isa().data();  // of a literal
}

int32_t kvfit_compact(const kvfit_block* cache, const kvfit_queries* queries, size_t query_count,
                      const kvfit_options* options, const kvfit_call* call, kvfit_compacted** out,
                      kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = kvfit_c::need(options, "options"); !ok) return ok;
    if (const auto ok = kvfit_c::need(out, "out"); !ok) return ok;
    kvfit_c::inputs in;
    const auto head = read_head(in, cache, queries, query_count);
    if (!head) return head.error();
    auto how = kvfit_c::read_call(call, true, false);
    if (!how) return how.error();
    auto fitted =
        kvfit::compact(head->cache, head->queries, options->head, how->by.stop(), how->threads);
    if (!fitted) return fitted.error();
    *out = new kvfit_compacted(std::move(*fitted));
    return {};
  });
}

const kvfit_result* kvfit_compacted_result(const kvfit_compacted* compacted) {
  return compacted == nullptr ? nullptr : &compacted->result;
}

void kvfit_compacted_free(kvfit_compacted* compacted) {
  delete compacted;
}

int32_t kvfit_planned_memory(const kvfit_block* cache, const kvfit_queries* queries,
                             size_t query_count, const kvfit_options* options, int32_t threads,
                             int64_t* needed, int64_t* wanted, kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = kvfit_c::need(options, "options"); !ok) return ok;
    kvfit_c::inputs in;
    const auto head = read_head(in, cache, queries, query_count);
    if (!head) return head.error();
    kvfit::compaction_sizes sizes = kvfit::sizes_of(head->cache, head->queries);
    if (threads < 0) {
      return kvfit::error{errc::invalid_option, "threads", threads, 0, "must not be negative"};
    }
    sizes.threads = std::max<int64_t>(threads, 1);
    const auto plan = kvfit::planned_memory(sizes, options->head);
    if (!plan) return plan.error();
    if (needed != nullptr) *needed = plan->needed;
    if (wanted != nullptr) *wanted = plan->wanted;
    return {};
  });
}

int32_t kvfit_attend(const kvfit_queries* queries, size_t query_count, const kvfit_block* blocks,
                     size_t block_count, const kvfit_rule* rule, int64_t memory, float* output,
                     float* log_mass, kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = kvfit_c::need(output, "output"); !ok) return ok;
    kvfit_c::inputs in;
    const auto asked = in.queries(queries, query_count);
    if (!asked) return asked.error();
    const auto parts = in.blocks(blocks, block_count);
    if (!parts) return parts.error();
    result<kvfit::logit_rule> how = kvfit::logit_rule{};
    if (rule != nullptr) how = kvfit_c::rule_of(rule, "rule");
    if (!how) return how.error();
    kvfit::attend_options limits;
    if (memory != 0) limits.memory = memory;
    const auto y = kvfit::attend(kvfit::query_set(*asked), *parts, *how, limits);
    if (!y) return y.error();
    std::copy_n(y->output.data(), y->output.size(), output);
    if (log_mass != nullptr) std::copy_n(y->log_mass.data(), y->log_mass.size(), log_mass);
    return {};
  });
}

int32_t kvfit_store_rows(const float* source, int64_t rows, int64_t cols, const kvfit_rows* target,
                         kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    const auto from = kvfit::make_view({.data = source,
                                        .type = kvfit::dtype::fp32,
                                        .rows = rows,
                                        .cols = cols,
                                        .row_stride = cols});
    if (!from) return from.error();
    const auto to = kvfit_c::view_of(target, "target");
    if (!to) return to.error();
    return kvfit::store_rows(*from, kvfit::writable_view(*to), "source");
  });
}

}  // extern "C"
