# SPDX-License-Identifier: MIT
"""kvfit fits a small KV cache to a big one (Attention Matching, arXiv:2602.16284).

    small = kvfit.compact(keys, values, queries, budget=256)
    small.keys, small.bias, small.values, small.report.output_error

Arrays may be anything with DLPack or `__array_interface__`: torch tensors of fp32, fp16 and bf16 and NumPy
arrays of fp32 and fp16 in host memory are read where they lie. Results are torch tensors where the keys were,
else NumPy arrays (memoryviews without NumPy). Errors are `KvfitError`s with code, argument and sizes.
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import _arrays, _library
from ._library import KvfitError

__all__ = [
    "CompactedCache",
    "CompactedHead",
    "CompactedLayer",
    "KvfitError",
    "Report",
    "Rope",
    "attend",
    "compact",
    "compact_cache",
    "instruction_set",
    "load_state",
    "option_names",
    "save_state",
    "version",
]

Number = int | float | bool
Option = Number | str | Sequence[int] | Sequence[float]


def version() -> str:
    """The library's version."""
    return _library.library.kvfit_version().decode()


def instruction_set() -> str:
    """The instruction set that compactions run on."""
    return _library.library.kvfit_instruction_set().decode()


def option_names() -> list[str]:
    """The names that `options` takes: those of kvfit/c/kvfit.h."""
    return list(_library.option_kinds)


_SCALINGS = {None: 0, "linear": 1, "yarn": 2, "llama3": 3, "given": 4}
_HF_SCALINGS: dict[str, dict[str, str]] = {
    "default": {},
    "linear": {"factor": "factor"},
    "yarn": {
        "factor": "factor",
        "original_max_position_embeddings": "original_positions",
        "beta_fast": "fast",
        "beta_slow": "slow",
    },
    "llama3": {
        "factor": "factor",
        "original_max_position_embeddings": "original_positions",
        "low_freq_factor": "low",
        "high_freq_factor": "high",
    },
}
# Of YaRN: they multiply queries and keys once, when these are made, and are no part of a rotation.
_HF_ATTENTION = ("attention_factor", "mscale", "mscale_all_dim")


@dataclass(frozen=True)
class Rope:
    """How a model turned its keys (RoPE). 0 is the default of every number.

    scaling: None, "linear" (factor), "yarn" (factor, original_positions, fast, slow, rounds), "llama3" (factor,
    original_positions, low, high) or "given" (frequencies). What a scaling does not use is refused.
    """

    base: float = 0  #: 0: 10000
    dims: int = 0  #: leading elements that turn; 0: all
    interleaved: bool = False  #: pairs 2i and 2i + 1 instead of i and i + dims/2
    scaling: str | None = None
    factor: float = 0
    original_positions: float = 0
    fast: float = 0
    slow: float = 0
    rounds: bool = True  #: of yarn: bounds of its ramp are rounded
    low: float = 0
    high: float = 0
    frequencies: Sequence[float] = ()  #: radians a position, one a pair of elements

    @classmethod
    def from_hf(
        cls, rope_theta: float, rope_scaling: Mapping[str, Any] | None = None, *, dims: int = 0
    ) -> Rope:
        """Of a Hugging Face configuration's `rope_theta` and `rope_scaling`.

        ValueError for a type or an entry that is not known: "dynamic" and "longrope" turn keys at frequencies
        that depend on the text's length.
        """
        given = dict(rope_scaling or {})
        base = float(given.pop("rope_theta", rope_theta))
        old, new = given.pop("type", None), given.pop("rope_type", None)
        kind = new or old or "default"
        if kind not in _HF_SCALINGS:
            raise ValueError(f"rope_scaling: type {kind!r} is none of {', '.join(_HF_SCALINGS)}")
        fields: dict[str, Any] = {}
        if kind == "yarn":
            fields["rounds"] = bool(given.pop("truncate", True))
            for name in _HF_ATTENTION:
                given.pop(name, None)
        for name, value in given.items():
            if name not in _HF_SCALINGS[kind]:
                raise ValueError(f"rope_scaling: {name!r} is no entry of type {kind!r}")
            if value is not None:
                fields[_HF_SCALINGS[kind][name]] = float(value)
        return cls(base=base, dims=dims, scaling=None if kind == "default" else kind, **fields)


