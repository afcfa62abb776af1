# SPDX-License-Identifier: MIT
"""Conan 2 recipe of kvfit. It packs the tree that it lies in: conan create packaging/conan."""

import os
import re

from conan import ConanFile
from conan.errors import ConanInvalidConfiguration
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load, rmdir
from conan.tools.microsoft import is_msvc

required_conan_version = ">=2.0"


class KvfitConan(ConanFile):
    name = "kvfit"
    description = "Fits a small KV cache to a big one"
    license = "MIT"
    topics = ("kv-cache", "attention", "transformer", "compression")
    package_type = "library"
    settings = "os", "arch", "compiler", "build_type"
    # header_only=False adds kvfit::compiled, a static library; with_c kvfit::c, a shared one, besides.
    options = {
        "header_only": [True, False],
        "shared": [False],
        "with_c": [True, False],
        "with_io": [True, False],
    }
    default_options = {"header_only": True, "shared": False, "with_c": False, "with_io": True}

    @property
    def _root(self):
        return os.path.join(self.recipe_folder, "..", "..")

    def set_version(self):
        header = load(self, os.path.join(self._root, "include", "kvfit", "core", "version.hpp"))
        numbers = re.findall(r"#define KVFIT_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", header)
        self.version = ".".join(numbers)

    def export_sources(self):
        for pattern in ("CMakeLists.txt", "LICENSE", "cmake/*", "include/*", "src/*"):
            copy(self, pattern, self._root, self.export_sources_folder)

    def layout(self):
        cmake_layout(self)

    def requirements(self):
        wanted = self.conan_data["requirements"]
        self.requires(f"eigen/{wanted['eigen']}", transitive_headers=True)
        self.requires(f"xsimd/{wanted['xsimd']}", transitive_headers=True)
        if self.options.with_io:
            self.requires(f"nlohmann_json/{wanted['nlohmann_json']}", transitive_headers=True)

    def package_id(self):
        if self.info.options.header_only:
            self.info.clear()

    def validate(self):
        check_min_cppstd(self, 20)
        if not self.info.options.get_safe("header_only", True) and is_msvc(self):
            raise ConanInvalidConfiguration("kvfit::compiled is for g++ and clang++; set header_only")
        if self.options.with_c and (self.options.header_only or not self.options.with_io):
            raise ConanInvalidConfiguration("with_c needs header_only=False and with_io=True")

    def generate(self):
        toolchain = CMakeToolchain(self)
        toolchain.cache_variables.update({
            "FETCHCONTENT_FULLY_DISCONNECTED": True,
            "KVFIT_BUILD_BENCH": False,
            "KVFIT_BUILD_EXAMPLES": False,
            "KVFIT_BUILD_TESTS": False,
            "KVFIT_BUILD_TOOLS": False,
            "KVFIT_C": bool(self.options.with_c),
            "KVFIT_COMPILED": not self.options.header_only,
            "KVFIT_CPACK": False,
            "KVFIT_INSTALL": True,
            "KVFIT_IO": bool(self.options.with_io),
            "KVFIT_METAL": False,
            "KVFIT_MPI": "OFF",
        })
        toolchain.generate()
        CMakeDeps(self).generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self):
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))
        CMake(self).install()
        # Conan writes these for each consumer from package_info.
        rmdir(self, os.path.join(self.package_folder, "lib", "cmake"))
        rmdir(self, os.path.join(self.package_folder, "lib", "pkgconfig"))
        rmdir(self, os.path.join(self.package_folder, "share"))

    def package_info(self):
        self.cpp_info.set_property("cmake_file_name", "kvfit")
        # Not kvfit::kvfit, which is the headers alone.
        self.cpp_info.set_property("cmake_target_name", "kvfit::kvfit-all")
        self.cpp_info.set_property("pkg_config_name", "kvfit-all")

        def component(name, target, pkg_config, requires):
            part = self.cpp_info.components[name]
            part.set_property("cmake_target_name", target)
            part.set_property("pkg_config_name", pkg_config)
            part.requires = requires
            part.bindirs = []
            part.libdirs = []
            return part

        headers = component("headers", "kvfit::kvfit", "kvfit", ["eigen::eigen", "xsimd::xsimd"])
        if self.settings.get_safe("os") in ("Linux", "FreeBSD"):
            headers.system_libs = ["pthread"]
        if self.options.with_io:
            component("io", "kvfit::io", "kvfit-io", ["headers", "nlohmann_json::nlohmann_json"])
        if not self.options.header_only:
            compiled = component("compiled", "kvfit::compiled", "kvfit-compiled", ["headers"])
            compiled.libdirs = ["lib"]
            compiled.libs = ["kvfit_compiled"]
            compiled.defines = ["KVFIT_COMPILED"]
        if self.options.with_c:
            c = component("c", "kvfit::c", "kvfit-c", [])
            c.libdirs = ["lib"]
            c.libs = ["kvfit_c"]
