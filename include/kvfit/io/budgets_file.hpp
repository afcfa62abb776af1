// SPDX-License-Identifier: MIT
/// Head budgets as JSON, the format of the published ones: `{"L0H0": 0.0031, "L0H1": 0.0042}`
/// (docs/formats.md has the rules).
///
///     auto shares = kvfit::read_budgets_file("head_budgets.json");
///     if (!shares) return shares.error();
///     auto rows = kvfit::allocate(heads, total, kvfit::budgets::given{*shares});
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "kvfit/cache/heads.hpp"
#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/io/catch_exceptions.hpp"
#include "kvfit/io/layer_tensors.hpp"
#include "kvfit/io/replace_file.hpp"
#include "kvfit/io/safetensors_header.hpp"
#include "kvfit/io/safetensors_read.hpp"

namespace kvfit {

/// The longest budgets file, in bytes, that is read or written: some hundred thousand heads.
inline constexpr std::uint64_t max_budgets_file = std::uint64_t{1} << 22;

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

/// "L3H1" as a head; numbers as in `parse_index`.
inline std::optional<head_id> parse_head(std::string_view text) noexcept {
  const std::size_t h = text.find('H');
  if (h == std::string_view::npos || text.front() != 'L') return std::nullopt;
  const auto layer = parse_index(text.substr(1, h - 1));
  const auto head = parse_index(text.substr(h + 1));
  if (!layer || !head) return std::nullopt;
  return head_id{*layer, *head};
}

/// Receives the parser's events and lets through exactly `{"L{n}H{n}": number, ...}`.
class budgets_handler {
 public:
  explicit budgets_handler(std::vector<head_share>& out) : out_(out) {}

  [[nodiscard]] const std::string& cause() const noexcept { return cause_; }

  bool null() { return refuse("null where there must be a share"); }
  bool boolean(bool) { return refuse("true or false where there must be a share"); }
  bool string(std::string&) { return refuse("a text where there must be a share"); }
  bool binary(nlohmann::json::binary_t&) { return refuse("binary data"); }
  bool number_integer(std::int64_t) { return refuse("a share with a minus sign"); }
  bool number_unsigned(std::uint64_t number) { return take(static_cast<double>(number)); }
  bool number_float(double number, const std::string&) { return take(number); }
  bool start_array(std::size_t) { return refuse("an array where there must be a share"); }
  bool end_array() { return refuse("an array"); }
  bool start_object(std::size_t) {
    if (is_inside_) return refuse("an object where there must be a share");
    return is_inside_ = true;
  }
  bool end_object() { return true; }
  bool key(std::string& text) {
    const auto head = parse_head(text);
    has_head_ = false;  // the name is no part of the head before it
    if (!head) return refuse(shown_name(text) + " is no head's name, such as 'L3H1'");
    head_ = *head;
    has_head_ = true;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& why) {
    constexpr int out_of_range = 406;  // nlohmann's number of that error
    return refuse(std::string(why.id == out_of_range ? "a number beyond a double" : "not JSON") +
                  " at byte " + std::to_string(position));
  }

 private:
  bool take(double share) {
    if (!is_inside_) return refuse("a number where there must be an object");
    if (std::signbit(share)) return refuse("a share with a minus sign");
    if (!(share <= 1)) return refuse("a share of " + nlohmann::json(share).dump() + ", above 1");
    out_.push_back({head_, share});
    return true;
  }

  bool refuse(const std::string& what) {
    cause_ = (has_head_ ? name(head_) + ": " : std::string()) + what;
    return false;
  }

  std::vector<head_share>& out_;
  head_id head_;
  bool is_inside_ = false;
  bool has_head_ = false;  // one was read, which errors may then name
  std::string cause_;
};

/// Parses `text`; `source` names the file in errors.
inline result<std::vector<head_share>> parse_budgets(std::string_view text,
                                                     std::string_view source) {
  const auto refuse = [&](std::string what) {
    return error{errc::malformed_file, std::string(source), error::none, error::none,
                 std::move(what)};
  };
  const std::size_t start = text.find_first_not_of(" \t\r\n");
  if (start == std::string_view::npos || text[start] != '{') {
    return refuse("does not start with '{'");
  }
  // The parser takes a NUL for the end of the text and would not read what follows.
  if (text.find('\0') != std::string_view::npos) return refuse("holds a NUL byte");
  std::vector<head_share> shares;
  budgets_handler handler(shares);
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &handler)) {
    return refuse(handler.cause());
  }
  if (shares.empty()) return refuse("no head at all");
  std::sort(shares.begin(), shares.end(),
            [](const head_share& a, const head_share& b) { return a.id < b.id; });
  const auto twin =
      std::adjacent_find(shares.begin(), shares.end(),
                         [](const head_share& a, const head_share& b) { return a.id == b.id; });
  if (twin != shares.end()) return refuse(name(twin->id) + " appears twice");
  if (std::none_of(shares.begin(), shares.end(), [](const head_share& s) { return s.share > 0; })) {
    return refuse("all shares are 0");
  }
  return shares;
}

