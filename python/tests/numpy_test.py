# SPDX-License-Identifier: MIT
"""kvfit on NumPy arrays."""

import os
import signal
import tempfile

from checks import need, numbers, raises, run

(np,) = need("numpy")

import kvfit  # noqa: E402


def matrix(*shape: int, seed: int):
    count = int(np.prod(shape))
    return np.array(numbers(count, seed), dtype=np.float32).reshape(shape)


keys, values, queries = matrix(300, 16, seed=1), matrix(300, 8, seed=2), matrix(64, 16, seed=3)


def attention(q, k, v, bias=0.0):
    logits = q @ k.T / np.sqrt(k.shape[1]) + bias
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    mass = np.log(weights.sum(axis=1)) + logits.max(axis=1)
    return (weights / weights.sum(axis=1, keepdims=True)) @ v, mass


def is_close() -> None:
    "a small cache attends like the big one, by NumPy and by kvfit.attend"
    small = kvfit.compact(keys, values, queries, budget=80)
    full, full_mass = attention(queries, keys, values)
    compact, mass = attention(queries, small.keys, small.values, small.bias)
    error = np.mean(np.linalg.norm(full - compact, axis=1) / np.linalg.norm(full, axis=1))
    assert error < 0.5 and np.mean(np.abs(np.expm1(mass - full_mass))) < 0.1
    output, log_mass = kvfit.attend(queries, [small])
    assert np.abs(output - compact).max() < 1e-4 and np.abs(log_mass - mass).max() < 1e-4


def layouts() -> None:
    "any strides and fp16 are read in place, with the same result"
    expected = kvfit.compact(keys, values, queries, budget=30)
    turned = np.asfortranarray(keys)
    wide = np.zeros((300, 40), dtype=np.float32)
    wide[:, 5:21] = keys
    backwards = keys[::-1].copy()[::-1]
    for other in (turned, wide[:, 5:21], backwards):
        assert not other.flags.c_contiguous
        assert np.array_equal(kvfit.compact(other, values, queries, budget=30).keys, expected.keys)
    half = keys.astype(np.float16)
    from_half = kvfit.compact(half, values, queries, budget=30)
    as_float = kvfit.compact(half.astype(np.float32), values, queries, budget=30)
    assert np.array_equal(from_half.values, as_float.values)
    locked = keys.copy()
    locked.flags.writeable = False
    assert np.array_equal(kvfit.compact(locked, values, queries, budget=30).keys, expected.keys)
    with raises(TypeError):
        kvfit.compact(keys.astype(np.float64), values, queries, budget=30)
    with raises(ValueError):
        kvfit.compact(np.broadcast_to(keys[:1], keys.shape), values, queries, budget=30)


def options_hold() -> None:
    "options have the names of the library"
    small = kvfit.compact(
        keys, values, queries, budget=30, options={"protect.first": 4, "protect.rows": [100], "storage.rows": "fp16"}
    )
    assert list(small.positions[:4]) == [0, 1, 2, 3] and 100 in small.positions
    assert np.array_equal(small.keys, small.keys.astype(np.float16).astype(np.float32))
    groups = np.stack([queries, queries[::-1]])
    assert kvfit.compact(keys, values, groups, budget=30).report.judged_queries == 8
    assert kvfit.compact(keys, values, queries, budget=np.int64(300)).outcome == "identity"
    with raises(ValueError):
        kvfit.compact(keys, values, queries, budget=30, options={"budget": 40})
    with raises(ValueError):
        kvfit.compact(keys, values, queries, budget=30, deadline=0)


def live_rows() -> None:
    "live rows follow the compact ones"
    small = kvfit.compact(keys, values, queries, budget=300)
    live_keys, live_values = matrix(5, 16, seed=9), matrix(5, 8, seed=10)
    output, _ = kvfit.attend(queries, [small, (live_keys, live_values)])
    expected, _ = attention(queries, np.vstack([keys, live_keys]), np.vstack([values, live_values]))
    assert np.abs(output - expected).max() < 1e-4
    hidden, _ = kvfit.attend(queries, [small, (live_keys, live_values)], causal=True, query_position=0)
    assert np.abs(hidden[0] - values[0]).max() < 1e-5


def caches() -> None:
    "a cache of shape [B, H, T, D] is compacted head by head, saved, and read again"
    k = [matrix(2, 2, 100, 16, seed=20 + l) for l in range(3)]
    v = [matrix(2, 2, 100, 8, seed=30 + l) for l in range(3)]
    q = [matrix(2, 4, 40, 16, seed=40 + l) for l in range(3)]
    seen = []
    small = kvfit.compact_cache(k, v, q, ratio=10, threads=2, progress=lambda done, count: seen.append((done, count)))
    assert seen == [(i, 12) for i in range(1, 13)]
    assert small.rows == 120 and small.rows_before == 1200 and len(small.layers) == 3
    alone = kvfit.compact(k[1][1, 0], v[1][1, 0], q[1][1, :2], budget=10)
    assert np.array_equal(small.layers[1].heads[2].values, alone.values)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "state.kvfit")
        kvfit.save_state(path, small, next_position=100, fingerprint="tiny")
        again, position = kvfit.load_state(path, fingerprint="tiny")
        assert position == 100 and np.array_equal(again.layers[2].heads[3].keys, small.layers[2].heads[3].keys)
        with raises(kvfit.KvfitError, code="unsupported_file"):
            kvfit.load_state(path, fingerprint="another")
    pyramid = kvfit.compact_cache(k, v, q, budget=120, options={"cache.shares": "pyramid"})
    assert len(pyramid.layers[0].heads[0].bias) > len(pyramid.layers[2].heads[0].bias)
    with raises(ValueError):
        kvfit.compact_cache(k, v, q)
    with raises(ValueError):
        kvfit.compact_cache(k, v, [one[:, :3] for one in q], ratio=10)


