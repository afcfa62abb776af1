// SPDX-License-Identifier: MIT
#include "server/service.hpp"

#include <algorithm>
#include <cmath>
#include <future>
#include <utility>

namespace server {

namespace {

double seconds_since(clock::time_point start) {
  return std::chrono::duration<double>(clock::now() - start).count();
}

outcome<token> choose(std::span<const float> logits, double temperature, std::mt19937_64& random) {
  if (logits.empty()) return failure{fault::engine, "the model gave no logits"};
  const auto is_nan = [](float x) { return std::isnan(x); };
  const auto most = std::max_element(logits.begin(), logits.end());
  // A token may be ruled out by −∞, but not all of them.
  if (std::any_of(logits.begin(), logits.end(), is_nan) || !std::isfinite(*most)) {
    return failure{fault::engine, "the model gave a logit that is no number"};
  }
  if (temperature <= 0) return static_cast<token>(most - logits.begin());
  std::vector<double> weights;
  weights.reserve(logits.size());
  double sum = 0;
  for (const float logit : logits) {
    weights.push_back(std::exp((double{logit} - double{*most}) / temperature));
    sum += weights.back();
  }
  double left = sum * (static_cast<double>(random() >> 11U) * 0x1p-53);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    left -= weights[i];
    if (left < 0) return static_cast<token>(i);
  }
  return static_cast<token>(most - logits.begin());
}

bool begins_with(std::span<const token> text, std::span<const token> beginning) {
  return text.size() >= beginning.size() &&
         std::equal(beginning.begin(), beginning.end(), text.begin());
}

std::string name_of(index_t slot) {
  return "slot-" + std::to_string(slot);
}

}  // namespace

service::service(std::unique_ptr<engine> model, std::unique_ptr<state_store> states,
                 const service_options& options)
    : engine_(std::move(model)),
      states_(std::move(states)),
      options_(options),
      slots_(static_cast<std::size_t>(engine_->slots())),
      views_(slots_.size()) {
  for (index_t s = 0; s < engine_->slots(); ++s) {
    const done back = put_in_place(s, name_of(s), false);
    if (!back && back.why().what != fault::not_found) {
      restore_failures_.push_back(back.why().message);
    }
  }
  publish();
  fitter_ = std::thread([this] { fit_caches(); });
  server_ = std::thread([this] { serve(); });
}

