// SPDX-License-Identifier: MIT
/// A fixed number of threads, started once, that share the items of a loop.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

#include "kvfit/core/config.hpp"
#include "kvfit/parallel/executor.hpp"

#if KVFIT_HAS_EXCEPTIONS
#include <exception>
#endif

namespace kvfit {
inline namespace KVFIT_ISA {

/// Threads that take items one by one, whoever is free next. The calling thread is one of them.
///
///     kvfit::thread_pool pool(8);
///     if (pool.threads() < 8) ...;  // the system gave fewer
///     pool.run(heads, [&](kvfit::index_t i) noexcept { results[i] = fit(i); });
///
/// `run` may be called from several threads and from within a body: who waits first works on its
/// own items, so nested loops end even where no thread is free. It allocates nothing. The
/// destructor waits for the threads; no `run` may be under way then.
class thread_pool {
 public:
  /// As many threads as the machine has; at least 1.
  static int hardware_threads() noexcept {
    return (std::max)(1, static_cast<int>(std::thread::hardware_concurrency()));
  }

  /// `wanted` threads with the calling one, so `wanted - 1` are started, at most 1023; 0 or less:
  /// as many as the machine has. Where the system refuses a thread the pool makes do with those it
  /// got, and `threads()` says how many. (Without exceptions in the language a refusal ends the
  /// program, as std::thread then does.)
  explicit thread_pool(int wanted = 0) {
    constexpr int most = 1024;  // a mistaken number must not use up the system's threads
    const int count = (std::min)(wanted > 0 ? wanted : hardware_threads(), most);
#if KVFIT_HAS_EXCEPTIONS
    try {
      start(count - 1);
    } catch (const std::exception&) {  // std::system_error, std::bad_alloc: the ones started stay
    }
#else
    start(count - 1);
#endif
  }

  thread_pool(const thread_pool&) = delete;
  thread_pool& operator=(const thread_pool&) = delete;

  ~thread_pool() {
    {
      const std::lock_guard<std::mutex> guard(mutex_);
      is_closing_ = true;
    }
    work_came_.notify_all();
    for (std::thread& thread : workers_) thread.join();
  }

  /// Threads that run items, the calling one included.
  [[nodiscard]] int threads() const noexcept {
    return static_cast<int>(workers_.size()) + 1;
  }

  template <item_body Body>
  void run(index_t count, Body&& body) noexcept {
    const auto one = [&body](index_t i) noexcept { body(i); };
    loop mine{[](const void* context, index_t i) noexcept {
                (*static_cast<const std::remove_const_t<decltype(one)>*>(context))(i);
              },
              &one, count};
    if (workers_.empty() || count <= 1) {
      work_on(mine);
      return;
    }
    {
      const std::lock_guard<std::mutex> guard(mutex_);
      // In front: the innermost of nested loops holds up all around it.
      mine.after = open_;
      open_ = &mine;
    }
    work_came_.notify_all();
    work_on(mine);
    std::unique_lock<std::mutex> guard(mutex_);
    close(mine);
    loop_done_.wait(guard, [&] { return mine.helpers == 0; });
  }

 private:
  /// One `run` under way; it lives on the stack of its caller.
  struct loop {
    void (*call)(const void* context, index_t i) noexcept;
    const void* context;
    index_t count;
    std::atomic<index_t> next = 0;  ///< the first item nobody has taken
    int helpers = 0;                ///< workers inside; under the mutex
    loop* after = nullptr;          ///< in the list of open loops; under the mutex
  };

  void start(int count) {
    for (int i = 0; i < count; ++i) workers_.emplace_back([this] { help(); });
  }

  static void work_on(loop& mine) noexcept {
    for (index_t i = mine.next++; i < mine.count; i = mine.next++) mine.call(mine.context, i);
  }

  /// Takes `done` off the list, if it still is on it.
  void close(const loop& done) noexcept {
    for (loop** link = &open_; *link != nullptr; link = &(*link)->after) {
      if (*link == &done) {
        *link = done.after;
        return;
      }
    }
  }

  /// What a worker does all its life.
  void help() noexcept {
    std::unique_lock<std::mutex> guard(mutex_);
    while (true) {
      work_came_.wait(guard, [this] { return is_closing_ || open_ != nullptr; });
      if (open_ == nullptr) return;
      loop& theirs = *open_;
      ++theirs.helpers;
      guard.unlock();
      work_on(theirs);
      guard.lock();
      close(theirs);  // all its items are taken; else this thread would find it again and again
      // Under the mutex, for the loop is gone as soon as its caller sees no helper.
      if (--theirs.helpers == 0) loop_done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable work_came_;
  std::condition_variable loop_done_;
  loop* open_ = nullptr;  ///< loops with items to take, the newest first
  bool is_closing_ = false;
  std::vector<std::thread> workers_;
};

static_assert(executor<thread_pool>);

}  // namespace KVFIT_ISA
}  // namespace kvfit