@dataclass(frozen=True)
class Report:
    """What a compaction says of its own work; errors are of the queries held out, or else of those fitted on."""

    is_identity: bool
    judged_queries: int
    output_error: float
    output_error_max: float
    mass_error: float
    mass_error_max: float
    train_output_error: float
    train_mass_error: float
    is_bias_fitted: bool
    is_values_fitted: bool
    dead_keys: int
    masked_queries: int
    kept_steps: int
    memory_needed: int
    memory_wanted: int
    seconds: float


def _report(of: _library.Report) -> Report:
    fields = {name: getattr(of, name) for name in Report.__dataclass_fields__}
    for name in ("is_identity", "is_bias_fitted", "is_values_fitted"):
        fields[name] = bool(fields[name])
    return Report(**fields)


@dataclass(frozen=True)
class CompactedHead:
    """A small cache of one head: attend over `keys` with `bias` added to the logits, and `values`."""

    keys: Any  #: t × d_k
    bias: Any  #: t, natural log
    values: Any  #: t × d_v
    positions: Any  #: t original row numbers
    key_positions: Any  #: t: where the keys stand
    report: Report
    next_position: int  #: where the row behind the original ones stands
    outcome: str = "fitted"  #: or identity, empty, fallback


@dataclass(frozen=True)
class CompactedLayer:
    """One layer; of caches of shape [B, H, T, D] head h of sequence b is `heads[b * H + h]`."""

    number: int
    heads: list[CompactedHead]


class CompactedCache:
    """What `compact_cache` returns."""

    def __init__(self, handle: _library.Handle, like_torch: bool, next_position: int | None = None) -> None:
        self._handle = handle
        got = _library.library.kvfit_cache_get(handle.pointer).contents
        self.rows: int = got.rows
        self.rows_before: int = got.rows_before
        self.fallbacks: int = got.fallbacks
        self.skipped: list[int] = [got.skipped[i] for i in range(got.skipped_count)]
        self.layers: list[CompactedLayer] = [
            _layer(got.layers[i], handle, like_torch, next_position) for i in range(got.layer_count)
        ]


_OUTCOMES = ("fitted", "identity", "empty", "fallback")


def _head_arrays(
    of: Any, first: int, rows: int, owner: Any, like_torch: bool
) -> dict[str, Any]:
    def array(address: int, shape: tuple[int, ...], kind: str) -> Any:
        size = 8 if kind == "q" else 4
        cols = shape[1] if len(shape) > 1 else 1
        return _arrays.made((address or 0) + first * cols * size, shape, kind, owner, like_torch)

    return {
        "keys": array(of.keys, (rows, of.depth), "f"),
        "bias": array(of.bias, (rows,), "f"),
        "values": array(of.values, (rows, of.width), "f"),
        "positions": array(of.positions, (rows,), "q"),
        "key_positions": array(of.key_positions, (rows,), "q"),
    }


def _layer(of: _library.LayerResult, owner: Any, like_torch: bool, next_position: int | None) -> CompactedLayer:
    heads = []
    for h in range(of.head_count):
        first, end = of.offsets[h], of.offsets[h + 1]
        said = of.reports[h]
        heads.append(
            CompactedHead(
                **_head_arrays(of, first, end - first, owner, like_torch),
                report=_report(said.report.contents),
                next_position=said.rows_before if next_position is None else next_position,
                outcome=_OUTCOMES[said.outcome],
            )
        )
    return CompactedLayer(of.number, heads)


