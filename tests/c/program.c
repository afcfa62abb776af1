/* SPDX-License-Identifier: MIT */
/* Everything that kvfit_c offers, used from C17 as an engine would. Exit code 0: all is right. */
#include <kvfit/c/kvfit.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures = 0;

static void check(bool is_right, const char *what, int line) {
  if (is_right) return;
  fprintf(stderr, "line %d: %s\n", line, what);
  ++failures;
}
#define CHECK(condition) check((condition), #condition, __LINE__)

static void check_ok(int32_t code, const kvfit_error *error, const char *what, int line) {
  if (code == KVFIT_OK) return;
  fprintf(stderr, "line %d: %s: %s\n", line, what, error->message);
  ++failures;
}
#define CHECK_OK(call) check_ok((call), &error, #call, __LINE__)

/* A small generator, the same everywhere. */
static uint32_t state = 1;
static float random_number(void) {
  state = state * 1664525u + 1013904223u;
  return (float)(state >> 8) / 8388608.0f - 1.0f;
}
static float *random_numbers(size_t count) {
  float *numbers = malloc(count * sizeof *numbers);
  if (numbers == NULL) exit(2);
  for (size_t i = 0; i < count; ++i) numbers[i] = random_number();
  return numbers;
}

enum { keys = 300, depth = 16, width = 8, asked = 64 };

/* ---- One head ---------------------------------------------------------------------------------- */

struct head {
  float *k, *v, *q;
  kvfit_rows key_rows, value_rows, query_rows;
  kvfit_block cache;
  kvfit_queries queries;
};

static void make_head(struct head *h) {
  memset(h, 0, sizeof *h);
  h->k = random_numbers(keys * depth);
  h->v = random_numbers(keys * width);
  h->q = random_numbers(asked * depth);
  h->key_rows = (kvfit_rows){.struct_size = sizeof(kvfit_rows), .data = h->k, .rows = keys, .cols = depth};
  h->value_rows = (kvfit_rows){.struct_size = sizeof(kvfit_rows), .data = h->v, .rows = keys, .cols = width};
  h->query_rows = (kvfit_rows){.struct_size = sizeof(kvfit_rows), .data = h->q, .rows = asked, .cols = depth};
  h->cache = (kvfit_block){.struct_size = sizeof(kvfit_block), .keys = &h->key_rows, .values = &h->value_rows};
  h->queries = (kvfit_queries){.struct_size = sizeof(kvfit_queries), .rows = &h->query_rows};
}

static void free_head(struct head *h) {
  free(h->k);
  free(h->v);
  free(h->q);
}

static kvfit_options *options_of(const char *preset, int64_t budget) {
  kvfit_error error = {.struct_size = sizeof error};
  kvfit_options *options = NULL;
  CHECK_OK(kvfit_options_make(preset, &options, &error));
  CHECK_OK(kvfit_options_set(options, "budget", (double)budget, &error));
  return options;
}

static double output_error(const float *is, const float *expected, size_t rows, size_t cols) {
  double sum = 0;
  for (size_t i = 0; i < rows; ++i) {
    double difference = 0, full = 0;
    for (size_t c = 0; c < cols; ++c) {
      const double d = (double)is[i * cols + c] - (double)expected[i * cols + c];
      difference += d * d;
      full += (double)expected[i * cols + c] * (double)expected[i * cols + c];
    }
    sum += sqrt(difference / full);
  }
  return sum / (double)rows;
}

