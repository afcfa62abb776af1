// SPDX-License-Identifier: MIT
// Any calls of the C library: options by name, structs of any size, rows of any sizes and strides,
// caches, rounds of a rolling cache, and states. Each call ends with KVFIT_OK and a result that
// keeps what the header says, or with a code, the same code in its error, and nothing written.
//
// Rows that would leave their memory are the caller's promise and can't be refused; an oracle of
// wide integers tells them from those that must be.
#include <kvfit/c/kvfit.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "fuzz/check.hpp"

namespace {

using kvfit_fuzz::input;
using kvfit_fuzz::promise;
__extension__ using wide = __int128;

constexpr std::size_t room = 1U << 14U;  // bytes of the numbers that rows lie in

constexpr double odd_numbers[] = {
    0, 1, 2, 3, 8, 0.5, 0.05, -1, 1e-30, 1e30, 1e300, 9007199254740993.0, 1e18, -0.0, 64, 1.5};

double any_number(input& in) {
  const auto kind = in.below(24);
  if (kind < 16) return odd_numbers[kind];
  if (kind == 16) return std::numeric_limits<double>::quiet_NaN();
  if (kind == 17) return std::numeric_limits<double>::infinity();
  if (kind < 22) return in.below(40);
  return in.take<double>();
}

/// A struct in memory of its own, longer than it is: its `struct_size` may say anything that the
/// memory holds, with zero behind it or not.
template <class Struct>
class boxed {
 public:
  explicit boxed(const Struct& value) : bytes_(sizeof(Struct) + 64) {
    std::memcpy(bytes_.data(), &value, sizeof value);
    get()->struct_size = sizeof(Struct);
  }
  void distort(input& in) {
    get()->struct_size = std::min<std::size_t>(in.take<std::uint8_t>() * 8U, bytes_.size());
    if (in.below(8) == 0) get()->struct_size = static_cast<std::size_t>(in.size());
    if (get()->struct_size > bytes_.size() && get()->struct_size <= (1U << 16U)) {
      get()->struct_size = bytes_.size();
    }
    if (in.below(2) == 0) bytes_.back() = std::byte{1};
  }
  Struct* get() { return reinterpret_cast<Struct*>(bytes_.data()); }

 private:
  std::vector<std::byte> bytes_;
};

/// One call's error, checked.
class checked_error {
 public:
  checked_error() {
    std::memset(&error_, 0x5A, sizeof error_);
    error_.struct_size = sizeof error_;
  }
  kvfit_error* get() { return &error_; }
  bool holds(int32_t code) {
    if (code == KVFIT_OK) return true;
    promise(code != KVFIT_UNEXPECTED);  // an exception that nothing named
    promise(std::strcmp(kvfit_code_name(code), "unknown") != 0);
    promise(error_.code == code);
    promise(std::memchr(error_.message, 0, sizeof error_.message) != nullptr);
    promise(std::memchr(error_.argument, 0, sizeof error_.argument) != nullptr);
    promise(error_.message[0] != '\0');
    return false;
  }

 private:
  kvfit_error error_;
};

/// Everything that the structs of one input refer to.
class world {
 public:
  explicit world(input& in) : in_(in), numbers_(room / sizeof(float)) {
    auto word = in.take<std::uint32_t>();
    const float scale = in.below(16) == 0 ? 1e20F : 1.0F;
    for (float& number : numbers_) {
      word = word * 1664525U + 1013904223U;
      number = (static_cast<float>(word >> 8U) / 8388608.0F - 1.0F) * scale;
    }
    for (int odd = in.below(4); odd > 1; --odd) {
      const float values[] = {std::numeric_limits<float>::quiet_NaN(),
                              std::numeric_limits<float>::infinity(), 1e-40F, 3e38F};
      numbers_[in.take<std::uint16_t>() % numbers_.size()] = values[in.below(4)];
    }
  }

  /// rows x cols numbers somewhere in the memory, as fp32 or in any type and any layout. Sets
  /// `is_unsafe_` where reading them could leave the memory although nothing about them is wrong.
  const kvfit_rows* rows(int64_t count, int64_t cols, bool may_be_odd = true) {
    kvfit_rows out{};
    out.data = numbers_.data();
    out.rows = count;
    out.cols = cols;
    const auto kind = may_be_odd ? in_.below(16) : std::uint8_t{0};
    if (kind == 1) {  // transposed
      out.row_stride = 1;
      out.col_stride = std::max<int64_t>(count, 1);
    } else if (kind == 2) {
      out.type = KVFIT_FP16 + in_.below(2);
    } else if (kind == 3) {
      add_list(out);
    } else if (kind == 4) {
      add_table(out);
    } else if (kind == 5) {
      out.type = KVFIT_DECODED;
      out.data = &decoded_cols_.emplace_back(cols);
      out.decode = [](const void* data, int64_t row, float* to) {
        const int64_t width = *static_cast<const int64_t*>(data);
        for (int64_t c = 0; c < width; ++c) to[c] = static_cast<float>((row * 7 + c * 3) % 11);
      };
    } else if (kind == 6) {
      out.type = in_.below(2) == 0 ? KVFIT_INT8 : KVFIT_FP8_E4M3 + in_.below(2);
      add_scales(out);
    } else if (kind == 7) {
      out.type = KVFIT_Q8_0 + in_.below(2);
      out.row_stride = (cols + 31) / 32 * 32;
    } else if (kind == 8) {
      distort(out);
    }
    boxed<kvfit_rows>& box = rows_.emplace_back(out);
    if (may_be_odd && in_.below(48) == 0) box.distort(in_);
    is_unsafe_ = is_unsafe_ || !stays_inside(*box.get());
    return box.get();
  }

