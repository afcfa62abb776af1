/* SPDX-License-Identifier: MIT */
/**
 * kvfit for C and for every language that calls C: the library `kvfit_c`.
 *
 * Fits a small KV cache to a big one (Attention Matching, arXiv:2602.16284). What each call computes
 * and costs is said in the C++ header of the same name; this one says what is C's own.
 *
 *     kvfit_rows keys = {.struct_size = sizeof keys, .data = k, .rows = 4096, .cols = 64};  // fp32
 *     kvfit_rows values = {.struct_size = sizeof values, .data = v, .rows = 4096, .cols = 64};
 *     kvfit_rows asked = {.struct_size = sizeof asked, .data = q, .rows = 1024, .cols = 64};
 *     kvfit_block cache = {.struct_size = sizeof cache, .keys = &keys, .values = &values};
 *     kvfit_queries queries = {.struct_size = sizeof queries, .rows = &asked};
 *     kvfit_error error = {.struct_size = sizeof error};
 *     kvfit_options *options = NULL;
 *     kvfit_compacted *small = NULL;
 *     if (kvfit_options_make("default", &options, &error) ||
 *         kvfit_options_set(options, "budget", 256, &error) ||
 *         kvfit_compact(&cache, &queries, 1, options, NULL, &small, &error)) {
 *       puts(error.message);
 *     } else {
 *       const kvfit_result *r = kvfit_compacted_result(small);   // r->keys, r->bias, r->values
 *     }
 *     kvfit_compacted_free(small);
 *     kvfit_options_free(options);
 *
 * - Structs begin with their size, which the caller sets. Zero is the default of every other field.
 *   A later version may add fields at the end: those that a caller's struct lacks are taken as zero,
 *   those that the library lacks must be zero, and so must `reserved` ones. In an array all elements
 *   have the same size. Structs that the library gives out in arrays (layers, blocks, reports) do not
 *   grow while the number in the library's name stays.
 * - Every call that can fail returns KVFIT_OK or a code. A failed one fills `error` where that is not
 *   NULL and writes nothing else (but for `count` of kvfit_plan_cache). No exception leaves the
 *   library. Data must be aligned as its type asks.
 * - Inputs are read where they lie, and must stay until the call returns. Results belong to the
 *   object that they were got from; nothing of it changes until it is freed. `*_free` takes NULL.
 * - Objects may be used by several threads as long as none changes or frees them. A kvfit_rolling
 *   belongs to one thread; a round of it runs on any.
 * - Logits and masses are natural logarithms. Keys and queries are rotated (RoPE) already.
 */
#ifndef KVFIT_C_KVFIT_H
#define KVFIT_C_KVFIT_H

#include <stddef.h>
#include <stdint.h>

/* Windows: the library exports what is marked, and nothing else. Elsewhere all is hidden but that.
 * Whoever links the library's objects into his own program defines KVFIT_C_STATIC. */
#if defined(KVFIT_C_STATIC)
#define KVFIT_API
#elif defined(_WIN32)
#if defined(KVFIT_C_BUILD)
#define KVFIT_API __declspec(dllexport)
#else
#define KVFIT_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define KVFIT_API __attribute__((visibility("default")))
#else
#define KVFIT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Errors ------------------------------------------------------------------------------------- */

