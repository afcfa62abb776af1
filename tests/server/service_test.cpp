// SPDX-License-Identifier: MIT
#include "server/service.hpp"

#include <cmath>
#include <limits>

#include "server/fake_engine.hpp"
#include "server/temporary_folder.hpp"
#include "support/catch.hpp"

using namespace std::chrono_literals;
using server::ending;
using server::fault;
using server::generation_request;
using server::service;
using server::service_options;
using server_test::fake_faults;
using server_test::temporary_folder;

namespace {

struct running {
  temporary_folder folder;
  std::shared_ptr<fake_faults> faults = std::make_shared<fake_faults>();
  std::unique_ptr<service> of;

  explicit running(server::index_t slots = 2, const service_options& options = {}) {
    start(slots, options);
  }
  void start(server::index_t slots, const service_options& options) {
    of.reset();
    auto model = std::make_unique<server_test::fake_engine>(slots, faults);
    auto store = server::state_store::open(folder.path(), model->model(), model->rule());
    REQUIRE(store);
    of = std::make_unique<service>(std::move(model), std::move(*store), options);
  }
};

generation_request asked(const std::string& prompt, server::index_t most,
                         std::optional<server::index_t> slot = {}) {
  generation_request made;
  for (const char c : prompt) made.prompt.push_back(static_cast<unsigned char>(c));
  made.most = most;
  made.slot = slot;
  return made;
}

struct heard {
  std::string text;
  server::generation::piece last;
};

heard hear(server::generation& from) {
  heard all;
  const auto start = server::clock::now();
  do {
    all.last = from.next(50ms);
    all.text += all.last.text;
  } while (all.last.how == ending::none && server::clock::now() - start < 20s);
  return all;
}

heard say(service& by, const generation_request& what) {
  const auto made = by.submit(what);
  REQUIRE(made);
  return hear(**made);
}

/// Until a slot is as wanted.
template <class Wanted>
bool comes(const service& of, Wanted wanted) {
  for (int i = 0; i < 4000; ++i) {
    if (wanted(of.slots())) return true;
    std::this_thread::sleep_for(5ms);
  }
  return false;
}

}  // namespace

TEST_CASE("what goes on is read behind the slot's conversation, compact or not", "[server]") {
  running server(1);
  const heard first = say(*server.of, asked("0123456789", 6, 0));
  const heard whole = say(*server.of, asked("0123456789" + first.text + "and", 8, 0));
  running again(1);
  CHECK(say(*again.of, asked("0123456789", 6, 0)).text == first.text);
  generation_request next = asked("and", 8, 0);
  next.goes_on = true;
  CHECK(say(*again.of, next).text == whole.text);
  const auto has_all = [](const auto& slots) { return slots[0].tokens == 10 + 6 + 3 + 8; };
  CHECK(comes(*server.of, has_all));
  CHECK(comes(*again.of, has_all));
  // A compact cache has no prompt that could be read anew.
  REQUIRE(again.of->compact(0, {.how = {.target = 9}}));
  CHECK(say(*again.of, next).last.how == ending::length);
  CHECK(comes(*again.of, [](const auto& slots) { return slots[0].rows == 9 + 3 + 8; }));

  next.slot = {};
  const auto nowhere = again.of->submit(next);
  REQUIRE_FALSE(nowhere);
  CHECK(nowhere.why().what == fault::bad_request);
  running empty(1);
  next.slot = 0;
  CHECK(say(*empty.of, next).last.why.what == fault::not_found);
  service_options options;
  options.longest = 20;
  running shorter(1, options);
  say(*shorter.of, asked("0123456789", 6, 0));
  CHECK(say(*shorter.of, next).last.why.what == fault::too_large);
}

TEST_CASE("a request that can't fit wipes no conversation, and is told whether it ever could",
          "[server][memory]") {
  service_options options;
  options.memory_cap = 4 * 1000;  // rows of four bytes
  running server(2, options);
  say(*server.of, asked(std::string(300, 'a'), 50, 0));
  say(*server.of, asked(std::string(300, 'b'), 50, 1));
  const heard never = say(*server.of, asked("z", 5000, 0));
  CHECK(never.last.how == ending::failed);
  CHECK(never.last.why.what == fault::too_large);
  CHECK(comes(*server.of, [](const auto& s) { return s[0].tokens == 350 && s[1].tokens == 350; }));
  // Of the other conversation no more is taken than is needed, and it is where it helps.
  CHECK(say(*server.of, asked("zz", 600, 0)).last.how == ending::length);
  CHECK(comes(*server.of, [](const auto& slots) { return slots[1].tokens == 350; }));
  CHECK(say(*server.of, asked("yy", 800, 0)).last.how == ending::length);
  CHECK(comes(*server.of, [](const auto& slots) { return slots[1].tokens == 0; }));
}

