# SPDX-License-Identifier: MIT
"""Code blocks of Markdown pages, for the tests of this folder."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]


def blocks(page):
    """(heading, language, line, text) of every fenced block of a page, named from the repository's root."""
    heading, language, start, body = "", None, 0, []
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").split("\n"), 1):
        if language is None:
            if re.match(r"^#{1,6} ", line):
                heading = line.lstrip("#").strip()
            fence = re.match(r"^ *```([\w+]*)\s*$", line)
            if fence:
                language, start, body = fence[1], number, []
        elif re.match(r"^ *```\s*$", line):
            yield heading, language, start, "\n".join(body) + "\n"
            language = None
        else:
            body.append(line)
    if language is not None:
        raise ValueError(f"{page}:{start}: a block without an end")


def nth(page, language, number):
    """The text of a page's block of that language, from 1."""
    found = [text for _, of, _, text in blocks(page) if of == language]
    return found[number - 1]