def _set_option(pointer: ctypes.c_void_p, name: str, value: Option) -> None:
    key, kind = name.encode(), _library.option_kinds.get(name)
    if isinstance(value, str):
        _library.call("kvfit_options_set_word", pointer, key, value.encode())
    elif kind == _library.NUMBERS:
        reals = [float(number) for number in value]
        _library.call("kvfit_options_set_numbers", pointer, key, (ctypes.c_double * len(reals))(*reals), len(reals))
    elif kind == _library.LIST or isinstance(value, (list, tuple)):
        wholes = [operator.index(number) for number in value]
        _library.call("kvfit_options_set_list", pointer, key, (ctypes.c_int64 * len(wholes))(*wholes), len(wholes))
    else:
        number = operator.index(value) if hasattr(value, "__index__") else float(value)
        if isinstance(number, int) and abs(number) > 2**53:
            raise OverflowError(f"{name}: {number} is beyond 2^53")
        _library.call("kvfit_options_set", pointer, key, float(number))


def _options(preset: str, given: Mapping[str, Option], rotation: Rope | None, held: _Inputs) -> _library.Handle:
    pointer = ctypes.c_void_p()
    _library.call("kvfit_options_make", preset.encode(), ctypes.byref(pointer))
    handle = _library.Handle(pointer, "kvfit_options_free")
    # Words first: they choose what the numbers are of.
    for name, value in sorted(given.items(), key=lambda one: not isinstance(one[1], str)):
        if value is not None:
            _set_option(pointer, name, value)
    if rotation is not None:
        _library.call("kvfit_options_set_rotation", pointer, held.rope(rotation))
    return handle


class _Inputs:
    """Structs of the library over arrays, kept alive for one call."""

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def keep(self, one: Any) -> Any:
        self._kept.append(one)
        return one

    def rows(self, view: _arrays.View, name: str) -> Any:
        self.keep(view)
        return ctypes.pointer(self.keep(view.rows(name)))

    def block(self, keys: _arrays.View, values: _arrays.View, name: str = "") -> _library.Block:
        return _library.Block(
            struct_size=ctypes.sizeof(_library.Block),
            keys=self.rows(keys, name + "keys"),
            values=self.rows(values, name + "values"),
        )

    def positions(self, given: Iterable[int], rows: int, name: str) -> int:
        numbers = [int(position) for position in given]
        if len(numbers) != rows:
            raise ValueError(f"{name}: {len(numbers)} for {rows} rows")
        return ctypes.addressof(self.keep((ctypes.c_int64 * rows)(*numbers)))

    def bias(self, given: Any, rows: int, name: str) -> int:
        view = self.keep(_arrays.view(given, name))
        if view.shape != (rows,) or view.type != 0 or (rows > 1 and view.strides != (1,)):
            raise ValueError(f"{name}: must be {rows} contiguous fp32 numbers")
        return view.address

    def rope(self, of: Rope) -> Any:
        if of.scaling not in _SCALINGS:
            known = ", ".join(repr(one) for one in _SCALINGS)
            raise ValueError(f"rotation.scaling: {of.scaling!r} is none of {known}")
        each = [float(one) for one in of.frequencies]
        return ctypes.pointer(
            self.keep(
                _library.Rope(
                    struct_size=ctypes.sizeof(_library.Rope),
                    base=of.base,
                    dims=of.dims,
                    interleaved=int(of.interleaved),
                    scaling=_SCALINGS[of.scaling],
                    unrounded=int(not of.rounds),
                    factor=of.factor,
                    original_positions=of.original_positions,
                    fast=of.fast,
                    slow=of.slow,
                    low=of.low,
                    high=of.high,
                    frequencies=self.keep((ctypes.c_double * len(each))(*each)) if each else None,
                    frequency_count=len(each),
                )
            )
        )

    def queries(self, view: _arrays.View, first: int, name: str) -> _library.Queries:
        return _library.Queries(
            struct_size=ctypes.sizeof(_library.Queries), rows=self.rows(view, name), first_position=first
        )


