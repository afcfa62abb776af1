// SPDX-License-Identifier: MIT
#include "server/state_store.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <system_error>
#include <utility>

#include "kvfit/io/crc32c.hpp"
#include "kvfit/io/replace_file.hpp"

namespace server {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view magic = "KVFITSLT";
constexpr std::uint32_t version = 1;
constexpr std::size_t head_bytes = 8 + 4 + 4 + 4 * 8;
constexpr std::string_view extension = ".kvslot";

void put(std::vector<std::byte>& to, std::uint64_t number, int bytes) {
  for (int i = 0; i < bytes; ++i) to.push_back(static_cast<std::byte>(number >> (8 * i)));
}
void put(std::vector<std::byte>& to, std::string_view text) {
  for (const char c : text) to.push_back(static_cast<std::byte>(c));
}
std::uint64_t number_at(std::span<const std::byte> from, std::size_t at, std::size_t bytes) {
  std::uint64_t number = 0;
  for (std::size_t i = 0; i < bytes; ++i) {
    number |= std::to_integer<std::uint64_t>(from[at + i]) << (8 * i);
  }
  return number;
}
std::string text_at(std::span<const std::byte> from, std::size_t at, std::size_t bytes) {
  std::string text;
  for (std::size_t i = 0; i < bytes; ++i) text += static_cast<char>(from[at + i]);
  return text;
}

bool is_name(std::string_view name) {
  const auto fits = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
  };
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), fits);
}

failure bad(std::string_view name, const std::string& why) {
  return {fault::bad_state, "state " + std::string(name) + ": " + why};
}

/// A rename is lasting once its folder is synced.
bool sync_folder(const fs::path& folder) {
  const int opened = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (opened < 0) return false;
  const bool synced = ::fsync(opened) == 0 || errno == EINVAL || errno == ENOTSUP;
  return ::close(opened) == 0 && synced;
}

}  // namespace

