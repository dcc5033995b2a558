#!/usr/bin/env bash
# Build with CUDA, test, check and measure: all that a machine with a GPU is borrowed for, in parts.
# NOT YET RUN ON A GPU: written without one, and run dry (see below).
#
#   benchmarks/gpu.sh STAGE...        in the order given; each builds first what has changed
#
#   tests         the tests marked gpu, which must find a GPU
#   sanitizer     compute-sanitizer, memcheck and racecheck, over the tests of the kernels
#   prepare       encoder files and slides, made by the cores while other stages run
#   kernels       Grams, patches out of tiles, tissue masks: against cuBLAS and the card's ceilings
#   similarity    all pairs of 60 layers against pytorch-cka; two networks beyond their forward passes
#   classify      ResNet18 at 96 px: how busy the card is, and what limits
#   onnx          the tests of encoders again, on a GPU that ONNX Runtime uses      (needs onnxruntime-gpu)
#   encoders      ResNet50 float16 in ONNX Runtime against torch's CUDA graph       (needs onnxruntime-gpu)
#   vits          ViT-B/16 and ViT-L/16 float16, likewise                           (needs onnxruntime-gpu)
#   extract       end to end from JPEG slides; decoding on cores and GPU            (needs onnxruntime-gpu)
#   profile       what the time of encoders goes to, by kernels and by nsys         (needs onnxruntime-gpu)
#   compiled      encoders against torch.compile, which is slow to get ready        (needs onnxruntime-gpu)
#   FILE.py       any other benchmark
#   keep          only take in what was carried
#   fetch         where there is a network: wheels into .whl/ (ignored by git), for Python 3.12
#
# docs/gpus.md has the plan: what is carried, in which calls, how many seconds each step may take.
#
# The GPU's machine has no network; nvcc, a driver and a python3 with torch, timm, onnx, h5py, pytest and
# nanobind are there, .whl/ holds the rest: .whl/base, and onnxruntime-gpu for one kind of GPU
# (HISTOFAST_GPU_SM, 90) in pieces .whl/ort/1, .whl/ort/2 ..., each small enough to travel beside the
# working tree (HISTOFAST_GPU_CARRY_MIB, 64, in all). Pieces wait in /tmp for each other while the machine
# stays warm, so the calls follow each other within seconds.
#
# A call has HISTOFAST_GPU_SECONDS (570); what does not fit is cut short or left out, and said.
# Writes to $OUT (default benchmarks/results/gpu): checks.txt, device.json, tests.xml, memcheck.log,
# racecheck.log, onnx.xml, gpu.json, gpu.md, log.txt. Of several calls `benchmarks/compare.py` makes one table.
# Exit status: 0 when all that was asked for ran, found a GPU, and passed.
#
# Dry run without a GPU, on tiny sizes and with time: HISTOFAST_BENCH_TINY=1 benchmarks/gpu.sh tests ...
set -euo pipefail
stages='tests sanitizer prepare kernels similarity classify onnx encoders vits extract profile compiled keep'
cd "$(dirname "$0")/.."
if [ $# -eq 0 ]; then
    sed -n '2,/^set -/{/^set -/!s/^# \{0,1\}//p}' benchmarks/gpu.sh
    exit 2
fi
[ "$*" = fetch ] || for stage in "$@"; do # before anything is built
    [[ " $stages " == *" $stage "* || ($stage == *.py && -f $stage) ]] || {
        echo "no such stage: $stage, there are $stages" >&2
        exit 2
    }
done
tiny=${HISTOFAST_BENCH_TINY:-0}
limit_s=${HISTOFAST_GPU_SECONDS:-570} patience=1 # how many times as long a step may take
[ "$tiny" != 1 ] || limit_s=${HISTOFAST_GPU_SECONDS:-14400} patience=20
out=${OUT:-benchmarks/results/gpu}
work=${HISTOFAST_GPU_WORK:-/tmp/histofast-gpu} # outlives a call
mkdir -p "$out" "$work/wheels"
out=$(cd "$out" && pwd)
site=$work/site ort=$work/ort
export PYTHONPATH=$ort:$site${PYTHONPATH:+:$PYTHONPATH} PATH=$site/bin:$PATH PYTHONUNBUFFERED=1
export HISTOFAST_REQUIRE_GPU=1 HISTOFAST_BENCH_OUT=$out/gpu
export HISTOFAST_BENCH_CACHE=${HISTOFAST_BENCH_CACHE:-$work/cache}
status=0 preparing=

step() { printf '\n=== %4d s  %s\n' $SECONDS "$1"; }
left_s() { echo $((limit_s - SECONDS)); }
install() { # install FOLDER WHAT...
    local folder=$1
    shift
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
        --disable-pip-version-check --target "$folder" "$@"
}

# Nothing is left out quietly: what was not run, or found no GPU, has not passed.
run() { # run NAME SECONDS COMMAND...
    local name=$1 most_s=$(($2 * patience)) rc=0 begun=$SECONDS said
    shift 2
    [ "$most_s" -lt "$(left_s)" ] || most_s=$(left_s)
    step "$name (at most $most_s s)"
    if [ "$most_s" -lt 10 ]; then
        rc=124
    else
        timeout -k 10 "$most_s" "$@" || rc=$?
    fi
    case $rc in
    0) said=passed ;;
    5) said="FAILED: there is none" ;;
    9) said="FAILED: the sanitizer found errors" ;;
    124 | 137) said="NOT FINISHED in $most_s s" ;;
    *) said="FAILED, exit status $rc" ;;
    esac
    [ $rc -eq 0 ] || status=1
    echo "$name: $said ($((SECONDS - begun)) s)" | tee -a "$out/checks.txt"
}

