// SPDX-License-Identifier: MIT
// A server over llama.cpp whose slots' caches are compacted while it serves.
#include <pthread.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "server/http_api.hpp"
#include "server/llama_engine.hpp"

namespace {

using server::index_t;

/// 2: the command line; 3: the model, the state folder or the port.
int stop_with(int code, const std::string& why) {
  std::fprintf(stderr, "kvfit_server: %s\n", why.c_str());
  return code;
}

struct arguments {
  std::filesystem::path model;
  std::filesystem::path states = "kvfit-states";
  std::string cache_type = "f16";
  std::string token_file;
  server::llama_engine_options engine;
  server::service_options service;
  server::http_options http;
  double deadline_seconds = 300;
};

ggml_type type_of(const std::string& name) {
  if (name == "f32") return GGML_TYPE_F32;
  if (name == "bf16") return GGML_TYPE_BF16;
  if (name == "q8_0") return GGML_TYPE_Q8_0;
  return GGML_TYPE_F16;
}

void describe(CLI::App& app, arguments& to) {
  auto& session = to.engine.session;
  session.cells = 2048;
  session.threads = 2;
  app.add_option("MODEL", to.model, "a GGUF file")->required();
  app.add_option("--host", to.http.host, "where to listen; beyond loopback a token is needed")
      ->capture_default_str();
  app.add_option("--port", to.http.port, "0: any that is free, which is printed")
      ->capture_default_str();
  app.add_option("--token-file", to.token_file,
                 "a file whose first line clients must send as their bearer token");
  app.add_option("--states", to.states, "folder of saved slots")->capture_default_str();
  app.add_option("--slots", to.engine.slots, "conversations at the same time")
      ->capture_default_str();
  app.add_option("--cells", session.cells, "rows of each slot's cache")->capture_default_str();
  app.add_option("--threads", session.threads, "of llama.cpp")->capture_default_str();
  app.add_option("--cache", to.cache_type, "type of keys and values")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "q8_0"}))
      ->capture_default_str();
  app.add_flag("--flash", session.is_flash,
               "fused attention; layers with biases are computed anew");
  app.add_option("--queries", to.engine.queries, "of each head that a fit is made of")
      ->capture_default_str();
  auto& automatic = to.service.automatic;
  app.add_option("--trigger", automatic.trigger,
                 "rows from which on a cache is compacted; 0: never")
      ->capture_default_str();
  app.add_option("--target", automatic.target, "rows that are left")->capture_default_str();
  app.add_option("--protect-first", automatic.protect_first, "rows of a system prompt")
      ->capture_default_str();
  app.add_option("--protect-recent", automatic.protect_recent, "last rows")->capture_default_str();
  app.add_option("--method", automatic.method, "see `kvfit methods`")->capture_default_str();
  app.add_option("--gate", to.service.gate.most_error,
                 "held-out error above which a compact cache is refused")
      ->capture_default_str();
  app.add_option("--queue", to.service.queue, "requests that may wait")->capture_default_str();
  app.add_option("--longest", to.service.longest, "tokens of a conversation in all")
      ->capture_default_str();
  app.add_option("--memory", to.service.memory_cap, "bytes of all caches")->capture_default_str();
  app.add_option("--body", to.http.body_bytes, "bytes of a request")->capture_default_str();
  app.add_option("--deadline", to.deadline_seconds, "seconds of a request")
      ->check(CLI::Range(0.001, 1e6))
      ->capture_default_str();
}

/// The first line of a file, or nothing.
std::string first_line(const std::string& path) {
  std::string line;
  if (std::FILE* const file = std::fopen(path.c_str(), "re")) {
    for (int c = std::fgetc(file); c != EOF && c != '\n'; c = std::fgetc(file)) {
      line += static_cast<char>(c);
    }
    std::fclose(file);
  }
  return line;
}

}  // namespace

int main(int count, char** words) {
  arguments asked;
  CLI::App app("Serves a GGUF model over HTTP and compacts its slots' caches meanwhile.");
  describe(app, asked);
  try {
    app.parse(count, words);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  auto& session = asked.engine.session;
  session.keys = session.values = type_of(asked.cache_type);
  if (const auto wrong = asked.service.fault_of()) return stop_with(2, *wrong);
  if (!asked.token_file.empty()) {
    asked.http.token = first_line(asked.token_file);
    if (asked.http.token.empty()) return stop_with(2, asked.token_file + ": no token in it");
  }
  asked.http.longest = asked.service.patience =
      std::chrono::milliseconds(static_cast<std::int64_t>(asked.deadline_seconds * 1000));

  auto engine = server::llama_engine::open(asked.model, asked.engine);
  if (!engine) return stop_with(3, engine.why().message);
  const auto& automatic = asked.service.automatic;
  const index_t half = (*engine)->trained_length() / 2;
  const bool goes_on = (*engine)->closes_up() && automatic.trigger > 0 &&
                       automatic.trigger + asked.service.step <= half &&
                       automatic.trigger + asked.service.step <= session.cells;
  std::printf(
      "model: %s\nconversations: %s\n", (*engine)->model().c_str(),
      goes_on ? "go on beyond the trained length" : "end where the cells or the trained length do");
  // A state is no larger than the caches that are allowed, but for its tokens and biases.
  const auto largest = static_cast<std::uint64_t>(asked.service.memory_cap) * 2 + (1U << 20U);
  auto states = server::state_store::open(asked.states, (*engine)->model(), (*engine)->rule(),
                                          {.file_bytes = largest});
  if (!states) return stop_with(3, states.why().message);

  // All threads that are started from here on leave these to `sigwait`.
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGINT);
  sigaddset(&ends, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // a file beyond its limit is an error of its write

  server::service service(std::move(*engine), std::move(*states), asked.service);
  for (const std::string& why : service.restore_failures()) {
    std::fprintf(stderr, "kvfit_server: not restored: %s\n", why.c_str());
  }
  auto http = server::http_api::bind(service, asked.http);
  if (!http) return stop_with(3, http.why().message);
  std::printf("listening: http://%s:%d\n", asked.http.host.c_str(), (*http)->port());
  std::fflush(stdout);
  std::thread listener([&] { (*http)->run(); });
  int signal = 0;
  sigwait(&ends, &signal);
  service.stop();
  (*http)->stop();
  listener.join();
  return 0;
}