/** What was wrong; see kvfit/core/error.hpp. Numbers are never given to another code. */
enum kvfit_code {
  KVFIT_OK = 0,
  KVFIT_SHAPE_MISMATCH = 1,
  KVFIT_EMPTY_INPUT = 2,
  KVFIT_NULL_DATA = 3,
  KVFIT_NON_FINITE = 4,
  KVFIT_BUDGET_OUT_OF_RANGE = 5,
  KVFIT_INVALID_OPTION = 6,
  KVFIT_INVALID_POSITION = 7,
  KVFIT_ALL_MASKED = 8,
  KVFIT_STORAGE_OVERFLOW = 9,
  KVFIT_MEMORY_CAP_EXCEEDED = 10,
  KVFIT_OUT_OF_MEMORY = 11,
  KVFIT_FILE_UNREADABLE = 12,
  KVFIT_FILE_UNWRITABLE = 13,
  KVFIT_MALFORMED_FILE = 14,
  KVFIT_UNSUPPORTED_FILE = 15,
  KVFIT_MISSING_ENTRY = 16,
  KVFIT_CANCELLED = 17,
  KVFIT_POLICY_THREW = 18,
  KVFIT_COMMUNICATION_FAILED = 19,
  KVFIT_UNTIED_VALUES = 20,
  KVFIT_NO_DEVICE = 21,
  KVFIT_SHADER_FAILED = 22,
  KVFIT_DEVICE_FAULT = 23,
  KVFIT_DEVICE_TIMEOUT = 24,
  /** An exception that no code names; `message` has its text. */
  KVFIT_UNEXPECTED = 1000
};

/** Marks a size of an error that does not apply. */
#define KVFIT_NO_SIZE INT64_MIN

/** Filled as far as struct_size reaches, which must be set: with 0 nothing is written. */
typedef struct kvfit_error {
  size_t struct_size;
  int32_t code;       /**< kvfit_code */
  int64_t actual;     /**< the size or place found, or KVFIT_NO_SIZE */
  int64_t expected;   /**< what it was compared with, or KVFIT_NO_SIZE */
  char argument[96];  /**< which argument, option or file; cut where it is longer */
  char message[416];  /**< all of it as one line; cut where it is longer */
} kvfit_error;

/** "shape_mismatch"; "unknown" for a number that is no code. */
KVFIT_API const char *kvfit_code_name(int32_t code);

/** "0.2.0", of the library that runs. */
KVFIT_API const char *kvfit_version(void);
/** The instruction set that compactions run on: "avx2_fma_f16c". */
KVFIT_API const char *kvfit_instruction_set(void);

/* ---- Memory of the caller ----------------------------------------------------------------------- */

/** How numbers are stored; see kvfit/core/element.hpp. */
enum kvfit_type {
  KVFIT_FP32 = 0,
  KVFIT_FP16 = 1,
  KVFIT_BF16 = 2,
  KVFIT_FP8_E4M3 = 3,
  KVFIT_FP8_E5M2 = 4,
  KVFIT_Q8_0 = 5,
  KVFIT_Q4_0 = 6,
  KVFIT_INT8 = 7,   /**< with `scales` */
  KVFIT_DECODED = 8 /**< with `decode` */
};

/** Scales of int8, which always has some, and of fp8, which may: `group_scales`. */
typedef struct kvfit_scales {
  size_t struct_size;
  const void *data;
  int32_t type;         /**< KVFIT_FP32 or KVFIT_FP16 */
  int32_t reserved;
  int64_t group;        /**< columns that share a scale; 0: 32 */
  int64_t row_stride;   /**< 0: all rows share their scales */
  int64_t group_stride; /**< 0: 1, or nothing where one group is the row */
  int64_t page_stride;  /**< of paged rows; 0: all pages share their scales */
  int64_t row_group;    /**< consecutive slots that share a scale; 0: 1 */
} kvfit_scales;

/** Decodes memory row `row` to `out`, all its columns. Any thread, more than once; a pure function,
 *  which must not throw. */
typedef void (*kvfit_decode)(const void *data, int64_t row, float *out);

/**
 * rows x cols numbers as they lie. Element (r, c) is number slot(r) * row_stride + c * col_stride of
 * `data`; blocks of 32 (q8_0, q4_0) run along the direction of stride 1.
 *
 * slot(r) is r; with `list`, list[r]; with `table`, slot r mod page_size of page table[r / page_size],
 * pages being page_stride elements apart.
 */
