# SPDX-License-Identifier: MIT
"""What a wheel of pyproject.toml has, for where scikit-build-core is not to be had.

It packs what the project's file names, and the library, into a wheel; checks that types and docstrings are in
it; and runs the tests on it, unpacked elsewhere, with nothing that leads back to the checkout. What it can't
show: scikit-build-core itself, and the tag of the platform.

    python3 wheel_acted_out.py LIBRARY FOLDER VERSION
"""

import ast
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

library, folder, version = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
python = pathlib.Path(__file__).resolve().parents[1]
project = (python / "pyproject.toml").read_text(encoding="utf-8")


def said(name: str) -> str:
    """The value of `name = …` in pyproject.toml."""
    return re.search(rf"^{re.escape(name)} = (.*)$", project, re.MULTILINE)[1].strip("'\"")


def check(holds: bool, what: str) -> None:
    if not holds:
        raise SystemExit(what)


# The version is read from where the project says, by its own pattern.
numbers = re.search(said("regex"), (python / said("input")).read_text(encoding="utf-8"))
check(said("result").format(**numbers.groupdict()) == version, f"the wheel's version is not {version}")
check(said("install.components") == '["kvfit_wheel"]', "other components are installed than the library's")
check(said("wheel.install-dir") == "kvfit", "the library does not lie beside the package")
root = (python / said("cmake.source-dir")).resolve()
options = set(re.findall(r"(?:option|set)\((KVFIT_\w+)", (root / "CMakeLists.txt").read_text(encoding="utf-8")))
for name in re.findall(r"^(KVFIT_\w+) = ", project, re.MULTILINE):
    check(name in options, f"CMake has no option {name}")

shutil.rmtree(folder, ignore_errors=True)
folder.mkdir(parents=True)
wheel = folder / f"kvfit-{version}-py3-none-any.whl"
package = said("wheel.packages").strip('[]"')
with zipfile.ZipFile(wheel, "w") as packed:
    for file in sorted((python / package).rglob("*")):
        if file.is_file() and file.suffix != ".pyc":
            packed.write(file, file.relative_to(python))
    beside = {"darwin": "libkvfit_c.dylib", "win32": "kvfit_c.dll"}.get(sys.platform, "libkvfit_c.so")
    packed.write(library, f"{package}/{beside}")

installed = folder / "installed"
with zipfile.ZipFile(wheel) as packed:
    names = set(packed.namelist())
    packed.extractall(installed)
check({f"{package}/{beside}", f"{package}/py.typed", f"{package}/__init__.py"} <= names, f"the wheel has {names}")

# Whatever is public says what it is, and its arguments have types.
for file in sorted((installed / package).glob("*.py")):
    if file.name.startswith("_") and file.name != "__init__.py":
        continue
    module = ast.parse(file.read_text(encoding="utf-8"))
    check(ast.get_docstring(module) is not None, f"{file.name} has no docstring")
    classes = [one for one in module.body if isinstance(one, ast.ClassDef) and not one.name.startswith("_")]
    for node in module.body + [inner for one in classes for inner in one.body]:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        check(ast.get_docstring(node) is not None, f"{file.name}: {node.name} has no docstring")
        if isinstance(node, ast.FunctionDef):
            bare = [a.arg for a in node.args.args + node.args.kwonlyargs if a.annotation is None]
            check(not set(bare) - {"self", "cls"}, f"{file.name}: {node.name}: no types of {bare}")
            check(node.returns is not None, f"{file.name}: {node.name} does not say what it returns")

# The tests, beside nothing but the wheel.
tests = folder / "tests"
tests.mkdir()
for name in ("checks.py", "plain_test.py"):
    shutil.copy(python / "tests" / name, tests)
environment = {name: value for name, value in os.environ.items() if not name.startswith(("KVFIT", "PYTHON", "LD_"))}
environment["PYTHONPATH"] = os.pathsep.join([str(installed), str(tests)])
environment["PYTHONDONTWRITEBYTECODE"] = "1"
where = subprocess.run(
    [sys.executable, "-c", "import kvfit; print(kvfit.__file__, kvfit._library.library._name)"],
    cwd=tests, env=environment, check=True, capture_output=True, text=True,
).stdout.split()
check(all(place.startswith(str(installed.resolve())) for place in where), f"taken from elsewhere: {where}")
sys.exit(subprocess.run([sys.executable, "plain_test.py"], cwd=tests, env=environment).returncode)