  const kvfit_rope* rope() {
    kvfit_rope out{};
    out.base = in_.below(4) == 0 ? any_number(in_) : 0;
    out.dims = in_.below(4) == 0 ? in_.size() : 0;
    out.interleaved = in_.below(8) == 0 ? in_.take<int8_t>() : 0;
    out.scaling = in_.below(16) == 0 ? in_.take<int8_t>() : in_.below(5);
    if (out.scaling == KVFIT_ROPE_YARN || in_.below(8) == 0) {
      out.original_positions = in_.below(4) == 0 ? any_number(in_) : 4096;
      out.unrounded = in_.below(2);
    }
    for (double* field : {&out.factor, &out.fast, &out.slow, &out.low, &out.high}) {
      if (in_.below(8) == 0) *field = any_number(in_);
    }
    if (out.scaling == KVFIT_ROPE_GIVEN) {
      auto& each = doubles_.emplace_back(in_.below(12));
      for (double& one : each) one = any_number(in_);
      out.frequencies = each.data();
      out.frequency_count = in_.below(8) == 0 ? -1 : static_cast<int64_t>(each.size());
    }
    boxed<kvfit_rope>& box = ropes_.emplace_back(out);
    if (in_.below(16) == 0) box.distort(in_);
    return box.get();
  }

  const kvfit_rule* rule() {
    kvfit_rule out{};
    if (in_.below(4) == 0) out.scale = static_cast<float>(any_number(in_));
    if (in_.below(4) == 0) out.soft_cap = static_cast<float>(any_number(in_));
    out.causal = in_.below(8) == 0 ? in_.take<int8_t>() : in_.below(2);
    if (in_.below(4) == 0) out.window = in_.size();
    boxed<kvfit_rule>& box = rules_.emplace_back(out);
    if (in_.below(16) == 0) box.distort(in_);
    return box.get();
  }

  /// A block of T rows with queries' masks for `asked` blocks of `n` rows.
  kvfit_block block(int64_t count, int64_t depth, int64_t width, int64_t asked, int64_t n) {
    kvfit_block out{};
    out.struct_size = sizeof out;
    out.keys = rows(count, depth);
    out.values = rows(in_.below(32) == 0 ? in_.below(48) : count, width);
    const auto kept = static_cast<std::size_t>(std::max<int64_t>(counted(*out.keys), 0));
    if (in_.below(4) == 0) {
      auto& bias = floats_.emplace_back(kept + 1);
      for (float& one : bias) one = static_cast<float>(in_.below(8)) - 4;
      if (in_.below(4) == 0) bias[0] = -std::numeric_limits<float>::infinity();
      if (in_.below(16) == 0) bias[0] = std::numeric_limits<float>::quiet_NaN();
      out.bias = bias.data();
    }
    if (in_.below(4) == 0) out.first_position = in_.size();
    if (in_.below(8) == 0) out.positions = places(kept);
    if (in_.below(12) == 0) {
      auto& masks = masks_.emplace_back();
      for (int64_t i = 0; i < asked; ++i) masks.push_back(*rows(n, count, false));
      out.masks = masks.data();
      out.mask_count = in_.below(16) == 0 ? in_.below(4) : masks.size();
      out.mask_count = std::min(out.mask_count, masks.size());
    }
    return out;
  }

  kvfit_queries queries(int64_t n, int64_t depth) {
    kvfit_queries out{};
    out.struct_size = sizeof out;
    out.rows = rows(n, depth);
    if (in_.below(4) == 0) out.first_position = in_.size();
    if (in_.below(8) == 0) out.position_step = in_.size();
    if (in_.below(8) == 0) {
      out.positions = places(static_cast<std::size_t>(n) + 8);
      out.position_count = in_.below(8) == 0 ? std::min<int64_t>(in_.size(), n + 8) : n;
    }
    if (in_.below(8) == 0) out.alibi_slope = static_cast<float>(any_number(in_));
    if (in_.below(8) == 0) {
      out.has_sink = in_.below(8) == 0 ? in_.take<int8_t>() : 1;
      out.sink_logit = static_cast<float>(any_number(in_));
    }
    return out;
  }

  /// Whether some rows may be read where there is no memory: then no call is made.
  [[nodiscard]] bool is_unsafe() const { return is_unsafe_; }

 private:
  static int64_t counted(const kvfit_rows& rows) { return std::min<int64_t>(rows.rows, 1 << 16); }

