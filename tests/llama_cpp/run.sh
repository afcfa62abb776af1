#!/usr/bin/env bash
# The llama.cpp adaptor, end to end: a Debian forky of its own with libllama-dev in it, the example
# and its checks built and run there, on the model in examples/data. Needs root (or sudo),
# debootstrap and the network; some minutes the first time, half of them to set the system up.
#
#     tests/llama_cpp/run.sh [FOLDER [server]]
#
# With "server" kvfit_server alone is built, and put under load (bench/server.py): results in
# FOLDER/server.json.
#
# FOLDER (build/llama_cpp) is kept: the system in FOLDER/root, the rows measured in FOLDER/rows.json.
# DEBIAN_MIRROR names another mirror than deb.debian.org. Exit codes: 0 done, 1 failed, 3 something
# is missing that can't be installed here.
set -Eeuo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
folder=${1:-$project/build/llama_cpp}
what=${2:-all}
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
packages="g++ ccache cmake ninja-build catch2 libeigen3-dev libxsimd-dev nlohmann-json3-dev libllama-dev
  libcpp-httplib-dev libcli11-dev pkgconf python3"
jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

say() { printf '\n==> %s\n' "$*"; }
die() { local code=$1; shift; printf 'llama_cpp: %s\n' "$*" >&2; exit "$code"; }
as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"
  elif command -v sudo >/dev/null 2>&1; then sudo "$@"
  else die 3 "neither root nor sudo"; fi
}
in_root() { as_root env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
  DEBIAN_FRONTEND=noninteractive chroot "$root" "$@"; }

command -v debootstrap >/dev/null 2>&1 || die 3 "not found: debootstrap"
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
root=$folder/root
mkdir -p "$root"

if [ ! -e "$root/.complete" ]; then
  say "setting up Debian forky in $root"
  script=/usr/share/debootstrap/scripts/forky
  [ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid  # older ones do not know the name
  as_root debootstrap --variant=minbase forky "$root" "$mirror" "$script" >"$folder/system.log" ||
    die 1 "debootstrap failed, see $folder/system.log"
fi
if [ "$(cat "$root/.complete" 2>/dev/null)" != "$packages" ]; then  # of another list, too
  say "installing packages in $root"
  # A mirror may be some days old; packages are held to their checksums all the same.
  in_root apt-get -o Acquire::Check-Valid-Until=false update -qq >>"$folder/system.log" 2>&1 || true
  # shellcheck disable=SC2086
  in_root apt-get install -y -qq --no-install-recommends $packages >>"$folder/system.log" 2>&1 ||
    die 1 "apt-get install failed, see $folder/system.log"
  printf '%s\n' "$packages" | as_root tee "$root/.complete" >/dev/null
fi

# g++ 16 takes its own AVX-512 intrinsics, as Eigen uses them, for uninitialised reads.
say "building examples/llama_cpp there"
as_root rm -rf "$root/kvfit"
as_root mkdir "$root/kvfit"
tar -C "$project" --exclude=./build --exclude='./build-*' --exclude=./.git -cf - . |
  as_root tar -C "$root/kvfit" --no-same-owner -xf -
in_root cmake -S /kvfit -B /build -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_CXX_FLAGS=-Wno-maybe-uninitialized \
  -DCMAKE_CXX_FLAGS_RELEASE="-O1 -DNDEBUG" -DKVFIT_NATIVE=ON -DKVFIT_MPI=OFF \
  -DKVFIT_BUILD_TOOLS=OFF -DKVFIT_BUILD_BENCH=OFF -DKVFIT_TEST_MODULES=llama_cpp \
  -DKVFIT_COMPILED_ISAS=own -DKVFIT_WARNINGS_AS_ERRORS=ON -DCMAKE_CXX_COMPILER_LAUNCHER=ccache
if [ "$what" = server ]; then
  in_root cmake --build /build --parallel "$jobs" --target kvfit_server kvfit_tinybooks_gguf
  say "server: load and faults; this takes a quarter of an hour"
  in_root python3 /kvfit/bench/server.py /build/examples/server/kvfit_server \
    /build/examples/llama_cpp/tinybooks.gguf /kvfit/examples/data/tinybooks/held-0.txt \
    --json /server.json
  cp "$root/server.json" "$folder/"
  exit 0
fi
in_root cmake --build /build --parallel "$jobs" --target kvfit_llama kvfit_server \
  kvfit_tests_llama_cpp

say "checks"
in_root /build/tests/llama_cpp/kvfit_tests_llama_cpp

say "kvfit_llama, biases exact"
data=/kvfit/examples/data/tinybooks
texts="--text $data/held-0.txt --text $data/held-1.txt --recall $data/recall.jsonl --documents 2"
# shellcheck disable=SC2086
in_root /build/examples/llama_cpp/kvfit_llama /build/examples/llama_cpp/tinybooks.gguf $texts \
  --methods h2o,omp_fast,default --ratios 5,10,20,50 --copy-failed yes --threads "$jobs" \
  --json /rows.json
say "kvfit_llama, fused attention without biases"
# shellcheck disable=SC2086
in_root /build/examples/llama_cpp/kvfit_llama /build/examples/llama_cpp/tinybooks.gguf $texts \
  --methods default --ratios 5,10,20,50 --threads "$jobs" --bias none --json /rows-none.json
# A mixture reads and says some thousand tokens one by one: this takes minutes.
for flash in off on; do
  say "kvfit_llama, queries of a mixture, budgets measured, flash attention $flash"
  in_root /build/examples/llama_cpp/kvfit_llama /build/examples/llama_cpp/tinybooks.gguf \
    --text $data/held-0.txt --recall $data/recall.jsonl --documents 1 \
    --methods h2o,highest_attention,default --ratios 10 --copy-failed yes --threads 1 \
    --asked mixture --question " Question: What is the secret number of {}? Answer:" \
    --shares measured --flash $flash --json /rows-measured-$flash.json
done
cp "$root"/rows*.json "$folder/"
say "rows: $folder/rows*.json"
