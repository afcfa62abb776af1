# SPDX-License-Identifier: MIT
"""The structs and functions of kvfit._library are those of the C header: names, order, types."""

import ctypes
import pathlib
import re
import sys

import kvfit._library as library
from checks import run

HEADER = pathlib.Path(__file__).resolve().parents[2] / "include/kvfit/c/kvfit.h"
text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(encoding="utf-8"), flags=re.DOTALL)

PLAIN = {
    "size_t": ctypes.c_size_t,
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
}


def fields_of(body: str) -> list[tuple[str, str, int]]:
    """Name, type and length (0: no array) of each field."""
    out = []
    for statement in filter(None, (" ".join(part.split()) for part in body.split(";"))):
        if "(*" in statement:
            out.append((re.search(r"\(\*(\w+)\)", statement)[1], "*", 0))
            continue
        kind, name, length = re.fullmatch(r"(.*?[ *])(\w+)(?:\[(\d+)\])?", statement).groups()
        out.append((name, kind.replace("const", "").replace(" ", ""), int(length or 0)))
    return out


def size_of(kind: str, length: int) -> int:
    if kind == "char":
        return length
    is_pointer = "*" in kind or kind == "kvfit_decode"
    return ctypes.sizeof(ctypes.c_void_p if is_pointer else PLAIN[kind])


STRUCTS = {
    name: fields_of(body) for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\n\}", text, flags=re.DOTALL)
}
MINE = {
    "kvfit_" + re.sub(r"(?<!^)(?=[A-Z])", "_", one.__name__).lower(): one
    for one in vars(library).values()
    if isinstance(one, type) and issubclass(one, ctypes.Structure)
}


def structs() -> None:
    "every struct has the header's fields, in their order, of their types"
    assert len(STRUCTS) > 15 and len(MINE) > 10
    for name, mine in MINE.items():
        declared = STRUCTS[name]
        assert [field for field, _ in mine._fields_] == [field for field, _, _ in declared], name
        for (field, kind), (_, declared_kind, length) in zip(mine._fields_, declared):
            assert ctypes.sizeof(kind) == size_of(declared_kind, length), f"{name}.{field}"
            number = PLAIN.get(declared_kind)
            assert number is None or kind is number, f"{name}.{field}"
            if hasattr(kind, "contents") and declared_kind.rstrip("*") in MINE:
                assert kind._type_ is MINE[declared_kind.rstrip("*")], f"{name}.{field}"


def functions() -> None:
    "every function takes as many arguments as the header says, of the sizes that it says"
    declared = {
        name: [" ".join(one.split()) for one in arguments.split(",")]
        for name, arguments in re.findall(r"KVFIT_API[^;]*?\b(kvfit_\w+)\s*\(([^)]*)\)", text)
    }
    assert len(declared) > 30
    for name, mine in library._CALLS.items():
        given = declared[name]
        assert given[-1] == "kvfit_error *error" and len(given) == len(mine) + 1, name
        for kind, argument in zip(mine, given):
            plain = re.sub(r"\w+$", "", argument).replace("const", "").replace(" ", "")
            assert ctypes.sizeof(kind) == size_of(plain, 0), f"{name}: {argument}"
            assert plain not in PLAIN or kind is PLAIN[plain], f"{name}: {argument}"


def options() -> None:
    "every option of the library is known with what it takes"
    assert library.option_kinds["budget"] == library.NUMBER
    assert library.option_kinds["cache.shares"] == library.WORD
    assert library.option_kinds["cache.rows"] == library.LIST
    assert library.option_kinds["cache.given"] == library.NUMBERS


if sys.maxsize < 2**32:
    print("SKIPPED: needs pointers of 64 bits")
    sys.exit(77)
run([structs, functions, options])