void service::stop() {
  if (!server_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  stop_fits_.request();
  wake_.notify_all();
  wake_fits_.notify_all();
  fitter_.join();
  wake_.notify_all();
  server_.join();
}

outcome<std::shared_ptr<generation>> service::submit(generation_request asked) {
  metrics_.add(metrics::count::requests);
  if (asked.prompt.empty()) return failure{fault::bad_request, "the prompt is empty"};
  if (asked.most < 1) return failure{fault::bad_request, "max_tokens must be at least 1"};
  const auto size = static_cast<index_t>(asked.prompt.size());
  if (size > options_.longest || asked.most > options_.longest - size) {
    return failure{fault::too_large, "prompt and max_tokens are " + std::to_string(size) + " and " +
                                         std::to_string(asked.most) + " tokens, allowed " +
                                         std::to_string(options_.longest)};
  }
  if (asked.slot && !is_number(*asked.slot)) return failure{fault::not_found, "no such slot"};
  if (asked.goes_on && !asked.slot) {
    return failure{fault::bad_request, "what goes on needs the slot of its conversation"};
  }
  auto made = std::make_shared<generation>(std::move(asked));
  {
    const std::lock_guard lock(mutex_);
    if (is_stopping_) return failure{fault::cancelled, "the server stops"};
    if (waiting_.size() >= options_.queue) {
      metrics_.add(metrics::count::overloaded);
      return failure{fault::overloaded, "the queue is full"};
    }
    waiting_.push_back(made);
    has_news_ = true;
  }
  wake_.notify_all();
  return made;
}

/// Runs `order` on the serving thread and waits for what it answers with.
template <class T>
outcome<T> service::ordered(std::function<void(std::function<void(outcome<T>)>)> order) {
  auto promise = std::make_shared<std::promise<outcome<T>>>();
  auto answered = promise->get_future();
  {
    const std::lock_guard lock(mutex_);
    if (is_stopping_) return failure{fault::cancelled, "the server stops"};
    if (orders_.size() >= options_.queue) {
      metrics_.add(metrics::count::overloaded);
      return failure{fault::overloaded, "the queue is full"};
    }
    orders_.emplace_back([order = std::move(order), promise] {
      order([promise](outcome<T> said) { promise->set_value(std::move(said)); });
    });
  }
  wake_.notify_all();
  // A fit ends with its own patience first; what is saved or restored goes on, and nobody hears.
  if (answered.wait_for(options_.patience + std::chrono::seconds(1)) != std::future_status::ready) {
    metrics_.add(metrics::count::timed_out);
    return failure{fault::timed_out, "the server did not come to it in time"};
  }
  return answered.get();
}

outcome<compaction_report> service::compact(index_t number, const compaction_order& order) {
  if (!is_number(number)) return failure{fault::not_found, "no such slot"};
  if (order.ratio != 0 && !(order.ratio > 1 && std::isfinite(order.ratio))) {
    return failure{fault::bad_request, "the ratio must be above 1"};
  }
  return ordered<compaction_report>([this, number, order](answer to) {
    const served_slot& at = slots_[static_cast<std::size_t>(number)];
    if (at.active || at.is_compacting) return to(failure{fault::conflict, "the slot is in use"});
    compaction_request how = order.how;
    const index_t rows = engine_->rows(number);
    if (order.ratio != 0) {
      how.target = static_cast<index_t>(static_cast<double>(rows) / order.ratio);
    }
    if (how.protect_first < 0 || how.protect_recent < 0 || how.target < 1 || how.target >= rows ||
        how.protect_first >= how.target || how.protect_recent >= how.target - how.protect_first) {
      return to(failure{fault::bad_request, std::to_string(rows) + " rows can't be compacted to " +
                                                std::to_string(how.target) +
                                                " with these protected"});
    }
    begin_compaction(number, how, order.is_dry_run, std::move(to));
  });
}

done service::save(index_t number, std::string_view name) {
  if (!is_number(number)) return failure{fault::not_found, "no such slot"};
  const std::string file = name.empty() ? name_of(number) : std::string(name);
  return ordered<nothing>([this, number, file](const std::function<void(done)>& to) {
    const served_slot& at = slots_[static_cast<std::size_t>(number)];
    if (at.active) return to(failure{fault::conflict, "the slot is in use"});
    if (at.tokens.empty()) return to(failure{fault::bad_request, "the slot is empty"});
    if (const done settled = settle(number); !settled) return to(settled.why());
    auto state = engine_->read_state(number);
    if (!state) return to(state.why());
    const done saved = states_->save(file, {.tokens = at.tokens, .state = std::move(*state)});
    if (saved) metrics_.add(metrics::count::saves);
    to(saved);
  });
}

/// Reads what was said last and not read, for its request ended early.
done service::settle(index_t number) {
  served_slot& at = slots_[static_cast<std::size_t>(number)];
  if (!at.unread) return nothing{};
  const auto read =
      engine_->decode(number, {&*at.unread, 1}, static_cast<index_t>(at.tokens.size()));
  if (!read) {
    forget(number);
    return read.why();
  }
  at.tokens.push_back(*at.unread);
  at.unread.reset();
  return nothing{};
}

done service::put_in_place(index_t number, std::string_view name, bool may_evict) {
  auto saved = states_->load(name);
  if (!saved) return saved.why();
  if (static_cast<index_t>(saved->tokens.size()) > options_.longest) {
    return failure{fault::too_large, "the saved conversation is longer than allowed"};
  }
  const auto rows =
      static_cast<index_t>(saved->state.size()) / std::max<index_t>(1, engine_->row_bytes());
  if (const done space = make_space(number, rows, may_evict); !space) return space.why();
  const done put = engine_->put_state(number, saved->state);
  if (!put) return put;
  served_slot& at = slots_[static_cast<std::size_t>(number)];
  at.tokens = std::move(saved->tokens);
  at.unread.reset();
  at.is_partial = false;
  at.refused_at = at.compactions = 0;
  at.last.reset();
  at.refusal.clear();
  at.last_use = clock::now();
  metrics_.add(metrics::count::restores);
  return nothing{};
}

done service::restore(index_t number, std::string_view name) {
  if (!is_number(number)) return failure{fault::not_found, "no such slot"};
  const std::string file = name.empty() ? name_of(number) : std::string(name);
  return ordered<nothing>([this, number, file](const std::function<void(done)>& to) {
    const served_slot& at = slots_[static_cast<std::size_t>(number)];
    if (at.active || at.is_compacting) return to(failure{fault::conflict, "the slot is in use"});
    to(put_in_place(number, file, true));
  });
}

std::vector<slot_view> service::slots() const {
  const std::lock_guard lock(mutex_);
  return views_;
}

std::string service::metrics_text() const {
  gauges now;
  {
    const std::lock_guard lock(mutex_);
    now.queued = static_cast<index_t>(waiting_.size());
    now.slots = static_cast<index_t>(views_.size());
    for (const slot_view& each : views_) {
      now.busy_slots += each.is_busy ? 1 : 0;
      now.rows += each.rows;
      now.cache_bytes += each.bytes;
    }
  }
  return metrics_.text(now);
}

void service::publish() {
  std::vector<slot_view> now;
  for (std::size_t s = 0; s < slots_.size(); ++s) {
    const served_slot& from = slots_[s];
    const index_t rows = engine_->rows(static_cast<index_t>(s));
    now.push_back({.number = static_cast<index_t>(s),
                   .is_busy = from.active != nullptr,
                   .is_compacting = from.is_compacting,
                   .tokens = static_cast<index_t>(from.tokens.size()),
                   .rows = rows,
                   .bytes = rows * engine_->row_bytes(),
                   .compactions = from.compactions,
                   .last = from.last,
                   .refusal = from.refusal});
  }
  const std::lock_guard lock(mutex_);
  views_.swap(now);
}

/// The serving thread: orders, fitted caches, new requests, then a step of every slot.
void service::serve() {
  for (;;) {
    std::deque<std::function<void()>> orders;
    std::deque<fitted> fits;
    bool is_stopping = false;
    {
      std::unique_lock lock(mutex_);
      const auto can_step = [&] {
        return std::any_of(slots_.begin(), slots_.end(),
                           [](const served_slot& s) { return s.active && !s.is_compacting; });
      };
      if (!can_step() && !has_news_ && !is_stopping_ && orders_.empty() && fitted_.empty()) {
        // Whoever waits may be cancelled or time out: that is looked for ten times a second.
        wake_.wait_for(lock, std::chrono::milliseconds(100));
      }
      has_news_ = false;
      is_stopping = is_stopping_;
      orders.swap(orders_);
      fits.swap(fitted_);
    }
    for (fitted& each : fits) end_compaction(std::move(each));
    for (const auto& each : orders) each();
    if (is_stopping) break;
    assign();
    for (std::size_t s = 0; s < slots_.size(); ++s) step(static_cast<index_t>(s));
    publish();
  }
  // Nothing comes in any more; what is under way ends here, and what was fitted meanwhile.
  const failure why{fault::cancelled, "the server stops"};
  for (;;) {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [&] { return !fitted_.empty() || (fitting_ == 0 && fits_.empty()); });
    if (fitted_.empty()) break;
    auto fits = std::exchange(fitted_, {});
    lock.unlock();
    for (fitted& each : fits) end_compaction(std::move(each));
  }
  for (served_slot& each : slots_) {
    if (each.active) fail(each, why);
  }
  const std::lock_guard lock(mutex_);
  for (const auto& each : waiting_) each->fail(why);
  waiting_.clear();
}