typedef struct kvfit_rows {
  size_t struct_size;
  const void *data; /**< of decoded rows: passed to `decode` */
  int64_t rows;
  int64_t cols;
  int64_t row_stride; /**< 0: cols, where col_stride is 1 */
  int64_t col_stride; /**< 0: 1 */
  int32_t type;       /**< kvfit_type */
  int32_t reserved;
  const kvfit_scales *scales;
  const int64_t *list;   /**< `rows` numbers of memory rows, in any order */
  int64_t list_memory;   /**< memory rows there are, with `list` */
  const int32_t *table;  /**< block table */
  int64_t table_entries; /**< entries of it */
  int64_t page_size;     /**< rows of a page */
  int64_t page_stride;   /**< elements between pages */
  int64_t pages;         /**< pages of the pool */
  kvfit_decode decode;
} kvfit_rows;

/** A stretch of cache of one KV head: `kv_block`. */
typedef struct kvfit_block {
  size_t struct_size;
  const kvfit_rows *keys;   /**< T x d_k */
  const kvfit_rows *values; /**< T x d_v */
  const float *bias;        /**< T numbers added to the logits, finite or -inf (hidden); or NULL */
  const int64_t *positions; /**< T: where the keys stand; NULL: from first_position on */
  int64_t first_position;
  const kvfit_rows *masks; /**< one n x T view for each query block, or NULL */
  size_t mask_count;
} kvfit_block;

/** Queries of one query head: `query_block`. */
typedef struct kvfit_queries {
  size_t struct_size;
  const kvfit_rows *rows; /**< n x d_k */
  int64_t first_position;
  int64_t position_step;    /**< 0: 1 */
  const int64_t *positions; /**< a table of `position_count` numbers that the two above count in */
  int64_t position_count;
  float alibi_slope;
  int32_t has_sink; /**< of kvfit_attend alone: whether `sink_logit` is meant */
  float sink_logit;
  int32_t reserved;
} kvfit_queries;

/** How logits are made: `logit_rule`. */
typedef struct kvfit_rule {
  size_t struct_size;
  float scale;    /**< 0: 1/sqrt(d_k) */
  float soft_cap; /**< 0: none */
  int32_t causal; /**< 0 or 1 */
  int32_t reserved;
  int64_t window; /**< 0: none */
} kvfit_rule;

/** How frequencies are stretched beyond the trained length: `rope_scaling`. */
enum kvfit_rope_scaling {
  KVFIT_ROPE_UNSCALED = 0,
  KVFIT_ROPE_LINEAR = 1, /**< factor */
  KVFIT_ROPE_YARN = 2,   /**< factor, original_positions, fast, slow, unrounded */
  KVFIT_ROPE_LLAMA3 = 3, /**< factor, original_positions, low, high */
  KVFIT_ROPE_GIVEN = 4   /**< frequencies */
};

/** How keys were turned: `rope`. What its scaling does not use must be zero. */
typedef struct kvfit_rope {
  size_t struct_size;
  double base;         /**< 0: 10000 */
  int64_t dims;        /**< 0: all */
  int32_t interleaved; /**< 0: pairs i and i + dims/2; 1: 2i and 2i + 1 */
  int32_t reserved;
  int32_t scaling;           /**< kvfit_rope_scaling */
  int32_t unrounded;         /**< 1: bounds of the ramp as they are (GPT-OSS) */
  double factor;             /**< 0: 1; of llama3 8 */
  double original_positions; /**< trained length; of yarn > 0; of llama3 0: 8192 */
  double fast;               /**< 0: 32 */
  double slow;               /**< 0: 1 */
  double low;                /**< 0: 1 */
  double high;               /**< 0: 4 */
  const double *frequencies; /**< radians a position, one a pair of elements that turn */
  int64_t frequency_count;
} kvfit_rope;

/* ---- Options ------------------------------------------------------------------------------------ */