/// Refuses a file longer than the limit before any of it is read.
inline result<void> check_budgets_size(std::uint64_t size, std::string_view source) {
  if (size <= max_budgets_file) return {};
  return error{
      errc::malformed_file, std::string(source), error::none, error::none,
      std::to_string(size) + " bytes, more than the limit of " + std::to_string(max_budgets_file)};
}

/// The bytes of a budgets file: one head a line, ascending, shares with the fewest digits that give
/// the same double again.
inline std::string budgets_text(std::span<const head_share> shares) {
  std::vector<head_share> sorted(shares.begin(), shares.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const head_share& a, const head_share& b) { return a.id < b.id; });
  std::string text = "{";
  for (const head_share& s : sorted) {
    text += text.size() > 1 ? ",\n " : "\n ";
    text += "\"" + name(s.id) + "\": " + nlohmann::json(s.share).dump();
  }
  text += "\n}\n";
  return text;
}

}  // namespace io_detail

/// Reads a budgets file: the share of each head named in it, ascending by layer and head. Whether
/// those are the heads of a cache is for `allocate` to say.
///
/// Errors: `file_unreadable`; `malformed_file` where the file is longer than `max_budgets_file`, is
/// not one flat JSON object, names a head twice or otherwise than "L{layer}H{head}", or has a share
/// outside [0, 1] or no positive one, with the head or byte in `detail`; `out_of_memory`. Shares
/// need not add up to 1. Cost: some 10 times the file's length.
[[nodiscard]] inline result<std::vector<head_share>> read_budgets_file(
    const std::filesystem::path& path) {
  return io_detail::catch_exceptions(
      errc::file_unreadable, [&]() -> result<std::vector<head_share>> {
        const std::string name = path.string();
        auto file = io_detail::open_file(path);
        if (!file) return file.error();
        if (auto ok = io_detail::check_budgets_size(file->size, name); !ok) return ok.error();
        std::string text(static_cast<std::size_t>(file->size), '\0');
        if (!io_detail::stream_source(file->stream).read(text.data(), text.size())) {
          return error{errc::file_unreadable, name, error::none, error::none,
                       "reading stopped before the end"};
        }
        return io_detail::parse_budgets(text, name);
      });
}

/// The same from the text of such a file.
[[nodiscard]] inline result<std::vector<head_share>> read_budgets_file(
    std::span<const std::byte> bytes) {
  return io_detail::catch_exceptions(
      errc::file_unreadable, [&]() -> result<std::vector<head_share>> {
        if (auto ok = io_detail::check_budgets_size(bytes.size(), "bytes"); !ok) return ok.error();
        return io_detail::parse_budgets({reinterpret_cast<const char*>(bytes.data()), bytes.size()},
                                        "bytes");
      });
}

/// Writes a budgets file, whole or not at all (`replace_file.hpp` says how). It reads back as the
/// same shares, to the bit, ascending by layer and head; the same shares give the same bytes. The
/// published code expects them to add up to 1.
///
/// Errors, before anything is written: `invalid_option` for what `read_budgets_file` would refuse;
/// `file_unwritable`; `out_of_memory`. Cost: some 50 bytes a head.
[[nodiscard]] inline result<void> write_budgets_file(const std::filesystem::path& path,
                                                     std::span<const head_share> shares) {
  return io_detail::catch_exceptions(errc::file_unwritable, [&]() -> result<void> {
    const std::string text = io_detail::budgets_text(shares);
    // The reader decides what may be written.
    const auto sized = io_detail::check_budgets_size(text.size(), "shares");
    const auto parsed = io_detail::parse_budgets(text, "shares");
    if (!sized || !parsed) {
      return error{errc::invalid_option, "shares", error::none, error::none,
                   sized ? parsed.error().detail : sized.error().detail};
    }
    const std::span<const std::byte> piece = std::as_bytes(std::span(text));
    return io_detail::replace_file(path, std::span(&piece, 1));
  });
}

}  // namespace KVFIT_ISA
}  // namespace kvfit