/// A slot whose conversation goes on in the prompt, else an empty one, else the one that has been
/// idle for longest.
std::optional<index_t> service::slot_for(const generation_request& asked) const {
  const auto is_free = [](const served_slot& s) { return !s.active && !s.is_compacting; };
  if (asked.slot) {
    if (!is_free(slots_[static_cast<std::size_t>(*asked.slot)])) return {};
    return asked.slot;
  }
  std::optional<index_t> best;
  const auto rank = [&](const served_slot& s) -> std::pair<std::size_t, clock::duration> {
    const bool goes_on = !s.tokens.empty() && s.tokens.size() < asked.prompt.size() &&
                         begins_with(asked.prompt, s.tokens);
    if (goes_on) return {s.tokens.size() + 1, {}};
    return {s.tokens.empty() ? 1 : 0, -s.last_use.time_since_epoch()};
  };
  for (std::size_t s = 0; s < slots_.size(); ++s) {
    if (!is_free(slots_[s])) continue;
    if (best && rank(slots_[s]) <= rank(slots_[static_cast<std::size_t>(*best)])) continue;
    best = static_cast<index_t>(s);
  }
  return best;
}

/// Makes space for `rows` rows in a slot, in place of those that it has. Idle conversations give
/// way, the oldest first (their prompts bring them back), but none where all of them would not be
/// enough.
done service::make_space(index_t number, index_t rows, bool may_evict) {
  const index_t allowed = options_.memory_cap / std::max<index_t>(1, engine_->row_bytes());
  if (rows > allowed) {
    return failure{fault::too_large, std::to_string(rows) +
                                         " rows are more than the memory cap of " +
                                         std::to_string(allowed) + " ever allows"};
  }
  index_t used = 0;
  std::vector<std::size_t> idle;
  index_t could_go = 0;
  for (std::size_t s = 0; s < slots_.size(); ++s) {
    if (static_cast<index_t>(s) == number) continue;
    const served_slot& each = slots_[s];
    const index_t own = engine_->rows(static_cast<index_t>(s));
    used += own;
    if (each.active) {  // what it may still take
      used += static_cast<index_t>(each.to_read.size() - each.read) + each.active->asked().most -
              each.said;
    } else if (!each.is_compacting && !each.tokens.empty()) {
      idle.push_back(s);
      could_go += own;
    }
  }
  if (used + rows <= allowed) return nothing{};
  if (!may_evict || used - could_go + rows > allowed) {
    return failure{fault::overloaded, "the memory cap leaves no space"};
  }
  std::sort(idle.begin(), idle.end(),
            [&](std::size_t a, std::size_t b) { return slots_[a].last_use < slots_[b].last_use; });
  for (const std::size_t s : idle) {
    if (used + rows <= allowed) break;
    used -= engine_->rows(static_cast<index_t>(s));
    forget(static_cast<index_t>(s));
  }
  return nothing{};
}

