// SPDX-License-Identifier: MIT
// Stands in for the header of this name of Microsoft's compiler.
#pragma once

enum ISA_AVAILABILITY {
  __ISA_AVAILABLE_X86,
  __ISA_AVAILABLE_SSE2,
  __ISA_AVAILABLE_SSE42,
  __ISA_AVAILABLE_AVX,
  __ISA_AVAILABLE_ENFSTRG,
  __ISA_AVAILABLE_AVX2
};
