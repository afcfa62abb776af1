// SPDX-License-Identifier: MIT
/// What kvfit::compiled offers, compiled once for each instruction set. Its one global symbol is
/// KVFIT_ENTRY_POINTS, a name that the build gives; all others are made local, for the linker would
/// else keep but one instruction set's copy of every function that Eigen and the standard library
/// share.
#include <utility>

#include "kvfit/compact.hpp"
#include "kvfit/compact/compiled.hpp"
#include "kvfit/core/active_isa.hpp"

namespace {

kvfit::result<kvfit::compiled::plain_rows> compact(const kvfit::kv_block& cache,
                                                   const kvfit::query_set& queries,
                                                   const kvfit::compact_options& options,
                                                   const kvfit::stop_when& stop,
                                                   const kvfit::executor_ref& threads) {
  return kvfit::detail::catch_bad_alloc(
      "compact", [&]() -> kvfit::result<kvfit::compiled::plain_rows> {
        auto fitted = kvfit::compact(cache, queries, options, stop, threads);
        if (!fitted) return fitted.error();
        return kvfit::compiled::to_plain(std::move(*fitted));
      });
}

constexpr kvfit::compiled::compact_entry_point compact_here{&compact};

}  // namespace

extern "C" void KVFIT_ENTRY_POINTS(kvfit::compiled::entry_points& into) {
  into = {.isa = kvfit::detail::isa_name(KVFIT_STRING(KVFIT_ISA_D)), .compact = &compact_here};
}
