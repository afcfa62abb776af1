// SPDX-License-Identifier: MIT
/// What kvfit::compiled offers, compiled once for each instruction set. Its one global symbol is
/// KVFIT_ENTRY_POINTS, a name that the build gives; all others are made local, for the linker would
/// else keep but one instruction set's copy of every function that Eigen and the standard library
/// share.
#include <span>
#include <utility>
#include <vector>

#include "kvfit/bias/nnls.hpp"
#include "kvfit/bias/projected_gradient.hpp"
#include "kvfit/bias/zero.hpp"
#include "kvfit/compact.hpp"
#include "kvfit/compact/compiled.hpp"
#include "kvfit/compact/memory_plan.hpp"
#include "kvfit/compact/progressive.hpp"
#include "kvfit/core/active_isa.hpp"
#include "kvfit/core/catch_bad_alloc.hpp"
#include "kvfit/refine/gradient_descent.hpp"
#include "kvfit/selection/expected_attention.hpp"
#include "kvfit/selection/fixed.hpp"
#include "kvfit/selection/highest_attention.hpp"
#include "kvfit/selection/joint.hpp"
#include "kvfit/selection/omp.hpp"
#include "kvfit/values/copy.hpp"
#include "kvfit/values/least_squares.hpp"
#include "kvfit/values/unpivoted_qr.hpp"

namespace {

using kvfit::result;
using kvfit::compiled::plain_rows;

/// The same options with this file's functions of every policy that kvfit knows.
kvfit::compact_options bound(kvfit::compact_options options) {
  options.selection = options.selection.bound();
  options.bias = options.bias.bound();
  options.values = options.values.bound();
  options.gradient = options.gradient.bound();
  return options;
}

result<plain_rows> compact(const kvfit::kv_block& cache, const kvfit::query_set& queries,
                           const kvfit::compact_options& options, const kvfit::stop_when& stop,
                           const kvfit::executor_ref& threads) {
  return kvfit::detail::catch_bad_alloc("compact", [&]() -> result<plain_rows> {
    auto fitted = kvfit::compact(cache, queries, bound(options), stop, threads);
    if (!fitted) return fitted.error();
    return kvfit::compiled::to_plain(std::move(*fitted));
  });
}

result<std::vector<plain_rows>> compact_progressive(const kvfit::kv_block& cache,
                                                    const kvfit::query_set& queries,
                                                    const kvfit::compact_options& options,
                                                    std::span<const kvfit::index_t> budgets,
                                                    const kvfit::stop_when& stop) {
  return kvfit::detail::catch_bad_alloc(
      "compact_progressive", [&]() -> result<std::vector<plain_rows>> {
        auto fitted = kvfit::compact_progressive(cache, queries, bound(options), budgets, stop);
        if (!fitted) return fitted.error();
        std::vector<plain_rows> all;
        all.reserve(fitted->size());
        for (auto& rows : *fitted) all.push_back(kvfit::compiled::to_plain(std::move(rows)));
        return all;
      });
}

result<kvfit::memory_report> planned_memory(const kvfit::compaction_sizes& sizes,
                                            const kvfit::compact_options& options) {
  return kvfit::detail::catch_bad_alloc(
      "planned_memory", [&] { return kvfit::planned_memory(sizes, bound(options)); });
}

constexpr kvfit::compiled::compact_entry_points compact_here{&compact, &compact_progressive,
                                                             &planned_memory};

}  // namespace

extern "C" void KVFIT_ENTRY_POINTS(kvfit::compiled::entry_points& into) {
  static const auto selections = kvfit::any_selection::known_functions<kvfit::isa_tag>();
  static const auto biases = kvfit::any_bias::known_functions<kvfit::isa_tag>();
  static const auto values = kvfit::any_values::known_functions<kvfit::isa_tag>();
  static const auto gradients = kvfit::any_gradient::known_functions<kvfit::isa_tag>();
  into = {.isa = kvfit::detail::isa_name(KVFIT_STRING(KVFIT_ISA_D)),
          .compact = &compact_here,
          .selections = selections,
          .biases = biases,
          .values = values,
          .gradients = gradients};
}
