// SPDX-License-Identifier: MIT
// Structs of C read as those of C++, with what they refer to kept for one call.
#pragma once

#include <kvfit/c/kvfit.h>

#include <cstddef>
#include <cstring>
#include <deque>
#include <kvfit/attention/inputs.hpp>
#include <kvfit/attention/rope.hpp>
#include <kvfit/cache/cache_view.hpp>
#include <kvfit/core/result.hpp>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "guard.hpp"

namespace kvfit_c {

// What a struct measured when it was first released: callers that were compiled with that lack the
// fields that have come after it.
template <class Struct>
inline constexpr std::size_t first_size = sizeof(Struct);
template <>
inline constexpr std::size_t first_size<kvfit_rope> = offsetof(kvfit_rope, scaling);

// The caller's struct, whose fields that are newer than the caller are zero. `invalid_option` for a
// size that is none, and for fields newer than this library that are not zero.
template <class Struct>
kvfit::result<Struct> read_struct(const Struct* given, const std::string& name) {
  static_assert(std::is_trivially_copyable_v<Struct> && offsetof(Struct, struct_size) == 0);
  if (given == nullptr) return kvfit::error{kvfit::errc::null_data, name};
  const std::size_t size = given->struct_size;
  if (size < first_size<Struct> || size > (1U << 16U) || size % alignof(Struct) != 0) {
    return kvfit::error{kvfit::errc::invalid_option, name + ".struct_size",
                        static_cast<int64_t>(size), static_cast<int64_t>(sizeof(Struct)),
                        "must be the size of the struct"};
  }
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  for (std::size_t i = sizeof(Struct); i < size; ++i) {
    if (bytes[i] == 0) continue;
    return kvfit::error{kvfit::errc::invalid_option, name + ".struct_size",
                        static_cast<int64_t>(size), static_cast<int64_t>(sizeof(Struct)),
                        "a field that this library does not know is not zero"};
  }
  Struct read{};
  std::memcpy(&read, given, (std::min)(size, sizeof(Struct)));
  read.struct_size = sizeof(Struct);
  if constexpr (requires { read.reserved; }) {
    if (read.reserved != 0) {
      return kvfit::error{kvfit::errc::invalid_option, name + ".reserved", read.reserved, 0,
                          "must be 0"};
    }
  }
  return read;
}

// An array of such structs, all of the first one's size.
template <class Struct>
kvfit::result<std::vector<Struct>> read_array(const Struct* given, std::size_t count,
                                              const std::string& name) {
  std::vector<Struct> all;
  if (count == 0) return all;
  if (given == nullptr) return kvfit::error{kvfit::errc::null_data, name};
  if (count > (std::size_t{1} << 24U)) {
    return kvfit::error{kvfit::errc::invalid_option, name, static_cast<int64_t>(count),
                        int64_t{1} << 24U, "elements"};
  }
  const std::size_t stride = given->struct_size;
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  for (std::size_t i = 0; i < count; ++i) {
    const auto* element = reinterpret_cast<const Struct*>(bytes + i * stride);
    const std::string which = name + "[" + std::to_string(i) + "]";
    auto one = read_struct(element, which);
    if (!one) return one.error();
    if (element->struct_size != stride) {
      return kvfit::error{kvfit::errc::invalid_option, which + ".struct_size",
                          static_cast<int64_t>(element->struct_size), static_cast<int64_t>(stride),
                          "all elements have the same size"};
    }
    all.push_back(*one);
  }
  return all;
}

// `invalid_option` unless 0 or 1.
kvfit::result<bool> yes_or_no(int32_t given, const std::string& name);

kvfit::result<kvfit::row_view> view_of(const kvfit_rows* given, const std::string& name);
kvfit::result<kvfit::logit_rule> rule_of(const kvfit_rule* given, const std::string& name);
kvfit::result<kvfit::rope> rope_of(const kvfit_rope* given, const std::string& name);

// What C++ views of one call's inputs refer to. Must outlive their use.
class inputs {
 public:
  kvfit::result<kvfit::kv_block> block(const kvfit_block& given, const std::string& name);
  kvfit::result<kvfit::query_block> query(const kvfit_queries& given, const std::string& name);

  // The arrays of a call over one head.
  kvfit::result<std::span<const kvfit::query_block>> queries(const kvfit_queries* given,
                                                             std::size_t count);
  kvfit::result<std::span<const kvfit::kv_block>> blocks(const kvfit_block* given,
                                                         std::size_t count);
  // Those of a call over a cache.
  kvfit::result<kvfit::cache_view> cache(const kvfit_layer* given, std::size_t count);
  kvfit::result<kvfit::cache_queries> cache_queries(const kvfit_layer_queries* given,
                                                    std::size_t count);

 private:
  std::deque<std::vector<kvfit::row_view>> masks_;
  std::vector<kvfit::query_block> queries_;
  std::vector<kvfit::kv_block> blocks_;
};

}  // namespace kvfit_c