/**
 * What a compaction is asked, of one head, a cache, or a rolling cache. Names are those of the C++
 * structs; a call does not read what it does not use. Settings of a policy are refused where another
 * is chosen; choosing one sets its defaults.
 *
 * KVFIT_NUMBER (yes and no are 1 and 0)
 *   budget, rule.scale, rule.soft_cap, rule.causal, rule.window, queries.held_out, queries.per_row,
 *   queries.at_least, protect.first, protect.last, memory.cap, memory.selection, replace_dead_keys,
 *   keep_better_values, tied_values_from (compact_options)
 *   selection.mass_weight, selection.attention_share, selection.candidates, selection.sweep,
 *   selection.sketch (joint);
 *   selection.keys_per_round, selection.refit_interval, selection.norm_power, selection.absolute,
 *   selection.lower, selection.upper, selection.drop_below, selection.drop_passes,
 *   selection.final_refit (omp); selection.pooling_width, selection.window (highest_attention);
 *   selection.epsilon (expected_attention); selection.seed (random)
 *   bias.lower, bias.upper (nnls, projected_gradient); bias.iterations (projected_gradient)
 *   values.ridge (least_squares, unpivoted_qr); values.cross_validate_below, values.toward_original,
 *   values.reweightings (least_squares)
 *   refine.steps, refine.work, refine.output_weight, refine.mass_weight, refine.mass_softness,
 *   refine.fits_bias, refine.batch, refine.steps_a_batch, refine.sets, refine.sets_at_once,
 *   refine.spread, refine.seed (refinement)
 *   gradient.steps, gradient.learning_rate, gradient.least_share, gradient.mass_weight,
 *   gradient.penalty, gradient.patience, gradient.improvement (gradient_keys)
 *   cache.budget, cache.at_least, cache.max_ratio, cache.heads_at_once, cache.memory (cache_options);
 *   cache.last_share (pyramid); cache.pooling_width, cache.window (global_ranking, layer_ranking);
 *   cache.safeguard (layer_ranking); cache.exact_step, cache.exact_memory (cache.curves: either makes
 *   the plan exact)
 *   rolling.trigger, rolling.target, rolling.sinks, rolling.recent (rolling_options)
 * KVFIT_WORD
 *   storage.rows, storage.bias: fp32, fp16, bf16, fp8_e4m3, fp8_e5m2
 *   precision: fp32, bf16x3, bf16
 *   selection: joint, omp, highest_attention, expected_attention, first, last, random
 *   selection.weighting: relative, absolute (joint, omp)
 *   selection.importance: mean, rms, max; selection.pooling: none, average, max (highest_attention)
 *   bias: nnls, projected_gradient, zero, from_selection; bias.weighting: relative, absolute
 *   values: least_squares, unpivoted_qr, copy; values.method: ranked, cholesky;
 *   values.ridge_scaling: none, spectral, frobenius, fixed; values.weighting: relative, absolute
 *   refine.weighting: relative, absolute
 *   gradient: none, keys; gradient.loss: log_mass, joint; gradient.optimiser: adam, lbfgs
 *   cache.shares: uniform, pyramid, global_ranking, layer_ranking
 *   cache.importance: mean, rms, max; cache.pooling: none, average, max (of either ranking)
 *   cache.missing: refused, mean (of cache.given)
 *   cache.fallback: none, copies
 * KVFIT_LIST (of whole numbers)
 *   protect.rows; selection.rows (the rows to keep); selection.schedule (threes of limit, keys a
 *   round, rounds a refit; of omp); cache.skip (layers); cache.rows (rows of each head, instead of
 *   shares)
 * KVFIT_NUMBERS
 *   selection.prior (a factor a row, of joint); cache.given (threes of layer, head and share, instead
 *   of shares); cache.curves (threes of head, rows and loss, heads counted from 0 in the order of the
 *   cache: `budgets::influence` instead of shares)
 */
typedef struct kvfit_options kvfit_options;

