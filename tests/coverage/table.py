#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Which lines and branches of include/ the tests ran, by module.

usage: table.py BUILD OUT.json          of a build with the preset `coverage` whose tests have run
       table.py --missing BUILD [MODULE]   the lines that did not run, too

A line or branch of a template counts as run where any instantiation ran it. Exit code 1 where less
than 95 % of the lines ran. Headers of Metal are left out: they run on an Apple GPU, or emulated.
"""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
LEAST = 95.0  # per cent of lines
LEFT_OUT = ("metal",)


def read_lcov(lines, include):
    """{file: ({line: times}, {branch: times})} of the files below `include`; what is there more than
    once, one for each program or instantiation, counts as one."""
    files, current = {}, None
    for line in lines:
        key, _, value = line.strip().partition(":")
        if key == "SF":
            path = pathlib.Path(os.path.normpath(value))
            current = None
            if include in path.parents:
                current = files.setdefault(str(path.relative_to(include)), ({}, {}))
        elif current is None:
            continue
        elif key == "DA":
            number, times = value.split(",")[:2]
            current[0][int(number)] = max(current[0].get(int(number), 0), int(times))
        elif key == "BRDA":
            *branch, times = value.split(",")
            branch = tuple(branch)
            current[1][branch] = max(current[1].get(branch, 0), int(times) if times != "-" else 0)
    return files


def module_of(file):
    parts = file.split("/")
    return parts[1] if len(parts) > 2 else "(top)"


def by_module(files):
    """{module: [lines, lines run, branches, branches run]}, without the modules left out."""
    modules = {}
    for file, (lines, branches) in files.items():
        if module_of(file) in LEFT_OUT:
            continue
        row = modules.setdefault(module_of(file), [0, 0, 0, 0])
        for k, counts in ((0, lines), (2, branches)):
            row[k] += len(counts)
            row[k + 1] += sum(times > 0 for times in counts.values())
    return modules


def percent(run, of):
    return 100.0 * run / of if of else 100.0


def table(modules):
    total = [sum(row[k] for row in modules.values()) for k in range(4)]
    out = [f"{'module':<12} {'lines':>7} {'run':>7} {'%':>6}   {'branches':>8} {'run':>7} {'%':>6}"]
    for name, row in [*sorted(modules.items()), ("total", total)]:
        out.append(f"{name:<12} {row[0]:>7} {row[1]:>7} {percent(row[1], row[0]):>6.2f}   "
                   f"{row[2]:>8} {row[3]:>7} {percent(row[3], row[2]):>6.2f}")
    return out, total


def verdict(total):
    """0 where enough lines ran; 1 where not, or where nothing was measured."""
    return 0 if total[0] > 0 and percent(total[1], total[0]) >= LEAST else 1


def runs_of(numbers):
    """"3-5, 9" of 3, 4, 5, 9."""
    out = []
    for number in sorted(numbers):
        if out and out[-1][1] == number - 1:
            out[-1][1] = number
        else:
            out.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in out)


def tool(name):
    """clang's own, whose version reads what it wrote."""
    found = subprocess.run(["clang++", f"-print-prog-name={name}"], capture_output=True, text=True,
                           check=True).stdout.strip()
    return found or name


def export(build):
    """The lines of the LCOV file of all programs of the build."""
    profiles = sorted(map(str, (build / "profiles").glob("*.profraw")))
    if not profiles:
        sys.exit(f"coverage: no test of {build} has run")
    merged = build / "all.profdata"
    subprocess.run([tool("llvm-profdata"), "merge", "-sparse", *profiles, "-o", str(merged)], check=True)
    programs = [path for path in sorted(build.rglob("*"))
                if path.is_file() and not path.is_symlink() and "CMakeFiles" not in path.parts
                and path.read_bytes()[:4] == b"\x7fELF" and path.suffix not in (".o", ".a")
                and b"__llvm_covmap" in path.read_bytes()]
    if not programs:
        sys.exit(f"coverage: no program of {build} counts anything")
    # One by one: what programs share, they may have compiled differently, and one would hide another.
    lines = []
    for program in programs:
        done = subprocess.run([tool("llvm-cov"), "export", "-format=lcov", f"-instr-profile={merged}",
                               str(program)], capture_output=True, text=True, check=True)
        lines += done.stdout.splitlines()
    return lines


def main():
    arguments = sys.argv[1:]
    shows = arguments[:1] == ["--missing"]
    if len(arguments) < 2:
        sys.exit(__doc__)
    build = pathlib.Path(arguments[1] if shows else arguments[0]).resolve()
    files = read_lcov(export(build), ROOT / "include")
    modules = by_module(files)
    if shows:
        for file, (lines, _) in sorted(files.items()):
            missing = [line for line, times in lines.items() if times == 0]
            if missing and (len(arguments) < 3 or module_of(file) == arguments[2]):
                print(f"{file}: {runs_of(missing)}")
        return 0
    text, total = table(modules)
    print("\n".join(text))
    names = ("lines", "lines_run", "branches", "branches_run")
    pathlib.Path(arguments[1]).write_text(json.dumps(
        {"total": dict(zip(names, total)),
         "modules": {name: dict(zip(names, row)) for name, row in sorted(modules.items())}},
        indent=1) + "\n")
    if verdict(total) != 0:
        print(f"coverage: less than {LEAST} % of the lines of include/ ran", file=sys.stderr)
    return verdict(total)


if __name__ == "__main__":
    sys.exit(main())