static void one_head(void) {
  struct head h;
  make_head(&h);
  kvfit_error error = {.struct_size = sizeof error};
  kvfit_options *options = options_of(NULL, 60);
  int64_t needed = 0, wanted = 0;
  CHECK_OK(kvfit_planned_memory(&h.cache, &h.queries, 1, options, 1, &needed, &wanted, &error));
  kvfit_compacted *small = NULL;
  CHECK_OK(kvfit_compact(&h.cache, &h.queries, 1, options, NULL, &small, &error));
  const kvfit_result *r = kvfit_compacted_result(small);
  CHECK(r->struct_size == sizeof *r);
  CHECK(r->rows == 60 && r->depth == depth && r->width == width);
  CHECK(r->report->memory_needed == needed && needed == wanted && needed > 0);
  CHECK(r->report->judged_queries > 0 && r->report->output_error > 0 && r->report->output_error < 1);
  CHECK(r->report->is_bias_fitted == 1);
  for (int64_t i = 0; i < r->rows; ++i) {
    CHECK(isfinite(r->bias[i]));
    CHECK(i == 0 || r->positions[i] > r->positions[i - 1]);
  }
  /* The small cache attends like the big one. */
  float *full = random_numbers(asked * width), *compact = random_numbers(asked * width);
  float full_mass[asked], compact_mass[asked];
  CHECK_OK(kvfit_attend(&h.queries, 1, &h.cache, 1, NULL, 0, full, full_mass, &error));
  CHECK_OK(kvfit_attend(&h.queries, 1, r->block, 1, NULL, 0, compact, compact_mass, &error));
  CHECK(output_error(compact, full, asked, width) < 0.6);
  double mass = 0;
  for (int i = 0; i < asked; ++i) mass += fabs(expm1((double)compact_mass[i] - (double)full_mass[i]));
  CHECK(mass / asked < 0.2);
  /* Rows go back to where an engine keeps them, as it keeps them. */
  uint16_t stored[60 * depth];
  memset(stored, 0, sizeof stored);
  const kvfit_rows target = {.struct_size = sizeof target, .data = stored, .rows = 60, .cols = depth, .type = KVFIT_FP16};
  CHECK_OK(kvfit_store_rows(r->keys, r->rows, r->depth, &target, &error));
  bool is_any = false;
  for (size_t i = 0; i < sizeof stored / sizeof *stored; ++i) is_any = is_any || stored[i] != 0;
  CHECK(is_any);
  free(full);
  free(compact);
  kvfit_compacted_free(small);
  kvfit_options_free(options);
  free_head(&h);
}

/* ---- How a call runs ---------------------------------------------------------------------------- */

static int loops = 0;
static void own_loop(void *pool, int64_t count, void (*body)(void *context, int64_t i), void *context) {
  ++*(int *)pool;
  for (int64_t i = count; i-- > 0;) body(context, i); /* any order will do */
}

static void calls(void) {
  struct head h;
  make_head(&h);
  kvfit_error error = {.struct_size = sizeof error};
  kvfit_options *options = options_of("highest_attention", 40);
  kvfit_compacted *alone = NULL, *threads = NULL, *pool = NULL, *stopped = NULL;
  CHECK_OK(kvfit_compact(&h.cache, &h.queries, 1, options, NULL, &alone, &error));
  const kvfit_call two = {.struct_size = sizeof two, .threads = 2};
  CHECK_OK(kvfit_compact(&h.cache, &h.queries, 1, options, &two, &threads, &error));
  const kvfit_call own = {.struct_size = sizeof own, .parallel_for = own_loop, .pool = &loops, .pool_threads = 4};
  CHECK_OK(kvfit_compact(&h.cache, &h.queries, 1, options, &own, &pool, &error));
  const kvfit_result *a = kvfit_compacted_result(alone), *b = kvfit_compacted_result(threads), *c = kvfit_compacted_result(pool);
  CHECK(memcmp(a->values, b->values, sizeof(float) * 40 * width) == 0);
  CHECK(memcmp(a->values, c->values, sizeof(float) * 40 * width) == 0);
  kvfit_cancel *cancel = NULL;
  CHECK_OK(kvfit_cancel_make(&cancel, &error));
  kvfit_cancel_request(cancel);
  const kvfit_call wish = {.struct_size = sizeof wish, .cancel = cancel};
  CHECK(kvfit_compact(&h.cache, &h.queries, 1, options, &wish, &stopped, &error) == KVFIT_CANCELLED);
  CHECK(stopped == NULL);
  const kvfit_call late = {.struct_size = sizeof late, .deadline = 1e-12};
  CHECK(kvfit_compact(&h.cache, &h.queries, 1, options, &late, &stopped, &error) == KVFIT_CANCELLED);
  CHECK(strstr(error.message, "deadline") != NULL);
  CHECK_OK(kvfit_options_set(options, "memory.cap", 1000, &error));
  CHECK(kvfit_compact(&h.cache, &h.queries, 1, options, NULL, &stopped, &error) == KVFIT_MEMORY_CAP_EXCEEDED);
  CHECK(error.actual > 1000 && error.expected == 1000 && strcmp(error.argument, "memory.cap") == 0);
  CHECK(stopped == NULL);
  kvfit_cancel_free(cancel);
  kvfit_compacted_free(alone);
  kvfit_compacted_free(threads);
  kvfit_compacted_free(pool);
  kvfit_options_free(options);
  free_head(&h);
}