/** Of a preset (kvfit/presets.hpp; NULL: "default"). KVFIT_INVALID_OPTION for a name that is none. */
KVFIT_API int32_t kvfit_options_make(const char *preset, kvfit_options **out, kvfit_error *error);
KVFIT_API int32_t kvfit_options_copy(const kvfit_options *from, kvfit_options **out, kvfit_error *error);
/** KVFIT_INVALID_OPTION for a name that is no such option, and for a number that its type does not
 *  hold. Ranges are checked by the call that uses it. */
KVFIT_API int32_t kvfit_options_set(kvfit_options *options, const char *name, double value,
                                    kvfit_error *error);
KVFIT_API int32_t kvfit_options_set_word(kvfit_options *options, const char *name, const char *value,
                                         kvfit_error *error);
KVFIT_API int32_t kvfit_options_set_list(kvfit_options *options, const char *name,
                                         const int64_t *values, size_t count, kvfit_error *error);
KVFIT_API int32_t kvfit_options_set_numbers(kvfit_options *options, const char *name,
                                            const double *values, size_t count, kvfit_error *error);
/** What an option takes. */
enum kvfit_option_kind { KVFIT_NUMBER = 0, KVFIT_WORD = 1, KVFIT_LIST = 2, KVFIT_NUMBERS = 3 };
/** All options one after the other, from index 0 on; *kind (may be NULL): kvfit_option_kind. NULL
 *  behind the last. The text stays. */
KVFIT_API const char *kvfit_option_name(size_t index, int32_t *kind);
/** Rotation that refinement may use to move queries to other positions (`refine.rotation`). */
KVFIT_API int32_t kvfit_options_set_rotation(kvfit_options *options, const kvfit_rope *rotation,
                                             kvfit_error *error);
KVFIT_API void kvfit_options_free(kvfit_options *options);

/** The wish to stop; any thread may express it, and a signal handler too. */
typedef struct kvfit_cancel kvfit_cancel;
KVFIT_API int32_t kvfit_cancel_make(kvfit_cancel **out, kvfit_error *error);
KVFIT_API void kvfit_cancel_request(kvfit_cancel *cancel);
KVFIT_API void kvfit_cancel_free(kvfit_cancel *cancel);

/** How one call runs; NULL: on the calling thread, to its end. None of the functions may throw. */
typedef struct kvfit_call {
  size_t struct_size;
  /** Threads that kvfit starts for this call, with the calling one; 0 or 1: none. Not beside
   *  `parallel_for`. */
  int32_t threads;
  int32_t reserved;
  /** The caller's own threads: must call body(context, i) once for each i in [0, count), on any
   *  thread, and return after the last has ended. It may be called from within a body. */
  void (*parallel_for)(void *pool, int64_t count, void (*body)(void *context, int64_t i), void *context);
  void *pool;
  int32_t pool_threads; /**< bodies that `parallel_for` runs at once; 0: as many as the machine has */
  int32_t reserved_too;
  const kvfit_cancel *cancel;
  double deadline; /**< seconds from the beginning of the call, > 0; 0: none */
  /** Of calls over several heads: called after each, never by two threads at once. */
  void (*progress)(void *context, int64_t done, int64_t count);
  void *progress_context;
} kvfit_call;

/* ---- One head ----------------------------------------------------------------------------------- */

/** What a compaction says of its own work: `compact_report`, its main figures. */
typedef struct kvfit_report {
  size_t struct_size;
  int32_t is_identity;    /**< the budget holds every row */
  int64_t judged_queries; /**< queries held out; 0: the four errors that follow are of `train` */
  double output_error;    /**< mean ||o - o'|| / ||o|| */
  double output_error_max;
  double mass_error; /**< mean |exp(L' - L) - 1| */
  double mass_error_max;
  double train_output_error; /**< the same on the queries fitted on */
  double train_mass_error;
  int32_t is_bias_fitted;
  int32_t is_values_fitted;
  int64_t dead_keys;
  int64_t masked_queries;
  int32_t kept_steps;    /**< of refinement */
  int64_t memory_needed; /**< bytes at most, the result included */
  int64_t memory_wanted; /**< the same without a cap */
  double seconds;
} kvfit_report;

