// SPDX-License-Identifier: MIT
/// Instances of kernel templates under names by which the host finds them.
#pragma once

#include <metal_stdlib>

#include "tile_sums.h"

/// Which instances a library has: 1 those of plain tiles, whose names end in "_plain", 2 those of
/// simdgroup matrices, 3 both. A host that compiles sources for one device asks for what it needs.
#ifndef KVFIT_TILES
#define KVFIT_TILES 3
#endif

#define KVFIT_KERNEL(name, ...) \
  template [[host_name(name)]] [[kernel]] decltype(__VA_ARGS__) __VA_ARGS__;

#if KVFIT_TILES & 1
#define KVFIT_PLAIN_KERNEL(name, ...) KVFIT_KERNEL(name "_plain", __VA_ARGS__)
#else
#define KVFIT_PLAIN_KERNEL(name, ...)
#endif
#if KVFIT_TILES & 2
#define KVFIT_SIMDGROUP_KERNEL(name, ...) KVFIT_KERNEL(name, __VA_ARGS__)
#else
#define KVFIT_SIMDGROUP_KERNEL(name, ...)
#endif

/// A kernel that is a template of its tiles alone.
#define KVFIT_FOR_ALL_TILES(kernel_name)                    \
  KVFIT_PLAIN_KERNEL(#kernel_name, kernel_name<plain_sums>) \
  KVFIT_SIMDGROUP_KERNEL(#kernel_name, kernel_name<simdgroup_sums>)

#define KVFIT_FOR_TYPES(kernel_name, query_name, query, key_name, key) \
  KVFIT_PLAIN_KERNEL(#kernel_name "_" query_name "_" key_name,         \
                     kernel_name<query, key, plain_sums>)              \
  KVFIT_SIMDGROUP_KERNEL(#kernel_name "_" query_name "_" key_name,     \
                         kernel_name<query, key, simdgroup_sums>)

/// Queries of other types than fp32: a host that hands over fp32 alone spares their instances.
#ifndef KVFIT_QUERIES_ARE_FP32
#define KVFIT_FOR_SHORT_QUERIES(kernel_name)                  \
  KVFIT_FOR_TYPES(kernel_name, "fp16", half, "fp32", float)   \
  KVFIT_FOR_TYPES(kernel_name, "fp16", half, "fp16", half)    \
  KVFIT_FOR_TYPES(kernel_name, "fp16", half, "bf16", bfloat)  \
  KVFIT_FOR_TYPES(kernel_name, "bf16", bfloat, "fp32", float) \
  KVFIT_FOR_TYPES(kernel_name, "bf16", bfloat, "fp16", half)  \
  KVFIT_FOR_TYPES(kernel_name, "bf16", bfloat, "bf16", bfloat)
#else
#define KVFIT_FOR_SHORT_QUERIES(kernel_name)
#endif

/// A kernel that is a template of the types of queries and keys and of its tiles: NAME_QUERIES_KEYS
/// for fp32, fp16 and bf16 of each.
#define KVFIT_FOR_ALL_TYPES(kernel_name)                      \
  KVFIT_FOR_TYPES(kernel_name, "fp32", float, "fp32", float)  \
  KVFIT_FOR_TYPES(kernel_name, "fp32", float, "fp16", half)   \
  KVFIT_FOR_TYPES(kernel_name, "fp32", float, "bf16", bfloat) \
  KVFIT_FOR_SHORT_QUERIES(kernel_name)
