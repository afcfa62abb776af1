// SPDX-License-Identifier: MIT
#include "server/state_store.hpp"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <random>
#include <thread>

#include "server/temporary_folder.hpp"
#include "support/catch.hpp"

using server::fault;
using server::saved_slot;
using server::state_store;
using server_test::temporary_folder;

namespace {

std::unique_ptr<state_store> store_in(const std::filesystem::path& folder,
                                      const server::store_limits& limits = {},
                                      const std::string& model = "m",
                                      const std::string& rule = "r") {
  auto made = state_store::open(folder, model, rule, limits);
  REQUIRE(made);
  return std::move(*made);
}

/// What a slot holds is told by one number.
saved_slot slot_of(std::uint32_t number) {
  saved_slot made;
  made.tokens.assign(1 + number % 37, static_cast<server::token>(number));
  made.state.assign(1000 + 997 * (number % 50), static_cast<std::byte>(number));
  return made;
}

bool is_same(const saved_slot& a, const saved_slot& b) {
  return a.tokens == b.tokens && a.state == b.state;
}

std::vector<char> bytes_of(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write(const std::filesystem::path& file, const std::vector<char>& bytes) {
  std::ofstream(file, std::ios::binary).write(bytes.data(), std::ssize(bytes));
}

}  // namespace

TEST_CASE("a state comes back as it was saved", "[state_store]") {
  const temporary_folder folder;
  const auto store = store_in(folder.path());
  for (const std::uint32_t number : {0U, 7U, 49U}) {
    REQUIRE(store->save("slot-0", slot_of(number)));
    const auto back = store->load("slot-0");
    REQUIRE(back);
    CHECK(is_same(*back, slot_of(number)));
  }
  CHECK(store->names() == std::vector<std::string>{"slot-0"});
  CHECK(store->load("other").why().what == fault::not_found);
}

TEST_CASE("no name leads out of the state folder", "[state_store]") {
  const temporary_folder folder;
  const auto inside = folder.path() / "states";
  const auto store = store_in(inside);
  for (const std::string name : {"", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "x.kvslot",
                                 "a b", "%2e%2e", "\xC3\xA4"}) {
    CAPTURE(name);
    CHECK(store->save(name, slot_of(1)).why().what == fault::bad_request);
    CHECK(store->load(name).why().what == fault::bad_request);
  }
  CHECK(store->save(std::string("a\0b", 3), slot_of(1)).why().what == fault::bad_request);
  CHECK(store->save(std::string(65, 'a'), slot_of(1)).why().what == fault::bad_request);
  CHECK(store->save(std::string(64, 'a'), slot_of(1)));
  std::filesystem::create_symlink("/etc/passwd", inside / "link.kvslot");
  CHECK(store->load("link").why().what == fault::bad_state);
}

TEST_CASE("flipped bytes and cuts of a state are found wherever they are tried", "[state_store]") {
  const temporary_folder folder;
  const auto store = store_in(folder.path());
  REQUIRE(store->save("s", slot_of(3)));
  const auto file = folder.path() / "s.kvslot";
  const auto whole = bytes_of(file);
  for (std::size_t i = 0; i < whole.size(); i += 1 + i / 64) {
    auto damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x10);
    write(file, damaged);
    CHECK(store->load("s").why().what == fault::bad_state);
    write(file, {whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(i)});
    CHECK(store->load("s").why().what == fault::bad_state);
  }
  auto longer = whole;
  longer.push_back(0);
  write(file, longer);
  CHECK(store->load("s").why().what == fault::bad_state);
  write(file, whole);
  CHECK(store->load("s"));
}

TEST_CASE("a state of another model or rule is refused", "[state_store]") {
  const temporary_folder folder;
  REQUIRE(store_in(folder.path())->save("s", slot_of(3)));
  CHECK(store_in(folder.path())->load("s"));
  const auto model = store_in(folder.path(), {}, "n")->load("s");
  REQUIRE_FALSE(model);
  CHECK(model.why().message == "state s: of another model");
  const auto rule = store_in(folder.path(), {}, "m", "q")->load("s");
  REQUIRE_FALSE(rule);
  CHECK(rule.why().message == "state s: of another rule");
}

TEST_CASE("two stores never share a folder", "[state_store]") {
  const temporary_folder folder;
  const auto first = store_in(folder.path());
  CHECK(state_store::open(folder.path(), "m", "r").why().what == fault::storage);
}

TEST_CASE("quotas and a full device leave the older state as it was", "[state_store]") {
  const temporary_folder folder;
  const auto store = store_in(folder.path(), {.file_bytes = 20000, .all_bytes = 30000, .files = 2});
  REQUIRE(store->save("a", slot_of(5)));
  CHECK(store->save("a", slot_of(49)).why().what == fault::storage);
  CHECK(is_same(*store->load("a"), slot_of(5)));
  REQUIRE(store->save("b", slot_of(15)));
  CHECK(store->save("c", slot_of(0)).why().what == fault::storage);
  CHECK(store->save("a", slot_of(18)).why().what == fault::storage);  // a and b: beyond 30,000

  // A process that may write no more than 3,000 bytes a file stands for a full device.
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{.rlim_cur = 3000, .rlim_max = 3000};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(2);
    const auto saved = store->save("a", slot_of(4));
    ::_exit(!saved && saved.why().what == fault::storage ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(is_same(*store->load("a"), slot_of(5)));
}

TEST_CASE("a process killed while it saves loses no state: 200 times", "[state_store]") {
  const temporary_folder folder;
  std::mt19937 random(19);
  std::uint32_t least = 0;
  REQUIRE(store_in(folder.path())->save("s", slot_of(0)));
  int killed_within = 0;
  for (int round = 0; round < 200; ++round) {
    int pipe_ends[2];
    REQUIRE(::pipe(pipe_ends) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
      auto store = state_store::open(folder.path(), "m", "r");
      if (!store) ::_exit(1);
      for (std::uint32_t number = least;; ++number) {
        if (!(*store)->save("s", slot_of(number))) ::_exit(1);
        if (::write(pipe_ends[1], &number, sizeof number) != sizeof number) ::_exit(1);
      }
    }
    ::close(pipe_ends[1]);
    // After the first save, at no moment in particular.
    std::uint32_t promised = 0;
    REQUIRE(::read(pipe_ends[0], &promised, sizeof promised) == sizeof promised);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    REQUIRE(::kill(child, SIGKILL) == 0);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status));
    std::uint32_t number = 0;
    while (::read(pipe_ends[0], &number, sizeof number) == sizeof number) promised = number;
    ::close(pipe_ends[0]);
    for (const auto& each : std::filesystem::directory_iterator(folder.path())) {
      killed_within += each.path().extension() == ".tmp" ? 1 : 0;
    }

    const auto store = store_in(folder.path());
    const auto back = store->load("s");
    REQUIRE(back);
    // The last that was promised, or the next, which may have been in place already.
    CHECK((is_same(*back, slot_of(promised)) || is_same(*back, slot_of(promised + 1))));
    for (const auto& each : std::filesystem::directory_iterator(folder.path())) {
      CHECK(each.path().extension() != ".tmp");
    }
    least = promised + 1;
  }
  CHECK(killed_within > 0);  // it was not always killed between two saves
}