/** A small cache: keys rows x depth, values rows x width, row after row. */
typedef struct kvfit_result {
  size_t struct_size;
  int64_t rows;
  int64_t depth;
  int64_t width;
  const int64_t *positions;     /**< original row numbers, ascending */
  const int64_t *key_positions; /**< where the keys stand */
  const float *keys;
  const float *bias; /**< to be added to the logits */
  const float *values;
  const kvfit_block *block; /**< the same, for kvfit_attend */
  const kvfit_report *report;
} kvfit_result;

/** What `kvfit_compact` makes: owns a kvfit_result. */
typedef struct kvfit_compacted kvfit_compacted;

/** `compact()`. queries: `query_count` blocks, one a query head that reads this KV head. */
KVFIT_API int32_t kvfit_compact(const kvfit_block *cache, const kvfit_queries *queries,
                                size_t query_count, const kvfit_options *options,
                                const kvfit_call *call, kvfit_compacted **out, kvfit_error *error);
KVFIT_API const kvfit_result *kvfit_compacted_result(const kvfit_compacted *compacted);
KVFIT_API void kvfit_compacted_free(kvfit_compacted *compacted);

/** `planned_memory()`: the bytes that kvfit_compact would hold at most, into *needed, and without a
 *  cap, into *wanted; either may be NULL. Nothing is computed. */
KVFIT_API int32_t kvfit_planned_memory(const kvfit_block *cache, const kvfit_queries *queries,
                                       size_t query_count, const kvfit_options *options,
                                       int32_t threads, int64_t *needed, int64_t *wanted,
                                       kvfit_error *error);

/**
 * `attend()`: attention of n queries over several blocks together, the reference for an engine's
 * kernel. rule: NULL for the default. memory: bytes that the call may hold; 0: as many as it takes.
 * output: n x d_v, row after row. log_mass: n, or NULL.
 */
KVFIT_API int32_t kvfit_attend(const kvfit_queries *queries, size_t query_count,
                               const kvfit_block *blocks, size_t block_count, const kvfit_rule *rule,
                               int64_t memory, float *output, float *log_mass, kvfit_error *error);

/** `store_rows()`: writes fp32 rows, one after the other, to where and how an engine keeps them,
 *  rounded to its type; its memory must be writable. */
KVFIT_API int32_t kvfit_store_rows(const float *source, int64_t rows, int64_t cols,
                                   const kvfit_rows *target, kvfit_error *error);

/* ---- A whole cache ------------------------------------------------------------------------------ */

/** Global layers are compacted; the others stay as they are. */
enum kvfit_layer_kind { KVFIT_GLOBAL = 0, KVFIT_SLIDING = 1, KVFIT_RECURRENT = 2 };

/** `cache_layer`. */
typedef struct kvfit_layer {
  size_t struct_size;
  int64_t number;           /**< the engine's own; layers ascend by it */
  int32_t kind;             /**< kvfit_layer_kind */
  int32_t reserved;
  const kvfit_block *heads; /**< one a KV head */
  size_t head_count;
  const kvfit_rule *rule;     /**< where it is not that of the options; or NULL */
  const kvfit_rope *rotation; /**< or NULL */
} kvfit_layer;

/** `layer_queries`: one block a query head, those of one KV head one after the other. */
typedef struct kvfit_layer_queries {
  size_t struct_size;
  int64_t layer; /**< the number of the layer that they read */
  const kvfit_queries *heads;
  size_t head_count;
} kvfit_layer_queries;

/** How a head came to its rows. */
enum kvfit_outcome {
  KVFIT_FITTED = 0,
  KVFIT_IDENTITY = 1, /**< its budget holds every row */
  KVFIT_EMPTY = 2,    /**< its budget is 0 */
  KVFIT_FALLBACK = 3  /**< the method failed, with `cause`: rows copied, with their own biases */
};

