// SPDX-License-Identifier: MIT
#include "server/http_api.hpp"

#include <httplib.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>

#include "server/page.hpp"

namespace server {

namespace {

using httplib::Request;
using httplib::Response;
using nlohmann::json;

constexpr auto patience = std::chrono::milliseconds(50);

std::string text_of(const json& from) {
  return from.dump(-1, ' ', false, json::error_handler_t::replace);
}

json json_of(const failure& why) {
  return {{"error", {{"type", name(why.what)}, {"message", why.message}}}};
}

void answer(Response& to, const json& what) {
  to.set_content(text_of(what), "application/json");
}

void answer(Response& to, const failure& why) {
  to.status = http_status(why.what);
  if (why.what == fault::overloaded) to.set_header("Retry-After", "1");
  answer(to, json_of(why));
}

bool is_loopback(const std::string& host) {
  return host == "127.0.0.1" || host == "::1" || host == "localhost";
}

/// Of a Host header, without its port.
std::string host_of(const std::string& header) {
  if (header.starts_with('[')) return header.substr(1, header.find(']') - 1);
  return header.substr(0, header.find(':'));
}

/// In a time that does not tell how much of it is right.
bool is_same(const std::string& given, const std::string& wanted) {
  unsigned differs = given.size() == wanted.size() ? 0 : 1;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const char c = i < given.size() ? given[i] : '\0';
    differs |= static_cast<unsigned char>(c) ^ static_cast<unsigned char>(wanted[i]);
  }
  return differs == 0;
}

/// The fields of a request's body, each asked for by its type.
class fields {
 public:
  static outcome<fields> of(const std::string& body, std::initializer_list<const char*> known) {
    fields made;
    made.all_ = body.empty() ? json::object() : json::parse(body, nullptr, false);
    if (!made.all_.is_object()) return failure{fault::bad_request, "the body is no JSON object"};
    for (const auto& item : made.all_.items()) {
      const std::string& key = item.key();
      const auto is_key = [&](const char* each) { return key == each; };
      if (std::none_of(known.begin(), known.end(), is_key)) {
        return failure{fault::bad_request, "field \"" + key + "\" is not known"};
      }
    }
    return made;
  }

  [[nodiscard]] const json* find(const char* key) const {
    const auto at = all_.find(key);
    return at == all_.end() || at->is_null() ? nullptr : &*at;
  }
  /// The number, or what stands for none; notes a mistake.
  double number(const char* key, double otherwise, double least, double most) {
    const json* const at = find(key);
    if (at == nullptr) return otherwise;
    const double given = at->is_number() ? at->get<double>() : NAN;
    if (given >= least && given <= most) return given;
    return wrong(key, "must be a number within its range"), otherwise;
  }
  index_t whole(const char* key, index_t otherwise, index_t most) {
    const json* const at = find(key);
    if (at == nullptr) return otherwise;
    const bool is_whole =
        at->is_number_unsigned() && at->get<std::uint64_t>() <= static_cast<std::uint64_t>(most);
    if (is_whole) return at->get<index_t>();
    return wrong(key, "must be a whole number within its range"), otherwise;
  }
  std::string text(const char* key, const std::string& otherwise) {
    const json* const at = find(key);
    if (at == nullptr) return otherwise;
    if (at->is_string()) return at->get<std::string>();
    return wrong(key, "must be a string"), otherwise;
  }
  bool flag(const char* key) {
    const json* const at = find(key);
    if (at == nullptr) return false;
    if (at->is_boolean()) return at->get<bool>();
    return wrong(key, "must be true or false"), false;
  }
  void wrong(const std::string& key, const std::string& why) {
    if (!wrong_) wrong_ = failure{fault::bad_request, "field \"" + key + "\" " + why};
  }
  [[nodiscard]] const std::optional<failure>& mistake() const noexcept { return wrong_; }