/* ---- What is refused ---------------------------------------------------------------------------- */

static void refusals(void) {
  struct head h;
  make_head(&h);
  kvfit_error error = {.struct_size = sizeof error};
  kvfit_options *options = options_of(NULL, 10);
  kvfit_compacted *none = NULL;
  CHECK(kvfit_options_make("no such preset", &options, &error) == KVFIT_INVALID_OPTION);
  CHECK(kvfit_options_set(options, "no.such.option", 1, &error) == KVFIT_INVALID_OPTION);
  CHECK(kvfit_options_set(options, "budget", 1.5, &error) == KVFIT_INVALID_OPTION);
  CHECK(kvfit_options_set(options, "rule.causal", 2, &error) == KVFIT_INVALID_OPTION);
  CHECK(kvfit_options_set(options, "cache.last_share", 0.5, &error) == KVFIT_INVALID_OPTION);
  CHECK(kvfit_options_set_word(options, "storage.rows", "q8_0", &error) == KVFIT_INVALID_OPTION);
  CHECK(kvfit_options_set(NULL, "budget", 1, &error) == KVFIT_NULL_DATA);
  CHECK(kvfit_compact(NULL, &h.queries, 1, options, NULL, &none, &error) == KVFIT_NULL_DATA);
  CHECK(kvfit_compact(&h.cache, &h.queries, 1, options, NULL, NULL, &error) == KVFIT_NULL_DATA);
  CHECK(kvfit_compact(&h.cache, NULL, 0, options, NULL, &none, &error) == KVFIT_EMPTY_INPUT);
  kvfit_rows wrong = h.value_rows;
  wrong.rows = keys - 1;
  kvfit_block short_block = h.cache;
  short_block.values = &wrong;
  CHECK(kvfit_compact(&short_block, &h.queries, 1, options, NULL, &none, &error) == KVFIT_SHAPE_MISMATCH);
  CHECK(error.actual == keys - 1 && error.expected == keys && strcmp(error.argument, "values") == 0);
  wrong = h.key_rows;
  wrong.page_size = 16; /* without a block table: refused, not ignored */
  kvfit_block unused = h.cache;
  unused.keys = &wrong;
  CHECK(kvfit_compact(&unused, &h.queries, 1, options, NULL, &none, &error) == KVFIT_INVALID_OPTION);
  CHECK(strcmp(error.argument, "cache.keys.page_size") == 0);
  const float before = h.k[5];
  h.k[5] = NAN;
  CHECK(kvfit_compact(&h.cache, &h.queries, 1, options, NULL, &none, &error) == KVFIT_NON_FINITE);
  CHECK(error.actual == 0 && error.expected == 5);
  h.k[5] = before;
  /* A struct of no size, one of a later version with something in it, and one with nothing. */
  kvfit_block bare = h.cache;
  bare.struct_size = 0;
  CHECK(kvfit_compact(&bare, &h.queries, 1, options, NULL, &none, &error) == KVFIT_INVALID_OPTION);
  struct {
    kvfit_block known;
    int64_t newer;
  } grown;
  memset(&grown, 0, sizeof grown);
  grown.known = h.cache;
  grown.known.struct_size = sizeof grown;
  grown.newer = 7;
  CHECK(kvfit_compact(&grown.known, &h.queries, 1, options, NULL, &none, &error) == KVFIT_INVALID_OPTION);
  CHECK(none == NULL);
  grown.newer = 0;
  CHECK_OK(kvfit_compact(&grown.known, &h.queries, 1, options, NULL, &none, &error));
  kvfit_compacted_free(none);
  none = NULL;
  /* An error without a place for it, and one with a smaller place. */
  CHECK(kvfit_compact(NULL, &h.queries, 1, options, NULL, &none, NULL) == KVFIT_NULL_DATA);
  kvfit_error guarded = {.struct_size = offsetof(kvfit_error, argument), .argument = "untouched"};
  CHECK(kvfit_compact(NULL, &h.queries, 1, options, NULL, &none, &guarded) == KVFIT_NULL_DATA);
  CHECK(guarded.code == KVFIT_NULL_DATA && strcmp(guarded.argument, "untouched") == 0);
  CHECK(strcmp(kvfit_code_name(KVFIT_NULL_DATA), "null_data") == 0);
  CHECK(strcmp(kvfit_code_name(KVFIT_UNTIED_VALUES), "untied_values") == 0);
  CHECK(strcmp(kvfit_code_name(25), "unknown") == 0 && strcmp(kvfit_code_name(-1), "unknown") == 0);
  kvfit_compacted_free(NULL);
  kvfit_cache_free(NULL);
  kvfit_options_free(options);
  free_head(&h);
}