/** What became of one head. */
typedef struct kvfit_head_report {
  size_t struct_size;
  int64_t layer;
  int64_t head;
  int64_t rows_before;
  int64_t rows;
  int32_t outcome; /**< kvfit_outcome */
  int32_t cause;   /**< kvfit_code of a fallback */
  const kvfit_report *report;
} kvfit_head_report;

/** `compacted_layer`: head h owns rows offsets[h] to offsets[h + 1] - 1 of every array. */
typedef struct kvfit_layer_result {
  size_t struct_size;
  int64_t number;
  int64_t depth;
  int64_t width;
  size_t head_count;
  const int64_t *offsets; /**< head_count + 1 */
  const int64_t *positions;
  const int64_t *key_positions;
  const float *keys;
  const float *bias;
  const float *values;
  const kvfit_block *blocks;        /**< one a head, for kvfit_attend */
  const kvfit_head_report *reports; /**< one a head */
} kvfit_layer_result;

/** `compacted_cache`. */
typedef struct kvfit_cache_result {
  size_t struct_size;
  const kvfit_layer_result *layers; /**< those that were compacted */
  size_t layer_count;
  const int64_t *skipped; /**< numbers of layers left as they are */
  size_t skipped_count;
  int64_t rows_before; /**< of all heads compacted */
  int64_t rows;
  int64_t fallbacks;
} kvfit_cache_result;

/** What `kvfit_compact_cache` makes: owns a kvfit_cache_result. */
typedef struct kvfit_cache kvfit_cache;

/** `compact_cache()`: a head is one item of the call's threads. */
KVFIT_API int32_t kvfit_compact_cache(const kvfit_layer *layers, size_t layer_count,
                                      const kvfit_layer_queries *queries, size_t query_count,
                                      const kvfit_options *options, const kvfit_call *call,
                                      kvfit_cache **out, kvfit_error *error);
KVFIT_API const kvfit_cache_result *kvfit_cache_get(const kvfit_cache *cache);
KVFIT_API void kvfit_cache_free(kvfit_cache *cache);

/** `plan_cache()`: the rows that each head would get, of the layers compacted and their heads in
 *  order, into rows[0 .. *count - 1]. *count: how many `rows` holds, then how many heads there are
 *  (KVFIT_SHAPE_MISMATCH where they are more). */
KVFIT_API int32_t kvfit_plan_cache(const kvfit_layer *layers, size_t layer_count,
                                   const kvfit_layer_queries *queries, size_t query_count,
                                   const kvfit_options *options, const kvfit_call *call, int64_t *rows,
                                   size_t *count, kvfit_error *error);

/* ---- A cache that is compacted again and again --------------------------------------------------- */

/** `rolling_cache`: counts rows and positions of one text; live rows are the engine's. */
typedef struct kvfit_rolling kvfit_rolling;
/** One round of it, to be run on any thread. */
typedef struct kvfit_round kvfit_round;

/** Where a rolling cache stands. */
typedef struct kvfit_rolling_state {
  size_t struct_size;
  int64_t length;        /**< rows of the text, compacted or live */
  int64_t live_first;    /**< number of the first live row */
  int64_t next_position; /**< where the next token stands */
  int64_t rows;          /**< of a head, compact and live, on average */
  int32_t is_due;        /**< whether a round should begin */
  int32_t is_busy;       /**< whether one is under way */
} kvfit_rolling_state;

/** Of a text that begins. */
KVFIT_API int32_t kvfit_rolling_make(const kvfit_options *options, kvfit_rolling **out,
                                     kvfit_error *error);
/** Of a text that was left so: block (may be NULL), and `live_positions` of its live rows. */
KVFIT_API int32_t kvfit_rolling_restore(const kvfit_options *options, const kvfit_cache *block,
                                        int64_t length, int64_t live_first, int64_t next_position,
                                        const int64_t *live_positions, kvfit_rolling **out,
                                        kvfit_error *error);