 private:
  json all_;
  std::optional<failure> wrong_;
};

/// Bytes at the end that begin a character of UTF-8 and do not end it.
std::size_t unfinished(const std::string& text) {
  for (std::size_t back = 1; back <= std::min<std::size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xC0U) == 0x80U) continue;
    const std::size_t length = byte >= 0xF0U ? 4 : byte >= 0xE0U ? 3 : byte >= 0xC0U ? 2 : 1;
    return length > back ? back : 0;
  }
  return 0;
}

/// A plain form, for a model without one of its own: a line a message, and the assistant's turn.
outcome<std::string> prompt_of(const json& messages) {
  const failure wrong{fault::bad_request,
                      "messages must be an array of {role: system, user or assistant, content: a "
                      "string}, not empty"};
  if (!messages.is_array() || messages.empty()) return wrong;
  std::string text;
  for (const json& each : messages) {
    if (!each.is_object() || each.size() != 2) return wrong;
    const auto role = each.find("role");
    const auto content = each.find("content");
    if (role == each.end() || content == each.end() || !role->is_string() ||
        !content->is_string()) {
      return wrong;
    }
    if (*role == "system") {
      text += "System: ";
    } else if (*role == "user") {
      text += "User: ";
    } else if (*role == "assistant") {
      text += "Assistant: ";
    } else {
      return wrong;
    }
    text += content->get<std::string>() + "\n";
  }
  return text + "Assistant:";
}

json json_of(const compaction_report& from) {
  // A number that is none has no form in JSON.
  const json error = std::isfinite(from.held_out_error) ? json(from.held_out_error) : json();
  return {{"method", from.method},
          {"rows_before", from.rows_before},
          {"rows_after", from.rows_after},
          {"held_out_error", error},
          {"seconds", from.seconds}};
}

const char* reason_of(ending how) {
  return how == ending::stop ? "stop" : "length";
}

/// Ends what is said for a client when the answer to it is over, however it ends.
class listener {
 public:
  listener(std::shared_ptr<generation> to, bool is_chat) : to_(std::move(to)), is_chat_(is_chat) {}
  listener(const listener&) = delete;
  listener& operator=(const listener&) = delete;
  ~listener() { to_->cancel(); }

  [[nodiscard]] generation& from() const noexcept { return *to_; }

  /// What may be sent of what was said: whole characters.
  std::string whole(const generation::piece& more) {
    held_ += more.text;
    const std::size_t left = more.how == ending::none ? unfinished(held_) : 0;
    std::string sent = held_.substr(0, held_.size() - left);
    held_.erase(0, sent.size());
    return sent;
  }

  [[nodiscard]] json choice(const std::string& text, const json& reason, bool is_stream) const {
    json made = {{"index", 0}, {"finish_reason", reason}};
    if (!is_chat_) {
      made["text"] = text;
    } else if (is_stream) {
      made["delta"] = {{"content", text}};
    } else {
      made["message"] = {{"role", "assistant"}, {"content", text}};
    }
    return made;
  }

  [[nodiscard]] json object(const json& choice, bool is_stream) const {
    const char* const kind = !is_chat_   ? "text_completion"
                             : is_stream ? "chat.completion.chunk"
                                         : "chat.completion";
    return {{"object", kind}, {"slot", to_->slot()}, {"choices", json::array({choice})}};
  }

 private:
  std::shared_ptr<generation> to_;
  bool is_chat_;
  std::string held_;
};

/// Newer versions of the library can tell; with older ones the deadline ends the request.
template <class R>
bool is_gone(const R& request) {
  if constexpr (requires { request.is_connection_closed(); }) {
    return request.is_connection_closed && request.is_connection_closed();
  }
  return false;
}

}  // namespace

struct http_api::parts {
  service& of;
  http_options options;
  httplib::Server http;
  int port = 0;
  std::atomic<bool> has_begun = false;  ///< `run`
  std::atomic<bool> has_ended = false;
  std::atomic<bool> is_stopped = false;