  const int64_t* places(std::size_t count) {
    auto& each = integers_.emplace_back(count + 1);
    int64_t at = in_.below(16) == 0 ? in_.size() : 0;
    for (int64_t& one : each) {
      one = at;
      // May wrap.
      at = in_.below(16) == 0 ? in_.size()
                              : static_cast<int64_t>(static_cast<std::uint64_t>(at) + in_.below(3));
    }
    return each.data();
  }

  void add_list(kvfit_rows& out) {
    auto& list = integers_.emplace_back(static_cast<std::size_t>(out.rows) + 1);
    out.list_memory = in_.below(8) == 0 ? in_.size() : 48;
    for (int64_t& one : list) one = in_.below(16) == 0 ? in_.size() : in_.below(48);
    out.list = list.data();
  }

  void add_table(kvfit_rows& out) {
    auto& table = tables_.emplace_back(16);
    for (int32_t& one : table) one = in_.below(16) == 0 ? in_.take<int32_t>() : in_.below(8);
    out.table = table.data();
    out.table_entries = in_.below(8) == 0 ? std::min<int64_t>(in_.size(), 16) : 16;
    out.page_size = in_.below(8) == 0 ? in_.size() : 8;
    out.page_stride = in_.below(8) == 0 ? in_.size() : 8 * out.cols;
    out.pages = in_.below(8) == 0 ? in_.size() : 8;
  }

  void add_scales(kvfit_rows& out) {
    kvfit_scales scales{};
    scales.data = numbers_.data();
    scales.type = in_.below(8) == 0 ? in_.take<int8_t>() : in_.below(2);
    scales.group = in_.below(8) == 0 ? in_.size() : 8;
    scales.row_stride = in_.below(8) == 0 ? in_.size() : in_.below(2);
    if (in_.below(8) == 0) scales.group_stride = in_.size();
    if (in_.below(8) == 0) scales.page_stride = in_.size();
    if (in_.below(8) == 0) scales.row_group = in_.size();
    boxed<kvfit_scales>& box = scales_.emplace_back(scales);
    if (in_.below(16) == 0) box.distort(in_);
    out.scales = box.get();
  }

  void distort(kvfit_rows& out) {
    int64_t* const fields[] = {&out.rows,       &out.cols,        &out.row_stride,
                               &out.col_stride, &out.list_memory, &out.table_entries,
                               &out.page_size,  &out.page_stride, &out.pages};
    for (int i = in_.below(4); i >= 0; --i) *fields[in_.below(std::size(fields))] = in_.size();
    if (in_.below(4) == 0) out.type = in_.take<int8_t>();
    if (in_.below(8) == 0) out.data = nullptr;
    if (in_.below(8) == 0) out.reserved = in_.take<int8_t>();
  }

  /// Whether every number that the rows can reach lies within the memory, or the rows are wrong by
  /// their numbers alone and must be refused.
  [[nodiscard]] bool stays_inside(const kvfit_rows& rows) const {
    if (rows.data == nullptr || rows.rows <= 0 || rows.cols <= 0) return true;  // nothing is read
    if (rows.type == KVFIT_DECODED) return rows.rows <= 64 && rows.cols <= 64;
    if (rows.rows > 64 || rows.cols > 64) return false;  // nor are products of these computed
    constexpr std::array<wide, 8> bytes = {4, 2, 2, 1, 1, 34, 18, 1};
    if (rows.type < KVFIT_FP32 || rows.type > KVFIT_INT8) return true;
    const wide unit = rows.type == KVFIT_Q8_0 || rows.type == KVFIT_Q4_0 ? 32 : 1;
    const wide step = rows.col_stride == 0 ? 1 : rows.col_stride;
    const wide stride = rows.row_stride == 0 ? rows.cols : rows.row_stride;
    wide low = 0;
    wide high = 0;
    const auto reach = [&](wide count, wide each) {
      if (count < 1) return;
      low += std::min<wide>(0, (count - 1) * each);
      high += std::max<wide>(0, (count - 1) * each);
    };
    if (rows.list != nullptr) {
      reach(rows.list_memory, stride);
    } else if (rows.table != nullptr) {
      reach(rows.page_size, stride);
      reach(rows.pages, rows.page_stride);
    } else {
      reach(rows.rows, stride);
    }
    reach(rows.cols, step);
    const wide size = bytes[static_cast<std::size_t>(rows.type)];
    if (low < 0 || (high / unit + 1) * size > static_cast<wide>(room)) return false;
    return rows.scales == nullptr || scales_stay_inside(rows);
  }

