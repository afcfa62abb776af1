// SPDX-License-Identifier: MIT
// The server's engine over libllama, on the model in examples/data.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/llama_engine.hpp"
#include "server/service.hpp"
#include "server/temporary_folder.hpp"
#include "support/catch.hpp"

using server::fault;
using server::index_t;
using server::llama_engine;
using server::token;

namespace {

std::unique_ptr<llama_engine> open(index_t slots, index_t cells = 2048) {
  server::llama_engine_options options{.slots = slots};
  options.session.cells = cells;
  options.session.threads = 2;
  auto made = llama_engine::open(KVFIT_TINYBOOKS_GGUF, options);
  if (!made) FAIL(made.why().message);
  return std::move(*made);
}

std::vector<token> text_tokens(const llama_engine& of, int book) {
  std::ifstream file(std::filesystem::path(KVFIT_TEST_DATA_DIR) / "tinybooks" /
                     ("held-" + std::to_string(book) + ".txt"));
  const std::string text(std::istreambuf_iterator<char>(file), {});
  auto tokens = of.tokens_of(text, true);
  REQUIRE(tokens);
  return std::move(*tokens);
}

/// Reads `count` tokens of a text from `first` on; the last one's logits.
std::vector<float> read(llama_engine& by, index_t slot, const std::vector<token>& text,
                        index_t first, index_t count) {
  std::vector<float> last;
  for (index_t at = first; at < first + count; at += 128) {
    const index_t some = std::min<index_t>(128, first + count - at);
    auto logits = by.decode(
        slot, std::span(text).subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(some)),
        at);
    if (!logits) FAIL(logits.why().message);
    last = std::move(*logits);
  }
  return last;
}

/// Says `count` tokens from `next` on, the likeliest each; position: tokens read so far.
std::vector<token> say(llama_engine& by, index_t slot, std::vector<float> logits, index_t position,
                       int count) {
  std::vector<token> said;
  for (int k = 0; k < count; ++k) {
    const auto best = static_cast<token>(
        std::distance(logits.begin(), std::max_element(logits.begin(), logits.end())));
    said.push_back(best);
    auto next = by.decode(slot, {&best, 1}, position + k);
    if (!next) FAIL(next.why().message);
    logits = std::move(*next);
  }
  return said;
}

server::compaction_report compact(llama_engine& by, index_t slot,
                                  const server::compaction_request& how) {
  auto snapshot = by.snapshot(slot);
  if (!snapshot) FAIL(snapshot.why().message);
  auto small = by.fit(**snapshot, how, {});
  if (!small) FAIL(small.why().message);
  const auto done = by.apply(slot, **small);
  if (!done) FAIL(done.why().message);
  return (*small)->report;
}

double kl(const std::vector<float>& full, const std::vector<float>& other) {
  const auto log_sum = [](const std::vector<float>& x) {
    const double most = static_cast<double>(*std::max_element(x.begin(), x.end()));
    double sum = 0;
    for (const float each : x) sum += std::exp(static_cast<double>(each) - most);
    return most + std::log(sum);
  };
  const double a = log_sum(full);
  const double b = log_sum(other);
  double out = 0;
  for (std::size_t i = 0; i < full.size(); ++i) {
    const double p = static_cast<double>(full[i]) - a;
    out += std::exp(p) * (p - (static_cast<double>(other[i]) - b));
  }
  return out;
}

}  // namespace

TEST_CASE("a slot is compacted while others are not touched, and goes on", "[llama_cpp][server]") {
  const auto engine = open(2);
  const auto text = text_tokens(*engine, 0);
  const auto other = text_tokens(*engine, 1);
  REQUIRE(text.size() > 1400);
  read(*engine, 0, text, 0, 1024);
  read(*engine, 1, other, 0, 300);
  const auto untouched = engine->read_state(1);
  REQUIRE(untouched);
  CHECK(engine->rows(0) == 1024);
  CHECK(engine->space(0) == 1024);

  // The same text over the full cache, in a third engine.
  const auto full = open(1);
  read(*full, 0, text, 0, 1024);
  const auto report =
      compact(*engine, 0, {.target = 256, .protect_first = 8, .protect_recent = 32});
  CHECK(report.rows_before == 1024);
  CHECK(report.rows_after == 256);
  CHECK(report.held_out_error > 0);
  CHECK(report.held_out_error < 0.5);
  CHECK(engine->rows(0) == 256);
  double sum = 0;
  for (index_t at = 1024; at < 1040; ++at) {
    sum += kl(read(*full, 0, text, at, 1), read(*engine, 0, text, at, 1));
  }
  CHECK(sum / 16 < 0.1);
  const auto after = engine->read_state(1);
  REQUIRE(after);
  CHECK(*after == *untouched);
}