  parts(service& served, http_options given) : of(served), options(std::move(given)) {}

  void say(const Request& request, Response& to, bool is_chat) {
    auto body =
        fields::of(request.body, {"model", "prompt", "messages", "max_tokens", "temperature",
                                  "seed", "stream", "slot", "goes_on", "n", "user"});
    if (!body) return answer(to, body.why());
    generation_request asked;
    asked.most = body->whole("max_tokens", 128, of.options().longest);
    asked.temperature = body->number("temperature", 0, 0, 10);
    asked.seed =
        static_cast<std::uint64_t>(body->whole("seed", 0, std::numeric_limits<index_t>::max()));
    if (body->find("slot") != nullptr) {
      asked.slot = body->whole("slot", 0, std::numeric_limits<index_t>::max());
    }
    if (body->whole("n", 1, 1) != 1) body->wrong("n", "must be 1");
    const bool is_stream = body->flag("stream");
    asked.goes_on = body->flag("goes_on");
    if (asked.goes_on && !asked.slot) body->wrong("goes_on", "needs a slot");
    body->text("model", "");
    body->text("user", "");
    std::string prompt;
    const char* const wanted = is_chat ? "messages" : "prompt";
    if (body->find(is_chat ? "prompt" : "messages") != nullptr) {
      body->wrong(is_chat ? "prompt" : "messages", "belongs to another path");
    }
    if (body->find(wanted) == nullptr) {
      body->wrong(wanted, "is missing");
    } else if (is_chat) {
      auto made = prompt_of(*body->find("messages"));
      if (!made) return answer(to, made.why());
      prompt = std::move(*made);
    } else {
      prompt = body->text("prompt", "");
    }
    if (body->mistake()) return answer(to, *body->mistake());
    auto tokens = of.model().tokens_of(prompt, !asked.goes_on);
    if (!tokens) return answer(to, tokens.why());
    asked.prompt = std::move(*tokens);
    const auto read = static_cast<index_t>(asked.prompt.size());
    asked.deadline = clock::now() + options.longest;
    auto made = of.submit(std::move(asked));
    if (!made) return answer(to, made.why());
    auto listens = std::make_shared<listener>(*made, is_chat);
    // The status is sent first: so what fails before the first token has its own.
    generation::piece first;
    do {
      first = listens->from().next(patience);
      if (is_gone(request)) return;
    } while (first.how == ending::none && first.text.empty());
    if (first.how == ending::failed && first.said == 0) return answer(to, first.why);
    if (is_stream) return stream(to, listens, first);

    std::string text = listens->whole(first);
    generation::piece next = first;
    while (next.how == ending::none) {
      if (is_gone(request)) return;
      next = listens->from().next(patience);
      text += listens->whole(next);
    }
    if (next.how == ending::failed) return answer(to, next.why);
    json object = listens->object(listens->choice(text, reason_of(next.how), false), false);
    object["usage"] = {{"prompt_tokens", read},
                       {"completion_tokens", next.said},
                       {"total_tokens", read + next.said}};
    answer(to, object);
  }

  /// Server-sent events. A client that hangs up ends what is said for it.
  static void stream(Response& to, const std::shared_ptr<listener>& listens,
                     const generation::piece& first) {
    auto next = std::make_shared<generation::piece>(first);
    to.set_chunked_content_provider(
        "text/event-stream", [listens, next](std::size_t, httplib::DataSink& sink) {
          const auto send = [&](const std::string& data) {
            const std::string event = "data: " + data + "\n\n";
            return sink.write(event.data(), event.size());
          };
          if (!sink.is_writable()) return false;
          const std::string text = listens->whole(*next);
          if (next->how == ending::failed) {
            if (!text.empty() &&
                !send(text_of(listens->object(listens->choice(text, json(), true), true)))) {
              return false;
            }
            if (!send(text_of(json_of(next->why)))) return false;
            sink.done();
            return true;
          }
          const bool is_over = next->how != ending::none;
          if (!text.empty() || is_over) {
            const json reason = is_over ? json(reason_of(next->how)) : json();
            if (!send(text_of(listens->object(listens->choice(text, reason, true), true)))) {
              return false;
            }
          }
          if (is_over) {
            if (!send("[DONE]")) return false;
            sink.done();
            return true;
          }
          *next = listens->from().next(patience);
          return true;
        });
  }