def _query_views(queries: Any) -> list[_arrays.View]:
    """[n, d], or [G, n, d]: the query heads that read one KV head; or a list of [n, d]."""
    if isinstance(queries, (list, tuple)):
        return [_arrays.view(one, f"queries[{i}]") for i, one in enumerate(queries)]
    view = _arrays.view(queries, "queries")
    return [view.part(g) for g in range(view.shape[0])] if len(view.shape) == 3 else [view]


def _call(
    threads: int,
    deadline: float | None,
    progress: Callable[[int, int], None] | None,
    running: _library.Running,
    held: _Inputs,
) -> Any:
    if deadline is not None and not deadline > 0:
        raise ValueError(f"deadline: {deadline}, must be above 0 seconds")
    if not 0 <= threads < 2**31:
        raise ValueError(f"threads: {threads}")
    how = _library.Call(
        struct_size=ctypes.sizeof(_library.Call),
        threads=threads,
        deadline=deadline or 0,
        cancel=running.cancel.pointer,
    )
    if progress is not None:

        def tell(_: int, done: int, count: int) -> None:
            try:
                progress(done, count)
            except BaseException as cause:  # a callback of C can't raise: the call ends, and then it is raised
                running.stop(cause)

        how.progress = ctypes.cast(held.keep(_library.PROGRESS(tell)), ctypes.c_void_p)
    return ctypes.byref(held.keep(how))


def compact(
    keys: Any,
    values: Any,
    queries: Any,
    *,
    budget: int,
    preset: str = "default",
    bias: Any = None,
    positions: Iterable[int] | None = None,
    query_position: int = 0,
    threads: int = 0,
    deadline: float | None = None,
    rotation: Rope | None = None,
    options: Mapping[str, Option] | None = None,
) -> CompactedHead:
    """Replaces T keys and values of one head by `budget` that give nearly the same attention.

    keys: T × d_k and values: T × d_v; queries: n × d_k, [G, n, d_k] or a list, rotated already. bias: T numbers on
    the input's logits. positions: where the keys stand, and `query_position` where the first query does, for rules
    that use positions. options: by the names in kvfit/c/kvfit.h, as {"storage.rows": "fp16", "protect.first": 4};
    words are set before numbers and lists. rotation: how keys were turned, which refinement may use.
    deadline: seconds from now. Releases the interpreter's lock while it works; Ctrl-C ends it.
    """
    held = _Inputs()
    key_view, value_view = _arrays.view(keys, "keys"), _arrays.view(values, "values")
    block = held.block(key_view, value_view)
    rows = key_view.shape[0]
    if bias is not None:
        block.bias = held.bias(bias, rows, "bias")
    placed = [] if positions is None else [int(position) for position in positions]
    if positions is not None:
        block.positions = held.positions(placed, rows, "positions")
    views = _query_views(queries)
    asked = (_library.Queries * len(views))(*[held.queries(v, query_position, "queries") for v in views])
    if "budget" in (options or {}):
        raise ValueError("budget: is an argument, not among the options")
    made = _options(preset, {"budget": budget, **(options or {})}, rotation, held)
    out, running = ctypes.c_void_p(), _library.Running()
    running.call(
        "kvfit_compact",
        ctypes.byref(block),
        asked,
        len(views),
        made.pointer,
        _call(threads, deadline, None, running, held),
        ctypes.byref(out),
    )
    owner = _library.Handle(out, "kvfit_compacted_free")
    got = _library.library.kvfit_compacted_result(out).contents
    return CompactedHead(
        **_head_arrays(got, 0, got.rows, owner, _arrays.is_torch(keys)),
        report=_report(got.report.contents),
        next_position=1 + max(placed) if placed else rows,
        outcome="identity" if got.report.contents.is_identity else "fitted",
    )


