#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Stands in for vcpkg and conan where they are not to be had: acted_out.py NAME [ARGUMENT ...]

Takes the commands that the pages have, and acts them out by packaging/. Any other command, option or name that the real
one might not take is an error.
"""

import os
import pathlib
import re
import subprocess
import sys


def conan(arguments):
    if arguments[:1] != ["create"] or len(arguments) < 2:
        sys.exit(f"conan: not acted out: {arguments}")
    recipe, rest, options, has_standard = pathlib.Path(arguments[1]), arguments[2:], [], False
    while rest:
        if rest[0] == "--build=missing":
            rest = rest[1:]
        elif rest[:2] == ["-s", "compiler.cppstd=20"]:
            has_standard, rest = True, rest[2:]
        elif rest[0] == "-o" and len(rest) > 1 and rest[1].startswith("kvfit/*:"):
            options, rest = [*options, rest[1].removeprefix("kvfit/*:")], rest[2:]
        else:
            sys.exit(f"conan: not acted out: {rest}")
    if not has_standard:
        sys.exit("conan: the recipe refuses the default profile, which has an older standard than C++20")
    if not (recipe / "conanfile.py").is_file():
        sys.exit(f"conan: no recipe in {recipe}")
    return [sys.executable, recipe / "act_out.py", "acted_out", *options]


def vcpkg(arguments):
    if len(arguments) != 3 or arguments[0] != "install" or not arguments[2].startswith("--overlay-ports="):
        sys.exit(f"vcpkg: not acted out: {arguments}")
    named = re.fullmatch(r"([a-z0-9-]+)(?:\[([a-z0-9,-]+)\])?", arguments[1])
    ports = pathlib.Path(arguments[2].removeprefix("--overlay-ports="))
    if not named or not (ports / named[1] / "vcpkg.json").is_file():
        sys.exit(f"vcpkg: {ports} has no port {arguments[1]}")
    features = (named[2] or "").replace(",", ";")
    return ["cmake", f"-DFEATURES={features}", "-DWORK=acted_out",
            f"-DGENERATOR={os.environ.get('CMAKE_GENERATOR', 'Unix Makefiles')}",
            f"-DCOMPILER={os.environ.get('CXX', 'c++')}", "-P", ports.parent / "act_out.cmake"]


if __name__ == "__main__":
    known = {"conan": conan, "vcpkg": vcpkg}
    if len(sys.argv) < 2 or sys.argv[1] not in known:
        sys.exit(__doc__)
    sys.exit(subprocess.run([str(word) for word in known[sys.argv[1]](sys.argv[2:])]).returncode)