TEST_CASE("what goes on counts once against the memory cap", "[server][memory]") {
  service_options options;
  options.memory_cap = 4 * 1000;
  running server(2, options);
  say(*server.of, asked(std::string(500, 'a'), 100, 0));
  server.faults->decode_ms = 2;
  generation_request next = asked("b", 100, 0);
  next.goes_on = true;
  const auto long_one = server.of->submit(next);  // 701 rows at most
  REQUIRE(long_one);
  CHECK(say(*server.of, asked("0123456789", 14, 1)).last.how == ending::length);
  CHECK(hear(**long_one).last.how == ending::length);
}

TEST_CASE("a server that starts puts back no more than fits, and says what it left out",
          "[server][memory][states]") {
  running server(2);
  say(*server.of, asked(std::string(60, 'a'), 10, 0));
  say(*server.of, asked(std::string(60, 'b'), 10, 1));
  REQUIRE(server.of->save(0, ""));
  REQUIRE(server.of->save(1, ""));
  service_options options;
  options.memory_cap = 4 * 100;
  server.start(2, options);
  CHECK(server.of->slots()[0].rows == 70);
  CHECK(server.of->slots()[1].rows == 0);
  CHECK(server.of->restore_failures().size() == 1);
  // In place of what the slot has, the same rows fit.
  CHECK(server.of->restore(0, "slot-0"));
  CHECK(comes(*server.of, [](const auto& slots) { return slots[0].rows == 70; }));
}

TEST_CASE("options that can't be served are told", "[server]") {
  CHECK_FALSE(service_options{}.fault_of());
  service_options options;
  options.step = 0;
  CHECK(options.fault_of());
  options = {};
  options.gate.most_error = std::numeric_limits<double>::quiet_NaN();
  CHECK(options.fault_of());
  CHECK(options.gate.refuses({.rows_before = 10, .rows_after = 5, .held_out_error = 5}));
  options = {};
  options.automatic = {.trigger = 10, .target = 20};
  CHECK(options.fault_of());
}

TEST_CASE("a slot that can read no more ends what it says, and refuses what it can't read whole",
          "[server]") {
  running server(1);
  server.faults->most_rows = 20;
  const heard said = say(*server.of, asked("0123456789", 64));
  CHECK(said.last.how == ending::length);
  CHECK(said.text.size() == 10);
  CHECK(comes(*server.of, [](const auto& slots) { return slots[0].rows == 20; }));
  const heard longer = say(*server.of, asked("01234567890123456789xyz", 4));
  CHECK(longer.last.how == ending::failed);
  CHECK(longer.last.why.what == fault::too_large);
  server.faults->most_rows = 1000;
  CHECK(say(*server.of, asked("0123456789", 4)).last.how == ending::length);
}

TEST_CASE(
    "what a client heard before it went away is not lost, and half a prompt is not gone on with",
    "[server]") {
  running server(1);
  const heard whole = say(*server.of, asked("0123456789", 40, 0));
  running other(1);
  other.faults->decode_ms = 3;
  const auto left = other.of->submit(asked("0123456789", 40, 0));
  REQUIRE(left);
  std::string text;
  while (text.size() < 5) text += (*left)->next(50ms).text;
  (*left)->cancel();
  text += hear(**left).text;
  REQUIRE(text.size() < 40);
  REQUIRE(whole.text.substr(0, text.size()) == text);
  REQUIRE(other.of->save(0, ""));  // with all that was said
  other.start(1, {});
  generation_request next = asked("and", 4, 0);
  next.goes_on = true;
  const heard again = say(*other.of, next);
  running third(1);
  CHECK(say(*third.of, asked("0123456789" + text + "and", 4, 0)).text == again.text);

  other.faults->decode_ms = 20;
  const auto half = other.of->submit(asked(std::string(1000, 'x'), 4, 0));
  REQUIRE(half);
  REQUIRE(comes(*other.of, [](const auto& slots) { return slots[0].rows >= 128; }));
  (*half)->cancel();
  CHECK(hear(**half).last.how == ending::failed);
  CHECK(say(*other.of, next).last.why.what == fault::conflict);
}

