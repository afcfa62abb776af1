// SPDX-License-Identifier: MIT
#include "metal/emulator/engine.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include "metal/emulator/fibre.hpp"

namespace metal_emulator {

const char* name_of(space where) {
  switch (where) {
    case space::device:
      return "device";
    case space::constant:
      return "constant";
    case space::threadgroup:
      return "threadgroup";
  }
  return "";
}

const char* name_of(fault_kind kind) {
  switch (kind) {
    case fault_kind::none:
      return "none";
    case fault_kind::out_of_range:
      return "out of range";
    case fault_kind::misaligned:
      return "misaligned";
    case fault_kind::uninitialised:
      return "uninitialised";
    case fault_kind::read_only:
      return "read only";
    case fault_kind::race:
      return "race";
    case fault_kind::divergence:
      return "divergence";
    case fault_kind::bad_launch:
      return "bad launch";
    case fault_kind::runaway:
      return "runaway";
  }
  return "";
}

std::string name_of(const order& o) {
  switch (o.how) {
    case order::kind::forward:
      return "forward";
    case order::kind::backward:
      return "backward";
    case order::kind::shuffled:
      return "shuffled by " + std::to_string(o.seed);
  }
  return "";
}

namespace {

std::string text(const extent& e) {
  return "(" + std::to_string(e[0]) + ", " + std::to_string(e[1]) + ", " + std::to_string(e[2]) +
         ")";
}

extent unflatten(std::uint64_t index, const extent& size) {
  return {static_cast<std::uint32_t>(index % size[0]),
          static_cast<std::uint32_t>(index / size[0] % size[1]),
          static_cast<std::uint32_t>(index / size[0] / size[1])};
}

/// A generator small enough to seed for each interval (splitmix64).
struct generator {
  std::uint64_t state;
  std::uint64_t next() {
    state += 0x9E3779B97F4A7C15u;
    std::uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
};

/// Fills `items` with 0, 1, … in the order asked for; `interval` sets shuffles apart.
void arrange(std::vector<std::uint32_t>& items, const order& how, std::uint64_t interval) {
  std::iota(items.begin(), items.end(), 0u);
  if (how.how == order::kind::backward) {
    std::reverse(items.begin(), items.end());
  } else if (how.how == order::kind::shuffled) {
    generator random{how.seed ^ (interval * 0xD1B54A32D192ED03u)};
    for (std::size_t i = items.size(); i > 1; --i) {
      std::swap(items[i - 1], items[random.next() % i]);
    }
  }
}

enum class state : std::uint8_t { ready, at_barrier, at_exchange, ended };

struct thread_state {
  position where;
  state now = state::ready;
  site waiting_at;
  const char* waiting_for = "";
  unsigned scope = 0;
  std::uint32_t exchanges = 0;  ///< so far; its parity picks the slots
};

struct simdgroup_state {
  std::uint32_t first = 0, lanes = 0;
  std::uint32_t arrived = 0;
  std::uint32_t interval[2] = {0, 0};  ///< of device and threadgroup memory
  exchange_slot slots[2][simd_width];
};

struct declared_memory {
  std::vector<std::byte> bytes;
  std::unique_ptr<allocation> memory;
};

/// Everything about the dispatch that is running.
struct dispatch_state {
  const launch* what = nullptr;
  order how;
  outcome result;
  bool stopped = false;
  /// The first reads of what nobody had written, of device and threadgroup memory. A read is held
  /// here rather than ending the dispatch, for a write that follows it shows a race, its true
  /// cause.
  std::optional<fault> unwritten[2];

  std::uint32_t first_interval = 0;    ///< of the dispatch
  std::uint32_t group_interval = 0;    ///< of the running threadgroup
  std::uint32_t interval[2] = {0, 0};  ///< between barriers: device, threadgroup memory
  std::uint64_t accesses = 0;

