#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Every block of code in the pages has a line in snippets.txt that says what compiles and runs it, or why nothing can."""

import pathlib
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "docs/site"))
import links  # noqa: E402
import pages  # noqa: E402

CODE = ("cpp", "c", "python", "sh", "cmake")
NO_CODE = ("", "text", "json", "py")  # output, data, signatures


def listed():
    """(page, language, number) -> what runs it."""
    found = {}
    path = pathlib.Path(__file__).with_name("snippets.txt")
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, how = line.partition(":")
            page, language, numbers = name.split()
            first, _, last = numbers.partition("-")
            for number in range(int(first), int(last or first) + 1):
                found[page, language, number] = how.strip()
    return found


def main():
    known, there, faults = listed(), {}, []
    for path in links.markdown_files(pages.ROOT):
        page = str(path.relative_to(pages.ROOT))
        counts = {}
        for _, language, line, _ in pages.blocks(page):
            if language not in CODE + NO_CODE:
                faults.append(f"{page}:{line}: a block of unknown language \"{language}\"")
            elif language in CODE:
                counts[language] = counts.get(language, 0) + 1
                there[page, language, counts[language]] = line
    faults += [f"{key[0]}:{line}: block {key[2]} of {key[1]} is run by nothing: name it in tests/readme/snippets.txt"
               for key, line in there.items() if not known.get(key)]
    faults += [f"snippets.txt: {' '.join(map(str, key))}: there is no such block" for key in known if key not in there]
    if faults:
        print("\n".join(faults))
    not_run = sum(how.startswith("not run") for how in known.values())
    print(f"{len(there)} blocks of code, {len(there) - not_run} run, {not_run} not run for reasons named; "
          f"{len(faults)} faults")
    return 1 if faults or not there else 0


if __name__ == "__main__":
    sys.exit(main())