TEST_CASE("where space runs short a compaction is tried again before there is none", "[server]") {
  service_options options;
  options.automatic = {.trigger = 896, .target = 300};
  running server(1, options);
  server.faults->most_rows = 1024;
  server.faults->decode_ms = 5;
  server.faults->fails_fit = true;
  const auto asked_for = server.of->submit(asked(std::string(950, 'a'), 400, 0));
  REQUIRE(asked_for);
  REQUIRE(comes(*server.of, [](const auto& slots) { return !slots[0].refusal.empty(); }));
  server.faults->fails_fit = false;
  const heard said = hear(**asked_for);
  CHECK(said.text.size() == 400);
  CHECK(comes(*server.of, [](const auto& slots) { return slots[0].compactions == 1; }));
}

TEST_CASE("a fit that takes longer than the server's patience is given up", "[server]") {
  service_options options;
  options.patience = 50ms;
  running server(1, options);
  say(*server.of, asked("0123456789012345678901234567890123456789", 1));
  server.faults->holds_fit = true;
  const auto late = server.of->compact(0, {.how = {.target = 20}});
  REQUIRE_FALSE(late);
  CHECK(late.why().what == fault::timed_out);
  server.faults->holds_fit = false;
  CHECK(server.of->compact(0, {.how = {.target = 20}}));
}

TEST_CASE("a conversation goes on where it was, whichever slot it is in", "[service]") {
  running server(3);
  const auto first = say(*server.of, asked("Once", 5));
  CHECK(first.last.how == ending::length);
  CHECK(first.text.size() == 5);
  const auto whole = say(*server.of, asked("Once", 9));
  CHECK(whole.text.substr(0, 5) == first.text);
  const auto more = say(*server.of, asked("Once" + first.text + whole.text.substr(5, 1), 3));
  CHECK(more.text == whole.text.substr(6, 3));
  CHECK(server.of->submit(asked("", 1)).why().what == fault::bad_request);
  CHECK(server.of->submit(asked("a", 0)).why().what == fault::bad_request);
  CHECK(server.of->submit(asked("a", 1, 3)).why().what == fault::not_found);
}

TEST_CASE("a full queue is an error, and so are prompts beyond the limit", "[service]") {
  running server(1, {.queue = 2, .longest = 100});
  server.faults->decode_ms = 5;
  CHECK(server.of->submit(asked(std::string(90, 'a'), 11)).why().what == fault::too_large);
  const auto busy = server.of->submit(asked("a", 90));
  REQUIRE(busy);
  REQUIRE(comes(*server.of, [](const auto& s) { return s[0].is_busy; }));
  const auto second = server.of->submit(asked("b", 1));
  const auto third = server.of->submit(asked("c", 1));
  REQUIRE(second);
  REQUIRE(third);
  CHECK(server.of->submit(asked("d", 1)).why().what == fault::overloaded);
  (*busy)->cancel();
  CHECK(hear(**busy).last.why.what == fault::cancelled);
  CHECK(hear(**second).last.how == ending::length);
  CHECK(hear(**third).last.how == ending::length);
}

TEST_CASE("a deadline ends a request that waits and one that is served", "[service]") {
  running server(1);
  server.faults->decode_ms = 10;
  auto long_one = asked("a", 100000);
  long_one.deadline = server::clock::now() + 150ms;
  auto waits = asked("b", 1);
  waits.deadline = server::clock::now() + 50ms;
  const auto first = server.of->submit(long_one);
  const auto second = server.of->submit(waits);
  REQUIRE(first);
  REQUIRE(second);
  CHECK(hear(**second).last.why.what == fault::timed_out);
  CHECK(hear(**first).last.why.what == fault::timed_out);
  server.faults->decode_ms = 0;
  CHECK(say(*server.of, asked("c", 2)).text.size() == 2);
}

TEST_CASE("a NaN and a failing model are errors, and the slot stays usable", "[service]") {
  running server(1);
  const auto right = say(*server.of, asked("Once", 4)).text;
  server.faults->says_nan = true;
  CHECK(say(*server.of, asked("Once", 4)).last.why.what == fault::engine);
  server.faults->says_nan = false;
  CHECK(say(*server.of, asked("Once", 4)).text == right);
  server.faults->fails_decode = true;
  CHECK(say(*server.of, asked("Once", 4)).last.why.what == fault::engine);
  server.faults->fails_decode = false;
  CHECK(say(*server.of, asked("Once", 4)).text == right);
  CHECK(server.of->counted().of(server::metrics::count::engine_failures) == 2);
}