# The warnings of another machine's versions of other packages are no failures of ours.
pytest=(python3 -m pytest -p no:cacheprovider -q -W default -o faulthandler_timeout=$((120 * patience)))

fetch() {
    rm -rf .whl/base .whl/ort
    mkdir -p .whl/base .whl/ort
    local platforms=() i tree_bytes base_bytes most_bytes
    for i in _2_28 _2_27 _2_17 2014 1; do platforms+=(--platform "manylinux${i}_x86_64"); done
    local download=(python3 -m pip download -q --no-deps --only-binary :all: --python-version 3.12
        --implementation cp "${platforms[@]}")
    "${download[@]}" -d .whl/base imagecodecs openslide-bin openslide-python scikit-build-core==1.1.2 \
        pytorch-cka==1.1.3
    "${download[@]}" -d .whl/ort onnxruntime-gpu==1.31.1
    tree_bytes=$(git ls-files -z -co --exclude-standard | xargs -0 stat -c %s | awk '{ n += $1 } END { print n }')
    base_bytes=$(cat .whl/base/* | wc -c)
    # A hundredth is left for what a transfer adds.
    most_bytes=$((${HISTOFAST_GPU_CARRY_MIB:-64} * 1048576 * 99 / 100 - tree_bytes))
    echo "working tree: $tree_bytes bytes; .whl/base: $base_bytes; beside the tree there is room for $most_bytes"
    [ "$base_bytes" -le "$most_bytes" ] || {
        echo ".whl/base does not fit beside the working tree"
        exit 1
    }
    python3 benchmarks/gpu_wheels.py pack .whl/ort/*.whl .whl/ort --sm "${HISTOFAST_GPU_SM:-90}" \
        --most-bytes "$most_bytes"
    rm .whl/ort/*.whl
}

keep() {
    local rc=0 piece
    [ ! -d "$ort/onnxruntime" ] || return 0
    compgen -G '.whl/ort/*/*' >/dev/null || return 0
    # One folder for each: a list of pieces is in all of them.
    for piece in .whl/ort/*/; do cp "$piece"* "$work/wheels/"; done
    step "onnxruntime-gpu"
    python3 benchmarks/gpu_wheels.py join "$work/wheels" "$ort" || rc=$?
    [ $rc -eq 0 ] || return $((rc == 3 ? 0 : rc)) # 3: some are still to come
    # Where pip would have put them: ONNX Runtime looks for CUDA and cuDNN beside itself.
    ln -sfn "$(python3 -c 'import nvidia; print(next(iter(nvidia.__path__)))')" "$ort/nvidia" ||
        echo "no CUDA libraries of Python's are here"
}

build() {
    local now
    now=$(find cpp python models scripts CMakeLists.txt pyproject.toml -type f -not -name '*.pyc' -print0 |
        sort -z | xargs -0 sha256sum | sha256sum)
    [ "$(cat "$work/built" 2>/dev/null)" != "$now" ] || return 0
    if compgen -G '.whl/base/*.whl' >/dev/null; then
        step "carried wheels"
        install "$site" .whl/base/*.whl
    elif ! python3 -c 'import imagecodecs, openslide, scikit_build_core'; then
        echo "this machine has nothing of ours yet: carry .whl/base with the first call"
        return 1
    fi
    step "build"
    local options=(-Ccmake.define.HISTOFAST_CUDA=ON -Ccmake.define.CMAKE_CUDA_ARCHITECTURES=native
        -Ccmake.define.CMAKE_CUDA_FLAGS=-lineinfo) # lines in the sanitizer's reports
    [ "$tiny" != 1 ] || options=(-Ccmake.define.HISTOFAST_CUDA=EMULATE)
    rm -rf "$HISTOFAST_BENCH_CACHE" # encoder files of other sources
    install "$site" --no-build-isolation -Cbuild-dir="$work/build" "${options[@]}" .
    echo "$now" >"$work/built"
}

about() {
    python3 - "$out/device.json" <<'EOF'
import importlib
import json
import platform
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import numpy as np

from histofast import _core
from histofast.encoders import device_problem, load

assert _core.cuda_is_compiled(), "this library was built without CUDA"
count = _core.cuda_device_count()
assert count >= 1, "the library is built with CUDA but finds no GPU"


def last_line(*command):
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        return str(error)
    return said.strip().splitlines()[-1]


def trial():  # of the library that was carried, before minutes go into it
    problem = device_problem("cuda")
    if problem:
        return problem
    try:
        with load("densenet121-t2", device="cuda") as encoder:
            d = encoder.encode(np.zeros((1, 256, 256, 3), np.uint8)).shape[1]
            return f"works: {d} features of a patch, {encoder.device_note or 'as asked for'}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


kinds = ("numpy", "nvidia", "onnx", "torch", "triton", "nanobind", "scikit-build", "imagecodecs")
about = {
    "gpus": [_core.cuda_device_name(i) for i in range(count)],
    "driver": last_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
    "nvcc": last_line("nvcc", "--version"),
    "kernel": platform.release(),
    "shared memory": last_line("df", "-h", "/dev/shm"),
    "python": platform.python_version(),
    "histofast": _core.version,
    "cpu_isa": _core.best_isa().name,
    "onnxruntime": importlib.import_module("onnxruntime").__version__,
    "onnxruntime on CUDA": trial(),
    "packages": {
        d.name: d.version for d in distributions() if d.name and d.name.lower().startswith(kinds)
    },
}
Path(sys.argv[1]).write_text(json.dumps(about, indent=1) + "\n")
print(json.dumps({key: value for key, value in about.items() if key != "packages"}, indent=1))
EOF
}

tests() {
    local files
    files=$(grep -lE 'mark\.gpu' tests/test_*.py)
    run "gpu tests" 300 "${pytest[@]}" -m gpu --junitxml="$out/tests.xml" $files
}

onnx() { # in a call before the last piece is there, these were skipped
    local xml=$out/onnx.xml
    run "gpu tests of encoders" 90 "${pytest[@]}" -m gpu --junitxml="$xml" \
        tests/test_encoders.py tests/test_bound.py
    [ "$tiny" != 1 ] || return 0
    ! grep -q 'needs a GPU that ONNX Runtime can use' "$xml" || {
        status=1
        echo "gpu tests of encoders: FAILED: ONNX Runtime cannot use the GPU" | tee -a "$out/checks.txt"
    }
}

sanitizer() {
    local tool sanitize
    for tool in memcheck racecheck; do
        # Torch's own kernels are not what is looked at, and would take minutes.
        sanitize=(compute-sanitizer --tool "$tool" --error-exitcode 9 --target-processes all
            --kernel-name kns=histofast --report-api-errors no --print-limit 100)
        [ "$tiny" != 1 ] || sanitize=(env)
        # Without torch's pools of memory: within one, a stray access stays unseen.
        run "$tool" 200 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
            bash -c '"$@" 2>&1 | tee "$0"; exit ${PIPESTATUS[0]}' "$out/$tool.log" \
            "${sanitize[@]}" "${pytest[@]}" -m "gpu and not slow" \
            tests/test_glcm.py tests/test_gram.py tests/test_tiling.py tests/test_tissue.py tests/test_device.py
    done
}

prepare() {
    step "prepare, beside what follows"
    OMP_NUM_THREADS=8 nice python3 benchmarks/gpu_prepare.py "$HISTOFAST_BENCH_CACHE" \
        >"$work/prepare.log" 2>&1 &
    preparing=$!
}

prepared() { # wait for it as long as there is time
    local rc=0 said=passed
    [ -n "$preparing" ] || return 0
    step "prepare: what is left of it"
    while kill -0 "$preparing" 2>/dev/null && [ "$(left_s)" -gt 10 ]; do sleep 1; done
    if kill "$preparing" 2>/dev/null; then
        said="NOT FINISHED: stages that need it go on with it"
    else
        wait "$preparing" || rc=$?
        [ $rc -eq 0 ] || said="FAILED, exit status $rc" status=1
    fi
    tail -n 30 "$work/prepare.log"
    echo "prepare: $said" | tee -a "$out/checks.txt"
}

bench() { # bench NAME FILE ARGUMENT...
    local name=$1
    shift
    run "benchmarks: $name" 540 "${pytest[@]}" -s "$@"
}

main() {
    local stage
    keep
    build
    about
    for stage in "$@"; do
        case $stage in
        keep) ;;
        tests) tests ;;
        sanitizer) sanitizer ;;
        prepare) prepare ;;
        onnx) onnx ;;
        kernels | similarity | classify | encoders | vits | extract | compiled)
            bench "$stage" "benchmarks/bench_gpu_$stage.py"
            ;;
        profile)
            bench profile benchmarks/bench_gpu_profile.py
            # By itself: two cannot record at once.
            ! command -v nsys >/dev/null || run "nsys" 90 nsys profile --force-overwrite true \
                -o "$out/encoders" "${pytest[@]}" benchmarks/bench_gpu_encoders.py -k batches
            ;;
        *.py) bench "$stage" "$stage" ;;
        esac
    done
    prepared
    step "results in $out"
    ! [ -f "$out/gpu.md" ] || cat "$out/gpu.md"
    ! [ -f "$out/checks.txt" ] || cat "$out/checks.txt"
    return $status
}

if [ "$*" = fetch ]; then
    fetch
    exit
fi
rm -f "$out"/{checks.txt,gpu.json,gpu.md}
set +e # in this shell: within `||` or `if` it would not hold in main either
(
    set -e
    main "$@"
) 2>&1 | tee "$out/log.txt"
exit "${PIPESTATUS[0]}"
