// SPDX-License-Identifier: MIT
#include "mpi/faults.hpp"

using kvfit_test::is_call_to_fail;

// The functions of MPI that kvfit calls, but those that only tell whether MPI has ended, say an
// error in words or give a communicator back.
extern "C" {

int MPI_Initialized(int* is_begun) {
  return is_call_to_fail() ? MPI_ERR_OTHER : PMPI_Initialized(is_begun);
}

int MPI_Comm_test_inter(MPI_Comm of, int* is_between_groups) {
  return is_call_to_fail() ? MPI_ERR_OTHER : PMPI_Comm_test_inter(of, is_between_groups);
}

int MPI_Comm_dup(MPI_Comm of, MPI_Comm* own) {
  return is_call_to_fail() ? MPI_ERR_OTHER : PMPI_Comm_dup(of, own);
}

int MPI_Comm_set_errhandler(MPI_Comm of, MPI_Errhandler handler) {
  return is_call_to_fail() ? MPI_ERR_OTHER : PMPI_Comm_set_errhandler(of, handler);
}

int MPI_Comm_rank(MPI_Comm of, int* rank) {
  return is_call_to_fail() ? MPI_ERR_OTHER : PMPI_Comm_rank(of, rank);
}

int MPI_Comm_size(MPI_Comm of, int* size) {
  return is_call_to_fail() ? MPI_ERR_OTHER : PMPI_Comm_size(of, size);
}

int MPI_Allreduce(const void* own, void* reduced, int count, MPI_Datatype type, MPI_Op by,
                  MPI_Comm of) {
  return is_call_to_fail() ? MPI_ERR_OTHER : PMPI_Allreduce(own, reduced, count, type, by, of);
}

int MPI_Bcast(void* numbers, int count, MPI_Datatype type, int from, MPI_Comm of) {
  return is_call_to_fail() ? MPI_ERR_OTHER : PMPI_Bcast(numbers, count, type, from, of);
}

}  // extern "C"