  [[nodiscard]] static bool scales_stay_inside(const kvfit_rows& rows) {
    const kvfit_scales& scales = *rows.scales;
    const wide group = scales.group == 0 ? 32 : scales.group;
    const wide row_group = scales.row_group == 0 ? 1 : scales.row_group;
    if (group < 1 || row_group < 1) return true;
    const wide group_stride = scales.group_stride == 0 ? 1 : scales.group_stride;
    wide low = 0;
    wide high = 0;
    const auto reach = [&](wide count, wide each) {
      if (count < 1) return;
      low += std::min<wide>(0, (count - 1) * each);
      high += std::max<wide>(0, (count - 1) * each);
    };
    const wide slots = rows.list != nullptr    ? wide{rows.list_memory}
                       : rows.table != nullptr ? wide{rows.page_size}
                                               : wide{rows.rows};
    reach((slots - 1) / row_group + 1, scales.row_stride);
    reach((rows.cols - 1) / group + 1, group_stride);
    reach(rows.table != nullptr ? rows.pages : 0, scales.page_stride);
    return low >= 0 && (high + 1) * 4 <= static_cast<wide>(room);
  }

  input& in_;
  std::vector<float> numbers_;
  bool is_unsafe_ = false;
  std::deque<boxed<kvfit_rows>> rows_;
  std::deque<boxed<kvfit_scales>> scales_;
  std::deque<boxed<kvfit_rope>> ropes_;
  std::deque<boxed<kvfit_rule>> rules_;
  std::deque<std::vector<float>> floats_;
  std::deque<std::vector<double>> doubles_;
  std::deque<std::vector<int64_t>> integers_;
  std::deque<std::vector<int32_t>> tables_;
  std::deque<std::vector<kvfit_rows>> masks_;
  std::deque<int64_t> decoded_cols_;
};

// ---- Options
// -------------------------------------------------------------------------------------

constexpr const char* presets[] = {
    "default", "omp",    "omp_fast",          "highest_attention", "topk",
    "snapkv",  "kvzip",  "joint_zero_bias",   "gradient_mass",     "gradient_joint",
    "first",   "random", "expected_attention"};
constexpr const char* option_words[] = {"fp32",
                                        "fp16",
                                        "bf16",
                                        "fp8_e4m3",
                                        "bf16x3",
                                        "uniform",
                                        "pyramid",
                                        "global_ranking",
                                        "layer_ranking",
                                        "none",
                                        "copies",
                                        "joint",
                                        "omp",
                                        "highest_attention",
                                        "expected_attention",
                                        "first",
                                        "last",
                                        "random",
                                        "nnls",
                                        "projected_gradient",
                                        "zero",
                                        "from_selection",
                                        "least_squares",
                                        "unpivoted_qr",
                                        "copy",
                                        "keys",
                                        "adam",
                                        "lbfgs",
                                        "log_mass",
                                        "relative",
                                        "absolute",
                                        "mean",
                                        "max",
                                        "rms",
                                        "average",
                                        "refused"};

/// Sets one option by a name of the list, or a name that is none.
void set_any_option(kvfit_options* options, input& in) {
  static const std::size_t count = [] {
    std::size_t all = 0;
    while (kvfit_option_name(all, nullptr) != nullptr) ++all;
    return all;
  }();
  int32_t kind = KVFIT_NUMBER;
  const char* name = kvfit_option_name(in.take<std::uint8_t>() % count, &kind);
  promise(name != nullptr);
  if (in.below(32) == 0) name = "rule.";
  if (in.below(32) == 0) kind = in.below(4);
  checked_error error;
  int32_t code = KVFIT_OK;
  if (kind == KVFIT_NUMBER) {
    code = kvfit_options_set(options, name, any_number(in), error.get());
  } else if (kind == KVFIT_WORD) {
    code = kvfit_options_set_word(options, name, option_words[in.below(std::size(option_words))],
                                  error.get());
  } else if (kind == KVFIT_LIST) {
    std::vector<int64_t> values(in.below(7));
    for (int64_t& one : values) one = in.size();
    code = kvfit_options_set_list(options, name, values.data(), values.size(), error.get());
  } else {
    std::vector<double> values(in.below(13));
    for (double& one : values) one = any_number(in);
    if (in.below(2) == 0) {  // curves and shares of a form that is right
      for (std::size_t i = 0; i < values.size(); ++i) {
        const std::size_t three = i / 3;
        values[i] = i % 3 == 0 ? static_cast<double>(three / 2)
                               : static_cast<double>(three % 2 * 7 + i % 3 - 1);
      }
    }
    code = kvfit_options_set_numbers(options, name, values.data(), values.size(), error.get());
  }
  error.holds(code);
}

/// What would only cost time: steps and made sets of queries stay few.
void keep_short(kvfit_options* options, input& in) {
  for (const char* name : {"refine.steps", "refine.sets", "gradient.steps", "bias.iterations",
                           "values.reweightings", "selection.drop_passes"}) {
    kvfit_options_set(options, name, in.below(4), nullptr);
  }
  kvfit_options_set(options, "refine.sets_at_once", 1, nullptr);
  kvfit_options_set(options, "refine.steps_a_batch", 1 + in.below(3), nullptr);
}

kvfit_options* any_options(input& in, world& all) {
  kvfit_options* options = nullptr;
  checked_error error;
  promise(kvfit_options_make(presets[in.below(std::size(presets))], &options, error.get()) ==
          KVFIT_OK);
  kvfit_options_set(options, "budget", 1 + in.below(16), nullptr);
  kvfit_options_set(options, "cache.budget", 1 + in.below(32), nullptr);
  for (int i = in.below(8); i > 0; --i) set_any_option(options, in);
  if (in.below(4) == 0) {
    error.holds(kvfit_options_set_rotation(options, all.rope(), error.get()));
  }
  keep_short(options, in);
  if (in.below(8) == 0) {
    kvfit_options* copy = nullptr;
    promise(kvfit_options_copy(options, &copy, nullptr) == KVFIT_OK);
    std::swap(copy, options);
    kvfit_options_free(copy);
  }
  return options;
}

// ---- Calls
// ---------------------------------------------------------------------------------------

void own_loop(void* pool, int64_t count, void (*body)(void* context, int64_t i), void* context) {
  ++*static_cast<int*>(pool);
  for (int64_t i = count; i-- > 0;) body(context, i);
}

/// How a call runs: alone, on few threads, on a loop of ours, until told to stop.
class any_call {
 public:
  any_call(input& in, bool may_cancel) : box_(kvfit_call{}) {
    if (in.below(2) == 0) return;
    is_given_ = true;
    kvfit_call& call = *box_.get();
    if (in.below(8) == 0) call.threads = static_cast<int32_t>(in.below(4)) - 1;
    if (in.below(4) == 0) {
      call.parallel_for = own_loop;
      call.pool = &loops_;
      call.pool_threads = in.below(8) == 0 ? in.take<int32_t>() : in.below(4);
    }
    if (in.below(8) == 0) call.deadline = any_number(in);
    if (in.below(4) == 0) {
      call.progress = [](void* context, int64_t done, int64_t count) {
        promise(done >= 1 && done <= count);
        ++*static_cast<int*>(context);
      };
      call.progress_context = &told_;
    }
    if (may_cancel && in.below(4) == 0) {
      promise(kvfit_cancel_make(&cancel_, nullptr) == KVFIT_OK);
      if (in.below(2) == 0) kvfit_cancel_request(cancel_);
      call.cancel = cancel_;
    }
    if (in.below(16) == 0) box_.distort(in);
  }
  any_call(const any_call&) = delete;
  any_call& operator=(const any_call&) = delete;
  ~any_call() { kvfit_cancel_free(cancel_); }

