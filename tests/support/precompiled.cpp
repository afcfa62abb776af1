// SPDX-License-Identifier: MIT
// Nothing: the precompiled header that all rooms reuse has to belong to some unit.
