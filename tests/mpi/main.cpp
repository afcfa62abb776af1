// SPDX-License-Identifier: MIT
// Catch2 between MPI_Init and MPI_Finalize: every rank runs every case, in the same order.
#if __has_include(<catch2/catch_session.hpp>)
#include <catch2/catch_session.hpp>
#else
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#endif

#include <optional>
#include <utility>

#include "kvfit/parallel/mpi.hpp"

int main(int argc, char** argv) {
  const auto is_refused = [] {
    const auto early = kvfit::mpi_ranks::over(MPI_COMM_WORLD);
    return !early && early.error().code == kvfit::errc::communication_failed;
  };
  if (!is_refused()) return 3;  // MPI was not begun
  int provided = 0;
  if (MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) return 4;
  const int failed = Catch::Session().run(argc, argv);
  // O: ranks that outlive MPI give nothing back to it, or it would end the program.
  std::optional<kvfit::mpi_ranks> late;
  if (auto ranks = kvfit::mpi_ranks::over(MPI_COMM_WORLD)) late.emplace(std::move(*ranks));
  if (!late) return 6;
  MPI_Finalize();
  late.reset();
  return is_refused() ? failed : 5;  // MPI has ended
}
