// SPDX-License-Identifier: MIT
/// What each *_bench program starts with: the context of its results, and its rows.
#include <string>
#include <vector>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "fixture.hpp"
#include "kvfit/core/version.hpp"
#include "process.hpp"
#include "roof.hpp"

namespace kvfit::bench {
namespace {

void add_context() {
  benchmark::AddCustomContext("cpu", cpu_name());
  benchmark::AddCustomContext("compiler", KVFIT_BENCH_COMPILER);
  benchmark::AddCustomContext("flags", KVFIT_BENCH_FLAGS);
  benchmark::AddCustomContext("kvfit", version);
  benchmark::AddCustomContext("eigen", std::to_string(EIGEN_WORLD_VERSION) + "." +
                                           std::to_string(EIGEN_MAJOR_VERSION) + "." +
                                           std::to_string(EIGEN_MINOR_VERSION));
  benchmark::AddCustomContext("xsimd", std::to_string(XSIMD_VERSION_MAJOR) + "." +
                                           std::to_string(XSIMD_VERSION_MINOR) + "." +
                                           std::to_string(XSIMD_VERSION_PATCH));
  benchmark::AddCustomContext("fma_roof_gflops", std::to_string(measure_roof()));
  benchmark::AddCustomContext("queries", std::to_string(fit_queries) + " fitted, " +
                                             std::to_string(held_out_queries) + " held out");
}

}  // namespace
}  // namespace kvfit::bench

int main(int count, char** arguments) {
#if defined(__GLIBC__)
  // Memory stays with the process, so that neither side pays the kernel for fresh pages each time.
  mallopt(M_MMAP_THRESHOLD, std::numeric_limits<int>::max());
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
#endif

  // Ours come first, so the caller's own flags win.
  std::vector<std::string> given = {arguments[0], "--benchmark_repetitions=3",
                                    "--benchmark_min_time=0.1",
                                    "--benchmark_display_aggregates_only=true"};
  bool is_full = false;
  for (int k = 1; k < count; ++k) {
    if (std::string(arguments[k]) == "--kvfit_full")
      is_full = true;
    else
      given.emplace_back(arguments[k]);
  }
  std::vector<char*> pointers;
  for (std::string& argument : given) pointers.push_back(argument.data());
  int left = static_cast<int>(pointers.size());
  benchmark::Initialize(&left, pointers.data());
  if (benchmark::ReportUnrecognizedArguments(left, pointers.data())) return 2;
  kvfit::bench::add_context();
  kvfit::bench::add_rows(is_full);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
