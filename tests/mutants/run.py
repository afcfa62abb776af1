#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Mutation testing: applies one deliberate fault after the other and runs the tests that must fail.

usage: run.py [--check] [--jobs N] [--list FILE] [--json FILE] [--build DIR] [NAME...]

faults.txt says which faults, and in its head how they are written. A changed file is put before the
true one in the compiler's search path, so the sources themselves are never touched. What no fault
changes is compiled once; of a fault, only the files that include what it changes. Without
the fault a test that caught it must pass, or the run ends.

--check   compiles nothing: every fault still applies, to text that is there exactly once
NAME...   only faults whose name begins so

Exit codes: 0 all caught or explained; 1 a fault survived, did not compile, or was caught although an
explanation says it can't be; 2 the list is wrong, or a test fails without any fault.
"""

import argparse
import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# With a fault, what is undefined ends the program. Without, the sanitizers of ./dev test watch.
TRAPS = ("-fsanitize=signed-integer-overflow", "-fsanitize-undefined-trap-on-error")
LIMIT = 120  # seconds that a test may take; one that takes longer has not passed


class ListError(Exception):
    """The list of faults contradicts itself or the tree."""


@dataclasses.dataclass
class Fault:
    name: str
    file: str
    tests: list
    old: str
    new: str
    explained: str = ""

    def changed(self, root):
        """The file's text with this fault in it."""
        path = root / self.file
        if not path.is_file():
            raise ListError(f"{self.name}: no file {self.file}")
        text = path.read_text(encoding="utf-8")
        count = text.count(self.old)
        if count != 1:
            raise ListError(f"{self.name}: its text occurs {count} times in {self.file}, not once")
        return text.replace(self.old, self.new)


def read_list(path):
    """The faults of a list; see its head for the format."""
    faults, entry, part = [], None, None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        place = f"{path.name}:{number}"
        if part is None:
            if not line.strip() or line.startswith("#"):
                continue
            if line == "<<<":
                if entry is None:
                    raise ListError(f"{place}: a text without a fault")
                part = "old"
                continue
            key, _, value = line.partition(": ")
            if key == "fault":
                entry = Fault(value, "", [], "", "")
                faults.append(entry)
            elif entry is None or key not in ("file", "test", "survives") or not value:
                raise ListError(f"{place}: neither fault, file, test nor survives: {line}")
            elif key == "test":
                entry.tests.append(tuple(shlex.split(value)))
            else:
                setattr(entry, {"file": "file", "survives": "explained"}[key], value)
        elif line == "===" and part == "old":
            part = "new"
        elif line == ">>>" and part == "new":
            part = None
        else:
            setattr(entry, part, getattr(entry, part) + line + "\n")
    if part is not None:
        raise ListError(f"{path.name}: the last text does not end")
    names = set()
    for fault in faults:
        if not (fault.file and fault.tests and fault.old) or fault.old == fault.new:
            raise ListError(f"{fault.name}: needs a file, a test, and two different texts")
        if fault.name in names:
            raise ListError(f"{fault.name}: named twice")
        names.add(fault.name)
    return faults


