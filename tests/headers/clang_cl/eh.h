// SPDX-License-Identifier: MIT
// Stands in for the header of this name of Microsoft's compiler.
#pragma once

#include <vcruntime.h>

using terminate_handler = void(__cdecl*)();
extern "C" {
[[noreturn]] void __cdecl terminate();
terminate_handler __cdecl set_terminate(terminate_handler);
terminate_handler __cdecl _get_terminate();
}
