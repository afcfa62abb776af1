# SPDX-License-Identifier: MIT
"""What Conan does with the recipe, for where Conan is not to be had.

It runs conanfile.py over its own versions of the classes that the recipe names, as `conan create` would,
and builds test_package against what was packed, moved elsewhere, in Debug and Release. What it can't
show: profiles, and Conan's packages of what kvfit needs, in whose place the system's stand.

    python3 packaging/conan/act_out.py build/conan [header_only=False] [with_io=False] ...
"""

import fnmatch
import importlib.util
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

HERE = Path(__file__).resolve().parent
# How a package of the requirements is found and linked by CMake: Conan's generators know it from
# the recipes of those.
FOUND_AS = {
    "eigen": ("Eigen3", "Eigen3::Eigen"),
    "xsimd": ("xsimd", "$<TARGET_PROPERTY:xsimd,INTERFACE_INCLUDE_DIRECTORIES>"),
    "nlohmann_json": ("nlohmann_json", "nlohmann_json::nlohmann_json"),
}
compiler = os.environ.get("CXX", "c++")
build_type = "Release"


def run(*command):
    print("+", *command, flush=True)
    subprocess.run([str(word) for word in command], check=True)


class InvalidConfiguration(Exception):
    pass


class Options:
    def __init__(self, values):
        self.__dict__.update(values)

    def get_safe(self, name, default=None):
        return getattr(self, name, default)


class Info:
    def __init__(self, options):
        self.options = options
        self.is_cleared = False

    def clear(self):
        self.is_cleared = True
        self.options = Options({})


class Component:
    def __init__(self):
        self.properties = {}
        self.includedirs, self.libdirs, self.bindirs = ["include"], ["lib"], ["bin"]
        self.libs, self.system_libs, self.defines, self.requires = [], [], [], []

    def set_property(self, name, value):
        self.properties[name] = value


class Components(dict):
    def __missing__(self, name):
        self[name] = Component()
        return self[name]


class CppInfo(Component):
    def __init__(self):
        super().__init__()
        self.components = Components()


class Settings:
    values = {"os": "Linux" if sys.platform == "linux" else sys.platform}

    def get_safe(self, name, default=None):
        return self.values.get(name, default)


class ConanFile:
    version = None

    def requires(self, reference, **traits):
        name, _, wanted = reference.partition("/")
        if name not in FOUND_AS or not wanted:
            raise SystemExit(f"the recipe requires {reference}")
        self.required.append(name)


class CMakeToolchain:
    def __init__(self, recipe):
        self.recipe = recipe
        self.cache_variables = {}

    def generate(self):
        self.recipe.cache_variables = self.cache_variables


class CMakeDeps:
    def __init__(self, recipe):
        pass

    def generate(self):
        pass


class CMake:
    def __init__(self, recipe):
        self.recipe = recipe

    def configure(self):
        values = {True: "ON", False: "OFF"}
        variables = [f"-D{name}={values.get(value, value)}"
                     for name, value in self.recipe.cache_variables.items()]
        run("cmake", "-S", self.recipe.source_folder, "-B", self.recipe.build_folder,
            f"-DCMAKE_CXX_COMPILER={compiler}", f"-DCMAKE_BUILD_TYPE={build_type}",
            f"-DCMAKE_INSTALL_PREFIX={self.recipe.package_folder}", "-DCMAKE_INSTALL_LIBDIR=lib",
            *variables, *os.environ.get("KVFIT_EXTRA", "").split())

    def build(self):
        run("cmake", "--build", self.recipe.build_folder)

    def install(self):
        run("cmake", "--install", self.recipe.build_folder)


def copy(recipe, pattern, source, target):
    copied = 0
    for path in Path(source).rglob("*"):
        name = path.relative_to(source).as_posix()
        if path.is_file() and fnmatch.fnmatch(name, pattern):
            to = Path(target) / name
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, to)
            copied += 1
    if copied == 0:
        raise SystemExit(f"the recipe copies {pattern} from {source}, and there is none")


def check_min_cppstd(recipe, standard):
    if standard != "20" and standard != 20:
        raise SystemExit(f"kvfit needs C++20, the recipe asks for {standard}")
    recipe.asked_for_standard = True


def stand_in(name, **members):
    module = types.ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module