class Recipe:
    """Which sources make a test program, and how they are compiled: as tests/CMakeLists.txt has it."""

    compiled_modules = ("cache", "compact", "compiled", "io", "queries", "c")

    def __init__(self, root, build, compiler):
        self.root, self.build, self.compiler = root, build, compiler
        self.flags = ["-std=c++20", "-O0", "-w", f"-I{root}/tests", "-isystem", "/usr/include/eigen3",
                      f'-DKVFIT_TEST_DATA_DIR="{root}/examples/data"',
                      f'-DKVFIT_TEST_C_HEADER="{root}/include/kvfit/c/kvfit.h"']
        catch3 = pathlib.Path("/usr/include/catch2/catch_test_macros.hpp").is_file()
        # LLVM's linker, where it is there, takes a tenth of the time.
        has_lld = "clang" in compiler[-1] and shutil.which("ld.lld") is not None
        self.linker = ["-fuse-ld=lld"] if has_lld else []
        self.libraries = ["-lCatch2Main", "-lCatch2"] if catch3 else []
        self.support = sorted(
            source for source in (root / "tests/support").glob("*.cpp")
            if source.stem not in ("precompiled", "run_if_cpu") and (source.stem != "main" or not catch3))
        self.common = ("#include <Eigen/Dense>\n#include <cmath>\n#include <cstdint>\n"
                       "#include <limits>\n#include <random>\n#include <span>\n#include <string>\n"
                       "#include <vector>\n#include \"support/catch.hpp\"\n")

    def test_source(self, test):
        return self.root / "tests" / f"{test}_test.cpp"

    def sources(self, test):
        """(source, flags of its own) of everything that is linked; the first is the test itself."""
        module = test.split("/")[0]
        own = []
        if module in self.compiled_modules:
            own.append("-DKVFIT_COMPILED")
        if module == "c":
            own += ["-DKVFIT_C_STATIC", f"-I{self.root}/src/c"]
        out = [(self.test_source(test), own)]
        # What a header of the module declares, the test of that name defines for all of it.
        included = re.findall(rf'#include "{module}/(\w+)\.hpp"', out[0][0].read_text())
        definers = [self.test_source(f"{module}/{name}") for name in included]
        out += [(source, own) for source in definers if source.is_file() and source != out[0][0]]
        out += [(source, []) for source in self.support]
        if module in self.compiled_modules:
            out.append((self.root / "src/entry_points.cpp",
                        ["-DKVFIT_ENTRY_POINTS=kvfit_entry_points_own"]))
            out.append((self.root / "src/dispatch.cpp", [f"-I{self.build}/plain"]))
        if module == "c":
            inside = ("options", "convert", "guard")
            for source in sorted((self.root / "src/c").glob("*.cpp")):
                if test != "c/options" or source.stem in inside:
                    out.append((source, own))
        return out


