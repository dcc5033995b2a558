#!/usr/bin/env bash
# Look for races of the CUDA kernels where there is no GPU: ThreadSanitizer over the emulated one.
#
#   tests/races.sh [OPTION OF PYTEST...]
#
# Every thread of a block is one for the sanitizer, barriers and exchanges within warps order them,
# and blocks come one after the other: races between threads of a block are found, in shared and in
# global memory; those between blocks are not. Needs GCC with its libtsan, and what the dev group of
# pyproject.toml installs.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cxx=${CXX:-g++}
tsan=$("$cxx" -print-file-name=libtsan.so)
[ -f "$tsan" ] || {
    echo "$cxx has no libtsan: install it, or set CXX to a GCC that has" >&2
    exit 1
}
found=66
export TSAN_OPTIONS=ignore_noninstrumented_modules=1:history_size=4:exitcode=$found
fixed() { setarch -R env "$@"; } # the sanitizer needs its addresses where they always are

# What finds nothing must be known to find something.
options=(-std=c++17 -O2 -g -DHISTOFAST_RACES -Wno-attributes -Icpp/emulation)
"$cxx" "${options[@]}" -c cpp/emulation/emulation.cpp -o "$scratch/emulation.o"
"$cxx" "${options[@]}" -fsanitize=thread cpp/emulation/planted_race.cpp "$scratch/emulation.o" -o "$scratch/planted"
fixed "$scratch/planted" waits
rc=0
fixed "$scratch/planted" 2>"$scratch/reports.txt" || rc=$?
if [ $rc -ne $found ] || ! grep -q 'data race.*in reverse' "$scratch/reports.txt"; then
    echo "a planted race was not found (exit status $rc)" >&2
    exit 1
fi

# A build folder of its own: options stay in the one that others use.
pip wheel --no-deps --no-build-isolation -w "$scratch" -Cbuild-dir="$scratch/build" \
    -Ccmake.define.HISTOFAST_CUDA=EMULATE -Ccmake.define.HISTOFAST_RACES=ON -Cinstall.strip=false .
python -m zipfile -e "$scratch"/histofast-*.whl "$scratch/site"
site=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# -S: an editable installation would be found first. Reports must not be caught by pytest, which
# swallows those of tests that pass.
files=(glcm gram tiling tissue)
pids=()
for file in "${files[@]}"; do
    fixed LD_PRELOAD="$tsan" PYTHONPATH="$scratch/site:$site" HISTOFAST_REQUIRE_GPU=1 OMP_NUM_THREADS=1 \
        python -S -m pytest -p no:cacheprovider --capture=sys -q -m 'gpu and not slow' "$@" \
        "tests/test_$file.py" >"$scratch/$file.txt" 2>&1 &
    pids+=($!)
done
status=0
for i in "${!files[@]}"; do
    rc=0
    wait "${pids[i]}" || rc=$?
    cat "$scratch/${files[i]}.txt"
    [ $rc -eq 0 ] || status=$rc
    [ $rc -ne $found ] || echo "FAILED: the kernels of tests/test_${files[i]}.py have races" >&2
done
exit $status
