#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs the Python blocks of a page, one after the other: python_snippets.py PAGE

What a page takes as given is made here. Blocks that need torch are left out without it, which is said. Exit code 77:
NumPy is missing.
"""

import os
import re
import sys
import tempfile

sys.dont_write_bytecode = True
import pages  # noqa: E402

try:
    import numpy
except ImportError:
    print("SKIPPED: no NumPy")
    sys.exit(77)
try:
    import torch
except ImportError:
    torch = None


def given():
    """Heads of 512 rows, and two layers of [B, H, T, D] = [1, 2, 400, 32]."""
    draw = numpy.random.default_rng(1)

    def rows(*shape):
        numbers = draw.standard_normal(shape).astype(numpy.float32)
        return torch.from_numpy(numbers) if torch else numbers

    return {"keys": rows(512, 64), "values": rows(512, 64), "queries": rows(300, 64), "model_hash": "0123abcd",
            "layer_keys": [rows(1, 2, 400, 32) for _ in range(2)],
            "layer_values": [rows(1, 2, 400, 32) for _ in range(2)],
            "layer_queries": [rows(1, 4, 100, 32) for _ in range(2)],
            "query": rows(1, 4, 1, 32), "live_keys": rows(1, 2, 3, 32), "live_values": rows(1, 2, 3, 32)}


def main(page):
    names, count, left_out = given(), 0, 0
    source = [block for block in pages.blocks(page) if block[1] == "python"]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for _, _, line, text in source:
            if torch is None and re.search(r"^(?:from|import) (?:kvfit\.)?torch\b", text, re.MULTILINE):
                print(f"{page}:{line}: SKIPPED a block: no torch")
                left_out += 1
                continue
            exec(compile("\n" * line + text, page, "exec"), names)
            count += 1
        os.chdir(pages.ROOT)
    if names.get("small") is not None:
        assert len(names["small"].keys) == len(names["small"].bias) == len(names["small"].values)
        assert 0 <= names["small"].report.output_error < 2
    if "y" in names:
        assert tuple(names["y"].shape) == (1, 4, 1, 32)
    print(f"{page}: {count} blocks ran, {left_out} left out")
    return 0 if count and count + left_out == len(source) else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
