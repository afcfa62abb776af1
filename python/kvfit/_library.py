# SPDX-License-Identifier: MIT
"""The library kvfit_c by ctypes: where it is, its structs, and its errors as exceptions."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import pathlib
import sys
import threading
from ctypes import POINTER, c_char, c_char_p, c_double, c_float, c_int32, c_int64, c_size_t, c_void_p

NO_SIZE = -(2**63)


class KvfitError(Exception):
    """What the library refused or could not do.

    `code` is the code's name ("non_finite"), `argument` the argument at fault, `actual` and `expected` the sizes
    that do not fit, or None.
    """

    def __init__(self, code: str, argument: str, actual: int | None, expected: int | None, message: str) -> None:
        super().__init__(code, argument, actual, expected, message)
        self.code = code
        self.argument = argument
        self.actual = actual
        self.expected = expected

    def __str__(self) -> str:
        return self.args[-1]


class Error(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("code", c_int32),
        ("actual", c_int64),
        ("expected", c_int64),
        ("argument", c_char * 96),
        ("message", c_char * 416),
    ]


class Rows(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("data", c_void_p),
        ("rows", c_int64),
        ("cols", c_int64),
        ("row_stride", c_int64),
        ("col_stride", c_int64),
        ("type", c_int32),
        ("reserved", c_int32),
        ("scales", c_void_p),
        ("list", c_void_p),
        ("list_memory", c_int64),
        ("table", c_void_p),
        ("table_entries", c_int64),
        ("page_size", c_int64),
        ("page_stride", c_int64),
        ("pages", c_int64),
        ("decode", c_void_p),
    ]


class Block(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("keys", POINTER(Rows)),
        ("values", POINTER(Rows)),
        ("bias", c_void_p),
        ("positions", c_void_p),
        ("first_position", c_int64),
        ("masks", c_void_p),
        ("mask_count", c_size_t),
    ]


class Queries(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("rows", POINTER(Rows)),
        ("first_position", c_int64),
        ("position_step", c_int64),
        ("positions", c_void_p),
        ("position_count", c_int64),
        ("alibi_slope", c_float),
        ("has_sink", c_int32),
        ("sink_logit", c_float),
        ("reserved", c_int32),
    ]


class Rule(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("scale", c_float),
        ("soft_cap", c_float),
        ("causal", c_int32),
        ("reserved", c_int32),
        ("window", c_int64),
    ]


class Call(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("threads", c_int32),
        ("reserved", c_int32),
        ("parallel_for", c_void_p),
        ("pool", c_void_p),
        ("pool_threads", c_int32),
        ("reserved_too", c_int32),
        ("cancel", c_void_p),
        ("deadline", c_double),
        ("progress", c_void_p),
        ("progress_context", c_void_p),
    ]


class Report(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("is_identity", c_int32),
        ("judged_queries", c_int64),
        ("output_error", c_double),
        ("output_error_max", c_double),
        ("mass_error", c_double),
        ("mass_error_max", c_double),
        ("train_output_error", c_double),
        ("train_mass_error", c_double),
        ("is_bias_fitted", c_int32),
        ("is_values_fitted", c_int32),
        ("dead_keys", c_int64),
        ("masked_queries", c_int64),
        ("kept_steps", c_int32),
        ("memory_needed", c_int64),
        ("memory_wanted", c_int64),
        ("seconds", c_double),
    ]


class Result(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("rows", c_int64),
        ("depth", c_int64),
        ("width", c_int64),
        ("positions", c_void_p),
        ("key_positions", c_void_p),
        ("keys", c_void_p),
        ("bias", c_void_p),
        ("values", c_void_p),
        ("block", POINTER(Block)),
        ("report", POINTER(Report)),
    ]


class Rope(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("base", c_double),
        ("dims", c_int64),
        ("interleaved", c_int32),
        ("reserved", c_int32),
        ("scaling", c_int32),
        ("unrounded", c_int32),
        ("factor", c_double),
        ("original_positions", c_double),
        ("fast", c_double),
        ("slow", c_double),
        ("low", c_double),
        ("high", c_double),
        ("frequencies", POINTER(c_double)),
        ("frequency_count", c_int64),
    ]


class Layer(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("number", c_int64),
        ("kind", c_int32),
        ("reserved", c_int32),
        ("heads", POINTER(Block)),
        ("head_count", c_size_t),
        ("rule", POINTER(Rule)),
        ("rotation", POINTER(Rope)),
    ]


class LayerQueries(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("layer", c_int64),
        ("heads", POINTER(Queries)),
        ("head_count", c_size_t),
    ]


class HeadReport(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("layer", c_int64),
        ("head", c_int64),
        ("rows_before", c_int64),
        ("rows", c_int64),
        ("outcome", c_int32),
        ("cause", c_int32),
        ("report", POINTER(Report)),
    ]


class LayerResult(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("number", c_int64),
        ("depth", c_int64),
        ("width", c_int64),
        ("head_count", c_size_t),
        ("offsets", POINTER(c_int64)),
        ("positions", c_void_p),
        ("key_positions", c_void_p),
        ("keys", c_void_p),
        ("bias", c_void_p),
        ("values", c_void_p),
        ("blocks", POINTER(Block)),
        ("reports", POINTER(HeadReport)),
    ]


class CacheResult(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("layers", POINTER(LayerResult)),
        ("layer_count", c_size_t),
        ("skipped", POINTER(c_int64)),
        ("skipped_count", c_size_t),
        ("rows_before", c_int64),
        ("rows", c_int64),
        ("fallbacks", c_int64),
    ]


class StateInfo(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("next_position", c_int64),
        ("key_type", c_int32),
        ("value_type", c_int32),
        ("fingerprint", c_char_p),
    ]


PROGRESS = ctypes.CFUNCTYPE(None, c_void_p, c_int64, c_int64)

# Functions that return a code and take a kvfit_error* last: arguments before that.
_CALLS = {
    "kvfit_options_make": [c_char_p, POINTER(c_void_p)],
    "kvfit_options_set": [c_void_p, c_char_p, c_double],
    "kvfit_options_set_word": [c_void_p, c_char_p, c_char_p],
    "kvfit_options_set_list": [c_void_p, c_char_p, POINTER(c_int64), c_size_t],
    "kvfit_options_set_numbers": [c_void_p, c_char_p, POINTER(c_double), c_size_t],
    "kvfit_options_set_rotation": [c_void_p, POINTER(Rope)],
    "kvfit_compact": [POINTER(Block), POINTER(Queries), c_size_t, c_void_p, POINTER(Call), POINTER(c_void_p)],
    "kvfit_attend": [POINTER(Queries), c_size_t, POINTER(Block), c_size_t, POINTER(Rule), c_int64, c_void_p, c_void_p],
    "kvfit_compact_cache": [
        POINTER(Layer),
        c_size_t,
        POINTER(LayerQueries),
        c_size_t,
        c_void_p,
        POINTER(Call),
        POINTER(c_void_p),
    ],
    "kvfit_cancel_make": [POINTER(c_void_p)],
    "kvfit_state_save": [c_char_p, c_void_p, POINTER(StateInfo)],
    "kvfit_state_load": [c_char_p, c_char_p, POINTER(c_void_p), POINTER(c_int64)],
}


def _places() -> list[str]:
    """Where the library may be, the likeliest first."""
    name = {"darwin": "libkvfit_c.dylib", "win32": "kvfit_c.dll"}.get(sys.platform, "libkvfit_c.so")
    beside = pathlib.Path(__file__).resolve().parent / name  # in a wheel
    found = ctypes.util.find_library("kvfit_c")
    return [str(beside)] * beside.exists() + ([found] if found else []) + [name]


def _load() -> ctypes.CDLL:
    named = os.environ.get("KVFIT_LIBRARY")
    if named:
        return ctypes.CDLL(named)
    refused = []
    for place in _places():
        try:
            return ctypes.CDLL(place)
        except OSError as cause:
            refused.append(str(cause))
    raise ImportError(
        "kvfit_c, the library, was not found: install it, or name its file in KVFIT_LIBRARY\n" + "\n".join(refused)
    )


VERSION = (0, 2)  # whose structs these are; before 1.0 another minor version has others

library = _load()
library.kvfit_version.restype = c_char_p
if tuple(int(part) for part in library.kvfit_version().split(b".")[:2]) != VERSION:
    raise ImportError(f"kvfit_c is version {library.kvfit_version().decode()}, this package needs {VERSION[0]}.{VERSION[1]}")
for _name, _arguments in _CALLS.items():
    _function = getattr(library, _name)
    _function.argtypes = [*_arguments, POINTER(Error)]
    _function.restype = c_int32
for _name in ("kvfit_version", "kvfit_instruction_set"):
    getattr(library, _name).argtypes = []
    getattr(library, _name).restype = c_char_p
library.kvfit_code_name.argtypes = [c_int32]
library.kvfit_code_name.restype = c_char_p
library.kvfit_option_name.argtypes = [c_size_t, POINTER(c_int32)]
library.kvfit_option_name.restype = c_char_p
library.kvfit_compacted_result.argtypes = [c_void_p]
library.kvfit_compacted_result.restype = POINTER(Result)
library.kvfit_cache_get.argtypes = [c_void_p]
library.kvfit_cache_get.restype = POINTER(CacheResult)
for _name in (
    "kvfit_options_free",
    "kvfit_compacted_free",
    "kvfit_cache_free",
    "kvfit_cancel_free",
    "kvfit_cancel_request",
):
    getattr(library, _name).argtypes = [c_void_p]
    getattr(library, _name).restype = None


def call(name: str, *arguments: object) -> None:
    """Calls a function that returns a code; raises `KvfitError` unless it is 0."""
    error = Error(struct_size=ctypes.sizeof(Error))
    code = getattr(library, name)(*arguments, ctypes.byref(error))
    if code == 0:
        return
    raise KvfitError(
        code_name(code),
        error.argument.decode("utf-8", "replace"),
        None if error.actual == NO_SIZE else error.actual,
        None if error.expected == NO_SIZE else error.expected,
        error.message.decode("utf-8", "replace"),
    )


def code_name(code: int) -> str:
    return library.kvfit_code_name(code).decode()


NUMBER, WORD, LIST, NUMBERS = range(4)


def _option_kinds() -> dict[str, int]:
    kinds, kind = {}, c_int32()
    while (name := library.kvfit_option_name(len(kinds), ctypes.byref(kind))) is not None:
        kinds[name.decode()] = kind.value
    return kinds


option_kinds = _option_kinds()  # every option's name, and what it takes


class Handle:
    """An object of the library, freed with this."""

    def __init__(self, pointer: c_void_p, free: str) -> None:
        self.pointer = pointer
        self._free = getattr(library, free)

    def __del__(self) -> None:
        free = getattr(self, "_free", None)
        if free is not None:
            free(self.pointer)


class Running:
    """One long call: ends early where the interpreter is interrupted, or where a callback raised."""

    def __init__(self) -> None:
        pointer = c_void_p()
        call("kvfit_cancel_make", ctypes.byref(pointer))
        self.cancel = Handle(pointer, "kvfit_cancel_free")
        self._raised: BaseException | None = None

    def stop(self, cause: BaseException | None = None) -> None:
        self._raised = self._raised or cause
        library.kvfit_cancel_request(self.cancel.pointer)

    def call(self, name: str, *arguments: object) -> None:
        """As `call`. On the main thread the library works on another one, for signals are handled there."""
        if threading.current_thread() is not threading.main_thread():
            self._work(name, *arguments)
        else:
            worker = threading.Thread(target=self._work, args=(name, *arguments))
            worker.start()
            try:
                worker.join()
            except BaseException:  # Ctrl-C, most often
                self.stop()
                worker.join()  # what the library reads must stay until it has ended
                raise
        if self._raised is not None:
            raise self._raised

    def _work(self, name: str, *arguments: object) -> None:
        try:
            call(name, *arguments)
        except BaseException as cause:
            self._raised = self._raised or cause