  void list(Response& to) const {
    json all = json::array();
    for (const slot_view& each : of.slots()) {
      all.push_back({{"id", each.number},
                     {"is_busy", each.is_busy},
                     {"is_compacting", each.is_compacting},
                     {"tokens", each.tokens},
                     {"rows", each.rows},
                     {"bytes", each.bytes},
                     {"compactions", each.compactions},
                     {"last_compaction", each.last ? json_of(*each.last) : json()},
                     {"refusal", each.refusal}});
    }
    answer(to, json{{"slots", all}, {"restore_failures", of.restore_failures()}});
  }

  void compact(const Request& request, Response& to, index_t slot) {
    auto body =
        fields::of(request.body, {"ratio", "method", "dry_run", "protect_first", "protect_recent"});
    if (!body) return answer(to, body.why());
    constexpr index_t most = index_t{1} << 40U;
    compaction_order order;
    order.ratio = body->number("ratio", 10, 1, 1e9);
    order.is_dry_run = body->flag("dry_run");
    order.how.method = body->text("method", "default");
    order.how.protect_first = body->whole("protect_first", 0, most);
    order.how.protect_recent = body->whole("protect_recent", 0, most);
    if (body->mistake()) return answer(to, *body->mistake());
    const auto report = of.compact(slot, order);
    if (!report) return answer(to, report.why());
    json said = json_of(*report);
    said["applied"] = !order.is_dry_run;
    answer(to, said);
  }

  void keep(const Request& request, Response& to, index_t slot, bool is_save) {
    auto body = fields::of(request.body, {"name"});
    if (!body) return answer(to, body.why());
    const std::string file = body->text("name", "slot-" + std::to_string(slot));
    if (file.empty()) body->wrong("name", "is empty");
    if (body->mistake()) return answer(to, *body->mistake());
    const done kept = is_save ? of.save(slot, file) : of.restore(slot, file);
    if (!kept) return answer(to, kept.why());
    answer(to, json{{"slot", slot}, {"name", file}});
  }

  [[nodiscard]] std::optional<failure> stranger(const Request& request) const {
    if (request.path == "/health") return {};
    if (!options.token.empty()) {
      const std::string given = request.get_header_value("Authorization");
      if (is_same(given, "Bearer " + options.token)) return {};
      // A browser asks its user, and sends what he said whichever page makes it: to be read with,
      // and no more.
      const auto by_name = httplib::make_basic_authentication_header("kvfit", options.token);
      if (request.method == "GET" && is_same(given, by_name.second)) return {};
      return failure{fault::unauthorised, "the token is missing or wrong"};
    }
    if (is_loopback(host_of(request.get_header_value("Host")))) return {};
    return failure{fault::unauthorised, "the Host header names no loopback host"};
  }

  /// What no path takes. JSON alone is taken, said to be so: a page of another site can't send that
  /// without being asked first, which nothing here answers.
  [[nodiscard]] static std::optional<failure> malformed(const Request& request) {
    if (!request.params.empty()) {
      return failure{fault::bad_request, "parameters belong into the body, not into the path"};
    }
    const std::string coding = request.get_header_value("Content-Encoding");
    if (!coding.empty() && coding != "identity") {
      return failure{fault::bad_request, "a body must not be compressed"};
    }
    if (request.method != "POST") return {};
    const std::string type = request.get_header_value("Content-Type");
    const std::string wanted = "application/json";
    if (type.compare(0, wanted.size(), wanted) == 0 &&
        (type.size() == wanted.size() || type[wanted.size()] == ';')) {
      return {};
    }
    return failure{fault::bad_request, "the Content-Type must be application/json"};
  }

