// SPDX-License-Identifier: MIT
// Where cpp-httplib is installed; the build says where it is not.
#ifdef KVFIT_SERVER_HTTP

#include "server/http_api.hpp"

#include <arpa/inet.h>
#include <httplib.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "server/fake_engine.hpp"
#include "server/temporary_folder.hpp"
#include "support/catch.hpp"

namespace {

using nlohmann::json;

struct http_server {
  server_test::temporary_folder folder;
  std::shared_ptr<server_test::fake_faults> faults = std::make_shared<server_test::fake_faults>();
  std::unique_ptr<server::service> of;
  std::unique_ptr<server::http_api> api;
  std::thread thread;

  explicit http_server(server::http_options options = {},
                       const server::service_options& how = {.queue = 4, .longest = 2000}) {
    auto model = std::make_unique<server_test::fake_engine>(2, faults);
    auto store = server::state_store::open(folder.path() / "states", "fake", "scale 1");
    REQUIRE(store);
    of = std::make_unique<server::service>(std::move(model), std::move(*store), how);
    options.port = 0;
    options.read_timeout = std::chrono::milliseconds(300);
    auto bound = server::http_api::bind(*of, options);
    REQUIRE(bound);
    api = std::move(*bound);
    thread = std::thread([this] { api->run(); });
    while (!client().Get("/health")) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  http_server(const http_server&) = delete;
  http_server& operator=(const http_server&) = delete;
  ~http_server() {
    of->stop();
    api->stop();
    thread.join();
  }

  [[nodiscard]] httplib::Client client() const {
    httplib::Client made("127.0.0.1", api->port());
    made.set_read_timeout(20);
    return made;
  }
  [[nodiscard]] httplib::Result post(const std::string& path, const std::string& body) const {
    return client().Post(path, body, "application/json");
  }
  [[nodiscard]] json slot(std::size_t number) const {
    return json::parse(client().Get("/slots")->body)["slots"][number];
  }
  /// What comes back until the other side hangs up.
  [[nodiscard]] std::string raw(const std::string& sent, bool is_awaited = true) const {
    const int to = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(api->port()));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::connect(to, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(::send(to, sent.data(), sent.size(), MSG_NOSIGNAL) == std::ssize(sent));
    std::string got(4096, '\0');
    const ssize_t size = is_awaited ? ::recv(to, got.data(), got.size(), 0) : 0;
    ::close(to);
    got.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
    return got;
  }
};

std::string type_of(const httplib::Result& from) {
  return json::parse(from->body)["error"]["type"];
}

}  // namespace

TEST_CASE("HTTP: completions and chats, whole and streamed, say the same", "[http]") {
  const http_server server;
  const auto whole = server.post("/v1/completions", R"({"prompt": "Once", "max_tokens": 6})");
  REQUIRE(whole);
  CHECK(whole->status == 200);
  const auto said = json::parse(whole->body);
  const std::string text = said["choices"][0]["text"];
  CHECK(text.size() == 6);
  CHECK(said["choices"][0]["finish_reason"] == "length");
  CHECK(said["usage"]["total_tokens"] == 10);

  const auto streamed =
      server.post("/v1/completions", R"({"prompt": "Once", "max_tokens": 6, "stream": true})");
  REQUIRE(streamed);
  CHECK(streamed->get_header_value("Content-Type") == "text/event-stream");
  std::string joined;
  std::istringstream lines(streamed->body);
  std::string line, last;
  while (std::getline(lines, line)) {
    if (!line.starts_with("data: ")) continue;
    last = line.substr(6);
    if (last != "[DONE]") joined += json::parse(last)["choices"][0]["text"].get<std::string>();
  }
  CHECK(last == "[DONE]");
  CHECK(joined == text);

  const auto chat = server.post(
      "/v1/chat/completions",
      R"({"messages": [{"role": "system", "content": "Be."}, {"role": "user", "content": "Hi"}],
          "max_tokens": 3, "slot": 1})");
  REQUIRE(chat);
  CHECK(chat->status == 200);
  CHECK(json::parse(chat->body)["choices"][0]["message"]["content"].get<std::string>().size() == 3);
  CHECK(json::parse(chat->body)["slot"] == 1);
}

