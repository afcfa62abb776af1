// SPDX-License-Identifier: MIT
/// The JSON header of a safetensors file: parsed and checked against the size of the data behind
/// it, before a byte of that data is read or allocated. docs/formats.md lists the rules.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/core/result.hpp"
#include "kvfit/io/shown_name.hpp"
#include "kvfit/io/tensor_view.hpp"

namespace kvfit {

/// The text-to-text map `__metadata__`.
using tensor_metadata = std::map<std::string, std::string, std::less<>>;

/// What a header says of one tensor: bytes begin … end − 1 of the data.
struct tensor_entry {
  std::string name;
  tensor_type type = tensor_type::f32;
  std::vector<index_t> shape;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

/// A header that keeps the rules: the entries tile the data in this order.
struct safetensors_header {
  std::vector<tensor_entry> tensors;
  tensor_metadata metadata;
};

/// The longest header, in bytes, that is read or written: the limit of the original library.
inline constexpr std::uint64_t max_safetensors_header = 100'000'000;

}  // namespace kvfit

namespace kvfit {
inline namespace KVFIT_ISA {

namespace io_detail {

/// Receives the parser's events and lets through exactly
/// `{"__metadata__": {text: text}, name: {"dtype": text, "shape": [n...], "data_offsets": [n,
/// n]}}`.
class header_handler {
 public:
  header_handler(std::string_view source, safetensors_header& out) : source_(source), out_(out) {}

  [[nodiscard]] const error& cause() const noexcept { return cause_; }

  bool null() { return refuse("null where there must be " + wanted()); }
  bool boolean(bool) { return refuse("true or false where there must be " + wanted()); }
  bool number_integer(std::int64_t) {
    return refuse("a minus sign, where no number may be negative");
  }
  bool number_float(double, const std::string&) {
    return refuse("a number that is no integer of 64 bits");
  }
  bool binary(nlohmann::json::binary_t&) { return refuse("binary data"); }

  bool number_unsigned(std::uint64_t number) {
    if (place_ == place::shape) {
      if (number > static_cast<std::uint64_t>((std::numeric_limits<index_t>::max)())) {
        return refuse("a dimension of " + std::to_string(number) + " is too large");
      }
      entry_.shape.push_back(static_cast<index_t>(number));
      return true;
    }
    if (place_ == place::offsets && offsets_read_ < 2) {
      (offsets_read_ == 0 ? entry_.begin : entry_.end) = number;
      ++offsets_read_;
      return true;
    }
    if (place_ == place::offsets) return refuse("data_offsets has more than two numbers");
    return refuse("a number where there must be " + wanted());
  }

  bool string(std::string& text) {
    if (place_ == place::metadata) {
      if (out_.metadata.emplace(key_, text).second) return true;
      return refuse("appears twice");
    }
    if (place_ != place::tensor || field_ != field::dtype) {
      return refuse("a text where there must be " + wanted());
    }
    const auto type = tensor_type_named(text);
    if (!type) {
      cause_ = {errc::unsupported_file, std::string(source_), error::none, error::none,
                context() + "dtype " + shown_name(text) + " is not handled"};
      return false;
    }
    entry_.type = *type;
    return true;
  }

  bool start_object(std::size_t) {
    if (place_ == place::outside) {
      place_ = place::header;
      return true;
    }
    if (place_ != place::header) return refuse("an object where there must be " + wanted());
    if (key_ == "__metadata__") {
      if (has_metadata_) return refuse("appears twice");
      has_metadata_ = true;
      place_ = place::metadata;
      return true;
    }
    entry_ = {};
    entry_.name = key_;
    fields_seen_ = 0;
    place_ = place::tensor;
    return true;
  }

  bool key(std::string& text) {
    if (place_ != place::tensor) {
      key_ = text;
      return true;
    }
    field_ = text == "dtype"          ? field::dtype
             : text == "shape"        ? field::shape
             : text == "data_offsets" ? field::data_offsets
                                      : field::none;
    if (field_ == field::none) return refuse("unknown field " + shown_name(text));
    const unsigned bit = 1U << static_cast<unsigned>(field_);
    if ((fields_seen_ & bit) != 0) return refuse("field " + shown_name(text) + " appears twice");
    fields_seen_ |= bit;
    return true;
  }

  bool end_object() {
    if (place_ != place::tensor) {  // the metadata, or the whole header
      place_ = place_ == place::metadata ? place::header : place::outside;
      return true;
    }
    if (fields_seen_ != 0b111) return refuse("needs dtype, shape and data_offsets");
    out_.tensors.push_back(std::move(entry_));
    place_ = place::header;
    return true;
  }

  bool start_array(std::size_t) {
    const bool expected =
        place_ == place::tensor && (field_ == field::shape || field_ == field::data_offsets);
    if (!expected) return refuse("an array where there must be " + wanted());
    place_ = field_ == field::shape ? place::shape : place::offsets;
    offsets_read_ = 0;
    return true;
  }

  bool end_array() {
    if (place_ == place::offsets && offsets_read_ != 2) {
      return refuse("data_offsets needs two numbers");
    }
    place_ = place::tensor;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& why) {
    constexpr int out_of_range = 406;  // nlohmann's number of that error
    return refuse(std::string(why.id == out_of_range ? "a number beyond a double" : "not JSON") +
                  " at byte " + std::to_string(position) + " of the header");
  }

 private:
  enum class place : std::uint8_t { outside, header, metadata, tensor, shape, offsets };
  enum class field : std::uint8_t { dtype, shape, data_offsets, none };

  [[nodiscard]] std::string context() const {
    switch (place_) {
      case place::outside:
        return {};
      case place::header:
        return key_.empty() ? std::string{} : shown_name(key_) + ": ";
      case place::metadata:
        return "metadata " + shown_name(key_) + ": ";
      case place::tensor:
      case place::shape:
      case place::offsets:
        break;
    }
    return "tensor " + shown_name(entry_.name) + ": ";
  }

  [[nodiscard]] std::string wanted() const {
    switch (place_) {
      case place::outside:
      case place::header:
        return "an object";
      case place::metadata:
        return "a text";
      case place::shape:
      case place::offsets:
        return "a number";
      case place::tensor:
        break;
    }
    return field_ == field::dtype ? "a text" : "an array";
  }

  bool refuse(const std::string& what) {
    cause_ = {errc::malformed_file, std::string(source_), error::none, error::none,
              context() + what};
    return false;
  }

  std::string_view source_;
  safetensors_header& out_;
  error cause_{errc::malformed_file, {}, error::none, error::none, {}};
  place place_ = place::outside;
  field field_ = field::none;
  unsigned fields_seen_ = 0;
  int offsets_read_ = 0;
  bool has_metadata_ = false;
  std::string key_;
  tensor_entry entry_;
};

/// Product of the dimensions times the element size. No value where that, or the same with empty
/// dimensions left out (strides!), exceeds 63 bits.
inline std::optional<std::uint64_t> byte_size(tensor_type type, const std::vector<index_t>& shape) {
  std::uint64_t size = size_of(type);
  bool empty = false;
  for (const index_t dimension : shape) {
    if (dimension < 0) return std::nullopt;
    if (dimension == 0) {
      empty = true;
      continue;
    }
    const auto limit = static_cast<std::uint64_t>((std::numeric_limits<index_t>::max)());
    if (size > limit / static_cast<std::uint64_t>(dimension)) return std::nullopt;
    size *= static_cast<std::uint64_t>(dimension);
  }
  return empty ? 0 : size;
}

/// Sizes match types and shapes; the tensors tile the data from its first byte to its last; names
/// are unique. Sorts the entries by place.
inline result<void> check_layout(safetensors_header& header, std::uint64_t data_size,
                                 std::string_view source) {
  const auto refuse = [&](const tensor_entry& entry, const std::string& what) {
    return error{errc::malformed_file, std::string(source), error::none, error::none,
                 "tensor " + shown_name(entry.name) + ": " + what};
  };
  for (const tensor_entry& entry : header.tensors) {
    const std::string range =
        "data_offsets [" + std::to_string(entry.begin) + ", " + std::to_string(entry.end) + "]";
    if (entry.end < entry.begin) return refuse(entry, range + " run backwards");
    if (entry.end > data_size) {
      return refuse(entry, range + " lie outside the " + std::to_string(data_size) + " data bytes");
    }
    const auto size = byte_size(entry.type, entry.shape);
    if (!size) return refuse(entry, "its shape overflows 63 bits");
    if (*size != entry.end - entry.begin) {
      return refuse(entry, range + ", but type and shape need " + std::to_string(*size) + " bytes");
    }
  }

  auto& tensors = header.tensors;
  std::sort(tensors.begin(), tensors.end(),
            [](const tensor_entry& a, const tensor_entry& b) { return a.name < b.name; });
  const auto twin = std::adjacent_find(
      tensors.begin(), tensors.end(),
      [](const tensor_entry& a, const tensor_entry& b) { return a.name == b.name; });
  if (twin != tensors.end()) return refuse(*twin, "the name appears twice");

  std::sort(tensors.begin(), tensors.end(), [](const tensor_entry& a, const tensor_entry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  std::uint64_t covered = 0;
  for (const tensor_entry& entry : tensors) {
    if (entry.begin < covered) {
      return refuse(entry, "overlaps the tensor before it: starts at data byte " +
                               std::to_string(entry.begin) + ", expected " +
                               std::to_string(covered));
    }
    if (entry.begin > covered) {
      return refuse(entry, "a hole lies before it: starts at data byte " +
                               std::to_string(entry.begin) + ", expected " +
                               std::to_string(covered));
    }
    covered = entry.end;
  }
  if (covered != data_size) {
    return error{errc::malformed_file, std::string(source), error::none, error::none,
                 "the tensors cover " + std::to_string(covered) + " of " +
                     std::to_string(data_size) + " data bytes"};
  }
  return {};
}

/// Parses `text`, the header of a file with `data_size` bytes of data. `source` names the file in
/// errors. Cost: memory of some 12 times the header's length at worst, whatever the header claims.
inline result<safetensors_header> parse_safetensors_header(std::string_view text,
                                                           std::uint64_t data_size,
                                                           std::string_view source) {
  const auto refuse = [&](const char* what) {
    return error{errc::malformed_file, std::string(source), error::none, error::none, what};
  };
  if (text.empty() || text.front() != '{') return refuse("the header does not start with '{'");
  // The parser takes a NUL for the end of the text and would not read what follows.
  if (text.find('\0') != std::string_view::npos) return refuse("the header holds a NUL byte");

  safetensors_header header;
  header_handler handler(source, header);
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &handler)) return handler.cause();
  if (auto checked = check_layout(header, data_size, source); !checked) return checked.error();
  return header;
}

}  // namespace io_detail

}  // namespace KVFIT_ISA
}  // namespace kvfit
