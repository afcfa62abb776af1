# SPDX-License-Identifier: MIT
"""What the Python tests share: a runner without a framework, and numbers that are the same everywhere."""

from __future__ import annotations

import contextlib
import importlib
import sys
import traceback
from collections.abc import Callable, Iterator


def need(*modules: str) -> list:
    """The modules, or exit code 77: skipped, and said so."""
    found = []
    for name in modules:
        try:
            found.append(importlib.import_module(name))
        except ImportError:
            print(f"SKIPPED: needs Python's {name}")
            sys.exit(77)
    return found


def numbers(count: int, seed: int) -> list[float]:
    state, out = seed, []
    for _ in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        out.append((state >> 8) / 2**23 - 1)
    return out


@contextlib.contextmanager
def raises(kind: type[BaseException], **fields: object) -> Iterator[None]:
    try:
        yield
    except kind as cause:
        for name, value in fields.items():
            found = getattr(cause, name)
            assert found == value, f"{name} is {found!r}, expected {value!r}"
    else:
        raise AssertionError(f"no {kind.__name__} was raised")


def run(tests: list[Callable[[], None]]) -> None:
    failed = 0
    for test in tests:
        try:
            test()
        except Exception:
            failed += 1
            print(f"FAILED: {test.__doc__}")
            traceback.print_exc()
    print(f"{len(tests) - failed} of {len(tests)} passed")
    sys.exit(1 if failed else 0)