def load_recipe():
    stand_in("conan", ConanFile=ConanFile)
    stand_in("conan.errors", ConanInvalidConfiguration=InvalidConfiguration)
    stand_in("conan.tools")
    stand_in("conan.tools.build", check_min_cppstd=check_min_cppstd)
    stand_in("conan.tools.cmake", CMake=CMake, CMakeDeps=CMakeDeps, CMakeToolchain=CMakeToolchain,
             cmake_layout=lambda recipe: None)
    stand_in("conan.tools.files", copy=copy, load=lambda recipe, path: Path(path).read_text(),
             rmdir=lambda recipe, path: shutil.rmtree(path, ignore_errors=True))
    stand_in("conan.tools.microsoft", is_msvc=lambda recipe: False)
    spec = importlib.util.spec_from_file_location("recipe", HERE / "conanfile.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.KvfitConan


def read_conandata():
    """conandata.yml as far as the recipe's has YAML: maps of maps of texts."""
    data, inner = {}, None
    for line in (HERE / "conandata.yml").read_text().splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _, value = line.partition(":")
        if line.startswith(" "):
            inner[name.strip()] = value.strip().strip('"')
        else:
            inner = data.setdefault(name, {})
    return data


def options_of(recipe_class, asked):
    values = dict(recipe_class.default_options)
    for text in asked:
        name, _, value = text.partition("=")
        value = {"True": True, "False": False}.get(value, value)
        if value not in recipe_class.options.get(name, []):
            raise SystemExit(f"the recipe has no option {text}")
        values[name] = value
    return Options(values)


def write_config(recipe, folder):
    """What CMakeDeps writes for a consumer: targets as package_info describes them."""
    lines = ["include(CMakeFindDependencyMacro)"]
    lines += [f"find_dependency({FOUND_AS[name][0]})" for name in recipe.required]
    targets = {name: part.properties["cmake_target_name"]
               for name, part in recipe.cpp_info.components.items()}
    for name, part in recipe.cpp_info.components.items():
        target = targets[name]
        lines.append(f"add_library({target} INTERFACE IMPORTED)")
        def has(kind, *values):
            if values:
                lines.append(f"target_{kind}({target} INTERFACE {' '.join(map(str, values))})")
        has("include_directories", *(Path(recipe.package_folder) / d for d in part.includedirs))
        has("compile_definitions", *part.defines)
        has("link_directories", *(Path(recipe.package_folder) / d for d in part.libdirs))
        has("link_libraries", *part.libs, *part.system_libs)
        for required in part.requires:
            package = required.partition("::")[0]
            if "::" not in required:
                has("link_libraries", targets[required])
            elif package == "xsimd":
                has("include_directories", FOUND_AS[package][1])
            else:
                has("link_libraries", FOUND_AS[package][1])
    folder.mkdir(parents=True)
    file_name = recipe.cpp_info.properties["cmake_file_name"]
    (folder / f"{file_name}Config.cmake").write_text("\n".join(lines) + "\n")


def main(work, asked):
    work = Path(work).resolve()
    shutil.rmtree(work, ignore_errors=True)
    recipe_class = load_recipe()
    if recipe_class.package_type != "library":
        raise SystemExit(f"package_type is {recipe_class.package_type}")
    recipe = recipe_class()
    recipe.recipe_folder = str(HERE)
    recipe.export_sources_folder = recipe.source_folder = str(work / "source")
    recipe.build_folder, recipe.package_folder = str(work / "build"), str(work / "package")
    recipe.conan_data = read_conandata()
    recipe.options, recipe.settings, recipe.required = options_of(recipe_class, asked), Settings(), []

    recipe.set_version()
    recipe.export_sources()
    recipe.requirements()
    recipe.info, recipe.asked_for_standard = Info(recipe.options), False
    recipe.package_id()
    if recipe.info.is_cleared != recipe.options.header_only:
        raise SystemExit("the package's id must be cleared when, and only when, it is headers alone")
    recipe.validate()
    if not recipe.asked_for_standard:
        raise SystemExit("the recipe does not ask for C++20")
    recipe.layout()
    recipe.generate()
    recipe.build()
    recipe.package()

    moved = work / "moved"
    shutil.move(recipe.package_folder, moved)
    recipe.package_folder = str(moved)
    kept = {path.name for path in moved.iterdir()}
    expected = {"include", "licenses"} | (set() if recipe.options.header_only else {"lib"})
    if kept != expected:
        raise SystemExit(f"the package has {sorted(kept)}, not {sorted(expected)}")
    recipe.cpp_info = CppInfo()
    recipe.package_info()
    for part in recipe.cpp_info.components.values():
        for folder in part.includedirs + part.libdirs:
            if not (moved / folder).is_dir():
                raise SystemExit(f"package_info names the folder {folder}, and there is none")
    write_config(recipe, work / "config")
    for kind in ("Debug", "Release"):
        build = work / f"test_package_{kind}"
        run("cmake", "-S", HERE / "test_package", "-B", build, f"-DCMAKE_BUILD_TYPE={kind}",
            f"-DCMAKE_CXX_COMPILER={compiler}", "-DCMAKE_CXX_STANDARD=20",
            f"-Dkvfit_DIR={work / 'config'}")
        run("cmake", "--build", build)
        run(build / "test_package")
    for name, values in (("with_c", {"header_only": True}), ("with_c", {"header_only": False, "with_io": False})):
        recipe.options = options_of(recipe_class, [f"{name}=True"] + [f"{k}={v}" for k, v in values.items()])
        recipe.info = Info(recipe.options)
        try:
            recipe.validate()
        except InvalidConfiguration:
            continue
        raise SystemExit(f"the recipe takes {name} beside {values}")
    print(f"conan: the recipe of kvfit {recipe.version} is as it should be")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(sys.argv[1], sys.argv[2:])