  extent groups{};
  std::uint64_t group = 0;
  std::uint32_t threads = 0;  ///< in the running threadgroup
  std::uint32_t full_threads = 0;
  std::vector<thread_state> thread;
  std::vector<simdgroup_state> simdgroup;
  std::uint32_t current = 0;
  std::uint32_t ended = 0;
  std::map<unsigned, declared_memory> declared;
  std::size_t declared_bytes = 0;
  std::map<unsigned, declared_memory> passed;
  bound_memory bound;
};

// One dispatch runs at a time, on one thread of the operating system: a shader's calls carry no
// context, so it is found here.
dispatch_state* active = nullptr;
std::uint32_t last_interval = 0;
fibres* pool = nullptr;

thread_state& self() {
  return active->thread[active->current];
}
std::uint32_t simdgroup_of(std::uint32_t grid_index) {
  return grid_index % active->full_threads / simd_width;
}

std::string thread_text(std::uint32_t grid_index) {
  const std::uint64_t group = grid_index / active->full_threads;
  return "thread " + std::to_string(grid_index % active->full_threads) + " of threadgroup " +
         text(unflatten(group, active->groups));
}

/// Thrown to end a thread at fault, so that what its frames hold is released.
struct stop {};

fault describe(fault_kind kind, const position* where, const std::string& what) {
  fault f;
  f.kind = kind;
  f.kernel = active->what->name;
  f.message = "kernel " + f.kernel;
  if (where != nullptr) {
    f.threadgroup = where->threadgroup;
    f.thread = where->thread;
    f.message += ", thread " + text(where->thread) + " of threadgroup " + text(where->threadgroup);
  }
  f.message += ": " + std::string(name_of(kind)) + ": " + what;
  return f;
}

void note(fault_kind kind, const position* where, const std::string& what) {
  if (active->stopped) return;
  active->stopped = true;
  active->result.error = describe(kind, where, what);
  // Whatever else happened may follow from garbage that was read.
  for (const std::optional<fault>& read : active->unwritten) {
    if (read && kind != fault_kind::race) active->result.error = *read;
  }
}

/// Ends the dispatch if a read of what nobody had written was held; no write can explain it now.
void settle_reads(std::size_t kind) {
  if (active->stopped || !active->unwritten[kind]) return;
  active->stopped = true;
  active->result.error = *active->unwritten[kind];
}

}  // namespace

const position& here() {
  return self().where;
}
const bound_memory& bindings() {
  return active->bound;
}

void raise(fault_kind kind, const std::string& what) {
  note(kind, &self().where, what);
  throw stop{};
}

// ---- Accesses -----------------------------------------------------------------------------------

allocation::allocation(space where, std::string name, std::byte* begin, std::size_t size,
                       bool initialised)
    : where_(where),
      initialised_(initialised),
      name_(std::move(name)),
      begin_(begin),
      size_(size),
      pages_((size + page_bytes - 1) / page_bytes) {}

class recorder {
 public:
  static void record(allocation& memory, std::size_t offset, std::size_t size, access how) {
    unsigned shift = 2;
    while (shift > 0 && ((offset | size) & ((std::size_t{1} << shift) - 1)) != 0) --shift;
    while (size > 0) {
      const std::size_t page = offset / allocation::page_bytes;
      const std::size_t within = offset % allocation::page_bytes;
      const std::size_t here_bytes = std::min(size, allocation::page_bytes - within);
      shadow_page& records = page_with(memory, page, shift);
      const std::size_t last = (within + here_bytes - 1) >> records.shift;
      for (std::size_t g = within >> records.shift; g <= last; ++g) {
        touch(memory, page * allocation::page_bytes + (g << records.shift), records.granules[g],
              how);
      }
      offset += here_bytes;
      size -= here_bytes;
    }
  }

 private:
  static shadow_page& page_with(allocation& memory, std::size_t page, unsigned shift) {
    auto& held = memory.pages_[page];
    if (held == nullptr) {
      held = std::make_unique<shadow_page>();
      held->shift = shift;
      held->granules.resize(allocation::page_bytes >> shift);
    } else if (shift < held->shift) {
      std::vector<granule> finer(allocation::page_bytes >> shift);
      for (std::size_t g = 0; g < finer.size(); ++g) {
        finer[g] = held->granules[g >> (held->shift - shift)];
      }
      held->granules = std::move(finer);
      held->shift = shift;
    }
    return *held;
  }

  [[noreturn]] static void race(const allocation& memory, std::size_t offset, access how,
                                const char* other_did, std::uint32_t other) {
    const char* did = !writes(how) ? "reads" : !reads(how) ? "writes" : "updates";
    raise(fault_kind::race, std::string(did) + " byte " + std::to_string(offset) + " of " +
                                memory.name() + " (" + name_of(memory.where()) + "), which " +
                                thread_text(other) + " " + other_did + " with no barrier between");
  }