TEST_CASE(
    "a saved slot comes back with its biases in another server, and says the same bit for bit",
    "[llama_cpp][server]") {
  const auto first = open(1);
  const auto text = text_tokens(*first, 0);
  read(*first, 0, text, 0, 700);
  compact(*first, 0, {.target = 200, .protect_first = 4, .protect_recent = 16});
  read(*first, 0, text, 700, 60);
  const auto state = first->read_state(0);
  REQUIRE(state);
  const auto second = open(2);
  CHECK(second->model() == first->model());
  CHECK(second->rule() == first->rule());
  const auto moved = second->put_state(1, *state);
  if (!moved) FAIL(moved.why().message);
  CHECK(second->rows(1) == 260);
  const auto again = second->read_state(1);
  REQUIRE(again);
  CHECK(*again == *state);
  const auto a = read(*first, 0, text, 760, 1);
  const auto b = read(*second, 1, text, 760, 1);
  CHECK(a == b);
  CHECK(say(*first, 0, a, 761, 12) == say(*second, 1, b, 761, 12));

  // Nothing of a damaged state is taken, and the slot keeps what it had.
  const auto before = second->read_state(1);
  REQUIRE(before);
  index_t refused = 0;
  for (std::size_t at = 0; at < 400; at += 8) {
    auto damaged = *state;
    damaged[at + 6] ^= std::byte{0x55};
    const auto put = second->put_state(1, damaged);
    if (put) REQUIRE(second->put_state(1, *before));  // a bias that is another number
    refused += put ? 0 : 1;
    const auto now = second->read_state(1);
    REQUIRE(now);
    REQUIRE(*now == *before);
  }
  CHECK(refused >= 6);
  for (const std::size_t size : {std::size_t{0}, std::size_t{7}, state->size() - 1}) {
    const auto put = second->put_state(1, std::span(*state).first(size));
    REQUIRE_FALSE(put);
    CHECK(put.why().what == fault::bad_state);
  }
}

TEST_CASE("a conversation goes on beyond the trained length while it is compacted",
          "[llama_cpp][server]") {
  const auto engine = open(1);
  REQUIRE(engine->closes_up());
  const index_t trained = engine->trained_length();
  REQUIRE(trained == 2048);
  auto text = text_tokens(*engine, 0);
  for (int book = 1; book < 4 && text.size() < 6000; ++book) {
    const auto more = text_tokens(*engine, book);
    text.insert(text.end(), more.begin() + 1, more.end());
  }
  REQUIRE(text.size() >= 6000);
  int compactions = 0;
  double loss = 0;
  index_t judged = 0;
  for (index_t at = 0; at + 128 < 6000; at += 128) {
    if (engine->rows(0) >= 768) {
      compact(*engine, 0, {.target = 384, .protect_first = 4, .protect_recent = 64});
      ++compactions;
    }
    REQUIRE(engine->space(0) >= 128);
    const auto logits = read(*engine, 0, text, at, 128);
    if (at < trained) continue;
    const auto log_sum = [&] {
      double sum = 0;
      for (const float each : logits) sum += std::exp(static_cast<double>(each));
      return std::log(sum);
    }();
    loss +=
        log_sum - static_cast<double>(
                      logits[static_cast<std::size_t>(text[static_cast<std::size_t>(at + 128)])]);
    ++judged;
  }
  CHECK(compactions >= 10);
  CHECK(judged > 25);
  // As sure of the next token as where everything is within its length: about 3.5 nats.
  CHECK(loss / static_cast<double>(judged) < 5);
}

TEST_CASE("without compaction a slot ends where its cells or positions do, and says so",
          "[llama_cpp][server]") {
  const auto engine = open(1, 256);
  const auto text = text_tokens(*engine, 0);
  read(*engine, 0, text, 0, 256);
  CHECK(engine->space(0) == 0);
  const auto more = engine->decode(0, std::span(text).subspan(256, 1), 256);
  REQUIRE_FALSE(more);
  engine->clear(0);
  CHECK(engine->space(0) == 256);
  CHECK(engine->rows(0) == 0);
  read(*engine, 0, text, 0, 100);
  const auto misplaced = engine->decode(0, std::span(text).subspan(100, 1), 99);
  REQUIRE_FALSE(misplaced);
  auto snapshot = engine->snapshot(0);
  REQUIRE(snapshot);
  const auto unknown = engine->fit(**snapshot, {.target = 50, .method = "none"}, {});
  REQUIRE_FALSE(unknown);
  CHECK(unknown.why().what == fault::bad_request);
  kvfit::cancellation cancel;
  cancel.request();
  const auto stopped = engine->fit(**snapshot, {.target = 50}, {.cancel = &cancel});
  REQUIRE_FALSE(stopped);
  CHECK(stopped.why().what == fault::cancelled);
}

TEST_CASE("the service compacts a llama.cpp slot by itself and answers on", "[llama_cpp][server]") {
  server_test::temporary_folder folder;
  auto engine = open(2);
  const auto text = text_tokens(*engine, 0);
  auto states = server::state_store::open(folder.path(), engine->model(), engine->rule());
  REQUIRE(states);
  server::service_options options;
  options.automatic = {.trigger = 512, .target = 192, .protect_first = 4, .protect_recent = 32};
  server::service service(std::move(engine), std::move(*states), options);
  const auto ask = [&](std::size_t tokens, index_t most) {
    server::generation_request asked;
    asked.prompt = {text.begin(), text.begin() + static_cast<std::ptrdiff_t>(tokens)};
    asked.most = most;
    auto made = service.submit(asked);
    REQUIRE(made);
    server::generation::piece last;
    std::string all;
    do {
      last = (*made)->next(std::chrono::milliseconds(200));
      all += last.text;
    } while (last.how == server::ending::none);
    INFO(last.why.message);
    CHECK(last.how != server::ending::failed);
    CHECK_FALSE(all.empty());
  };
  ask(900, 16);
  const auto slots = service.slots();
  const auto used =
      std::find_if(slots.begin(), slots.end(), [](const auto& s) { return s.tokens > 0; });
  REQUIRE(used != slots.end());
  INFO(used->refusal);
  CHECK(used->compactions >= 1);
  CHECK(used->tokens >= 900);
  CHECK(used->rows < 700);
  REQUIRE(used->last);
  CHECK(used->last->held_out_error < 0.5);
  CHECK(service.save(used->number, ""));
}
