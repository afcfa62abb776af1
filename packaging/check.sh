#!/usr/bin/env bash
# Every way in which kvfit is packed, with everything that can be packed: Debian's packages with
# lintian, the vcpkg port and the Conan recipe acted out, and by vcpkg and conan themselves where they
# are on the PATH. ./dev test does the same for the headers alone, which takes seconds; this compiles
# kvfit::compiled some ten times.
#
#     packaging/check.sh [FOLDER]      FOLDER, build/packages unless named, holds all that is built
#
# KVFIT_EXTRA: more arguments for CMake where vcpkg and Conan are acted out, such as
# -DKVFIT_COMPILED_ISAS=own, which takes a third of the time.
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mkdir -p "${1:-build/packages}" && cd "${1:-build/packages}" && pwd)
trap 'echo "packaging/check.sh: stopped at line $LINENO: $BASH_COMMAND" >&2' ERR

say() { printf '\n==> %s\n' "$*"; }
have() { command -v "$1" >/dev/null 2>&1; }
if have ninja; then export CMAKE_GENERATOR=Ninja; fi

if have dpkg-deb; then
  say "Debian: libkvfit-dev, libkvfit-compiled-dev, libkvfit-c0.2, libkvfit-c-dev, kvfit"
  cmake --preset deb -B "$work/deb"
  cmake --build "$work/deb"
  rm -f "$work"/deb/*.deb
  (cd "$work/deb" && cpack -G DEB)
  say "the C library from its .deb files, unpacked, serves C through pkg-config"
  root=$work/deb/root
  rm -rf "$root"
  for deb in "$work"/deb/libkvfit-c*.deb; do dpkg-deb --extract "$deb" "$root"; done
  library=$(dirname "$(find "$root" -name 'libkvfit_c.so.*' -type l)")
  cc -std=c11 tests/consumer/project_c/main.c -o "$work/deb/consumer_c" \
    $(PKG_CONFIG_PATH=$library/pkgconfig pkg-config --cflags --libs kvfit-c) -Wl,-rpath,"$library"
  "$work/deb/consumer_c" "$(PKG_CONFIG_PATH=$library/pkgconfig pkg-config --modversion kvfit-c)"
  if have lintian; then
    # Who packs for others than Debian has no request to close.
    lintian --allow-root --fail-on error,warning --suppress-tags initial-upload-closes-no-bugs \
      "$work"/deb/*.deb
  else
    say "lintian: SKIPPED: not installed"
  fi
else
  say "Debian: SKIPPED: no dpkg-deb"
fi

say "vcpkg, acted out"
generator=${CMAKE_GENERATOR:-Unix Makefiles}
for features in "" "io;mpi" "c" "c;compiled;io;tools"; do
  cmake "-DFEATURES=$features" "-DWORK=$work/vcpkg" "-DGENERATOR=$generator" -DEVERY_PART=ON \
    -P packaging/vcpkg/act_out.cmake
done

say "Conan, acted out"
for options in with_io=True with_io=False header_only=False "header_only=False with_c=True"; do
  python3 packaging/conan/act_out.py "$work/conan" $options
done

say "Python's wheel"
wheel=
for python in python3 /usr/bin/python3; do
  if [ -n "$wheel" ] || ! "$python" -c "import pip, scikit_build_core" 2>/dev/null; then continue; fi
  rm -rf "$work/wheel"
  "$python" -m pip wheel --no-build-isolation --no-deps --wheel-dir "$work/wheel" python
  wheel=$(ls "$work"/wheel/*.whl)
  "$python" -m zipfile -e "$wheel" "$work/wheel/installed"
  tests=$PWD/python/tests
  (cd "$work/wheel" && PYTHONPATH=$work/wheel/installed:$tests "$python" "$tests/plain_test.py")
done
[ -n "$wheel" ] || say "the wheel: SKIPPED: no Python with pip and scikit_build_core"

if have vcpkg; then
  say "vcpkg"
  vcpkg install "kvfit[core,c,io,compiled,tools]" --recurse --overlay-ports=packaging/vcpkg/ports \
    --binarysource=clear
else
  say "vcpkg itself: SKIPPED: not on the PATH"
fi
if have conan; then
  say "conan"
  library="-o kvfit/*:header_only=False"
  for options in "" "$library" "$library -o kvfit/*:with_c=True"; do
    (set -f && conan create packaging/conan --build=missing -s compiler.cppstd=20 $options)
  done
else
  say "conan itself: SKIPPED: not on the PATH"
fi
say "all packages are as they should be"