/// False where it has to wait on.
bool service::start(const std::shared_ptr<generation>& what) {
  if (what->is_cancelled()) {
    metrics_.add(metrics::count::cancelled);
    what->fail({fault::cancelled, "the client went away"});
    return true;
  }
  if (clock::now() > what->asked().deadline) {
    metrics_.add(metrics::count::timed_out);
    what->fail({fault::timed_out, "the deadline passed while the request waited"});
    return true;
  }
  const auto number = slot_for(what->asked());
  if (!number) return false;
  served_slot& at = slots_[static_cast<std::size_t>(*number)];
  const auto& prompt = what->asked().prompt;
  bool starts_anew = false;
  if (what->asked().goes_on) {
    const auto length = static_cast<index_t>(at.tokens.size() + prompt.size());
    if (at.tokens.empty()) {
      what->fail({fault::not_found, "the slot has no conversation"});
      return true;
    }
    if (at.is_partial) {
      what->fail({fault::conflict, "the slot's last prompt was not read whole: say all of it"});
      return true;
    }
    if (length > options_.longest - what->asked().most) {
      what->fail({fault::too_large, "the conversation would be longer than allowed"});
      return true;
    }
    at.to_read.clear();
    if (at.unread) at.to_read.push_back(*at.unread);
    at.to_read.insert(at.to_read.end(), prompt.begin(), prompt.end());
  } else {
    const bool is_known = at.tokens.size() < prompt.size() && begins_with(prompt, at.tokens);
    const std::size_t known = is_known ? at.tokens.size() : 0;
    at.to_read.assign(prompt.begin() + static_cast<std::ptrdiff_t>(known), prompt.end());
    starts_anew = !is_known;
  }
  const index_t kept = starts_anew ? 0 : engine_->rows(*number);
  const auto rows = static_cast<index_t>(at.to_read.size()) + what->asked().most;
  if (const done space = make_space(*number, kept + rows, true); !space) {
    if (space.why().what == fault::overloaded) metrics_.add(metrics::count::overloaded);
    what->fail(space.why());
    return true;
  }
  if (starts_anew) forget(*number);
  at.active = what;
  at.unread.reset();
  at.is_partial = false;
  at.read = 0;
  at.said = 0;
  at.has_next = false;
  at.random.seed(what->asked().seed);
  at.last_token = clock::now();
  what->took_slot(*number);
  return true;
}

