// SPDX-License-Identifier: MIT
/// The whole of compact(), preset by preset.
#include "fixture.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/presets.hpp"

namespace kvfit::bench {
namespace {

template <class Compact>
void add_eigen(row what, Compact compact) {
  what.method = "eigen";
  add(
      what, [compact](const workload& work) { return [&work, compact] { return compact(work); }; },
      [](const workload& work, const baseline::compacted& got) {
        return judge(work, got.keys, got.bias, got.values);
      });
}

void add_kvfit(row what, compact_options (*preset)(index_t)) {
  what.method = "kvfit";
  add(
      what,
      [preset](const workload& work) {
        return [&work, preset] {
          return *compact(work.data.keys, work.data.values, work.data.queries, preset(work.budget));
        };
      },
      [](const workload& work, const compacted& got) {
        return judge(work, got.keys, got.bias, got.values);
      });
}

void add_omp(row what, const baseline::omp& plain, compact_options (*preset)(index_t)) {
  add_eigen(what, [plain](const workload& work) {
    return baseline::compact_omp(work.data.queries, work.data.keys, work.data.values, work.budget,
                                 plain);
  });
  add_kvfit(what, preset);
}

}  // namespace

void add_rows(bool is_full) {
  for_sizes([is_full](index_t keys, index_t depth) {
    row what{.stage = "compact_highest_attention", .method = {}, .keys = keys, .depth = depth};
    what.items = static_cast<double>(keys);
    what.item = "keys/s";
    add_eigen(what, [](const workload& work) {
      return baseline::compact_highest_attention(work.data.queries, work.data.keys,
                                                 work.data.values, work.budget);
    });
    add_kvfit(what, presets::highest_attention);
    what.is_slow = keys > 8192;
    what.stage = "compact_omp_fast";
    add_omp(what, {.keys_per_round = 4, .refit_interval = 2}, presets::omp_fast);
    what.stage = "compact_omp";
    if (keys <= 8192 || is_full) add_omp(what, {}, presets::omp);
    what.stage = "compact_default";  // has no published counterpart
    add_kvfit(what, presets::joint);
  });
}

}  // namespace kvfit::bench
