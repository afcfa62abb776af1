// SPDX-License-Identifier: MIT
/// Runs a program if this CPU has its instruction set, else says so and exits 77 ("skipped").
///
///     run_if_cpu avx2 PROGRAM [ARGUMENT...]
///
/// A program of its own: one compiled for AVX-512 may fault on a smaller CPU before it reaches
/// main.
#include <unistd.h>

#include <cstdio>
#include <string_view>

namespace {

constexpr int skipped = 77;

bool cpu_has(std::string_view isa) {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == "avx2") return avx2;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (isa == "avx512") return avx512;
  return isa == "avx512bf16" && avx512 && __builtin_cpu_supports("avx512bf16");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fputs("usage: run_if_cpu ISA PROGRAM [ARGUMENT...]\n", stderr);
    return 2;
  }
  if (!cpu_has(argv[1])) {
    std::printf("skipped: this CPU has no %s\n", argv[1]);
    return skipped;
  }
  execv(argv[2], argv + 2);
  std::perror(argv[2]);
  return 1;
}