TEST_CASE("the memory cap takes idle conversations away, and refuses what can't fit", "[service]") {
  running server(3, {.memory_cap = 4 * 100});
  CHECK(say(*server.of, asked(std::string(40, 'a'), 5, 0)).last.how == ending::length);
  CHECK(say(*server.of, asked(std::string(40, 'b'), 5, 1)).last.how == ending::length);
  CHECK(say(*server.of, asked(std::string(40, 'c'), 5, 2)).last.how == ending::length);
  REQUIRE(comes(*server.of, [](const auto& s) { return s[2].rows == 45; }));
  CHECK(server.of->slots()[0].rows == 0);  // the oldest
  CHECK(server.of->slots()[1].rows == 45);
  CHECK(say(*server.of, asked(std::string(99, 'd'), 5)).last.why.what == fault::too_large);
}

TEST_CASE("automatic compaction keeps a conversation within its target, others go on",
          "[service]") {
  service_options options;
  options.automatic = {.trigger = 60, .target = 20, .protect_first = 4, .protect_recent = 8};
  running server(2, options);
  server.faults->holds_fit = true;
  const auto compacted = server.of->submit(asked(std::string(50, 'a'), 200, 0));
  REQUIRE(compacted);
  REQUIRE(comes(*server.of, [](const auto& s) { return s[0].is_compacting; }));
  // The fit does not end until it is let to; another slot is served meanwhile.
  CHECK(say(*server.of, asked("other", 40, 1)).text.size() == 40);
  CHECK(server.of->slots()[0].is_compacting);
  CHECK(server.of->counted().longest_stall() > 0);
  server.faults->holds_fit = false;
  CHECK(hear(**compacted).text.size() == 200);
  REQUIRE(comes(*server.of, [](const auto& s) { return !s[0].is_busy; }));
  const auto slot = server.of->slots()[0];
  CHECK(slot.tokens == 250);
  CHECK(slot.rows <= 60);
  CHECK(slot.compactions >= 4);
  CHECK(slot.refusal.empty());
}

TEST_CASE("what the gate refuses leaves the conversation as it was, and says why", "[service]") {
  service_options options;
  options.automatic = {.trigger = 60, .target = 20, .protect_first = 0, .protect_recent = 0};
  running plain(1);
  const auto right = say(*plain.of, asked(std::string(50, 'a'), 100)).text;
  for (const double error : {0.6, std::numeric_limits<double>::quiet_NaN(), -1.0}) {
    CAPTURE(error);
    running server(1, options);
    server.faults->error = error;
    CHECK(say(*server.of, asked(std::string(50, 'a'), 100)).text == right);
    const auto tried = server.of->counted().of(server::metrics::count::compactions_refused);
    CHECK(tried >= 2);
    CHECK(tried <= 5);  // not after every token
    REQUIRE(comes(*server.of, [](const auto& s) { return !s[0].is_busy; }));
    CHECK(server.of->slots()[0].rows == 150);
    CHECK_FALSE(server.of->slots()[0].refusal.empty());
  }
  running failing(1, options);
  failing.faults->fails_fit = true;
  CHECK(say(*failing.of, asked(std::string(50, 'a'), 100)).text == right);
  failing.faults->fails_fit = false;
  failing.faults->fails_apply = true;
  CHECK(say(*failing.of, asked(std::string(50, 'a'), 100)).text == right);
  CHECK(failing.of->counted().of(server::metrics::count::compactions_failed) >= 4);
}