/** The same text once more, to go on otherwise. */
KVFIT_API int32_t kvfit_rolling_fork(const kvfit_rolling *rolling, kvfit_rolling **out,
                                     kvfit_error *error);
KVFIT_API void kvfit_rolling_free(kvfit_rolling *rolling);

/** Fills what of `state` its struct_size holds. */
KVFIT_API int32_t kvfit_rolling_get(const kvfit_rolling *rolling, kvfit_rolling_state *state,
                                    kvfit_error *error);
/** The compact block, an object of its own to be freed; *out is NULL before the first round. */
KVFIT_API int32_t kvfit_rolling_block(const kvfit_rolling *rolling, kvfit_cache **out,
                                      kvfit_error *error);
/** Positions of the live rows, `count` of them: length - live_first. */
KVFIT_API int32_t kvfit_rolling_live_positions(const kvfit_rolling *rolling, int64_t *positions,
                                               int64_t count, kvfit_error *error);
/** More live rows: at the next positions where `positions` is NULL, else at these, and the next
 *  token then stands at `next_position`. */
KVFIT_API int32_t kvfit_rolling_append(kvfit_rolling *rolling, int64_t rows, const int64_t *positions,
                                       int64_t next_position, kvfit_error *error);
/** Ends the text after `length` rows. */
KVFIT_API int32_t kvfit_rolling_truncate(kvfit_rolling *rolling, int64_t length, kvfit_error *error);
KVFIT_API void kvfit_rolling_clear(kvfit_rolling *rolling);
KVFIT_API void kvfit_rolling_abandon(kvfit_rolling *rolling);

/** A round over the block and the live rows but the recent ones. What the layers refer to must stay
 *  until kvfit_round_run has returned. */
KVFIT_API int32_t kvfit_rolling_begin(kvfit_rolling *rolling, const kvfit_layer *live,
                                      size_t layer_count, kvfit_round **out, kvfit_error *error);
/** Compacts; `call->cancel` must be NULL. Where queries or call are refused, nothing has run, and the
 *  round may run again. After any other error the rolling cache is as it was, and busy until
 *  kvfit_rolling_apply, which returns that error, or kvfit_rolling_abandon. */
KVFIT_API int32_t kvfit_round_run(kvfit_round *round, const kvfit_layer_queries *queries,
                                  size_t query_count, const kvfit_call *call, kvfit_error *error);
/** Ends a run early, from any thread. */
KVFIT_API void kvfit_round_cancel(const kvfit_round *round);
KVFIT_API void kvfit_round_free(kvfit_round *round);
/** Makes the outcome of a round that has run the compact block, or ends a round whose run failed.
 *  *rows: the live rows that it took, the first so many, which must not be attended to any more. */
KVFIT_API int32_t kvfit_rolling_apply(kvfit_rolling *rolling, const kvfit_round *round, int64_t *rows,
                                      kvfit_error *error);

/* ---- Files -------------------------------------------------------------------------------------- */

/** What a saved state says beside the cache. */
typedef struct kvfit_state_info {
  size_t struct_size;
  int64_t next_position;   /**< at which decoding goes on */
  int32_t key_type;        /**< of stored keys: fp32, fp16 or bf16 */
  int32_t value_type;      /**< of stored values */
  const char *fingerprint; /**< of the model, printable ASCII, at most 64 bytes; NULL: none */
} kvfit_state_info;

/** `write_state()`: whole or not at all, with a checksum. path: UTF-8. info: NULL for the default. */
KVFIT_API int32_t kvfit_state_save(const char *path, const kvfit_cache *cache,
                                   const kvfit_state_info *info, kvfit_error *error);
/** `read_state()`. fingerprint: what the file must have been saved with; NULL: any. next_position:
 *  or NULL. */
KVFIT_API int32_t kvfit_state_load(const char *path, const char *fingerprint, kvfit_cache **out,
                                   int64_t *next_position, kvfit_error *error);

#ifdef __cplusplus
}
#endif

#endif
