#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Does what a reader does who copies a page's lines: run_page.py WORK PAGE HEADING EXPECTED

Under that heading CMake blocks are written to the file that their first line names, and shell blocks are run one after
the other, in a fresh folder that has the checkout as `kvfit`, README's first program as `quick.cpp` and
`engine/engine.cpp`, and the C program of the quick start as `engine/engine.c`. EXPECTED must stand in what they print.
Lines that install packages are left out: what a machine has is its owner's affair. vcpkg and conan are acted out where
they are not to be had (acted_out.py). Exit code 77: another program is missing.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
import pages  # noqa: E402

ACTED_OUT = ("conan", "vcpkg")
INSTALLS = re.compile(r"^\s*(?:sudo )?(?:apt-get|brew) ")


def repository(folder):
    """The sources as they are, committed or not, under a tag of a repository of their own."""
    version = re.findall(r"#define KVFIT_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)",
                         (pages.ROOT / "include/kvfit/core/version.hpp").read_text(encoding="utf-8"))
    git = ["git", f"--git-dir={folder}", f"--work-tree={pages.ROOT}", "-c", "user.name=reader",
           "-c", "user.email=reader@localhost", "-c", "core.autocrlf=false", "-c", "core.safecrlf=false",
           "-c", "commit.gpgSign=false", "-c", "tag.gpgSign=false"]
    for step in (["init", "--quiet"], ["add", "CMakeLists.txt", "LICENSE", "cmake", "include", "src"],
                 ["commit", "--quiet", "--message=kvfit"], ["tag", f"v{'.'.join(version)}"]):
        subprocess.run([*git, *step], check=True, cwd=pages.ROOT)
    return f"file://{folder}"


def needed(text):
    """Programs that a shell block calls and that may be missing."""
    return [name for name in ("vcpkg", "conan", "git", "pkg-config", "kvfit") if re.search(rf"(?:^|\$\(){name} ", text, re.M)]


def stand_in(folder, program):
    """A program of that name in the folder, which acts it out."""
    folder.mkdir(exist_ok=True)
    script = folder / program
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{pathlib.Path(__file__).resolve().parent}/acted_out.py" {program} "$@"\n')
    script.chmod(0o755)
    print(f"{program} is acted out: it is not on the PATH")


def main(work, page, heading, expected):
    work = pathlib.Path(work).resolve()
    shutil.rmtree(work, ignore_errors=True)
    (work / "engine").mkdir(parents=True)
    (work / "kvfit").symlink_to(pages.ROOT)
    (work / "examples").symlink_to(pages.ROOT / "examples")
    (work / "CAPTURE.safetensors").symlink_to(pages.ROOT / "examples/data/tinybooks.safetensors")
    program = pages.nth("README.md", "cpp", 1)
    for name in ("quick.cpp", "engine/engine.cpp"):
        (work / name).write_text(program, encoding="utf-8")
    (work / "engine/engine.c").write_text(pages.nth("docs/quickstart.md", "c", 1), encoding="utf-8")

    chosen = [block for block in pages.blocks(page) if block[0] == heading and block[1] in ("cmake", "sh")]
    if not chosen:
        sys.exit(f'{page} has no blocks under "{heading}"')
    printed = ""
    path = f"{work / 'stand_ins'}:{os.environ['PATH']}"
    for _, language, line, text in chosen:
        if "URL_OF_KVFIT" in text:
            if not shutil.which("git"):
                print("SKIPPED: no git")
                return 77
            text = text.replace("URL_OF_KVFIT", repository(work / "repository.git"))
        if language == "cmake":
            name = re.match(r"^# (\S+)\n", text)
            if not name:
                sys.exit(f"{page}:{line}: the first line of a CMake block names its file")
            (work / name[1]).write_text(text, encoding="utf-8")
            continue
        text = "\n".join(one for one in text.split("\n") if not INSTALLS.match(one))
        # Code that is run once need not be fast: optimising takes ten times the time of the rest.
        text = re.sub(r" -O[23]\b", " -O0", text).replace("CMAKE_BUILD_TYPE=Release", "CMAKE_BUILD_TYPE=Debug")
        for program in needed(text):
            if shutil.which(program):
                continue
            if program in ACTED_OUT:
                stand_in(work / "stand_ins", program)
            else:
                print(f"SKIPPED: no {program}")
                return 77
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=work, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, env=os.environ | {"CMAKE_BUILD_PARALLEL_LEVEL": "1", "PATH": path})
        print(done.stdout)
        printed += done.stdout
        if done.returncode:
            sys.exit(f"{page}:{line}: exit code {done.returncode}")
    if not re.search(expected, printed):
        sys.exit(f'{page}: "{expected}" was not printed')
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