  const kvfit_call* get() { return is_given_ ? box_.get() : nullptr; }

 private:
  boxed<kvfit_call> box_;
  bool is_given_ = false;
  int loops_ = 0;
  int told_ = 0;
  kvfit_cancel* cancel_ = nullptr;
};

void check_rows(const float* numbers, int64_t count) {
  for (int64_t i = 0; i < count; ++i) promise(std::isfinite(numbers[i]));
}

void check_head(int64_t rows, int64_t depth, int64_t width, const int64_t* positions,
                const float* keys, const float* bias, const float* values) {
  promise(rows >= 0 && depth >= 1 && width >= 1);
  check_rows(keys, rows * depth);
  check_rows(values, rows * width);
  check_rows(bias, rows);
  for (int64_t i = 0; i < rows; ++i) {
    promise(positions[i] >= 0);
    promise(i == 0 || positions[i] > positions[i - 1]);
  }
}

void check_cache(const kvfit_cache* cache, bool has_numbers = true) {
  const kvfit_cache_result* result = kvfit_cache_get(cache);
  promise(result != nullptr && result->struct_size == sizeof *result);
  int64_t rows = 0;
  for (std::size_t l = 0; l < result->layer_count; ++l) {
    const kvfit_layer_result& layer = result->layers[l];
    promise(layer.struct_size == sizeof layer && layer.offsets[0] == 0);
    for (std::size_t h = 0; h < layer.head_count; ++h) {
      const int64_t first = layer.offsets[h];
      const int64_t count = layer.offsets[h + 1] - first;
      promise(count >= 0);
      promise(layer.reports[h].rows == count && layer.blocks[h].keys->rows == count);
      if (has_numbers) {
        check_head(count, layer.depth, layer.width, layer.positions + first,
                   layer.keys + first * layer.depth, layer.bias + first,
                   layer.values + first * layer.width);
      }
      rows += count;
    }
  }
  promise(rows == result->rows);
}

void attend_over(const kvfit_queries& queries, const kvfit_block* block, int64_t n, int64_t width) {
  std::vector<float> output(static_cast<std::size_t>(n * width));
  std::vector<float> mass(static_cast<std::size_t>(n));
  checked_error error;
  error.holds(
      kvfit_attend(&queries, 1, block, 1, nullptr, 0, output.data(), mass.data(), error.get()));
}

void one_head(input& in) {
  world all(in);
  const int64_t depth = 1 + in.below(8);
  const int64_t width = 1 + in.below(8);
  const int64_t count = in.below(48);
  const int64_t n = in.below(24);
  std::vector<kvfit_queries> asked;
  for (int i = in.below(3); i >= 0; --i) {
    asked.push_back(all.queries(n, in.below(32) == 0 ? in.below(9) : depth));
  }
  boxed<kvfit_block> cache(all.block(count, depth, width, static_cast<int64_t>(asked.size()), n));
  if (in.below(32) == 0) cache.distort(in);
  kvfit_options* options = any_options(in, all);
  any_call call(in, true);
  if (!all.is_unsafe()) {
    checked_error error;
    int64_t needed = -1;
    int64_t wanted = -1;
    const bool is_planned =
        error.holds(kvfit_planned_memory(cache.get(), asked.data(), asked.size(), options,
                                         in.below(4), &needed, &wanted, error.get()));
    promise(is_planned ? needed >= 0 && wanted >= needed : needed == -1 && wanted == -1);
    kvfit_compacted* small = nullptr;
    if (error.holds(kvfit_compact(cache.get(), asked.data(), asked.size(), options, call.get(),
                                  &small, error.get()))) {
      const kvfit_result* result = kvfit_compacted_result(small);
      promise(result != nullptr && result->struct_size == sizeof *result && result->rows >= 1);
      promise(result->rows <= cache.get()->keys->rows);
      check_head(result->rows, result->depth, result->width, result->positions, result->keys,
                 result->bias, result->values);
      attend_over(asked[0], result->block, asked[0].rows->rows, result->width);
      std::vector<float> stored(room / sizeof(float));
      kvfit_rows target = *cache.get()->keys;
      if (target.data != nullptr && target.type != KVFIT_DECODED && target.list == nullptr &&
          target.table == nullptr && target.scales == nullptr &&
          target.struct_size == sizeof target) {
        target.data = stored.data();
        target.rows = result->rows;
        error.holds(
            kvfit_store_rows(result->keys, result->rows, result->depth, &target, error.get()));
      }
    } else {
      promise(small == nullptr);
    }
    kvfit_compacted_free(small);
  }
  kvfit_options_free(options);
}

void attention(input& in) {
  world all(in);
  const int64_t depth = 1 + in.below(8);
  const int64_t width = 1 + in.below(8);
  const int64_t n = in.below(24);
  std::vector<kvfit_queries> asked(1, all.queries(n, depth));
  std::vector<kvfit_block> blocks;
  for (int i = in.below(4); i > 0; --i) {
    blocks.push_back(all.block(in.below(48), depth, in.below(16) == 0 ? in.below(9) : width, 1, n));
  }
  const kvfit_rule* rule = in.below(2) == 0 ? all.rule() : nullptr;
  const int64_t memory = in.below(8) == 0 ? in.size() : 0;
  if (all.is_unsafe()) return;
  // As large as any rows that are read can ask for.
  std::vector<float> output(64 * 64, 7);
  std::vector<float> mass(64, 7);
  checked_error error;
  if (!error.holds(kvfit_attend(asked.data(), asked.size(), blocks.data(), blocks.size(), rule,
                                memory, output.data(), mass.data(), error.get()))) {
    for (const float one : output) promise(one == 7);
    for (const float one : mass) promise(one == 7);
  }
}

/// A cache of a few layers, with its queries.
struct any_cache {
  any_cache(input& in, world& all) {
    const int64_t depth = 1 + in.below(6);
    const int64_t width = 1 + in.below(6);
    const int64_t count = in.below(40);
    const int64_t n = 1 + in.below(16);
    for (int l = in.below(3); l >= 0; --l) {
      auto& heads = blocks.emplace_back();
      auto& askers = asked.emplace_back();
      const int group = 1 + in.below(2);
      for (int h = in.below(3); h >= 0; --h) {
        heads.push_back(
            all.block(in.below(16) == 0 ? in.below(40) : count, depth, width, group, n));
        for (int g = 0; g < group; ++g) askers.push_back(all.queries(n, depth));
      }
      kvfit_layer layer{};
      layer.struct_size = sizeof layer;
      layer.number = in.below(32) == 0 ? in.size() : static_cast<int64_t>(layers.size());
      layer.kind = in.below(16) == 0 ? in.below(5) : KVFIT_GLOBAL;
      layer.heads = heads.data();
      layer.head_count = heads.size();
      if (in.below(8) == 0) layer.rule = all.rule();
      if (in.below(4) == 0) layer.rotation = all.rope();
      layers.push_back(layer);
      kvfit_layer_queries own{};
      own.struct_size = sizeof own;
      own.layer = in.below(32) == 0 ? in.size() : layer.number;
      own.heads = askers.data();
      own.head_count = askers.size();
      queries.push_back(own);
    }
  }

