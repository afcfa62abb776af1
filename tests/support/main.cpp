// SPDX-License-Identifier: MIT
// Catch2 2.13's main; Catch2 3 is linked with its own.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