  static void touch(allocation& memory, std::size_t offset, granule& g, access how) {
    const thread_state& me = self();
    const std::uint32_t mine = me.where.grid_index;
    const std::uint32_t my_simdgroup = simdgroup();
    const std::size_t kind = memory.where() == space::threadgroup ? 1 : 0;
    const std::uint32_t now = active->interval[kind];
    const std::uint32_t simd_now = active->simdgroup[my_simdgroup].interval[kind];

    // A write by another thread that no barrier has ordered before this access.
    if (g.write_interval >= active->first_interval && g.writer != mine &&
        !(is_atomic(how) && g.write_was_atomic)) {
      const bool other_group = g.write_interval < active->group_interval;
      const bool unordered = g.write_interval == now && !(simdgroup_of(g.writer) == my_simdgroup &&
                                                          g.write_simd_interval < simd_now);
      if (other_group || unordered) race(memory, offset, how, "wrote", g.writer);
    }
    if (writes(how)) {
      if (g.first_read_interval >= active->first_interval &&
          g.first_read_interval < active->group_interval) {
        race(memory, offset, how, "read", g.first_reader);
      }
      if (g.read_interval == now) {
        const bool same = simdgroup_of(g.reader) == my_simdgroup;
        const bool unordered =
            g.read_by_simdgroups || !same ||
            (g.read_simd_interval == simd_now && (g.read_by_lanes || g.reader != mine));
        if (unordered) race(memory, offset, how, "read", g.reader);
      }
    }
    if (reads(how) && !memory.initialised() &&
        g.write_interval < (kind == 1 ? active->group_interval : 1u) && !active->unwritten[kind]) {
      active->unwritten[kind] =
          describe(fault_kind::uninitialised, &me.where,
                   "reads byte " + std::to_string(offset) + " of " + memory.name() + " (" +
                       name_of(memory.where()) + "), which nobody has written");
    }

    if (how == access::load) {
      if (g.first_read_interval < active->first_interval) {
        g.first_read_interval = now;
        g.first_reader = mine;
      }
      if (g.read_interval != now) {
        g.read_interval = now;
        g.read_by_lanes = g.read_by_simdgroups = false;
      } else if (simdgroup_of(g.reader) != my_simdgroup) {
        g.read_by_simdgroups = true;
      } else if (g.read_simd_interval != simd_now) {
        g.read_by_lanes = false;
      } else if (g.reader != mine) {
        g.read_by_lanes = true;
      }
      g.reader = mine;
      g.read_simd_interval = simd_now;
    } else if (writes(how)) {
      g.write_interval = now;
      g.write_simd_interval = simd_now;
      g.writer = mine;
      g.write_was_atomic = is_atomic(how);
    }
  }
};

std::byte* checked(allocation* memory, std::int64_t offset, std::size_t size, std::size_t alignment,
                   access how) {
  if (memory == nullptr) {
    raise(fault_kind::out_of_range, "accesses a null pointer");
  }
  if (offset < 0 || static_cast<std::uint64_t>(offset) > memory->size() ||
      size > memory->size() - static_cast<std::uint64_t>(offset)) {
    raise(fault_kind::out_of_range, "accesses " + std::to_string(size) + " bytes at byte " +
                                        std::to_string(offset) + " of " + memory->name() + " (" +
                                        name_of(memory->where()) + "), which has " +
                                        std::to_string(memory->size()));
  }
  if (static_cast<std::size_t>(offset) % alignment != 0) {
    raise(fault_kind::misaligned, "accesses byte " + std::to_string(offset) + " of " +
                                      memory->name() + " as a type aligned to " +
                                      std::to_string(alignment));
  }
  if (writes(how) && (memory->read_only() || memory->where() == space::constant)) {
    raise(fault_kind::read_only, "writes to " + memory->name());
  }
  if (++active->accesses == active->what->max_accesses) {
    raise(fault_kind::runaway,
          "makes access " + std::to_string(active->accesses) + ", the last that was allowed");
  }
  counts& cost = active->result.cost;
  traffic* sums[2] = {memory->where() == space::device     ? &cost.device
                      : memory->where() == space::constant ? &cost.constant
                                                           : &cost.threadgroup,
                      memory->counted};
  for (traffic* t : sums) {
    if (t == nullptr) continue;
    t->loads += how == access::load;
    t->stores += how == access::store;
    t->atomics += is_atomic(how);
    t->loaded_bytes += reads(how) ? size : 0;
    t->stored_bytes += writes(how) ? size : 0;
  }
  if (memory->where() != space::constant) {
    recorder::record(*memory, static_cast<std::size_t>(offset), size, how);
  }
  return memory->begin() + offset;
}

// ---- Waiting ------------------------------------------------------------------------------------

void wait_for_threadgroup(unsigned scope, site where) {
  thread_state& me = self();
  me.now = state::at_barrier;
  me.waiting_at = where;
  me.waiting_for = "threadgroup_barrier";
  me.scope = scope;
  pool->leave();
}

const exchange_slot* exchange(const void* mine, std::size_t size, const char* operation,
                              site where) {
  thread_state& me = self();
  simdgroup_state& group = active->simdgroup[active->current / simd_width];
  exchange_slot* slots = group.slots[me.exchanges++ % 2];
  if (size > 0) std::memcpy(slots[active->current % simd_width].bytes, mine, size);
  me.waiting_at = where;
  me.waiting_for = operation;
  if (++group.arrived < group.lanes) {
    me.now = state::at_exchange;
    pool->leave();
    return slots;
  }
  // The last lane to arrive lets the others go on, if all wait for the same thing.
  group.arrived = 0;
  for (std::uint32_t l = group.first; l < group.first + group.lanes; ++l) {
    thread_state& other = active->thread[l];
    if (other.waiting_at.line != where.line ||
        std::strcmp(other.waiting_at.file, where.file) != 0 ||
        std::strcmp(other.waiting_for, operation) != 0) {
      raise(fault_kind::divergence, std::string("is at ") + operation + " (" + where.file + ":" +
                                        std::to_string(where.line) + ") while " +
                                        thread_text(other.where.grid_index) + " waits at " +
                                        other.waiting_for + " (" + other.waiting_at.file + ":" +
                                        std::to_string(other.waiting_at.line) + ")");
    }
    other.now = state::ready;
  }
  ++active->result.cost.simdgroup_operations;
  return slots;
}

void wait_for_simdgroup(unsigned scope, site where) {
  const std::uint32_t group_index = active->current / simd_width;
  simdgroup_state& group = active->simdgroup[group_index];
  const std::uint32_t before = group.arrived;
  (void)exchange(nullptr, 0, "simdgroup_barrier", where);
  // The lane that came last moves the simdgroup to its next interval.
  if (before + 1 == group.lanes) {
    --active->result.cost.simdgroup_operations;
    ++active->result.cost.simdgroup_barriers;
    ++last_interval;
    if (scope & order_device) group.interval[0] = last_interval;
    if (scope & order_threadgroup) group.interval[1] = last_interval;
  }
}

std::uint32_t lane() {
  return active->current % simd_width;
}
std::uint32_t simdgroup() {
  return active->current / simd_width;
}
std::uint32_t lanes() {
  return active->simdgroup[simdgroup()].lanes;
}

void count_multiply_adds(std::uint64_t n, bool of_matrix) {
  active->result.cost.multiply_adds += n;
  if (of_matrix) active->result.cost.matrix_multiply_adds += n;
}

// ---- Threadgroup memory -------------------------------------------------------------------------

namespace {

/// Bytes that no kernel should rely on: NaN as fp32 and fp16, large as integers.
constexpr unsigned char garbage = 0xFF;

void account(std::size_t size, const char* name) {
  active->declared_bytes += (size + 15) / 16 * 16;
  counts& cost = active->result.cost;
  cost.threadgroup_bytes = std::max(cost.threadgroup_bytes, active->declared_bytes);
  if (active->declared_bytes > active->what->max_threadgroup_bytes) {
    raise(fault_kind::bad_launch, "with " + std::string(name) + ", threadgroup memory takes " +
                                      std::to_string(active->declared_bytes) + " bytes of " +
                                      std::to_string(active->what->max_threadgroup_bytes));
  }
}

}  // namespace

allocation* threadgroup_memory(unsigned declaration, std::size_t size, const char* name) {
  declared_memory& held = active->declared[declaration];
  if (held.memory == nullptr) {
    account(size, name);
    held.bytes.assign(size + 16, std::byte{garbage});
    const auto address = reinterpret_cast<std::uintptr_t>(held.bytes.data());
    std::byte* begin = held.bytes.data() + (16 - address % 16) % 16;
    held.memory = std::make_unique<allocation>(space::threadgroup, name, begin, size, false);
  }
  return held.memory.get();
}

const std::vector<std::byte>* function_constant_bytes(unsigned index) {
  if (active == nullptr) return nullptr;
  const auto found = active->what->constants.find(index);
  return found == active->what->constants.end() ? nullptr : &found->second;
}

// ---- Kernels ------------------------------------------------------------------------------------

std::map<std::string, kernel>& kernels() {
  static std::map<std::string, kernel> all;
  return all;
}

registrar::registrar(kernel k) {
  kernels()[k.name] = std::move(k);
}

// ---- A dispatch ---------------------------------------------------------------------------------

namespace {

void run_thread() {
  try {
    active->what->which->run(active->what->which->parameters);
  } catch (const stop&) {
  }
}

std::string waiting_text(const thread_state& t) {
  if (t.now == state::ended) return thread_text(t.where.grid_index) + " has ended";
  return thread_text(t.where.grid_index) + " waits at " + t.waiting_for + " (" + t.waiting_at.file +
         ":" + std::to_string(t.waiting_at.line) + ")";
}

/// All threads stand at one barrier: on to the next interval. Otherwise a fault.
void pass_barrier() {
  const auto waits = [](const thread_state& t) { return t.now != state::ended; };
  const thread_state& first = *std::find_if(active->thread.begin(), active->thread.end(), waits);
  for (const thread_state& t : active->thread) {
    const bool same = t.now == first.now && t.waiting_at.line == first.waiting_at.line &&
                      std::strcmp(t.waiting_at.file, first.waiting_at.file) == 0;
    if (!same) {
      note(fault_kind::divergence, &first.where,
           std::string("waits at ") + first.waiting_for + " (" + first.waiting_at.file + ":" +
               std::to_string(first.waiting_at.line) + ") while " + waiting_text(t));
      return;
    }
  }
  ++active->result.cost.barriers;
  ++last_interval;
  if (first.scope & order_threadgroup) settle_reads(1);
  for (unsigned kind = 0; kind < 2; ++kind) {
    if ((first.scope & (kind == 0 ? order_device : order_threadgroup)) == 0) continue;
    active->interval[kind] = last_interval;
    for (simdgroup_state& g : active->simdgroup) g.interval[kind] = last_interval;
  }
  for (thread_state& t : active->thread) t.now = state::ready;
}

void run_threadgroup(const extent& group_position) {
  const launch& what = *active->what;
  extent size = what.threads;
  for (std::size_t a = 0; a < 3; ++a) {
    size[a] = std::min(size[a], what.grid[a] - group_position[a] * what.threads[a]);
  }
  active->threads = static_cast<std::uint32_t>(volume(size));
  active->ended = 0;
  active->declared.clear();
  active->declared_bytes = 0;
  active->group_interval = ++last_interval;
  active->interval[0] = active->interval[1] = last_interval;

  active->thread.assign(active->threads, {});
  for (std::uint32_t t = 0; t < active->threads; ++t) {
    position& p = active->thread[t].where;
    p.threads_per_grid = what.grid;
    p.threadgroups_per_grid = active->groups;
    p.threads_per_threadgroup = size;
    p.full_threads_per_threadgroup = what.threads;
    p.threadgroup = group_position;
    p.thread = unflatten(t, size);
    p.index = t;
    p.grid_index = static_cast<std::uint32_t>(active->group * active->full_threads + t);
  }
  active->simdgroup.assign((active->threads + simd_width - 1) / simd_width, {});
  for (std::uint32_t g = 0; g < active->simdgroup.size(); ++g) {
    simdgroup_state& s = active->simdgroup[g];
    s.first = g * simd_width;
    s.lanes = std::min(simd_width, active->threads - s.first);
    s.interval[0] = s.interval[1] = last_interval;
  }
  for (const auto& [index, bytes] : what.threadgroup_sizes) {
    declared_memory& held = active->passed[index];
    held.bytes.assign(bytes + 16, std::byte{garbage});
    const auto address = reinterpret_cast<std::uintptr_t>(held.bytes.data());
    held.memory = std::make_unique<allocation>(
        space::threadgroup, "threadgroup(" + std::to_string(index) + ")",
        held.bytes.data() + (16 - address % 16) % 16, bytes, false);
    active->bound.threadgroup[index] = held.memory.get();
    active->declared_bytes += (bytes + 15) / 16 * 16;
  }
  counts& cost = active->result.cost;
  cost.threadgroup_bytes = std::max(cost.threadgroup_bytes, active->declared_bytes);

  pool->begin(active->threads, run_thread);
  std::vector<std::uint32_t> sequence(active->threads);
  std::uint64_t round = 0;
  arrange(sequence, active->how, active->group);
  while (!active->stopped && active->ended < active->threads) {
    bool progress = false;
    for (const std::uint32_t t : sequence) {
      if (active->thread[t].now != state::ready) continue;
      progress = true;
      active->current = t;
      if (pool->resume(t)) {
        active->thread[t].now = state::ended;
        ++active->ended;
      }
      if (active->stopped) return;
    }
    if (active->ended == active->threads) {
      settle_reads(1);
      return;
    }
    if (!progress) {
      pass_barrier();
      if (active->how.how == order::kind::shuffled) {
        arrange(sequence, active->how, active->group * 1000003u + ++round);
      }
    }
  }
}

bool check_launch() {
  const launch& what = *active->what;
  const auto refuse = [](const std::string& text) {
    note(fault_kind::bad_launch, nullptr, text);
    return false;
  };
  if (what.which == nullptr) return refuse("no such kernel");
  const std::uint64_t threads = volume(what.threads);
  if (threads == 0 || threads > 1024 || threads > what.which->max_threads) {
    return refuse(std::to_string(threads) + " threads per threadgroup; the kernel allows 1 to " +
                  std::to_string(std::min(what.which->max_threads, 1024u)));
  }
  if (volume(what.grid) == 0) return refuse("an empty grid");
  std::size_t passed = 0;
  for (const auto& [index, bytes] : what.threadgroup_sizes) {
    if (bytes == 0 || bytes % 16 != 0) {
      return refuse("threadgroup(" + std::to_string(index) + ") has " + std::to_string(bytes) +
                    " bytes, which is not a multiple of 16");
    }
    passed += bytes;
  }
  if (passed > what.max_threadgroup_bytes) {
    return refuse("threadgroup memory takes " + std::to_string(passed) + " bytes of " +
                  std::to_string(what.max_threadgroup_bytes));
  }
  for (const parameter& p : what.which->parameters) {
    if (p.what == parameter::kind::threadgroup && what.threadgroup_sizes.count(p.index) == 0) {
      return refuse("threadgroup(" + std::to_string(p.index) + ") has no size");
    }
  }
  return true;
}

}  // namespace

outcome run(const launch& what, const order& how) {
  dispatch_state state_of_this;
  static fibres all_fibres;
  active = &state_of_this;
  pool = &all_fibres;
  state_of_this.what = &what;
  state_of_this.how = how;
  if (check_launch()) {
    for (std::size_t a = 0; a < 3; ++a) {
      state_of_this.groups[a] = (what.grid[a] + what.threads[a] - 1) / what.threads[a];
    }
    state_of_this.full_threads = static_cast<std::uint32_t>(volume(what.threads));
    state_of_this.first_interval = ++last_interval;
    state_of_this.bound.buffers = what.buffers;
    state_of_this.bound.offsets = what.offsets;
    for (const auto& [index, memory] : what.buffers) {
      if (memory != nullptr) memory->counted = &state_of_this.result.cost.buffers[index];
    }
    std::vector<std::uint32_t> sequence(volume(state_of_this.groups));
    arrange(sequence, how, 0);
    for (const std::uint32_t g : sequence) {
      state_of_this.group = g;
      run_threadgroup(unflatten(g, state_of_this.groups));
      if (state_of_this.stopped) {
        pool->abandon();
        break;
      }
    }
    settle_reads(0);
  }
  for (const auto& [index, memory] : what.buffers) {
    if (memory != nullptr) memory->counted = nullptr;
  }
  active = nullptr;
  return std::move(state_of_this.result);
}

}  // namespace metal_emulator