  void route() {
    http.set_pre_routing_handler([this](const Request& request, Response& to) {
      const auto why = stranger(request);
      if (!why && !malformed(request)) return httplib::Server::HandlerResponse::Unhandled;
      if (!why) {
        answer(to, *malformed(request));
        return httplib::Server::HandlerResponse::Handled;
      }
      answer(to, *why);
      if (!options.token.empty() && request.method == "GET") {
        to.set_header("WWW-Authenticate", "Basic realm=\"kvfit\"");
      }
      return httplib::Server::HandlerResponse::Handled;
    });
    http.set_error_handler([](const Request&, Response& to) {
      if (!to.body.empty()) return;
      const fault what = to.status == 404   ? fault::not_found
                         : to.status == 413 ? fault::too_large
                         : to.status >= 500 ? fault::engine
                                            : fault::bad_request;
      answer(to, json_of({what, "HTTP status " + std::to_string(to.status)}));
    });
    http.Get("/", [](const Request&, Response& to) {
      to.set_content(status_page, "text/html; charset=utf-8");
    });
    http.Get("/health", [](const Request&, Response& to) { answer(to, json{{"status", "ok"}}); });
    http.Get("/metrics", [this](const Request&, Response& to) {
      to.set_content(of.metrics_text(), "text/plain; version=0.0.4");
    });
    http.Get("/slots", [this](const Request&, Response& to) { list(to); });
    http.Post("/v1/completions",
              [this](const Request& request, Response& to) { say(request, to, false); });
    http.Post("/v1/chat/completions",
              [this](const Request& request, Response& to) { say(request, to, true); });
    // At most nine digits, which fit.
    http.Post(R"(/slots/(\d{1,9})/(compact|save|restore))",
              [this](const Request& request, Response& to) {
                const index_t slot = std::stoll(request.matches[1].str());
                const std::string what = request.matches[2].str();
                if (what == "compact") return compact(request, to, slot);
                keep(request, to, slot, what == "save");
              });
  }
};

outcome<std::unique_ptr<http_api>> http_api::bind(service& of, const http_options& options) {
  if (options.token.empty() && !is_loopback(options.host)) {
    return failure{fault::bad_request, "beyond loopback the server needs a token"};
  }
  auto made = std::make_unique<parts>(of, options);
  made->http.set_payload_max_length(options.body_bytes);
  made->http.set_read_timeout(options.read_timeout);
  made->http.set_write_timeout(options.write_timeout);
  // A connection ends with its answer: what is refused before its body was read leaves none behind
  // that could pass for the next request.
  made->http.set_keep_alive_max_count(1);
  // One thread a connection: all that may wait or be served, orders, and some that look.
  const std::size_t threads = 2 * of.options().queue + of.slots().size() + 8;
  made->http.new_task_queue = [threads] { return new httplib::ThreadPool(threads); };
  made->route();
  if (options.port == 0) {
    made->port = made->http.bind_to_any_port(options.host);
  } else {
    made->port = made->http.bind_to_port(options.host, options.port) ? options.port : -1;
  }
  if (made->port <= 0) return failure{fault::conflict, "the port can't be listened to"};
  return std::unique_ptr<http_api>(new http_api(std::move(made)));
}

http_api::http_api(std::unique_ptr<parts> made) : parts_(std::move(made)) {}
http_api::~http_api() = default;

int http_api::port() const noexcept {
  return parts_->port;
}
void http_api::run() {
  parts_->has_begun = true;
  if (!parts_->is_stopped) parts_->http.listen_after_bind();
  parts_->has_ended = true;
}
void http_api::stop() {
  parts_->is_stopped = true;
  // The library takes a stop only while it runs.
  while (parts_->has_begun && !parts_->has_ended && !parts_->http.is_running()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  parts_->http.stop();
}

}  // namespace server