TEST_CASE("HTTP: malformed, unknown and oversized requests are errors in JSON", "[http]") {
  server::http_options options;
  options.body_bytes = 5000;
  const http_server server(options);
  for (const char* const body :
       {"", "{", "[]", "1", R"({"prompt": 1})", R"({"prompt": ""})", "{\"prompt\": \"\xFF\"}",
        R"({"prompt": "a", "max_tokens": 0})", R"({"prompt": "a", "max_tokens": -1})",
        R"({"prompt": "a", "max_tokens": 1e99})", R"({"prompt": "a", "temperature": "hot"})",
        R"({"prompt": "a", "stream": 1})", R"({"prompt": "a", "n": 2})",
        R"({"prompt": "a", "logprobs": 3})", R"({"prompt": "a", "messages": []})"}) {
    CAPTURE(body);
    const auto got = server.post("/v1/completions", body);
    REQUIRE(got);
    CHECK(got->status == 400);
    CHECK(type_of(got) == "bad_request");
  }
  for (const char* const body :
       {R"({"messages": []})", R"({"messages": [1]})", R"({"messages": [{"role": "user"}]})",
        R"({"messages": [{"role": "god", "content": "a"}]})"}) {
    CAPTURE(body);
    CHECK(server.post("/v1/chat/completions", body)->status == 400);
  }
  CHECK(type_of(server.post("/v1/completions", R"({"prompt": "a", "slot": 2})")) == "not_found");
  const auto big = server.post("/v1/completions", std::string(6000, ' '));
  REQUIRE(big);
  CHECK(big->status == 413);
  const std::string prompt = R"({"prompt": ")" + std::string(1990, 'a') + R"("})";
  CHECK(type_of(server.post("/v1/completions", prompt)) == "too_large");
  CHECK(type_of(server.client().Get("/nothing")) == "not_found");
  CHECK(server.raw("nonsense\r\n\r\n").find("400") != std::string::npos);
  // Too deep for a parser that calls itself.
  CHECK(server.post("/v1/completions", std::string(4900, '['))->status == 400);
  CHECK(server.client().Get("/health")->status == 200);
}

