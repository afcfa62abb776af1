// SPDX-License-Identifier: MIT
// Included before everything: lets the C headers of mingw-w64 stand in for those of Microsoft's C
// library, as far as clang-cl's syntax pass over Microsoft's C++ library needs. Declarations alone,
// nothing links.
#pragma once

#include <_mingw.h>

// What mingw-w64 leaves out, or spells by MSVC's own attributes, where _MSC_VER is defined.
#undef __attribute__
#undef __MINGW_ATTRIB_DEPRECATED
#undef __MINGW_ATTRIB_DEPRECATED_MSG
#undef __MINGW_ATTRIB_DEPRECATED_STR
#undef __MINGW_ATTRIB_MALLOC
#undef __MINGW_ATTRIB_NORETURN
#undef __MINGW_NOTHROW
#define __MINGW_ATTRIB_DEPRECATED
#define __MINGW_ATTRIB_DEPRECATED_MSG(text)
#define __MINGW_ATTRIB_DEPRECATED_STR(text)
#define __MINGW_ATTRIB_MALLOC
#define __MINGW_ATTRIB_NORETURN __attribute__((noreturn))
#define __MINGW_NOTHROW
#define __inline__ inline
#define __restrict__ __restrict

// clang's intrin.h declares these otherwise.
#define _setjmp mingw_setjmp
#define _setjmpex mingw_setjmpex
#include <setjmp.h>
#undef _setjmp
#undef _setjmpex
#undef setjmp

#define mbstate_t mingw_mbstate_t
#include <wchar.h>
#undef mbstate_t
struct _Mbstatet {
  unsigned long _Wchar;
  unsigned short _Byte, _State;
};
using mbstate_t = _Mbstatet;

// Functions here, macros there; and some that Microsoft's library does not have.
#define sincos mingw_sincos
#define sincosf mingw_sincosf
#define sincosl mingw_sincosl
#include <math.h>
#undef sincos
#undef sincosf
#undef sincosl
#undef fpclassify
#undef isfinite
#undef isgreater
#undef isgreaterequal
#undef isinf
#undef isless
#undef islessequal
#undef islessgreater
#undef isnan
#undef isnormal
#undef isunordered
#undef signbit
extern "C++" {
template <class T>
int fpclassify(T);
template <class T>
bool isfinite(T);
template <class T>
bool isinf(T);
template <class T>
bool isnan(T);
template <class T>
bool isnormal(T);
template <class T>
bool signbit(T);
template <class T>
bool isgreater(T, T);
template <class T>
bool isgreaterequal(T, T);
template <class T>
bool isless(T, T);
template <class T>
bool islessequal(T, T);
template <class T>
bool islessgreater(T, T);
template <class T>
bool isunordered(T, T);
}

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
extern "C" {
int __cdecl _get_stream_buffer_pointers(FILE*, char***, char***, int**);
int __cdecl at_quick_exit(void(__cdecl*)(void));
__attribute__((noreturn)) void __cdecl quick_exit(int);
int __cdecl timespec_get(struct timespec*, int);
}
#define TIME_UTC 1
#define _CRT_BLOCK 1
#define _calloc_dbg(count, size, kind, file, line) calloc(count, size)

// Annotations.
#define _CRT_GUARDOVERFLOW
#define _CRT_SATELLITE_1
#define _CRT_SATELLITE_2
#define _CRT_SATELLITE_CODECVT_IDS
#define _CRT_SATELLITE_CODECVT_IDS_NOIMPORT
#define _CRT_SECURE_INVALID_PARAMETER(text) ((void)0)
#define _Deref_post_opt_valid_
#define _MSVC_CONSTEXPR
