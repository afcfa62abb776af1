# What Doxygen reads of a header. The first comment of a file is about the file; the inline namespace that
# names the instruction set is an affair of the linker (kvfit/core/config.hpp). Lines keep their numbers.
1s|^// SPDX-License-Identifier: MIT$|/// @file|
1s|^/\* SPDX-License-Identifier: MIT \*/$||
2s|^/\*\*$|/** @file|
s|^inline namespace KVFIT_ISA {$||
s|^}  // namespace KVFIT_ISA$||
