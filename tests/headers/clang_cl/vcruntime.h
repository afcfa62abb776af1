// SPDX-License-Identifier: MIT
// Stands in for the header of this name of Microsoft's compiler, which is not to be had elsewhere.
#pragma once

#include <sal.h>
#include <stddef.h>
#include <stdint.h>
#include <vadefs.h>

#define _ACRTIMP
#define _CONST_RETURN const
#define _CRTDECL __cdecl
#define _CRT_BEGIN_C_HEADER extern "C" {
#define _CRT_END_C_HEADER }
#define _CRT_INSECURE_DEPRECATE(text)
#define _HAS_CXX17 1
#define _HAS_CXX20 1
#define _HAS_CXX23 0
#define _HAS_EXCEPTIONS 1
#define _HAS_NODISCARD 1
#define _NODISCARD [[nodiscard]]
#define _VCRTIMP
#define __CLRCALL_OR_CDECL __cdecl
#define __CLRCALL_PURE_OR_CDECL __cdecl
#define __CLR_OR_THIS_CALL
#define __CRTDECL __cdecl