def attend(
    queries: Any,
    blocks: Sequence[CompactedHead | tuple[Any, Any]],
    *,
    scale: float = 0,
    soft_cap: float = 0,
    causal: bool = False,
    window: int = 0,
    query_position: int = 0,
) -> tuple[Any, Any]:
    """Attention of n queries over several blocks together: the reference for an engine's kernel.

    blocks: compacted heads, and (keys, values) of live rows, which stand behind those before them. Returns output
    (n × d_v) and log-mass (n).
    """
    held = _Inputs()
    view = _arrays.view(queries, "queries")
    asked = held.queries(view, query_position, "queries")
    parts = []
    following = 0
    width = 0
    for i, one in enumerate(blocks):
        name = f"blocks[{i}]."
        if isinstance(one, CompactedHead):
            part = held.block(_arrays.view(one.keys, name + "keys"), _arrays.view(one.values, name + "values"), name)
            places = [int(position) for position in one.key_positions]
            part.positions = held.positions(places, len(places), name + "positions")
            part.bias = held.bias(one.bias, len(places), name + "bias")
            following = max(following, one.next_position)
        else:
            keys, values = one
            key_view = _arrays.view(keys, name + "keys")
            part = held.block(key_view, _arrays.view(values, name + "values"), name)
            part.first_position = following
            following += key_view.shape[0]
        width = part.values.contents.cols
        parts.append(part)
    rule = _library.Rule(
        struct_size=ctypes.sizeof(_library.Rule), scale=scale, soft_cap=soft_cap, causal=int(causal), window=window
    )
    rows = view.shape[0]
    output = (ctypes.c_float * max(rows * width, 1))()
    mass = (ctypes.c_float * max(rows, 1))()
    _library.call(
        "kvfit_attend",
        ctypes.byref(asked),
        1,
        (_library.Block * len(parts))(*parts),
        len(parts),
        ctypes.byref(rule),
        0,
        ctypes.addressof(output),
        ctypes.addressof(mass),
    )
    like_torch = _arrays.is_torch(queries)
    return (
        _arrays.made(ctypes.addressof(output), (rows, width), "f", output, like_torch),
        _arrays.made(ctypes.addressof(mass), (rows,), "f", mass, like_torch),
    )