/* ---- A cache, rolling, and saved ----------------------------------------------------------------- */

enum { layers = 2, heads = 2, groups = 2, text = 160 };

struct model {
  struct head one[layers][heads];
  kvfit_rows query_rows[layers][heads * groups];
  kvfit_queries queries[layers][heads * groups];
  kvfit_rows key_rows[layers][heads], value_rows[layers][heads];
  kvfit_block blocks[layers][heads];
  kvfit_layer layer[layers];
  kvfit_layer_queries asks[layers];
};

/* The first `rows` rows from `first` on of every head. */
static void see(struct model *m, int64_t first, int64_t rows) {
  for (int l = 0; l < layers; ++l) {
    for (int h = 0; h < heads; ++h) {
      m->key_rows[l][h] = m->one[l][h].key_rows;
      m->key_rows[l][h].data = m->one[l][h].k + first * depth;
      m->key_rows[l][h].rows = rows;
      m->value_rows[l][h] = m->one[l][h].value_rows;
      m->value_rows[l][h].data = m->one[l][h].v + first * width;
      m->value_rows[l][h].rows = rows;
      m->blocks[l][h] = (kvfit_block){.struct_size = sizeof(kvfit_block),
                                      .keys = &m->key_rows[l][h],
                                      .values = &m->value_rows[l][h],
                                      .first_position = first};
    }
    m->layer[l] = (kvfit_layer){.struct_size = sizeof(kvfit_layer), .number = 3 * l, .heads = m->blocks[l], .head_count = heads};
  }
}

static void make_model(struct model *m) {
  for (int l = 0; l < layers; ++l) {
    for (int h = 0; h < heads; ++h) make_head(&m->one[l][h]);
    for (int g = 0; g < heads * groups; ++g) {
      m->query_rows[l][g] = m->one[l][g / groups].query_rows;
      m->queries[l][g] = (kvfit_queries){.struct_size = sizeof(kvfit_queries), .rows = &m->query_rows[l][g], .first_position = text};
    }
    m->asks[l] = (kvfit_layer_queries){.struct_size = sizeof(kvfit_layer_queries), .layer = 3 * l, .heads = m->queries[l], .head_count = heads * groups};
  }
  see(m, 0, text);
}

