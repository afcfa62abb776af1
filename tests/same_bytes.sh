#!/usr/bin/env bash
# Compares what two commits compute, bit for bit:
#   tests/same_bytes.sh [--set|--set-old|--set-new METHOD:NAME=VALUE]... OLD [NEW]
#
# Builds the tool of OLD and of NEW (the working tree where none is given) with the same compiler and
# flags, compacts the captures in examples/data by every preset that both have, and compares
# positions, keys, biases and values. No digests are kept: another compiler rounds otherwise.
# With RATIOS="10 50" at those ratios. --set gives a preset a setting on both sides, --set-old and
# --set-new on one, where a default has changed: --set-new default:attention_share=0.
# Exit codes: 0 the same, 1 different or failed, 2 wrong usage.
set -Eeuo pipefail
usage() { sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
old_settings=()
new_settings=()
while [ $# -gt 0 ] && [ "${1#--}" != "$1" ]; do
  [[ $# -ge 2 && $2 =~ ^[a-z0-9_]+:[a-z0-9_]+=. ]] || usage
  case $1 in
    --set) old_settings+=("$2") new_settings+=("$2") ;;
    --set-old) old_settings+=("$2") ;;
    --set-new) new_settings+=("$2") ;;
    *) usage ;;
  esac
  shift 2
done
[ $# -ge 1 ] && [ $# -le 2 ] || usage
cd "$(dirname "${BASH_SOURCE[0]}")/.."
old=$(git rev-parse --verify --quiet "$1^{commit}") || { echo "same_bytes: no commit $1" >&2; exit 2; }
root=$PWD
work=$root/build/same_bytes
mkdir -p "$work"

# tree NAME COMMIT: prints the folder with the sources of COMMIT.
tree() {
  local at=$work/$1
  git worktree prune
  if [ ! -e "$at/.git" ]; then git worktree add --quiet --detach "$at" "$2" >&2; fi
  git -C "$at" checkout --quiet --detach "$2" >&2
  echo "$at"
}

# build SOURCE FOLDER: builds there, prints the tool's path.
build() {
  local launcher=()
  if command -v ccache >/dev/null; then launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
  cmake -S "$1" -B "$2" -DCMAKE_BUILD_TYPE=Release \
    "-DCMAKE_CXX_FLAGS_RELEASE=-O2 -DNDEBUG" -DKVFIT_NATIVE=ON -DKVFIT_BUILD_TOOLS=ON \
    -DKVFIT_BUILD_TESTS=OFF -DKVFIT_BUILD_EXAMPLES=OFF -DKVFIT_BUILD_BENCH=OFF \
    -DKVFIT_COMPILED_ISAS=own -DKVFIT_MPI=OFF "${launcher[@]}" >&2
  cmake --build "$2" --target kvfit_tool --parallel "$(nproc)" >&2
  echo "$2/tools/kvfit"
}

old_tree=$(tree old "$old")
trap 'git worktree remove --force "$work/old" 2>/dev/null || true; git worktree remove --force "$work/new" 2>/dev/null || true' EXIT
new_tree=$root
if [ $# -eq 2 ]; then new_tree=$(tree new "$(git rev-parse --verify "$2^{commit}")"); fi
old_tool=$(build "$old_tree" "$work/tool_old")
new_tool=$(build "$new_tree" "$work/tool_new")

methods() { "$1" methods | awk '$1 ~ /^[a-z0-9_]+$/ && NF > 1 {print $1}' | sort -u; }
shared=$(comm -12 <(methods "$old_tool") <(methods "$new_tool"))
[ -n "$shared" ] || { echo "same_bytes: the two tools share no method" >&2; exit 1; }
echo "methods: ${shared//$'\n'/ }"
for setting in "${old_settings[@]}" "${new_settings[@]}"; do
  grep --quiet --line-regexp --fixed-strings "${setting%%:*}" <<<"$shared" ||
    { echo "same_bytes: the tools share no method ${setting%%:*}" >&2; exit 2; }
done

# compact SIDE CAPTURE RATIO METHOD: writes $work/SIDE.safetensors.
compact() {
  local tool=$1_tool settings=$1_settings[@] each
  local -a set=()
  for each in "${!settings}"; do
    if [ "${each%%:*}" = "$4" ]; then set+=(--set "${each#*:}"); fi
  done
  rm -f "$work/$1.safetensors"
  "${!tool}" compact "$2" --ratio "$3" --method "$4" "${set[@]}" --threads 1 \
    -o "$work/$1.safetensors" >/dev/null
}

different=0
compared=0
for capture in examples/data/*.safetensors; do
  for ratio in ${RATIOS:-10 50}; do
    for method in $shared; do
      { compact old "$capture" "$ratio" "$method" && compact new "$capture" "$ratio" "$method" &&
        python3 tests/same_tensors.py "$work/old.safetensors" "$work/new.safetensors"; } ||
        { echo "different: $method at $ratio times, $(basename "$capture")"; different=$((different + 1)); }
      compared=$((compared + 1))
    done
  done
done
echo "compared $compared results: $different differ"
[ "$compared" -gt 0 ] && [ "$different" -eq 0 ]
