// SPDX-License-Identifier: MIT
/// The service over HTTP: OpenAI-style completions, slots, health, metrics and the status page.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "server/service.hpp"

namespace server {

struct http_options {
  std::string host = "127.0.0.1";
  int port = 8080;  ///< 0: any that is free
  /// Needed of clients for everything but /health; must be given beyond loopback. As a bearer
  /// token, or, to read with a browser, as the password of the user "kvfit".
  std::string token = {};
  std::size_t body_bytes = std::size_t{1} << 20U;
  std::chrono::milliseconds longest = std::chrono::minutes(5);  ///< of a request
  std::chrono::milliseconds read_timeout = std::chrono::seconds(10);
  std::chrono::milliseconds write_timeout = std::chrono::seconds(10);
};

/// Errors are JSON: {"error": {"type": the fault's name, "message": …}}. Fields that are not known
/// are refused by name. Without a token, requests must name a loopback host: a page of another site
/// can't reach the server by a name of its own.
class http_api {
 public:
  /// Listens, and answers nothing until `run`. `bad_request` for a host beyond loopback without a
  /// token; `conflict` where the port is taken. The service must outlive it.
  static outcome<std::unique_ptr<http_api>> bind(service& of, const http_options& options);
  http_api(const http_api&) = delete;
  http_api& operator=(const http_api&) = delete;
  ~http_api();

  [[nodiscard]] int port() const noexcept;
  void run();   ///< until `stop`
  void stop();  ///< from any thread

 private:
  struct parts;
  explicit http_api(std::unique_ptr<parts> made);
  std::unique_ptr<parts> parts_;
};

}  // namespace server