void service::assign() {
  std::deque<std::shared_ptr<generation>> waiting;
  {
    const std::lock_guard lock(mutex_);
    waiting = waiting_;
  }
  for (const auto& each : waiting) {
    if (!start(each)) continue;
    const std::lock_guard lock(mutex_);
    waiting_.erase(std::find(waiting_.begin(), waiting_.end(), each));
  }
}

/// The slot's conversation ends; the next prompt is read anew.
void service::forget(index_t number) {
  served_slot& at = slots_[static_cast<std::size_t>(number)];
  engine_->clear(number);
  at.tokens.clear();
  at.unread.reset();
  at.is_partial = false;
  at.refused_at = at.compactions = 0;
  at.last.reset();
  at.refusal.clear();
}

void service::finish(served_slot& of, ending how) {
  of.active->end(how);
  free(of);
}

void service::fail(served_slot& of, const failure& why) {
  of.is_partial = !of.has_next && of.read < of.to_read.size();
  if (of.has_next && !of.tokens.empty()) of.unread = of.next;
  of.active->fail(why);
  free(of);
}

/// Whoever waits for a slot may have it at once.
void service::free(served_slot& of) {
  of.active.reset();
  of.last_use = clock::now();
  const std::lock_guard lock(mutex_);
  has_news_ = true;
}

void service::step(index_t number) {
  served_slot& at = slots_[static_cast<std::size_t>(number)];
  if (!at.active) return;
  if (at.active->is_cancelled()) {
    metrics_.add(metrics::count::cancelled);
    return fail(at, {fault::cancelled, "the client went away"});
  }
  const generation_request& asked = at.active->asked();
  if (clock::now() > asked.deadline) {
    metrics_.add(metrics::count::timed_out);
    return fail(at, {fault::timed_out, "the deadline passed"});
  }
  if (at.is_compacting) return;
  const auto how = wanted_compaction(number);
  if (how && !is_postponed(number)) {
    begin_compaction(number, *how, false, {});
    if (at.is_compacting) return;
  }
  std::vector<token> next;
  if (at.has_next) {
    next = {at.next};
  } else {
    const auto first = at.to_read.begin() + static_cast<std::ptrdiff_t>(at.read);
    const auto left = static_cast<index_t>(at.to_read.end() - first);
    next.assign(first, first + std::min(left, options_.step));
  }
  if (static_cast<index_t>(next.size()) > engine_->space(number)) {
    // What was read stays; a compaction may make space.
    return fail(at, {fault::too_large, "the slot takes " + std::to_string(engine_->space(number)) +
                                           " more tokens of the prompt"});
  }
  auto logits = engine_->decode(number, next, static_cast<index_t>(at.tokens.size()));
  if (!logits) {
    // How much of them was read is not known: the conversation is read anew by its next prompt.
    metrics_.add(metrics::count::engine_failures);
    forget(number);
    return fail(at, logits.why());
  }
  metrics_.add(metrics::count::tokens_read, next.size());
  at.tokens.insert(at.tokens.end(), next.begin(), next.end());
  if (!at.has_next) {
    at.read += next.size();
    if (at.read < at.to_read.size()) return;
  }
  // What is said can be read: nobody hears a token that the slot then lacks.
  if (at.said == asked.most || engine_->space(number) == 0) return finish(at, ending::length);
  const auto chosen = choose(*logits, asked.temperature, at.random);
  if (!chosen) {
    metrics_.add(metrics::count::engine_failures);
    forget(number);
    return fail(at, chosen.why());
  }
  if (engine_->ends(*chosen)) return finish(at, ending::stop);
  const bool is_fitting = std::any_of(slots_.begin(), slots_.end(),
                                      [](const served_slot& s) { return s.is_compacting; });
  const auto meanwhile = at.has_waited                  ? metrics::meanwhile::was_compacted
                         : is_fitting || at.saw_another ? metrics::meanwhile::another_was_compacted
                                                        : metrics::meanwhile::nothing;
  if (at.said > 0) metrics_.token_seconds(seconds_since(at.last_token), meanwhile);
  at.has_waited = at.saw_another = false;
  at.last_token = clock::now();
  at.next = *chosen;
  at.has_next = true;
  ++at.said;
  metrics_.add(metrics::count::tokens_said);
  at.active->say(engine_->text_of(*chosen));
}