def interrupted() -> None:
    "Ctrl-C, and what a callback raises, end a call early; nothing is lost"
    k, v, q = (matrix(1, 8, 3000, 32, seed=50), matrix(1, 8, 3000, 32, seed=60), matrix(1, 8, 2000, 32, seed=70))
    seen = []

    def first_head(done: int, count: int) -> None:
        seen.append(done)
        raise RuntimeError("mine")

    with raises(RuntimeError):
        kvfit.compact_cache([k], [v], [q], ratio=10, progress=first_head)
    assert seen == [1]
    seen.clear()

    def ask(done: int, count: int) -> None:
        seen.append(done)
        os.kill(os.getpid(), signal.SIGINT)

    with raises(KeyboardInterrupt):
        kvfit.compact_cache([k], [v], [q], ratio=10, progress=ask)
    assert 1 <= len(seen) < 8
    small = kvfit.compact_cache([k[:, :1, :200]], [v[:, :1, :200]], [q[:, :1, :200]], ratio=10)
    assert small.rows == 20


def rotations() -> None:
    "refinement takes how keys were turned, scalings included; a scaling takes its own settings alone"
    more = {"refine.sets": 1, "refine.steps": 3}
    k, v, q = matrix(1, 2, 200, 16, seed=80), matrix(1, 2, 200, 8, seed=81), matrix(1, 2, 100, 16, seed=82)

    def keys_of(rotation):
        small = kvfit.compact_cache([k, k], [v, v], [q, q], ratio=10, rotation=rotation, options=more)
        return np.concatenate([head.keys for layer in small.layers for head in layer.heads])

    llama = kvfit.Rope.from_hf(
        500000.0,
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    )
    assert llama == kvfit.Rope(500000.0, scaling="llama3", factor=8, low=1, high=4, original_positions=64)
    plain, scaled = keys_of(kvfit.Rope(500000.0)), keys_of(llama)
    assert np.isfinite(scaled).all() and not np.array_equal(plain, scaled)
    half = keys_of([kvfit.Rope(500000.0), llama])
    assert np.array_equal(half[: len(half) // 2], plain[: len(half) // 2])
    assert np.array_equal(half[len(half) // 2 :], scaled[len(half) // 2 :])
    yarn = kvfit.Rope.from_hf(
        10000.0, {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 1.1}
    )
    assert yarn.scaling == "yarn" and not np.array_equal(keys_of(yarn), keys_of(kvfit.Rope()))
    given = kvfit.Rope(scaling="given", frequencies=[10000.0 ** (-i / 8) for i in range(8)])
    assert np.array_equal(keys_of(given), keys_of(kvfit.Rope()))
    one = kvfit.compact(k[0, 0], v[0, 0], q[0, 0], budget=20, rotation=llama, options=more)
    assert np.array_equal(one.keys, kvfit.compact(k[0, 0], v[0, 0], q[0, 0], budget=20, rotation=llama, options=more).keys)
    with raises(kvfit.KvfitError, argument="layers[0].rotation.high"):
        keys_of(kvfit.Rope(scaling="linear", factor=2, high=4))
    with raises(ValueError):
        kvfit.Rope.from_hf(10000.0, {"type": "dynamic", "factor": 2.0})
    with raises(ValueError):
        kvfit.Rope.from_hf(10000.0, {"type": "linear", "factor": 2.0, "beta_fast": 2})
    with raises(ValueError):
        keys_of([llama])


def ways_to_share() -> None:
    "rows are shared out by every name of the C library, lists of numbers too"
    k, v, q = matrix(1, 2, 100, 16, seed=90), matrix(1, 2, 100, 8, seed=91), matrix(1, 2, 40, 16, seed=92)

    def rows_of(**options):
        named = {name.replace("__", "."): value for name, value in options.items()}
        small = kvfit.compact_cache([k], [v], [q], budget=20, options=named)
        return [len(head.bias) for head in small.layers[0].heads]

    assert rows_of(cache__given=[0, 0, 0.25, 0, 1, 0.75]) == [5, 15]
    assert rows_of(cache__rows=[3, 9]) == [3, 9]
    assert rows_of(cache__safeguard=1, cache__shares="layer_ranking") == [10, 10]
    assert sum(rows_of(cache__curves=[0, 5, 1, 0, 15, 0, 1, 5, 9, 1, 15, 0])) == 20
    assert {"cache.given", "selection.prior", "budget"} <= set(kvfit.option_names())
    prior = np.ones(100)
    prior[50:] = 0
    small = kvfit.compact(k[0, 0], v[0, 0], q[0, 0], budget=20, options={"selection.prior": prior})
    assert max(small.positions) < 50


run([interrupted, is_close, layouts, options_hold, live_rows, caches, rotations, ways_to_share])
