// SPDX-License-Identifier: MIT
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "io/files.hpp"
#include "kvfit/io/safetensors.hpp"
#include "support/catch.hpp"

#if __has_include(<sys/resource.h>)
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#define KVFIT_TEST_HAS_POSIX 1
#endif

using kvfit::errc;
using kvfit::tensor_type;
using kvfit::tensor_view;
using kvfit_test::encoded;
using kvfit_test::file_bytes;
using kvfit_test::scratch_folder;
using kvfit_test::tensor;

namespace {

const std::vector<float> floats = {1, 2, 3, 4, 5, 6};
const std::vector<std::int64_t> longs = {-1, 1};
const std::vector<std::uint8_t> octets = {7, 8, 9};

std::vector<tensor_view> some_tensors() {
  return {tensor("b", tensor_type::f32, {2, 3}, floats), tensor("c", tensor_type::u8, {3}, octets),
          tensor("a", tensor_type::f32, {6}, floats), tensor("z", tensor_type::i64, {2}, longs)};
}

}  // namespace

TEST_CASE("tensors and metadata come back as written", "[io]") {
  const scratch_folder folder;
  const kvfit::tensor_metadata metadata = {
      {"plain", "text"}, {"quoted \"\\\"", std::string("\n\t\x01 \xC3\xA9\0!", 8)}, {"", ""}};
  const auto tensors = some_tensors();
  const auto written = kvfit::write_safetensors(folder / "file", tensors, metadata);
  REQUIRE(written.has_value());
  CHECK(folder.count() == 1);

  const auto read = kvfit::read_safetensors(folder / "file");
  REQUIRE(read.has_value());
  CHECK(read->metadata == metadata);
  REQUIRE(read->tensors.size() == tensors.size());
  for (const tensor_view& wanted : tensors) {
    INFO(wanted.name);
    const tensor_view* found = find_tensor(*read, wanted.name);
    REQUIRE(found != nullptr);
    CHECK(found->type == wanted.type);
    CHECK(found->shape == wanted.shape);
    CHECK(std::equal(found->bytes.begin(), found->bytes.end(), wanted.bytes.begin(),
                     wanted.bytes.end()));
  }
}

TEST_CASE("the bytes of a file are those of the original library", "[io]") {
  // The very bytes that library's own test expects for this tensor.
  const auto file = encoded(
      {tensor("attn0", tensor_type::f32, {1, 1, 2, 3}, std::vector<float>{0, 1, 2, 3, 4, 5})}, {});
  const std::string header =
      R"({"attn0":{"dtype":"F32","shape":[1,1,2,3],"data_offsets":[0,24]}}       )";
  REQUIRE(header.size() == 72);
  REQUIRE(file.size() == 8 + 72 + 24);
  CHECK(file[0] == std::byte{72});
  CHECK(std::memcmp(file.data() + 8, header.data(), header.size()) == 0);
  CHECK(encoded({}, {}) == kvfit_test::raw_file("{}      ", ""));
  CHECK(encoded({}, {{"framework", "pt"}}) ==
        kvfit_test::raw_file(R"({"__metadata__":{"framework":"pt"}}     )", ""));
}

TEST_CASE("the order of the input does not show in the file, and all tensors lie aligned", "[io]") {
  auto tensors = some_tensors();
  const auto first = encoded(tensors, {{"k", "v"}});
  std::reverse(tensors.begin(), tensors.end());
  CHECK(encoded(tensors, {{"k", "v"}}) == first);

  std::uint64_t header = 0;
  std::memcpy(&header, first.data(), 8);
  CHECK(header % 8 == 0);
  const std::string text(reinterpret_cast<const char*>(first.data()) + 8, header);
  // Larger elements first, then by name.
  CHECK(text.find("\"z\"") < text.find("\"a\""));
  CHECK(text.find("\"a\"") < text.find("\"b\""));
  CHECK(text.find("\"b\"") < text.find("\"c\""));
}