/// What the policy wants; where space runs short, sooner than it tries again what failed: the less
/// is left, the sooner.
std::optional<compaction_request> service::wanted_compaction(index_t number) const {
  const served_slot& at = slots_[static_cast<std::size_t>(number)];
  const index_t rows = engine_->rows(number);
  const index_t space = engine_->space(number);
  const bool is_short = space <= 2 * options_.step && rows - at.refused_at > space / 2;
  return options_.automatic.wants(rows, is_short ? 0 : at.refused_at);
}

/// Fits are made one after the other. A slot whose turn has not come goes on, as long as it has
/// space, instead of waiting for those before it.
bool service::is_postponed(index_t number) const {
  const bool is_another = std::any_of(slots_.begin(), slots_.end(),
                                      [](const served_slot& s) { return s.is_compacting; });
  const index_t rows = engine_->rows(number);
  return is_another && engine_->space(number) > 2 * options_.step &&
         rows < options_.automatic.trigger + options_.automatic.trigger / 2;
}

void service::begin_compaction(index_t number, const compaction_request& how, bool is_dry_run,
                               answer to) {
  served_slot& at = slots_[static_cast<std::size_t>(number)];
  auto snapshot = engine_->snapshot(number);
  if (!snapshot) {
    metrics_.add(metrics::count::compactions_failed);
    at.refused_at = engine_->rows(number);
    at.refusal = snapshot.why().message;
    if (to) to(snapshot.why());
    return;
  }
  {
    std::unique_lock lock(mutex_);
    if (is_stopping_) {  // the fitting thread may be gone
      lock.unlock();
      if (to) to(failure{fault::cancelled, "the server stops"});
      return;
    }
    at.is_compacting = at.has_waited = true;
    fits_.push_back({.slot = number,
                     .of = std::move(*snapshot),
                     .how = how,
                     .is_dry_run = is_dry_run,
                     .deadline = clock::now() + options_.patience,
                     .to = std::move(to)});
  }
  wake_fits_.notify_all();
}

void service::fit_caches() {
  for (;;) {
    std::unique_lock lock(mutex_);
    wake_fits_.wait(lock, [&] { return is_stopping_ || !fits_.empty(); });
    if (fits_.empty()) return;
    fit_job job = std::move(fits_.front());
    fits_.pop_front();
    ++fitting_;
    lock.unlock();
    const auto start = clock::now();
    const kvfit::stop_when stop{.cancel = &stop_fits_, .deadline = job.deadline};
    auto made = stop.is_due()
                    ? outcome<std::unique_ptr<small_cache>>(failure{fault::cancelled, "given up"})
                    : engine_->fit(*job.of, job.how, stop);
    const double seconds = seconds_since(start);
    if (!made && made.why().what == fault::cancelled && clock::now() >= *stop.deadline) {
      made = failure{fault::timed_out, "the fit took longer than the server's patience"};
    }
    job.of.reset();
    lock.lock();
    fitted_.push_back({.job = std::move(job), .made = std::move(made), .seconds = seconds});
    --fitting_;
    lock.unlock();
    wake_.notify_all();
  }
}

void service::end_compaction(fitted what) {
  const index_t number = what.job.slot;
  served_slot& at = slots_[static_cast<std::size_t>(number)];
  at.is_compacting = false;
  for (served_slot& each : slots_) each.saw_another = true;  // putting it in place takes time, too
  metrics_.fit_seconds(what.seconds);
  const auto answered = [&](outcome<compaction_report> said) {
    publish();
    if (what.job.to) what.job.to(std::move(said));
  };
  const auto refuse = [&](metrics::count counted, const failure& why) {
    metrics_.add(counted);
    if (!what.job.is_dry_run) {
      at.refused_at = engine_->rows(number);
      at.refusal = why.message;
    }
    answered(why);
  };
  if (!what.made) return refuse(metrics::count::compactions_failed, what.made.why());
  compaction_report report = (*what.made)->report;
  report.seconds = what.seconds;
  if (what.job.is_dry_run) return answered(report);
  if (const auto why = options_.gate.refuses(report)) {
    at.last = report;
    return refuse(metrics::count::compactions_refused, {fault::refused, *why});
  }
  if (const done applied = engine_->apply(number, **what.made); !applied) {
    return refuse(metrics::count::compactions_failed, applied.why());
  }
  metrics_.add(metrics::count::compactions);
  at.refused_at = 0;
  at.refusal.clear();
  ++at.compactions;
  at.last = report;
  answered(report);
}

}  // namespace server
