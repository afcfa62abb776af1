#!/usr/bin/env bash
# Every way in which kvfit is packed, with everything that can be packed: Debian's packages with
# lintian, the vcpkg port and the Conan recipe acted out, and by vcpkg and conan themselves where they
# are on the PATH. ./dev test does the same for the headers alone, which takes seconds; this compiles
# kvfit::compiled five times.
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
  say "Debian: libkvfit-dev, libkvfit-compiled-dev, kvfit"
  cmake --preset deb -B "$work/deb"
  cmake --build "$work/deb"
  rm -f "$work"/deb/*.deb
  (cd "$work/deb" && cpack -G DEB)
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
for features in "" "io;mpi" "compiled;io;tools"; do
  cmake "-DFEATURES=$features" "-DWORK=$work/vcpkg" "-DGENERATOR=$generator" -DEVERY_PART=ON \
    -P packaging/vcpkg/act_out.cmake
done

say "Conan, acted out"
for option in with_io=True with_io=False header_only=False; do
  python3 packaging/conan/act_out.py "$work/conan" "$option"
done

if have vcpkg; then
  say "vcpkg"
  vcpkg install "kvfit[core,io,compiled,tools]" --overlay-ports=packaging/vcpkg/ports \
    --binarysource=clear
else
  say "vcpkg itself: SKIPPED: not on the PATH"
fi
if have conan; then
  say "conan"
  for header_only in True False; do
    conan create packaging/conan --build=missing -s compiler.cppstd=20 \
      -o "kvfit/*:header_only=$header_only"
  done
else
  say "conan itself: SKIPPED: not on the PATH"
fi
say "all packages are as they should be"
