// SPDX-License-Identifier: MIT
/// Selections, from finished scores: which rows stay.
#include "fixture.hpp"
#include "kvfit/attention/score_pass.hpp"
#include "kvfit/compact/policy_functions.hpp"
#include "kvfit/presets.hpp"

namespace kvfit::bench {
namespace {

struct selection_row {
  row what;
  baseline::omp plain;
  any_selection ours;
};

template <class Chosen>
vector weights_of(const Chosen& chosen) {
  return Eigen::Map<const Eigen::VectorXd>(chosen.weights.data(),
                                           static_cast<index_t>(chosen.weights.size()))
      .template cast<float>();
}

void add_kvfit(row what, const any_selection& policy) {
  what.method = what.method.empty() ? "kvfit" : what.method;
  add(
      what,
      [policy](const workload& work) {
        const kv_block cache{.keys = work.data.keys, .values = work.data.values};
        auto scores = std::make_shared<attention_scores>(
            *score_pass(cache, work.data.queries, {}, wanted_scores(policy)));
        return [&work, policy, cache, scores] {
          return *select(policy, {.cache = cache,
                                  .queries = work.data.queries,
                                  .rule = {},
                                  .scores = scores.get(),
                                  .budget = work.budget,
                                  .memory_cap = index_t{1} << 30});
        };
      },
      [](const workload& work, const selected_rows& got) {
        if (got.weights.empty()) return judge_positions(work, got.positions);
        return judge_weights(work, got.positions, weights_of(got));
      });
}

void add_omp(row what, const baseline::omp& plain, const compact_options& preset) {
  what.method = "eigen";
  add(
      what,
      [plain](const workload& work) {
        const baseline::attention& full = plain_attention(work);
        return [&work, &full, plain] { return baseline::select(plain, full, work.budget); };
      },
      [](const workload& work, const baseline::selected& got) {
        return judge_weights(work, got.positions, got.weights);
      });
  what.method = "kvfit";
  add_kvfit(what, preset.selection);
}

}  // namespace

void add_rows(bool is_full) {
  for_sizes([is_full](index_t keys, index_t depth) {
    row what{.stage = "select_highest_attention", .method = "eigen", .keys = keys, .depth = depth};
    what.items = static_cast<double>(keys);
    what.item = "keys/s";
    add(
        what,
        [](const workload& work) {
          auto importance =
              std::make_shared<baseline::vector>(baseline::rms_importance(plain_attention(work)));
          return
              [&work, importance] { return baseline::highest_attention(*importance, work.budget); };
        },
        [](const workload& work, const std::vector<index_t>& got) {
          return judge_positions(work, got);
        });
    what.method = "kvfit";
    add_kvfit(what, selection::highest_attention{});

    what.items = static_cast<double>(keys / compaction_ratio);
    what.item = "picks/s";
    what.is_slow = keys > 8192;
    what.stage = "select_omp_fast";
    add_omp(what, {.keys_per_round = 4, .refit_interval = 2}, presets::omp_fast(1));
    what.stage = "select_omp";
    if (keys <= 8192 || is_full) add_omp(what, {}, presets::omp(1));
    what.stage = "select_default";  // has no published counterpart
    what.method = "kvfit";
    add_kvfit(what, presets::joint(1).selection);
  });
}

}  // namespace kvfit::bench
