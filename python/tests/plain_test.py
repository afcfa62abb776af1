# SPDX-License-Identifier: MIT
"""kvfit without NumPy and torch: arrays are whatever has `__array_interface__`."""

import array
import sys

sys.modules["numpy"] = None  # as if it were not installed

import kvfit  # noqa: E402
from checks import numbers, raises, run  # noqa: E402


class Matrix:
    """Rows of fp32 in a standard array."""

    def __init__(self, rows: int, cols: int, seed: int, typestr: str = "<f4") -> None:
        self.data = array.array("f", numbers(rows * cols, seed))
        self.__array_interface__ = {
            "shape": (rows, cols),
            "typestr": typestr,
            "data": (self.data.buffer_info()[0], False),
            "version": 3,
        }


keys, values, queries = Matrix(200, 16, 1), Matrix(200, 8, 2), Matrix(64, 16, 3)


def compacts() -> None:
    "a head is compacted, and results are memoryviews of the right shape"
    small = kvfit.compact(keys, values, queries, budget=40)
    assert small.keys.shape == (40, 16) and small.values.shape == (40, 8) and len(small.bias) == 40
    assert list(small.positions) == sorted(set(small.positions)) and 0 < small.report.output_error < 1
    assert small.report.judged_queries > 0 and small.outcome == "fitted"


def attends() -> None:
    "results can be attended over, and live rows stand behind all that were there"
    small = kvfit.compact(keys, values, queries, budget=40)
    assert small.next_position == 200
    output, mass = kvfit.attend(queries, [small, (Matrix(3, 16, 5), Matrix(3, 8, 6))])
    hidden, less = kvfit.attend(
        queries, [small, (Matrix(3, 16, 5), Matrix(3, 8, 6))], causal=True, query_position=136
    )
    assert output.shape == (64, 8)
    alone, own = kvfit.attend(queries, [small])
    # The last query stands at 199: it sees all compact rows and no live one.
    assert abs(less[63] - own[63]) < 1e-6 and mass[63] > less[63]


def outlives() -> None:
    "an array outlives the result that it came from"
    bias = kvfit.compact(keys, values, queries, budget=10).bias
    before = list(bias)
    kvfit.compact(keys, values, queries, budget=90)
    assert list(bias) == before


def refuses() -> None:
    "errors are exceptions with code, argument and sizes"
    with raises(kvfit.KvfitError, code="shape_mismatch", argument="values", actual=199, expected=200):
        kvfit.compact(keys, Matrix(199, 8, 2), queries, budget=40)
    with raises(kvfit.KvfitError, code="invalid_option"):
        kvfit.compact(keys, values, queries, budget=40, options={"no.such.option": 1})
    with raises(kvfit.KvfitError, code="cancelled"):
        kvfit.compact(keys, values, queries, budget=40, deadline=1e-12)
    with raises(TypeError):
        kvfit.compact([[1.0]], values, queries, budget=40)
    with raises(TypeError):
        kvfit.compact(Matrix(200, 16, 1, typestr=">f4"), values, queries, budget=40)


def knows_itself() -> None:
    "version and instruction set are text"
    assert kvfit.version().count(".") == 2 and kvfit.instruction_set()


run([compacts, attends, outlives, refuses, knows_itself])