outcome<std::unique_ptr<state_store>> state_store::open(const fs::path& folder, std::string model,
                                                        std::string rule,
                                                        const store_limits& limits) {
  const auto fails = [&](const std::string& why) {
    return failure{fault::storage, "state folder: " + why};
  };
  std::error_code failed;
  std::vector<fs::path> made_in;  // folders that get a new entry, which must last as well
  for (fs::path at = fs::absolute(folder, failed).lexically_normal();
       !failed && !fs::exists(at, failed) && at.has_parent_path() && at != at.parent_path();
       at = at.parent_path()) {
    made_in.push_back(at.parent_path());
  }
  fs::create_directories(folder, failed);
  if (failed) return fails(failed.message());
  for (const fs::path& each : made_in) {
    if (!sync_folder(each)) return fails("its parent can't be synced");
  }
  std::unique_ptr<state_store> made(new state_store);
  made->folder_ = fs::canonical(folder, failed);
  if (failed) return fails(failed.message());
  made->model_ = std::move(model);
  made->rule_ = std::move(rule);
  made->limits_ = limits;
  made->lock_ = ::open((made->folder_ / ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW,
                       S_IRUSR | S_IWUSR);
  if (made->lock_ < 0) return fails(std::generic_category().message(errno));
  if (::flock(made->lock_, LOCK_EX | LOCK_NB) != 0) return fails("another server uses it");
  // Half-written files of a process that was killed: the lock says that nobody writes them now.
  std::vector<fs::path> left;
  for (fs::directory_iterator at(made->folder_, failed), end; !failed && at != end;
       at.increment(failed)) {
    const std::string file = at->path().filename().string();
    if (file.starts_with(".kvfit-") && file.ends_with(".tmp")) left.push_back(at->path());
  }
  if (failed) return fails(failed.message());
  for (const fs::path& each : left) {
    fs::remove(each, failed);
    if (failed) return fails(failed.message());
  }
  return made;
}

state_store::~state_store() {
  if (lock_ >= 0) ::close(lock_);
}

outcome<fs::path> state_store::path_of(std::string_view name) const {
  if (!is_name(name)) {
    return failure{fault::bad_request,
                   "a state's name is 1 to 64 of letters, digits, \"-\" and \"_\""};
  }
  return folder_ / (std::string(name) + std::string(extension));
}

done state_store::save(std::string_view name, const saved_slot& slot) {
  const auto path = path_of(name);
  if (!path) return path.why();
  std::vector<std::byte> head;
  put(head, magic);
  put(head, version, 4);
  put(head, 0, 4);
  put(head, slot.tokens.size(), 8);
  put(head, slot.state.size(), 8);
  put(head, model_.size(), 8);
  put(head, rule_.size(), 8);
  put(head, model_);
  put(head, rule_);
  for (const token each : slot.tokens) put(head, static_cast<std::uint32_t>(each), 4);
  const std::uint64_t size = head.size() + slot.state.size() + 4;
  if (size > limits_.file_bytes) {
    return failure{fault::storage, "the state takes " + std::to_string(size) + " bytes, allowed " +
                                       std::to_string(limits_.file_bytes)};
  }
  std::uint64_t others = 0;
  std::size_t files = 0;
  for (const std::string& each : names()) {
    if (each == name) continue;
    std::error_code failed;
    const auto bytes = fs::file_size(folder_ / (each + std::string(extension)), failed);
    others += failed ? 0 : bytes;
    ++files;
  }
  if (files >= limits_.files || others + size > limits_.all_bytes) {
    return failure{fault::storage, "the quota of states is used up"};
  }
  kvfit::crc32c sum;
  sum.add(head);
  sum.add(slot.state);
  std::vector<std::byte> tail;
  put(tail, sum.value(), 4);
  const std::array<std::span<const std::byte>, 3> pieces = {head, slot.state, tail};
  if (const auto ok = kvfit::io_detail::replace_file(*path, pieces); !ok) {
    return failure{fault::storage, ok.error().detail};
  }
  if (!sync_folder(folder_)) return failure{fault::storage, "the folder can't be synced"};
  return nothing{};
}

outcome<saved_slot> state_store::load(std::string_view name) const {
  const auto path = path_of(name);
  if (!path) return path.why();
  std::error_code failed;
  const auto status = fs::symlink_status(*path, failed);
  if (!fs::exists(status)) return failure{fault::not_found, "no state " + std::string(name)};
  if (!fs::is_regular_file(status)) return bad(name, "no regular file");
  const auto size = fs::file_size(*path, failed);
  if (failed || size > limits_.file_bytes) return bad(name, "larger than allowed");
  if (size < head_bytes + 4) return bad(name, "cut short");
  std::vector<std::byte> bytes(size);
  std::ifstream file(*path, std::ios::binary);
  if (!file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size))) {
    return bad(name, "can't be read");
  }
  if (text_at(bytes, 0, 8) != magic) return bad(name, "no saved slot");
  kvfit::crc32c sum;
  sum.add(std::span(bytes).first(size - 4));
  if (sum.value() != number_at(bytes, size - 4, 4)) return bad(name, "its checksum differs");
  if (number_at(bytes, 8, 4) != version || number_at(bytes, 12, 4) != 0) {
    return bad(name, "of another version");
  }
  const std::uint64_t tokens = number_at(bytes, 16, 8);
  const std::uint64_t state = number_at(bytes, 24, 8);
  const std::uint64_t model = number_at(bytes, 32, 8);
  const std::uint64_t rule = number_at(bytes, 40, 8);
  // Each alone within the file first, so that their sum does not wrap.
  if (tokens > size / 4 || state > size || model > size || rule > size ||
      head_bytes + model + rule + 4 * tokens + state + 4 != size) {
    return bad(name, "its sizes do not add up");
  }
  if (text_at(bytes, head_bytes, model) != model_) return bad(name, "of another model");
  if (text_at(bytes, head_bytes + model, rule) != rule_) return bad(name, "of another rule");
  saved_slot slot;
  std::size_t at = head_bytes + model + rule;
  slot.tokens.reserve(tokens);
  for (std::uint64_t i = 0; i < tokens; ++i, at += 4) {
    slot.tokens.push_back(static_cast<token>(static_cast<std::uint32_t>(number_at(bytes, at, 4))));
  }
  const auto first = bytes.begin() + static_cast<std::ptrdiff_t>(at);
  slot.state.assign(first, first + static_cast<std::ptrdiff_t>(state));
  return slot;
}

std::vector<std::string> state_store::names() const {
  std::vector<std::string> all;
  std::error_code failed;
  for (fs::directory_iterator at(folder_, failed), end; !failed && at != end;
       at.increment(failed)) {
    if (at->path().extension() != extension) continue;
    if (std::string stem = at->path().stem().string(); is_name(stem)) all.push_back(stem);
  }
  std::sort(all.begin(), all.end());
  return all;
}

}  // namespace server