static void free_model(struct model *m) {
  for (int l = 0; l < layers; ++l)
    for (int h = 0; h < heads; ++h) free_head(&m->one[l][h]);
}

static void count_progress(void *context, int64_t done, int64_t count) {
  CHECK(done <= count && count == layers * heads);
  *(int64_t *)context = done;
}

static bool same_cache(const kvfit_cache_result *a, const kvfit_cache_result *b) {
  if (a->layer_count != b->layer_count || a->rows != b->rows) return false;
  for (size_t l = 0; l < a->layer_count; ++l) {
    const kvfit_layer_result *x = &a->layers[l], *y = &b->layers[l];
    const size_t rows = (size_t)x->offsets[x->head_count];
    if (x->number != y->number || x->head_count != y->head_count ||
        memcmp(x->offsets, y->offsets, sizeof(int64_t) * (x->head_count + 1)) != 0 ||
        memcmp(x->keys, y->keys, sizeof(float) * rows * depth) != 0 ||
        memcmp(x->bias, y->bias, sizeof(float) * rows) != 0 ||
        memcmp(x->values, y->values, sizeof(float) * rows * width) != 0) {
      return false;
    }
  }
  return true;
}

static void a_cache(const char *path) {
  struct model m;
  make_model(&m);
  kvfit_error error = {.struct_size = sizeof error};
  kvfit_options *options = options_of("default", 0);
  CHECK_OK(kvfit_options_set(options, "cache.budget", 80, &error));
  CHECK_OK(kvfit_options_set_word(options, "cache.shares", "pyramid", &error));
  CHECK_OK(kvfit_options_set(options, "cache.last_share", 0.5, &error));
  int64_t rows[layers * heads];
  size_t count = 1;
  CHECK(kvfit_plan_cache(m.layer, layers, m.asks, layers, options, NULL, rows, &count, &error) == KVFIT_SHAPE_MISMATCH);
  CHECK(count == layers * heads);
  CHECK_OK(kvfit_plan_cache(m.layer, layers, m.asks, layers, options, NULL, rows, &count, &error));
  CHECK(rows[0] == 30 && rows[3] == 10);
  int64_t done = 0;
  const kvfit_call call = {.struct_size = sizeof call, .threads = 2, .progress = count_progress, .progress_context = &done};
  kvfit_cache *small = NULL;
  CHECK_OK(kvfit_compact_cache(m.layer, layers, m.asks, layers, options, &call, &small, &error));
  CHECK(done == layers * heads);
  const kvfit_cache_result *r = kvfit_cache_get(small);
  CHECK(r->rows == 80 && r->rows_before == layers * heads * text && r->layer_count == layers && r->skipped_count == 0);
  CHECK(r->layers[1].number == 3 && r->layers[1].offsets[2] == 20);
  CHECK(r->layers[0].reports[1].rows == 30 && r->layers[0].reports[1].outcome == KVFIT_FITTED);
  CHECK(r->layers[0].reports[1].report->output_error > 0);
  /* A head's block is attended over as it is. */
  float output[asked * width];
  CHECK_OK(kvfit_attend(&m.queries[0][0], 1, &r->layers[0].blocks[0], 1, NULL, 0, output, NULL, &error));
  /* Saved and read again it is the same; for another model it is refused. */
  const kvfit_state_info info = {.struct_size = sizeof info, .next_position = text, .fingerprint = "tiny"};
  CHECK_OK(kvfit_state_save(path, small, &info, &error));
  kvfit_cache *again = NULL;
  int64_t next = 0;
  CHECK(kvfit_state_load(path, "other", &again, &next, &error) == KVFIT_UNSUPPORTED_FILE);
  CHECK(again == NULL && next == 0);
  CHECK_OK(kvfit_state_load(path, "tiny", &again, &next, &error));
  CHECK(next == text && same_cache(r, kvfit_cache_get(again)));
  CHECK(kvfit_state_load("/no/such/file", NULL, &again, NULL, &error) == KVFIT_FILE_UNREADABLE);
  remove(path);
  kvfit_cache_free(again);
  kvfit_cache_free(small);
  kvfit_options_free(options);
  free_model(&m);
}