TEST_CASE("what could not be read back is not written", "[io]") {
  const scratch_folder folder;
  const auto attempt = [&](const std::vector<tensor_view>& tensors,
                           const kvfit::tensor_metadata& metadata) {
    const auto written = kvfit::write_safetensors(folder / "file", tensors, metadata);
    REQUIRE_FALSE(written.has_value());
    CHECK(folder.count() == 0);
    return written.error();
  };
  SECTION("a name twice") {
    const auto cause = attempt(
        {tensor("a", tensor_type::u8, {3}, octets), tensor("a", tensor_type::u8, {3}, octets)}, {});
    CHECK(cause.code == errc::invalid_option);
    CHECK(cause.detail.find("appears twice") != std::string::npos);
  }
  SECTION("the name of the metadata") {
    CHECK(attempt({tensor("__metadata__", tensor_type::u8, {3}, octets)}, {}).code ==
          errc::invalid_option);
  }
  SECTION("a name or a metadata text that is not UTF-8") {
    CHECK(attempt({tensor("\xC3", tensor_type::u8, {3}, octets)}, {}).code == errc::invalid_option);
    CHECK(attempt({}, {{"k", "\xFF"}}).code == errc::invalid_option);
  }
  SECTION("bytes that are not what type and shape need") {
    const auto cause = attempt({tensor("a", tensor_type::f32, {3}, octets)}, {});
    CHECK(cause.code == errc::shape_mismatch);
    CHECK(cause.argument == "a");
    CHECK(cause.actual == 3);
    CHECK(cause.expected == 12);
  }
  SECTION("a negative or an overflowing shape") {
    CHECK(attempt({tensor("a", tensor_type::u8, {-3}, octets)}, {}).code == errc::shape_mismatch);
    const auto huge = std::numeric_limits<kvfit::index_t>::max();
    CHECK(attempt({tensor("a", tensor_type::u8, {huge, 3}, octets)}, {}).code ==
          errc::shape_mismatch);
  }
}

TEST_CASE("a path that can't be written is a typed error and leaves nothing behind", "[io]") {
  const scratch_folder folder;
  const auto tensors = some_tensors();
  const auto refused = [&](const std::filesystem::path& path) {
    const auto written = kvfit::write_safetensors(path, tensors, {});
    REQUIRE_FALSE(written.has_value());
    CHECK(written.error().code == errc::file_unwritable);
    CHECK(written.error().argument == path.string());
    CHECK_FALSE(written.error().detail.empty());
  };
  SECTION("a folder that is not there") {
    refused(folder / "none" / "file");
    CHECK(folder.count() == 0);
  }
  SECTION("a folder that is a file") {
    kvfit_test::put_bytes(folder / "plain", kvfit_test::bytes(3));
    refused(folder / "plain" / "file");
    CHECK(file_bytes(folder / "plain").size() == 3);
  }
  SECTION("a target that is a folder") {
    std::filesystem::create_directory(folder / "sub");
    refused(folder / "sub");
    CHECK(folder.count() == 1);
  }
  SECTION("an empty path") {
    refused({});
  }
  SECTION("a file system that takes no files") {
    if (std::filesystem::exists("/proc/self")) refused("/proc/kvfit");
  }
  SECTION("a folder without permission") {
    std::filesystem::create_directory(folder / "locked");
    std::filesystem::permissions(folder / "locked", std::filesystem::perms::owner_read);
    std::error_code ignored;
    kvfit_test::put_bytes(folder / "locked" / "probe", kvfit_test::bytes(1));
    const bool may_write = std::filesystem::exists(folder / "locked" / "probe", ignored);
    if (may_write) {
      WARN("permissions do not bind this user: not tested");
    } else {
      refused(folder / "locked" / "file");
    }
    std::filesystem::permissions(folder / "locked", std::filesystem::perms::owner_all);
  }
#if defined(KVFIT_TEST_HAS_POSIX)
  SECTION("a pipe, which stays one") {
    REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
    refused(folder / "pipe");
    CHECK(std::filesystem::is_fifo(folder / "pipe"));
    CHECK(folder.count() == 1);
  }
#endif
}

