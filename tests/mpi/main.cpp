// SPDX-License-Identifier: MIT
// Catch2 between MPI_Init and MPI_Finalize: every rank runs every case, in the same order.
#if __has_include(<catch2/catch_session.hpp>)
#include <catch2/catch_session.hpp>
#else
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#endif

#include "kvfit/parallel/mpi.hpp"

int main(int argc, char** argv) {
  int provided = 0;
  if (MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) return 2;
  const int failed = Catch::Session().run(argc, argv);
  MPI_Finalize();
  return failed;
}