class Programs:
    """Compiles and links, each source once, and once more where a fault changes it."""

    def __init__(self, recipe):
        self.recipe = recipe
        self.lock = threading.Lock()
        self.objects = {}
        self.header = None
        (recipe.build / "plain").mkdir(parents=True, exist_ok=True)
        self.write(recipe.build / "plain" / "paths.hpp", "#define KVFIT_PATHS(X) X(own)\n")

    @staticmethod
    def write(path, text):
        """Leaves a file that is as it should be as old as it is."""
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)

    def command(self, source, flags, first=None):
        base = list(self.recipe.compiler)
        if first is not None:
            base.append(f"-I{first}")
        base += [*self.recipe.flags, f"-I{self.recipe.root}/include", *flags]
        if self.header is not None and source.name != "main.cpp":  # which defines Catch2's own
            base += ["-include", str(self.header)]
        return base + ["-c", str(source)]

    def precompile(self):
        """What every test includes and no fault changes, read by the compiler once."""
        if not self.recipe.common:
            return
        header = self.recipe.build / "plain" / "common.hpp"
        self.write(header, self.recipe.common)
        kind = "pch" if "clang" in self.recipe.compiler[-1] else "gch"
        out = header.with_name(f"common.hpp.{kind}")
        command = [*self.recipe.compiler, *self.recipe.flags, f"-I{self.recipe.root}/include",
                   "-x", "c++-header", str(header)]
        self.refresh(out, command)
        self.header = header

    def refresh(self, out, command):
        """Runs a compiler's command unless its inputs and the command are those of last time."""
        depends, stamp = pathlib.Path(f"{out}.d"), pathlib.Path(f"{out}.key")
        if out.is_file() and depends.is_file() and stamp.is_file():
            if stamp.read_text() == key_of(command, read_depends(depends)):
                return
        done = subprocess.run([*command, "-MMD", "-MF", str(depends), "-o", str(out)],
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ListError(f"does not compile without a fault: {command[-1]}\n{done.stderr[-3000:]}")
        stamp.write_text(key_of(command, read_depends(depends)))

    def plain_object(self, source, flags):
        """The object of a source without any fault, and the files that it was made of."""
        command = self.command(source, flags)
        name = hashlib.sha256("\0".join(command).encode()).hexdigest()[:16]
        with self.lock:
            lock = self.objects.setdefault(name, threading.Lock())
        with lock:
            out = self.recipe.build / "plain" / f"{source.stem}.{name}.o"
            self.refresh(out, command)
            return out, read_depends(pathlib.Path(f"{out}.d"))

    def link(self, objects, out):
        linked = subprocess.run(
            [*self.recipe.compiler, *self.recipe.linker, *map(str, objects), "-o", str(out),
             "-lpthread", *self.recipe.libraries], capture_output=True, text=True, check=False)
        return "" if linked.returncode == 0 else linked.stderr

    def plain(self, test):
        """The program of a test without any fault."""
        objects = [self.plain_object(source, flags)[0] for source, flags in self.recipe.sources(test)]
        out = self.recipe.build / "plain" / test.replace("/", "_")
        if out.is_file() and all(made.stat().st_mtime < out.stat().st_mtime for made in objects):
            return out
        why = self.link(objects, out)
        if why:
            raise ListError(f"{test}: does not link without a fault\n{why[-3000:]}")
        return out

    def need_sound(self, program, run):
        """A run of tests must pass without any fault. Once is enough for the same program."""
        digest = hashlib.sha256(program.read_bytes() + "\0".join(run).encode()).hexdigest()
        passed = self.recipe.build / "plain" / f"{digest[:16]}.passed"
        with self.lock:
            lock = self.objects.setdefault(digest, threading.Lock())
        with lock:
            if passed.is_file():
                return
            how = run_test(program, run[1:])
            if how != "passed":
                raise ListError(f"{' '.join(run)}: {how} without any fault")
            passed.touch()

    def faulty(self, test, fault, folder):
        """The program of a test with a fault in it; no program and why, where it does not compile."""
        changed = folder / fault.file
        changed.parent.mkdir(parents=True, exist_ok=True)
        changed.write_text(fault.changed(self.recipe.root), encoding="utf-8")
        original = self.recipe.root / fault.file
        objects, is_used = [], False
        for source, flags in self.recipe.sources(test):
            plain, made_of = self.plain_object(source, flags)
            if original not in made_of:
                objects.append(plain)
                continue
            is_used = True
            out = folder / f"{len(objects)}.o"
            own = [f"-I{source.parent}", *flags] if source == original else flags
            command = self.command(changed if source == original else source, own,
                                   folder / "include")
            done = subprocess.run([*command, *TRAPS, "-o", str(out)], capture_output=True,
                                  text=True, check=False)
            if done.returncode != 0:
                return None, done.stderr
            objects.append(out)
        if not is_used:
            return None, f"nothing of {test} includes {fault.file}"
        program = folder / "program"
        why = self.link(objects, program)
        return (None, why) if why else (program, "")


def read_depends(path):
    text = path.read_text().replace("\\\n", " ")
    return [pathlib.Path(os.path.normpath(name))
            for name in re.findall(r"(?:[^\s\\]|\\.)+", text.partition(": ")[2])]


def key_of(command, files):
    digest = hashlib.sha256("\0".join(command).encode())
    for file in files:
        if not file.is_file():
            return "gone"
        digest.update(str(file).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def run_test(program, arguments):
    """"passed", or how it did not. Ends at the first failure."""
    process = subprocess.Popen([str(program), *arguments, "--abort", "--warn", "NoTests"],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               start_new_session=True)
    try:
        output, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"no end in {LIMIT} s"
    if process.returncode == 0:
        return "passed"
    if process.returncode < 0:
        by = failed_case(output.decode(errors="replace"))
        return signal.Signals(-process.returncode).name + (f": {by}" if by else "")
    return failed_case(output.decode(errors="replace")) or f"exit code {process.returncode}"


def failed_case(output):
    """The name of the test case that Catch2 names first, which it breaks into lines."""
    rule = "-" * 79
    found = re.search(rf"{rule}\n(.*?)\n{rule}\n", output, re.DOTALL)
    if not found:
        return ""
    lines = found.group(1).splitlines()
    return " ".join(itertools.takewhile(lambda line: not line.startswith("  "), lines))


def misfits(recipe, faults):
    """What of the list is not in the tree."""
    wrong = []
    for fault in faults:
        try:
            fault.changed(recipe.root)
        except ListError as why:
            wrong.append(str(why))
        wrong += [f"{fault.name}: no test file {recipe.test_source(test)}"
                  for test, *_ in fault.tests if not recipe.test_source(test).is_file()]
    return wrong


def judge(programs, made, fault, folder):
    """What became of a fault: caught, survived or does not compile; by which test, how, how long."""
    begin = time.monotonic()
    verdict, by, how = "survived", "", ""
    for test, *arguments in fault.tests:
        program, why = programs.faulty(test, fault, folder)
        if program is None:
            verdict, how = "does not compile", why
            break
        how = run_test(program, arguments)
        if how != "passed":
            programs.need_sound(made[test], (test, *arguments))
            verdict, by = "caught", " ".join([test, *arguments])
            break
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    return {"name": fault.name, "file": fault.file, "verdict": verdict, "by": by, "how": how,
            "seconds": round(time.monotonic() - begin, 1), "explained": fault.explained}


def is_good(row):
    """Caught, or explained: an explanation of a fault that is caught has had its day."""
    return row["verdict"] == ("survived" if row["explained"] else "caught")


def summary(rows):
    counts = {verdict: sum(row["verdict"] == verdict for row in rows)
              for verdict in ("caught", "survived", "does not compile")}
    counts["explained"] = sum(row["verdict"] == "survived" and bool(row["explained"])
                              for row in rows)
    return {"faults": len(rows), **counts}


def by_module(rows):
    """Lines of a table: module, faults, caught."""
    modules = {}
    for row in rows:
        parts = row["file"].split("/")
        module = parts[2] if parts[0] == "include" and len(parts) > 3 else "/".join(parts[:2])
        faults, caught = modules.get(module, (0, 0))
        modules[module] = (faults + 1, caught + (row["verdict"] == "caught"))
    return [f"  {module:<12} {faults:>3} faults, {caught:>3} caught"
            for module, (faults, caught) in sorted(modules.items())]


def run(recipe, faults, jobs, json_file=None, say=print):
    """Judges all faults; returns their rows."""
    programs = Programs(recipe)
    programs.precompile()
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        tests = list(dict.fromkeys(test[0] for fault in faults for test in fault.tests))
        made, wrong = {}, []

        def make(test):
            try:
                made[test] = programs.plain(test)
            except ListError as why:
                wrong.append(str(why))

        list(pool.map(make, tests))
        if wrong:
            raise ListError("\n".join(wrong))
        say(f"{len(tests)} test files compiled without a fault")
        say(f"{'fault':<52} {'verdict':<17} {'s':>5}  by")
        rows = []

        def one(numbered):
            number, fault = numbered
            return judge(programs, made, fault, recipe.build / f"fault{number}")

        for row in pool.map(one, enumerate(faults)):
            rows.append(row)
            note = f"{row['by']} ({row['how']})" if row["by"] else row["explained"]
            say(f"{row['name']:<52} {row['verdict']:<17} {row['seconds']:>5}  {note}")
            if row["verdict"] == "does not compile":
                say(row["how"][-2000:])
            if json_file is not None:
                json_file.parent.mkdir(parents=True, exist_ok=True)
                json_file.write_text(
                    json.dumps({"summary": summary(rows), "faults": rows}, indent=1) + "\n")
    return rows


def main():
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--list", type=pathlib.Path, default=ROOT / "tests/mutants/faults.txt")
    parser.add_argument("--json", type=pathlib.Path, default=ROOT / "build/mutants.json")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/mutants")
    parser.add_argument("names", nargs="*")
    asked = parser.parse_args()
    if asked.help:
        print(__doc__)
        return 0
    try:
        faults = read_list(asked.list)
        recipe = Recipe(ROOT, asked.build.resolve(), shlex.split(os.environ.get("CXX", "clang++")))
        wrong = misfits(recipe, faults)
        if wrong:
            raise ListError("\n".join(wrong))
        if asked.check:
            print(f"{len(faults)} faults apply")
            return 0
        if asked.names:
            faults = [f for f in faults if any(f.name.startswith(name) for name in asked.names)]
        if not faults:
            raise ListError(f"no fault is named {' or '.join(asked.names)}")
        rows = run(recipe, faults, asked.jobs, asked.json,
                   lambda text: print(text, flush=True))
    except ListError as why:
        print(f"mutants: {why}", file=sys.stderr)
        return 2
    counts = summary(rows)
    print("\n" + "\n".join(by_module(rows)))
    print(f"{counts['faults']} faults: {counts['caught']} caught, {counts['survived']} survived "
          f"({counts['explained']} explained), {counts['does not compile']} do not compile")
    return 0 if all(is_good(row) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