#if defined(KVFIT_TEST_HAS_POSIX)
TEST_CASE("§9.19 a write that fails half-way leaves the old file and no temporary one", "[io]") {
  const scratch_folder folder;
  const auto path = folder / "file";
  REQUIRE(kvfit::write_safetensors(path, some_tensors(), {}).has_value());
  const auto before = file_bytes(path);

  // Stands in for a full disk: no file may grow beyond 64 KiB.
  rlimit old_limit{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &old_limit) == 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{65536, old_limit.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  const std::vector<float> many(100'000);
  const auto written = kvfit::write_safetensors(
      path, std::vector{tensor("m", tensor_type::f32, {100'000}, many)}, {});
  ::setrlimit(RLIMIT_FSIZE, &old_limit);
  std::signal(SIGXFSZ, old_handler);

  REQUIRE_FALSE(written.has_value());
  CHECK(written.error().code == errc::file_unwritable);
  CHECK(file_bytes(path) == before);
  CHECK(folder.count() == 1);
}

TEST_CASE("a symbolic link is replaced by the file, its target stays", "[io]") {
  const scratch_folder folder;
  kvfit_test::put_bytes(folder / "target", kvfit_test::bytes(3));
  std::filesystem::create_symlink(folder / "target", folder / "link");
  REQUIRE(kvfit::write_safetensors(folder / "link", some_tensors(), {}).has_value());
  CHECK_FALSE(std::filesystem::is_symlink(folder / "link"));
  CHECK(file_bytes(folder / "target").size() == 3);
}
#endif

TEST_CASE("a file is replaced, also by a bare name in the current folder", "[io]") {
  const scratch_folder folder;
  const auto here = std::filesystem::current_path();
  std::filesystem::current_path(folder / "");
  CHECK(kvfit::write_safetensors("file", some_tensors(), {}).has_value());
  CHECK(kvfit::write_safetensors("file", {}, {}).has_value());
  std::filesystem::current_path(here);
  CHECK(file_bytes(folder / "file") == kvfit_test::raw_file("{}      ", ""));
  CHECK(folder.count() == 1);
}

TEST_CASE("tensors can be made while they are written, and a wrong length leaves the old file",
          "[io]") {
  const scratch_folder folder;
  const auto tensors = some_tensors();
  REQUIRE(kvfit::write_safetensors(folder / "whole", tensors, {}).has_value());
  std::vector<kvfit::tensor_spec> specs;
  for (const tensor_view& tensor : tensors)
    specs.push_back({tensor.name, tensor.type, tensor.shape});
  const auto write = [&](std::size_t missing, std::size_t failing) {
    return kvfit::write_safetensors_by(
        folder / "file", specs, {},
        [&](std::size_t i, const kvfit::io_detail::byte_sink& sink) -> kvfit::result<void> {
          if (i == failing) return kvfit::error{errc::non_finite, "mine"};
          const auto bytes = tensors[i].bytes;
          for (std::size_t at = 0; at < bytes.size() - (i == 2 ? missing : 0); ++at) {
            if (auto ok = sink(bytes.subspan(at, 1)); !ok) return ok;
          }
          return {};
        });
  };
  REQUIRE(write(0, 9).has_value());
  CHECK(file_bytes(folder / "file") == file_bytes(folder / "whole"));
  const auto cut = write(1, 9);
  REQUIRE_FALSE(cut.has_value());
  CHECK(cut.error().code == errc::shape_mismatch);
  CHECK(cut.error().argument == "a");
  CHECK(cut.error().actual == 23);
  CHECK(cut.error().expected == 24);
  CHECK(write(0, 1).error().argument == "mine");
  CHECK(file_bytes(folder / "file") == file_bytes(folder / "whole"));
  CHECK(folder.count() == 2);
}