TEST_CASE("a compaction by order: dry run, conflict, limits", "[service]") {
  running server(1);
  say(*server.of, asked(std::string(50, 'a'), 10));
  REQUIRE(comes(*server.of, [](const auto& s) { return !s[0].is_busy && s[0].rows == 60; }));
  const auto dry = server.of->compact(0, {.how = {.method = "x"}, .ratio = 3, .is_dry_run = true});
  REQUIRE(dry);
  CHECK(dry->rows_before == 60);
  CHECK(dry->rows_after == 20);
  CHECK(server.of->slots()[0].rows == 60);
  CHECK(server.of->compact(1, {.ratio = 2}).why().what == fault::not_found);
  for (const double ratio : {1.0, 0.5, -2.0, 1e9, std::numeric_limits<double>::infinity()}) {
    CHECK(server.of->compact(0, {.how = {}, .ratio = ratio}).why().what == fault::bad_request);
  }
  CHECK(server.of->compact(0, {.how = {.target = 20, .protect_first = 20}}).why().what ==
        fault::bad_request);
  server.faults->error = 0.9;
  CHECK(server.of->compact(0, {.how = {}, .ratio = 3}).why().what == fault::refused);
  CHECK(server.of->slots()[0].rows == 60);
  server.faults->error = 0.1;
  REQUIRE(server.of->compact(0, {.how = {}, .ratio = 3}));
  CHECK(server.of->slots()[0].rows == 20);
  CHECK(server.of->slots()[0].tokens == 60);
  server.faults->decode_ms = 5;
  const auto busy = server.of->submit(asked("a", 1000));
  REQUIRE(busy);
  REQUIRE(comes(*server.of, [](const auto& s) { return s[0].is_busy; }));
  CHECK(server.of->compact(0, {.how = {}, .ratio = 3}).why().what == fault::conflict);
  CHECK(server.of->save(0, "s").why().what == fault::conflict);
  CHECK(server.of->restore(0, "s").why().what == fault::conflict);
}

TEST_CASE("a compacted conversation is saved, and a new server goes on with it", "[service]") {
  running server(2);
  const auto begun = "b" + say(*server.of, asked("b", 40, 0)).text;
  REQUIRE(server.of->compact(0, {.how = {}, .ratio = 4}));
  REQUIRE(server.of->save(0, ""));
  const auto right = say(*server.of, asked(begun + "x", 10, 0)).text;
  CHECK(server.of->save(1, "").why().what == fault::bad_request);  // empty
  CHECK(server.of->restore(1, "nothing").why().what == fault::not_found);

  server.start(2, {});
  CHECK(server.of->restore_failures().empty());
  CHECK(server.of->slots()[0].tokens == 41);
  CHECK(server.of->slots()[0].rows == 10);
  CHECK(say(*server.of, asked(begun + "x", 10)).text == right);
  REQUIRE(server.of->restore(1, "slot-0"));
  CHECK(say(*server.of, asked(begun + "x", 10, 1)).text == right);
}

TEST_CASE("a server stops while it says, fits and is waited for", "[service]") {
  service_options options;
  options.automatic = {.trigger = 60, .target = 20, .protect_first = 4, .protect_recent = 8};
  auto server = std::make_unique<running>(2, options);
  server->faults->holds_fit = true;
  server->faults->decode_ms = 1;
  const auto fits = server->of->submit(asked(std::string(70, 'a'), 200, 0));
  const auto says = server->of->submit(asked("a", 100000, 1));
  const auto waits = server->of->submit(asked("b", 1, 1));
  REQUIRE(fits);
  REQUIRE(says);
  REQUIRE(waits);
  REQUIRE(comes(*server->of, [](const auto& s) { return s[0].is_compacting && s[1].is_busy; }));
  server.reset();
  CHECK(hear(**fits).last.why.what == fault::cancelled);
  CHECK(hear(**says).last.why.what == fault::cancelled);
  CHECK(hear(**waits).last.why.what == fault::cancelled);
}

TEST_CASE("a policy whose protected rows leave nothing to fit is told", "[service]") {
  using policy = server::compaction_policy;
  CHECK_FALSE(policy{}.fault_of());
  CHECK_FALSE(policy{.trigger = 60, .target = 20, .protect_first = 4}.fault_of());
  CHECK(policy{.trigger = 60, .target = 60}.fault_of());
  CHECK(policy{.trigger = 60, .target = 20, .protect_first = 10, .protect_recent = 10}.fault_of());
  CHECK(policy{.trigger = -1}.fault_of());
}

TEST_CASE("metrics count tokens and times in Prometheus' form", "[service]") {
  running server(1);
  say(*server.of, asked("abc", 4));
  const auto text = server.of->metrics_text();
  CHECK(text.find("kvfit_tokens_said_total 4\n") != std::string::npos);
  CHECK(text.find("kvfit_token_seconds_count{compacting=\"none\"} 3\n") != std::string::npos);
  CHECK(text.find("le=\"+Inf\"} 3\n") != std::string::npos);
  CHECK(text.find("# TYPE kvfit_longest_stall_seconds gauge\n") != std::string::npos);
}