static void rolling(void) {
  struct model m;
  make_model(&m);
  kvfit_error error = {.struct_size = sizeof error};
  kvfit_options *options = options_of("highest_attention", 0);
  CHECK_OK(kvfit_options_set(options, "rolling.trigger", 80, &error));
  CHECK_OK(kvfit_options_set(options, "rolling.target", 40, &error));
  CHECK_OK(kvfit_options_set(options, "rolling.recent", 16, &error));
  kvfit_rolling *roll = NULL, *twin = NULL;
  CHECK_OK(kvfit_rolling_make(options, &roll, &error));
  kvfit_rolling_state now = {.struct_size = sizeof now};
  int64_t length = 0;
  int rounds = 0;
  while (length < text) {
    CHECK_OK(kvfit_rolling_append(roll, 1, NULL, 0, &error));
    ++length;
    CHECK_OK(kvfit_rolling_get(roll, &now, &error));
    if (!now.is_due) continue;
    see(&m, now.live_first, length - now.live_first);
    kvfit_round *round = NULL;
    CHECK_OK(kvfit_rolling_begin(roll, m.layer, layers, &round, &error));
    int64_t gone = 0;
    CHECK(kvfit_rolling_apply(roll, round, &gone, &error) == KVFIT_INVALID_OPTION); /* has not run */
    CHECK_OK(kvfit_round_run(round, m.asks, layers, NULL, &error));
    CHECK_OK(kvfit_rolling_apply(roll, round, &gone, &error));
    CHECK(gone == length - now.live_first - 16);
    kvfit_round_free(round);
    ++rounds;
  }
  CHECK(rounds == 3);
  CHECK_OK(kvfit_rolling_fork(roll, &twin, &error));
  kvfit_cache *block = NULL;
  CHECK_OK(kvfit_rolling_block(twin, &block, &error));
  CHECK(kvfit_cache_get(block)->rows == layers * heads * 24);
  CHECK_OK(kvfit_rolling_get(roll, &now, &error));
  int64_t positions[text];
  CHECK_OK(kvfit_rolling_live_positions(roll, positions, now.length - now.live_first, &error));
  CHECK(positions[0] == now.live_first);
  /* What was left goes on. */
  kvfit_rolling *restored = NULL;
  CHECK_OK(kvfit_rolling_restore(options, block, now.length, now.live_first, now.next_position, positions, &restored, &error));
  kvfit_rolling_state then = {.struct_size = sizeof then};
  CHECK_OK(kvfit_rolling_get(restored, &then, &error));
  CHECK(memcmp(&now, &then, sizeof now) == 0);
  CHECK(kvfit_rolling_truncate(roll, 3, &error) == KVFIT_INVALID_POSITION);
  CHECK_OK(kvfit_rolling_truncate(roll, now.length - 1, &error));
  kvfit_rolling_clear(roll);
  CHECK_OK(kvfit_rolling_get(roll, &now, &error));
  CHECK(now.length == 0);
  kvfit_cache_free(block);
  kvfit_rolling_free(restored);
  kvfit_rolling_free(twin);
  kvfit_rolling_free(roll);
  kvfit_options_free(options);
  free_model(&m);
}

int main(int argc, char **argv) {
  one_head();
  calls();
  refusals();
  a_cache(argc > 1 ? argv[1] : "state.kvfit");
  rolling();
  printf("kvfit %s, %s: %d failures\n", kvfit_version(), kvfit_instruction_set(), failures);
  return failures == 0 ? 0 : 1;
}