  std::deque<std::vector<kvfit_block>> blocks;
  std::deque<std::vector<kvfit_queries>> asked;
  std::vector<kvfit_layer> layers;
  std::vector<kvfit_layer_queries> queries;
};

/// Saves and loads, and loads what was saved with some bytes changed.
void save_and_load(const kvfit_cache* cache, input& in) {
  static const std::string path = std::string(access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp") +
                                  "/kvfit_c_abi_fuzz." + std::to_string(getpid());
  kvfit_state_info info{};
  info.struct_size = sizeof info;
  info.next_position = in.below(4) == 0 ? in.size() : 100;
  info.key_type = in.below(16) == 0 ? in.take<int8_t>() : in.below(3);
  info.value_type = in.below(3);
  const char* const fingerprints[] = {nullptr, "", "model", "\n", "\xff"};
  info.fingerprint = fingerprints[in.below(std::size(fingerprints))];
  checked_error error;
  if (error.holds(kvfit_state_save(path.c_str(), cache, &info, error.get()))) {
    kvfit_cache* again = nullptr;
    int64_t position = -1;
    promise(kvfit_state_load(path.c_str(), nullptr, &again, &position, nullptr) == KVFIT_OK);
    promise(position == info.next_position);
    promise(kvfit_cache_get(again)->rows == kvfit_cache_get(cache)->rows);
    check_cache(again);
    kvfit_cache_free(again);
    if (std::FILE* file = std::fopen(path.c_str(), "r+b")) {
      std::fseek(file, static_cast<long>(in.take<std::uint16_t>() % 512), SEEK_SET);
      std::fputc(in.take<std::uint8_t>(), file);
      std::fclose(file);
      again = nullptr;
      if (!error.holds(kvfit_state_load(path.c_str(), "model", &again, &position, error.get()))) {
        promise(again == nullptr);
      }
      kvfit_cache_free(again);
    }
    unlink(path.c_str());
  }
}

void whole_cache(input& in) {
  world all(in);
  const any_cache from(in, all);
  kvfit_options* options = any_options(in, all);
  any_call call(in, true);
  if (!all.is_unsafe()) {
    checked_error error;
    std::vector<int64_t> plan(in.below(12), -7);
    std::size_t heads = plan.size();
    if (in.below(2) == 0 &&
        !error.holds(kvfit_plan_cache(from.layers.data(), from.layers.size(), from.queries.data(),
                                      from.queries.size(), options, call.get(), plan.data(), &heads,
                                      error.get()))) {
      for (const int64_t one : plan) promise(one == -7);
    }
    kvfit_cache* small = nullptr;
    if (error.holds(kvfit_compact_cache(from.layers.data(), from.layers.size(), from.queries.data(),
                                        from.queries.size(), options, call.get(), &small,
                                        error.get()))) {
      check_cache(small);
      if (in.below(8) == 0) save_and_load(small, in);
    } else {
      promise(small == nullptr);
    }
    kvfit_cache_free(small);
  }
  kvfit_options_free(options);
}

// ---- A rolling cache
// -----------------------------------------------------------------------------

void check_state(const kvfit_rolling* rolling) {
  kvfit_rolling_state state{};
  state.struct_size = sizeof state;
  promise(kvfit_rolling_get(rolling, &state, nullptr) == KVFIT_OK);
  promise(state.live_first >= 0 && state.live_first <= state.length && state.rows >= 0);
  const int64_t live = state.length - state.live_first;
  if (live > 4096) return;
  std::vector<int64_t> positions(static_cast<std::size_t>(live) + 1);
  promise(kvfit_rolling_live_positions(rolling, positions.data(), live, nullptr) == KVFIT_OK);
  for (int64_t i = 0; i < live; ++i) {
    promise(positions[static_cast<std::size_t>(i)] <= state.next_position);
  }
}

void rolling(input& in) {
  world all(in);
  kvfit_options* options = any_options(in, all);
  const int recent = in.below(8);
  const int sinks = in.below(3);
  const int target = recent + sinks + 1 + in.below(8);
  if (in.below(8) != 0) {
    kvfit_options_set(options, "cache.budget", 0, nullptr);
    kvfit_options_set(options, "protect.first", 0, nullptr);
    kvfit_options_set(options, "protect.last", 0, nullptr);
    kvfit_options_set_list(options, "protect.rows", nullptr, 0, nullptr);
    kvfit_options_set(options, "rolling.recent", recent, nullptr);
    kvfit_options_set(options, "rolling.sinks", sinks, nullptr);
    kvfit_options_set(options, "rolling.target", target, nullptr);
    kvfit_options_set(options, "rolling.trigger", target + 1 + in.below(8), nullptr);
  }
  checked_error error;
  kvfit_rolling* text = nullptr;
  if (!error.holds(kvfit_rolling_make(options, &text, error.get()))) {
    promise(text == nullptr);
    kvfit_options_free(options);
    return;
  }
  const int64_t depth = 1 + in.below(6);
  const int64_t width = 1 + in.below(6);
  for (int step = in.below(12); step >= 0; --step) {
    switch (in.below(9)) {
      case 0:
      case 1:
        error.holds(kvfit_rolling_append(text, in.below(8) == 0 ? in.size() : in.below(24), nullptr,
                                         0, error.get()));
        break;
      case 2: {
        std::vector<int64_t> places(in.below(8));
        for (int64_t& one : places) one = in.size();
        error.holds(kvfit_rolling_append(text, static_cast<int64_t>(places.size()), places.data(),
                                         in.size(), error.get()));
        break;
      }
      case 3:
        error.holds(kvfit_rolling_truncate(text, in.size(), error.get()));
        break;
      case 4: {
        kvfit_rolling* other = nullptr;
        promise(kvfit_rolling_fork(text, &other, nullptr) == KVFIT_OK);
        std::swap(text, other);
        kvfit_rolling_free(other);
        break;
      }
      case 5: {  // left and taken up again
        kvfit_rolling_state state{};
        state.struct_size = sizeof state;
        promise(kvfit_rolling_get(text, &state, nullptr) == KVFIT_OK);
        const int64_t live = state.length - state.live_first;
        if (live > 256) break;
        kvfit_cache* block = nullptr;
        promise(kvfit_rolling_block(text, &block, nullptr) == KVFIT_OK);
        std::vector<int64_t> positions(static_cast<std::size_t>(live) + 1);
        kvfit_rolling_live_positions(text, positions.data(), live, nullptr);
        if (in.below(8) == 0) positions[0] = in.size();
        if (in.below(8) == 0) state.next_position = in.size();
        if (in.below(8) == 0) state.length = state.live_first + in.below(2);
        if (state.length - state.live_first <= live) {
          kvfit_rolling* other = nullptr;
          if (error.holds(kvfit_rolling_restore(options, block, state.length, state.live_first,
                                                state.next_position, positions.data(), &other,
                                                error.get()))) {
            std::swap(text, other);
            kvfit_rolling_free(other);
          } else {
            promise(other == nullptr);
          }
        }
        kvfit_cache_free(block);
        break;
      }
      case 6:
        if (in.below(8) == 0) kvfit_rolling_clear(text);
        break;
      default: {
        kvfit_rolling_state state{};
        state.struct_size = sizeof state;
        promise(kvfit_rolling_get(text, &state, nullptr) == KVFIT_OK);
        const int64_t live = in.below(16) == 0 ? in.below(48) : state.length - state.live_first;
        if (live > 48) break;
        kvfit_block head = all.block(live, depth, width, 1, 8);
        head.positions = nullptr;
        kvfit_layer layer{};
        layer.struct_size = sizeof layer;
        layer.heads = &head;
        layer.head_count = 1;
        if (in.below(4) == 0) layer.rotation = all.rope();
        const kvfit_queries asked = all.queries(8, depth);
        kvfit_layer_queries queries{};
        queries.struct_size = sizeof queries;
        queries.heads = &asked;
        queries.head_count = 1;
        any_call call(in, false);
        if (all.is_unsafe()) break;
        kvfit_round* round = nullptr;
        if (!error.holds(kvfit_rolling_begin(text, &layer, 1, &round, error.get()))) {
          promise(round == nullptr);
          break;
        }
        if (in.below(8) == 0) kvfit_round_cancel(round);
        const int32_t code = kvfit_round_run(round, &queries, 1, call.get(), error.get());
        error.holds(code);
        int64_t taken = -1;
        if (in.below(8) == 0) kvfit_rolling_append(text, in.below(8), nullptr, 0, nullptr);
        if (in.below(8) == 0) kvfit_rolling_truncate(text, in.size(), nullptr);
        if (error.holds(kvfit_rolling_apply(text, round, &taken, error.get()))) {
          promise(code == KVFIT_OK && taken >= 0);
          kvfit_cache* block = nullptr;
          promise(kvfit_rolling_block(text, &block, nullptr) == KVFIT_OK);
          if (block != nullptr) check_cache(block);
          kvfit_cache_free(block);
        } else {
          promise(taken == -1);
          kvfit_rolling_abandon(text);
        }
        kvfit_round_free(round);
      }
    }
    check_state(text);
  }
  kvfit_rolling_free(text);
  kvfit_options_free(options);
}

/// NULL, and errors of any size, where nothing else is looked at.
void nothing_given(input& in) {
  boxed<kvfit_error> error(kvfit_error{});
  error.distort(in);
  kvfit_error* const to = in.below(4) == 0 ? nullptr : error.get();
  kvfit_options* options = nullptr;
  promise(kvfit_options_set(nullptr, "budget", 1, to) == KVFIT_NULL_DATA);
  promise(kvfit_options_make("nonesuch", &options, to) == KVFIT_INVALID_OPTION);
  promise(kvfit_compact(nullptr, nullptr, 0, nullptr, nullptr, nullptr, to) == KVFIT_NULL_DATA);
  promise(kvfit_attend(nullptr, 1, nullptr, 0, nullptr, 0, nullptr, nullptr, to) ==
          KVFIT_NULL_DATA);
  promise(kvfit_rolling_get(nullptr, nullptr, to) == KVFIT_NULL_DATA);
  promise(kvfit_state_load(nullptr, nullptr, nullptr, nullptr, to) == KVFIT_NULL_DATA);
  promise(options == nullptr);
  kvfit_cancel_request(nullptr);
  kvfit_round_cancel(nullptr);
  promise(kvfit_compacted_result(nullptr) == nullptr && kvfit_cache_get(nullptr) == nullptr);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  input in(data, size);
  switch (in.below(8)) {
    case 0:
    case 1:
    case 2:
      one_head(in);
      break;
    case 3:
      attention(in);
      break;
    case 4:
    case 5:
      whole_cache(in);
      break;
    case 6:
      rolling(in);
      break;
    default:
      nothing_given(in);
  }
  return 0;
}