TEST_CASE("HTTP: slow clients and those that hang up leave the slot to others", "[http]") {
  const http_server server;
  server.faults->decode_ms = 5;
  const std::string head =
      "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n";
  // The body never comes: the server does not wait for ever.
  static_cast<void>(server.raw(head + "Content-Length: 100\r\n\r\n{"));
  const std::string body = R"({"prompt": "a", "max_tokens": 1900, "stream": true, "slot": 0})";
  // Reads the beginning of the stream, and hangs up.
  const auto begun =
      server.raw(head + "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
  CHECK(begun.find("200") != std::string::npos);
  const auto cancelled = [&] {
    return server.of->counted().of(server::metrics::count::cancelled) == 1;
  };
  for (int i = 0; i < 1000 && !cancelled(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  CHECK(cancelled());
  const auto next =
      server.post("/v1/completions", R"({"prompt": "b", "max_tokens": 2, "slot": 0})");
  REQUIRE(next);
  CHECK(next->status == 200);
}

TEST_CASE("HTTP: overload is 429, and a deadline 408", "[http]") {
  server::http_options options;
  options.longest = std::chrono::milliseconds(700);
  const http_server server(options, {.queue = 1, .longest = 100000});
  server.faults->decode_ms = 10;
  const std::string body = R"({"prompt": "a", "max_tokens": 9000, "slot": 0})";
  std::vector<std::thread> clients;
  std::atomic<int> late = 0;
  std::atomic<int> overloaded = 0;
  for (int i = 0; i < 6; ++i) {
    clients.emplace_back([&] {
      const auto got = server.post("/v1/completions", body);
      late += got && got->status == 408 ? 1 : 0;
      overloaded += got && got->status == 429 && got->has_header("Retry-After") ? 1 : 0;
    });
  }
  for (std::thread& each : clients) each.join();
  CHECK(overloaded >= 1);
  CHECK(late >= 1);
  CHECK(late + overloaded == 6);
}

TEST_CASE("HTTP: a slot is compacted, saved and restored, within the state folder alone",
          "[http]") {
  const http_server server;
  REQUIRE(server.post("/v1/completions", R"({"prompt": "abcdefgh", "max_tokens": 32, "slot": 0})"));
  while (server.slot(0)["is_busy"]) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  CHECK(server.slot(0)["rows"] == 40);
  const auto dry = server.post("/slots/0/compact", R"({"ratio": 4, "dry_run": true})");
  REQUIRE(dry);
  CHECK(json::parse(dry->body)["rows_after"] == 10);
  CHECK(json::parse(dry->body)["applied"] == false);
  CHECK(server.slot(0)["rows"] == 40);
  server.faults->error = 0.9;
  const auto refused = server.post("/slots/0/compact", R"({"ratio": 4})");
  CHECK(refused->status == 422);
  CHECK(type_of(refused) == "refused");
  CHECK_FALSE(server.slot(0)["refusal"].get<std::string>().empty());
  server.faults->error = 0.01;
  CHECK(server.post("/slots/0/compact", R"({"ratio": 4})")->status == 200);
  CHECK(server.slot(0)["rows"] == 10);
  CHECK(server.slot(0)["tokens"] == 40);
  CHECK(server.slot(0)["last_compaction"]["held_out_error"] == 0.01);
  CHECK(server.post("/slots/0/save", R"({"name": "mine"})")->status == 200);
  CHECK(server.post("/slots/1/restore", R"({"name": "mine"})")->status == 200);
  while (server.slot(1)["rows"] != 10) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  for (const char* const name : {"../mine", "/etc/passwd", "..", "a/b", ""}) {
    CAPTURE(name);
    const std::string body = json{{"name", name}}.dump();
    CHECK(server.post("/slots/0/save", body)->status == 400);
    CHECK(server.post("/slots/0/restore", body)->status == 400);
  }
  CHECK(server.post("/slots/0/restore", R"({"name": "other"})")->status == 404);
  CHECK(server.post("/slots/7/save", "")->status == 404);
  CHECK(server.post("/slots/99999999999999999999/save", "")->status == 404);
  CHECK(std::distance(std::filesystem::directory_iterator(server.folder.path()), {}) == 1);
}

TEST_CASE("HTTP: a token guards all but health, none is needed on loopback", "[http]") {
  server::http_options options;
  options.token = "secret";
  const http_server server(options);
  auto client = server.client();
  CHECK(client.Get("/health")->status == 200);
  for (const char* const path : {"/", "/metrics", "/slots", "/nothing"}) {
    CAPTURE(path);
    CHECK(client.Get(path)->status == 401);
    CHECK(client.Get(path, {{"Authorization", "Bearer secre"}})->status == 401);
    CHECK(client.Get(path, {{"Authorization", "Bearer secret1"}})->status == 401);
    CHECK(client.Get(path, {{"Authorization", "Bearer secret"}})->status != 401);
  }
  CHECK(client.Post("/v1/completions", "{}", "application/json")->status == 401);
  // A browser's way in: to read, not to write.
  CHECK(client.Get("/")->get_header_value("WWW-Authenticate") == "Basic realm=\"kvfit\"");
  client.set_basic_auth("kvfit", "secret");
  CHECK(client.Get("/")->status == 200);
  CHECK(client.Get("/slots")->status == 200);
  CHECK(client.Post("/slots/0/save", "{}", "application/json")->status == 401);
  client.set_basic_auth("kvfit", "secret1");
  CHECK(client.Get("/slots")->status == 401);
  const http_server open;
  CHECK(open.client().Get("/slots")->status == 200);
  CHECK(open.client().Get("/slots", {{"Host", "elsewhere.example"}})->status == 401);
  const auto beyond = server::http_api::bind(*open.of, {.host = "0.0.0.0", .port = 0});
  REQUIRE_FALSE(beyond);
  CHECK(beyond.why().what == server::fault::bad_request);
}

TEST_CASE("HTTP: nothing is done by what is said outside of a JSON body", "[http]") {
  const http_server server;
  REQUIRE(server
              .post("/v1/completions",
                    json{{"prompt", std::string(50, 'x')}, {"max_tokens", 20}, {"slot", 1}}.dump())
              ->status == 200);
  while (server.slot(1)["rows"] != 70) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  auto client = server.client();
  const auto refused = [&](const httplib::Result& answer) {
    REQUIRE(answer);
    CHECK(answer->status == 400);
    CHECK(server.slot(1)["rows"] == 70);
  };
  const char* const json_type = "application/json";
  refused(client.Post("/slots/1/compact?ratio=1.5&dry_run=true", "", json_type));
  refused(client.Post("/slots/1/compact", "ratio=1.5", "application/x-www-form-urlencoded"));
  refused(client.Post("/slots/1/compact", "", "text/plain"));  // as any page can send it
  refused(client.Post("/slots/1/save", R"({"name": "x"})", "text/plain"));
  refused(client.Post("/slots/1/compact", "--x--\r\n", "multipart/form-data; boundary=x"));
  refused(client.Post("/slots/1/compact", httplib::Headers{{"Content-Encoding", "gzip"}},
                      std::string("\x1f\x8b"), json_type));
  CHECK(client.Post("/slots/1/save", "{}", "application/json; charset=utf-8")->status == 200);
}

TEST_CASE("HTTP: what follows a refused request on its connection is not read", "[http]") {
  const http_server server;
  REQUIRE(server.post("/v1/completions", R"({"prompt": "0123456789", "max_tokens": 2, "slot": 0})")
              ->status == 200);
  const std::string inner =
      "POST /slots/0/save HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
      "Content-Length: 18\r\n\r\n{\"name\": \"inside\"}";
  for (const std::size_t padding : {std::size_t{0}, std::size_t{100}, std::size_t{4017}}) {
    const std::string body = std::string(padding, 'x') + inner;
    (void)server.raw(
        "POST /slots/0/save HTTP/1.1\r\nHost: rebound.example\r\nContent-Type: "
        "application/json\r\nContent-Length: " +
        std::to_string(body.size()) + "\r\n\r\n" + body);
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  CHECK(server.post("/slots/0/restore", R"({"name": "inside"})")->status == 404);
}

TEST_CASE("HTTP: a stop before the run is not lost", "[http]") {
  const http_server other;  // whose service serves both
  auto bound = server::http_api::bind(*other.of, {.port = 0});
  REQUIRE(bound);
  (*bound)->stop();
  (*bound)->run();  // returns
}

TEST_CASE("HTTP: a server that stops answers who waits", "[http]") {
  auto server = std::make_unique<http_server>();
  server->faults->decode_ms = 5;
  int status = 0;
  auto client = server->client();
  std::thread waits([&] {
    const auto got = client.Post("/v1/completions", R"({"prompt": "a", "max_tokens": 1900})",
                                 "application/json");
    status = got ? got->status : -1;
  });
  while (!server->slot(0)["is_busy"] && !server->slot(1)["is_busy"]) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  server->of->stop();
  waits.join();
  CHECK(status == 503);
}

TEST_CASE("HTTP: the status page shows in a browser what the slots are", "[http][browser]") {
#ifndef KVFIT_TEST_BROWSER
  WARN("SKIPPED: Chromium is not installed");
#else
  const http_server server;
  REQUIRE(server.post("/v1/completions", R"({"prompt": "0123456789", "max_tokens": 7, "slot": 1})")
              ->status == 200);
  const std::string command = std::string(KVFIT_TEST_BROWSER) +
                              " --headless --no-sandbox --disable-gpu --virtual-time-budget=4000" +
                              " --user-data-dir=" + (server.folder.path() / "browser").string() +
                              " --dump-dom http://127.0.0.1:" + std::to_string(server.api->port()) +
                              "/ 2>/dev/null";
  std::string page;
  std::FILE* const from = ::popen(command.c_str(), "r");
  REQUIRE(from != nullptr);
  for (int c = std::fgetc(from); c != EOF; c = std::fgetc(from)) page += static_cast<char>(c);
  REQUIRE(::pclose(from) == 0);
  INFO(page);
  CHECK(page.find("Serving.") != std::string::npos);
  CHECK(page.find("<td>0</td><td>idle</td><td>0</td>") != std::string::npos);
  CHECK(page.find("<td>1</td><td>idle</td><td>17</td><td>17</td><td>68</td>") != std::string::npos);
#endif
}

#endif
