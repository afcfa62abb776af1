// SPDX-License-Identifier: MIT
#include "kvfit/parallel/mpi.hpp"

int main(int argc, char** argv) {
  if (MPI_Init(&argc, &argv) != MPI_SUCCESS) return 2;
  bool is_fine = false;
  {
    auto ranks = kvfit::mpi_ranks::over(MPI_COMM_WORLD);
    is_fine = ranks && ranks->agree({});
  }
  MPI_Finalize();
  return is_fine ? 0 : 1;
}
