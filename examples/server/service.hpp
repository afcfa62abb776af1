// SPDX-License-Identifier: MIT
/// Slots that are served at the same time: requests wait in a bounded queue, one thread has the
/// engine and gives every slot a step in turn, another fits smaller caches in the meantime.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "server/compaction.hpp"
#include "server/engine.hpp"
#include "server/generation.hpp"
#include "server/metrics.hpp"
#include "server/state_store.hpp"

namespace server {

struct service_options {
  std::size_t queue = 64;              ///< requests and orders that wait, each
  index_t longest = index_t{1} << 20;  ///< tokens of a conversation in all
  index_t memory_cap =
      index_t{1} << 33;  ///< bytes of all caches; copies that are fitted come beside
  index_t step = 128;    ///< tokens of a prompt read at a time
  /// Of a compaction, a save or a restore that somebody waits for, and of every fit.
  std::chrono::milliseconds patience = std::chrono::minutes(5);
  compaction_policy automatic = {};
  quality_gate gate = {};

  /// The sentence that says what is wrong, or nothing: a service needs sound ones.
  [[nodiscard]] std::optional<std::string> fault_of() const {
    if (queue < 1) return "the queue must hold a request";
    if (longest < 1 || step < 1) return "lengths must be at least 1";
    if (memory_cap < 0) return "the memory cap can't be negative";
    if (patience.count() < 1) return "patience must be a millisecond at least";
    if (!(gate.most_error >= 0)) return "the gate's limit must be a number, and not negative";
    return automatic.fault_of();
  }
};

/// A slot as it stands, for whoever asks.
struct slot_view {
  index_t number = 0;
  bool is_busy = false;        ///< says or reads something
  bool is_compacting = false;  ///< nothing is read into it then
  index_t tokens = 0;          ///< logical length
  index_t rows = 0;            ///< physical length
  index_t bytes = 0;           ///< of its cache
  index_t compactions = 0;
  std::optional<compaction_report> last = {};
  std::string refusal = {};  ///< why the last compaction was not applied; empty: it was
};

struct compaction_order {
  compaction_request how = {};
  double ratio = 0;  ///< where not 0, `how.target` is the rows there are, divided by it
  bool is_dry_run = false;
};

class service {
 public:
  /// `options` must have no fault. Puts back every state named "slot-<number>". A state that can't
  /// be is kept, and said by `restore_failures`.
  service(std::unique_ptr<engine> model, std::unique_ptr<state_store> states,
          const service_options& options);
  service(const service&) = delete;
  service& operator=(const service&) = delete;
  ~service() { stop(); }

  /// Ends what is being said, fitted or waited for with `cancelled`, and joins both threads. What
  /// is asked from then on is `cancelled`. By one thread, once or again.
  void stop();

  /// `bad_request` for one that goes on in no slot; `too_large`; `not_found` for a slot that there
  /// is not; `overloaded`; `cancelled` while the server stops.
  outcome<std::shared_ptr<generation>> submit(generation_request asked);
  /// Waits for the fit, which is given up when patience ends: `timed_out`. `conflict` where the
  /// slot is in use, `refused` by the gate.
  outcome<compaction_report> compact(index_t slot, const compaction_order& order);
  done save(index_t slot, std::string_view name);
  /// The slot keeps what it had where that fails.
  done restore(index_t slot, std::string_view name);

  [[nodiscard]] const engine& model() const noexcept { return *engine_; }
  [[nodiscard]] const service_options& options() const noexcept { return options_; }
  [[nodiscard]] std::vector<slot_view> slots() const;
  [[nodiscard]] std::string metrics_text() const;
  [[nodiscard]] const metrics& counted() const noexcept { return metrics_; }
  [[nodiscard]] const std::vector<std::string>& restore_failures() const noexcept {
    return restore_failures_;
  }

 private:
  struct served_slot {
    std::vector<token> tokens;  ///< that the cache has read
    std::shared_ptr<generation> active;
    std::vector<token> to_read;        ///< of the prompt
    std::size_t read = 0;              ///< of these
    std::optional<token> unread = {};  ///< said last by a request that ended before it was read
    bool is_partial = false;           ///< the last prompt was not read whole
    token next = 0;                    ///< said, but not read yet
    bool has_next = false;
    index_t said = 0;
    std::mt19937_64 random;
    clock::time_point last_token;
    clock::time_point last_use;
    bool is_compacting = false;
    bool has_waited = false;   ///< for a fit of its own, since the last token
    bool saw_another = false;  ///< put in place, since the last token
    index_t refused_at = 0;
    index_t compactions = 0;
    std::optional<compaction_report> last;
    std::string refusal;
  };
  using answer = std::function<void(outcome<compaction_report>)>;
  struct fit_job {
    index_t slot = 0;
    std::unique_ptr<cache_snapshot> of;
    compaction_request how = {};
    bool is_dry_run = false;
    clock::time_point deadline;
    answer to;  ///< empty: nobody waits
  };
  struct fitted {
    fit_job job;
    outcome<std::unique_ptr<small_cache>> made;
    double seconds = 0;
  };

  template <class T>
  outcome<T> ordered(std::function<void(std::function<void(outcome<T>)>)> order);
  void serve();
  void fit_caches();
  void assign();
  bool start(const std::shared_ptr<generation>& what);
  std::optional<index_t> slot_for(const generation_request& asked) const;
  done make_space(index_t slot, index_t rows, bool may_evict);
  void step(index_t number);
  void forget(index_t number);
  void finish(served_slot& of, ending how);
  void free(served_slot& of);
  void fail(served_slot& of, const failure& why);
  void begin_compaction(index_t number, const compaction_request& how, bool is_dry_run, answer to);
  void end_compaction(fitted what);
  [[nodiscard]] bool is_postponed(index_t number) const;
  done put_in_place(index_t number, std::string_view name, bool may_evict);
  done settle(index_t number);
  [[nodiscard]] std::optional<compaction_request> wanted_compaction(index_t number) const;
  void publish();
  [[nodiscard]] bool is_number(index_t slot) const { return slot >= 0 && slot < engine_->slots(); }

  std::unique_ptr<engine> engine_;
  std::unique_ptr<state_store> states_;
  const service_options options_;
  metrics metrics_;
  std::vector<std::string> restore_failures_;
  std::vector<served_slot> slots_;  ///< of the serving thread alone

  mutable std::mutex mutex_;  ///< of what follows
  std::condition_variable wake_;
  std::condition_variable wake_fits_;
  bool is_stopping_ = false;
  bool has_news_ = false;  ///< a request came in, or a slot became free
  std::deque<std::shared_ptr<generation>> waiting_;
  std::deque<std::function<void()>> orders_;
  std::deque<fit_job> fits_;   ///< one a slot at most
  std::deque<fitted> fitted_;  ///< likewise
  index_t fitting_ = 0;
  std::vector<slot_view> views_;
  kvfit::cancellation stop_fits_;

  std::thread fitter_;
  std::thread server_;
};

}  // namespace server
