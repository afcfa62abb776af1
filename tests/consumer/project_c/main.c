/* SPDX-License-Identifier: MIT */
#include <kvfit/c/kvfit.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
  kvfit_error error = {.struct_size = sizeof error};
  kvfit_options *options = NULL;
  const int32_t code = kvfit_options_make("omp", &options, &error);
  kvfit_options_free(options);
  printf("kvfit_c %s\n", kvfit_version());
  return code == KVFIT_OK && argc == 2 && strcmp(argv[1], kvfit_version()) == 0 ? 0 : 1;
}
