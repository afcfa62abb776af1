#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What including kvfit costs a compiler, and how large the library is: compile.py JSON [TOOL_BUILD]

User seconds and peak memory of the whole compiler process, the median of three runs, for the units that the
first users of a header-only library compile. TOOL_BUILD: a configured build folder of the tool; its most
expensive unit is compiled as well. CXX names the compiler (g++ by default). The targets are those of the table
in docs/performance.md.
"""

import json
import os
import pathlib
import re
import shlex
import statistics
import subprocess
import sys
import tempfile

root = pathlib.Path(__file__).resolve().parent.parent
compiler = shlex.split(os.environ.get("CXX", "g++"))
runs = 3


def quick_start():
    """README's first program."""
    text = (root / "README.md").read_text(encoding="utf-8")
    return re.search(r"```cpp\n(.*?)```", text, re.DOTALL).group(1)


def eigen_flags():
    found = subprocess.run(["pkg-config", "--cflags", "eigen3"], capture_output=True, text=True)
    return shlex.split(found.stdout) if found.returncode == 0 else ["-I/usr/include/eigen3"]


def measure(command, folder):
    """User seconds and peak megabytes of `command`, compiler driver and all that it starts."""
    process = subprocess.Popen(command, cwd=folder)
    _, status, used = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit("failed: " + shlex.join(command))
    return used.ru_utime, used.ru_maxrss / 1024


def median_of(command, folder):
    measured = [measure(command, folder) for _ in range(runs)]
    return {
        "seconds": statistics.median(m[0] for m in measured),
        "megabytes": statistics.median(m[1] for m in measured),
        "runs": [list(m) for m in measured],
    }


def library_size():
    headers = sorted((root / "include").rglob("*.hpp"))
    text = [h.read_text(encoding="utf-8") for h in headers]
    count = lambda pattern: sum(len(re.findall(pattern, t, re.MULTILINE)) for t in text)  # noqa: E731
    return {
        "headers": len(headers),
        "lines": sum(t.count("\n") for t in text),
        "templates_without_parameter": count(r"template <class = void>"),
        "byte_functions": count(
            r"^(?:template <[^>]*>\n)?(?:\[\[nodiscard\]\] )?(?:inline |constexpr )*double [a-z_]+_bytes\("
        ),
        # Lists of buffers (core/workspace.hpp): those of a struct allocate and count; the free ones count calls.
        "buffer_lists": count(r"^ +(?:static )?void declare\w*\(workspace& "),
        "free_buffer_lists": count(r"^inline void declare\w*\(workspace& "),
    }


def tool_units(build):
    """The tool's compile commands, output and launcher taken off."""
    entries = json.loads((pathlib.Path(build) / "compile_commands.json").read_text(encoding="utf-8"))
    for entry in entries:
        if "/tools/" not in entry["file"]:
            continue
        words = shlex.split(entry["command"])
        while pathlib.Path(words[0]).name in ("ccache", "sccache"):
            words.pop(0)
        words[words.index("-o") + 1] = os.devnull
        yield pathlib.Path(entry["file"]).name, words, entry["directory"]


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    includes = ["-std=c++20", f"-I{root / 'include'}", *eigen_flags()]
    # name, target seconds, target megabytes, source, flags
    units = [
        ("quick start, header-only, -O2", 20, 700, quick_start(), ["-O2", "-c"]),
        ("kvfit/compact.hpp alone, syntax", 3, None, "#include <kvfit/compact.hpp>\n", ["-fsyntax-only"]),
        ("kvfit/compact/options.hpp alone, syntax", 1.5, None, "#include <kvfit/compact/options.hpp>\n", ["-fsyntax-only"]),
        ("quick start, kvfit::compiled, -O2", 3, None, quick_start(), ["-O2", "-c", "-DKVFIT_COMPILED"]),
        ("all of kvfit/kvfit.hpp, kvfit::compiled, -O2", 6, None, "#include <kvfit/kvfit.hpp>\n", ["-O2", "-c", "-DKVFIT_COMPILED"]),
    ]  # fmt: skip
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "unit.cpp"
        for name, seconds, megabytes, text, flags in units:
            source.write_text(text, encoding="utf-8")
            output = [] if "-fsyntax-only" in flags else ["-o", os.devnull]
            command = [*compiler, *includes, *flags, str(source), *output]
            rows.append({"unit": name, "wanted_seconds": seconds, "wanted_megabytes": megabytes, **median_of(command, folder)})
    if len(sys.argv) == 3:
        units = [{"unit": f"tool unit {name}", "wanted_seconds": 30, "wanted_megabytes": None, **median_of(words, folder)}
                 for name, words, folder in tool_units(sys.argv[2])]  # fmt: skip
        if units:
            rows.append(max(units, key=lambda row: row["seconds"]))
    print("| unit | user seconds | wanted | peak MB | wanted |\n|---|--:|--:|--:|--:|")
    for row in rows:
        wanted = f"≤ {row['wanted_megabytes']}" if row["wanted_megabytes"] else ""
        print(f"| {row['unit']} | {row['seconds']:.1f} | ≤ {row['wanted_seconds']} | {row['megabytes']:.0f} | {wanted} |")
    size = library_size()
    print(f"\ninclude/: {size['lines']:,} lines, {size['headers']} headers; {size['templates_without_parameter']} "
          f"templates without a parameter, {size['byte_functions']} functions named ..._bytes; "
          f"buffers are listed in {size['buffer_lists']} members and {size['free_buffer_lists']} free functions")  # fmt: skip
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    pathlib.Path(sys.argv[1]).write_text(
        json.dumps({"compiler": version, "units": rows, "library": size}, indent=1) + "\n", encoding="utf-8")  # fmt: skip


main()
