// SPDX-License-Identifier: MIT
/// Catch2 3 where it is there, Catch2 2.13 otherwise; tests include only this.
#pragma once

#if __has_include(<catch2/catch_test_macros.hpp>)
#include <catch2/catch_approx.hpp>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators_all.hpp>
#include <catch2/matchers/catch_matchers.hpp>
using Catch::Approx;  // version 2 has it without the namespace
#else
#include <catch2/catch.hpp>
#endif
