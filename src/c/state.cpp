// SPDX-License-Identifier: MIT
#include <filesystem>
#include <kvfit/io/state.hpp>
#include <memory>
#include <string>
#include <utility>

#include "convert.hpp"
#include "results.hpp"

namespace {

using kvfit::errc;
using kvfit::result;

// Paths of C are UTF-8 on every system.
std::filesystem::path path_of(const char* utf8) {
  const std::string text(utf8);
  return std::filesystem::path(std::u8string(text.begin(), text.end()));
}

result<kvfit::dtype> storage_of(int32_t type, const char* name) {
  if (type >= KVFIT_FP32 && type <= KVFIT_BF16) return static_cast<kvfit::dtype>(type);
  return kvfit::error{errc::invalid_option, name, type, KVFIT_BF16, "must be fp32, fp16 or bf16"};
}

}  // namespace

extern "C" {

int32_t kvfit_state_save(const char* path, const kvfit_cache* cache, const kvfit_state_info* info,
                         kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = kvfit_c::need(path, "path"); !ok) return ok;
    if (const auto ok = kvfit_c::need(cache, "cache"); !ok) return ok;
    kvfit::state_info said;
    if (info != nullptr) {
      const auto read = kvfit_c::read_struct(info, "info");
      if (!read) return read.error();
      const auto keys = storage_of(read->key_type, "info.key_type");
      if (!keys) return keys.error();
      const auto values = storage_of(read->value_type, "info.value_type");
      if (!values) return values.error();
      said.next_position = read->next_position;
      said.key_storage = *keys;
      said.value_storage = *values;
      if (read->fingerprint != nullptr) said.fingerprint = read->fingerprint;
    }
    return kvfit::write_state(path_of(path), *cache->own, said);
  });
}

int32_t kvfit_state_load(const char* path, const char* fingerprint, kvfit_cache** out,
                         int64_t* next_position, kvfit_error* error) {
  return kvfit_c::guarded(error, [&]() -> result<void> {
    if (const auto ok = kvfit_c::need(path, "path"); !ok) return ok;
    if (const auto ok = kvfit_c::need(out, "out"); !ok) return ok;
    kvfit::expected_setup expected;
    if (fingerprint != nullptr) expected.fingerprint = fingerprint;
    auto read = kvfit::read_state(path_of(path), expected);
    if (!read) return read.error();
    auto made = std::make_unique<kvfit_cache>(
        std::make_shared<const kvfit::compacted_cache>(std::move(read->cache)));
    if (next_position != nullptr) *next_position = read->info.next_position;
    *out = made.release();
    return {};
  });
}

}  // extern "C"