def compact_cache(
    keys: Sequence[Any],
    values: Sequence[Any],
    queries: Sequence[Any],
    *,
    ratio: float | None = None,
    budget: int | None = None,
    preset: str = "default",
    query_position: int = 0,
    threads: int = 0,
    deadline: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    rotation: Rope | Sequence[Rope | None] | None = None,
    options: Mapping[str, Option] | None = None,
) -> CompactedCache:
    """Compacts every head of every layer of a cache in Hugging Face's shape.

    keys, values: one [B, H, T, D] a layer; queries: one [B, G·H, n, D] a layer, query heads of one KV head one
    after the other (GQA). ratio: how many times smaller; or budget: rows of all heads together. Each of the B · H
    heads is compacted on its own. progress(done, count) is told of each head; what it raises ends the call, as
    Ctrl-C does. rotation: how keys were turned, of all layers or one a layer, which refinement may use.
    options: besides those of `compact`, as {"cache.shares": "pyramid"}.
    """
    if not len(keys) == len(values) == len(queries):
        raise ValueError(f"keys, values and queries of {len(keys)}, {len(values)} and {len(queries)} layers")
    if (ratio is None) == (budget is None):
        raise ValueError("give either ratio or budget")
    turned = [rotation] * len(keys) if rotation is None or isinstance(rotation, Rope) else list(rotation)
    if len(turned) != len(keys):
        raise ValueError(f"rotation: {len(turned)} for {len(keys)} layers")
    held = _Inputs()
    layers, asks, total = [], [], 0
    for number, (k, v, q) in enumerate(zip(keys, values, queries)):
        name = f"layer {number}: "
        views = [_arrays.view(k, name + "keys"), _arrays.view(v, name + "values"), _arrays.view(q, name + "queries")]
        for view, what in zip(views, ("keys", "values", "queries")):
            if len(view.shape) != 4:
                raise ValueError(f"{name}{what}: has {len(view.shape)} dimensions, not 4")
        (batch, heads, rows, _), query_heads = views[0].shape, views[2].shape[1]
        if views[1].shape[:3] != (batch, heads, rows):
            raise ValueError(f"{name}values: {views[1].shape[:3]}, keys have {(batch, heads, rows)}")
        if views[2].shape[0] != batch or heads == 0 or query_heads % heads != 0:
            raise ValueError(f"{name}queries: {views[2].shape[:2]} for {(batch, heads)} sequences and KV heads")
        blocks = [
            held.block(views[0].part(b, h), views[1].part(b, h), name) for b in range(batch) for h in range(heads)
        ]
        total += batch * heads * rows
        asked = [
            held.queries(views[2].part(b, h), query_position, name + "queries")
            for b in range(batch)
            for h in range(query_heads)
        ]
        layers.append(
            _library.Layer(
                struct_size=ctypes.sizeof(_library.Layer),
                number=number,
                heads=held.keep((_library.Block * len(blocks))(*blocks)),
                head_count=len(blocks),
                rotation=None if turned[number] is None else held.rope(turned[number]),
            )
        )
        asks.append(
            _library.LayerQueries(
                struct_size=ctypes.sizeof(_library.LayerQueries),
                layer=number,
                heads=held.keep((_library.Queries * len(asked))(*asked)),
                head_count=len(asked),
            )
        )
    if ratio is not None:
        if not ratio >= 1:
            raise ValueError(f"ratio: {ratio}, must be at least 1")
        budget = max(round(total / ratio), 1)
    if "cache.budget" in (options or {}):
        raise ValueError("cache.budget: is the argument budget, not among the options")
    made = _options(preset, {"cache.budget": budget, **(options or {})}, None, held)
    out, running = ctypes.c_void_p(), _library.Running()
    running.call(
        "kvfit_compact_cache",
        (_library.Layer * len(layers))(*layers),
        len(layers),
        (_library.LayerQueries * len(asks))(*asks),
        len(asks),
        made.pointer,
        _call(threads, deadline, progress, running, held),
        ctypes.byref(out),
    )
    return CompactedCache(
        _library.Handle(out, "kvfit_cache_free"), len(keys) > 0 and _arrays.is_torch(keys[0])
    )


_STORED = {"fp32": 0, "fp16": 1, "bf16": 2}


def save_state(
    path: str,
    cache: CompactedCache,
    *,
    next_position: int = 0,
    fingerprint: str = "",
    keys: str = "fp32",
    values: str = "fp32",
) -> None:
    """Saves a compact cache, whole or not at all, with a checksum. keys, values: fp32, fp16 or bf16 in the file."""
    info = _library.StateInfo(
        struct_size=ctypes.sizeof(_library.StateInfo),
        next_position=next_position,
        key_type=_STORED[keys],
        value_type=_STORED[values],
        fingerprint=fingerprint.encode(),
    )
    _library.call("kvfit_state_save", str(path).encode(), cache._handle.pointer, ctypes.byref(info))


def load_state(path: str, *, fingerprint: str | None = None, torch: bool = False) -> tuple[CompactedCache, int]:
    """The cache that was saved, and the position at which decoding goes on.

    fingerprint: what it must have been saved with; None: any. torch: arrays are torch tensors.
    """
    out, position = ctypes.c_void_p(), ctypes.c_int64()
    expected = None if fingerprint is None else fingerprint.encode()
    if torch:
        __import__("torch")
    _library.call("kvfit_state_load", str(path).encode(), expected, ctypes.byref(out), ctypes.byref(position))
    return CompactedCache(_library.Handle(out, "kvfit_cache_free"), torch, position.value), position.value
