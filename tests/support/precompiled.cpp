// SPDX-License-Identifier: MIT
// Nothing: the precompiled header that all modules reuse has to belong to some unit.
