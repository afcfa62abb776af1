// SPDX-License-Identifier: MIT
// Stands in for the header of this name of Microsoft's C library.
#pragma once

#define _ASSERTE(condition) ((void)0)
#define _CRT_ASSERT 2
#define _RPTF0(kind, text)
