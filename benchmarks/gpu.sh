#!/usr/bin/env bash
# Build with CUDA, test, check and measure: all that a machine with a GPU is borrowed for, in parts.
# NOT YET RUN ON A GPU: written without one, and run dry (see below).
#
#   benchmarks/gpu.sh STAGE...        in the order given; each builds first what has changed
#
#   tests         the tests marked gpu, which must find a GPU
#   sanitizer     compute-sanitizer, memcheck and racecheck, over the tests of the kernels
#   kernels       Grams, patches out of tiles, tissue masks: against cuBLAS and the card's ceilings
#   similarity    all pairs of layers; two networks beyond their forward passes
#   encoders      ResNet50 float16 in ONNX Runtime against torch             (needs onnxruntime-gpu)
#   extract       end to end from JPEG slides; decoding on cores and GPU     (needs onnxruntime-gpu)
#   FILE.py       any other benchmark
#   keep          only take in what was carried
#   fetch         where there is a network: wheels into .whl/ (ignored by git), for Python 3.12
#
# The GPU's machine has no network; nvcc, a driver and a python3 with torch, onnx, h5py, pytest and
# nanobind are there, .whl/ holds the rest. onnxruntime-gpu is too large for one call: it travels in
# five pieces, which wait in /tmp for each other while the machine stays warm. So, after `fetch`, in
# calls that follow each other within seconds, COMMIT being `git rev-parse --short HEAD`:
#
#   1.  carry .whl/base    HISTOFAST_COMMIT=COMMIT bash benchmarks/gpu.sh tests kernels sanitizer
#   2.  carry .whl/ort/1   HISTOFAST_COMMIT=COMMIT bash benchmarks/gpu.sh similarity
#   3.  carry .whl/ort/2   bash benchmarks/gpu.sh keep            likewise 4. and 5. with ort/3, ort/4
#   6.  carry .whl/ort/5   HISTOFAST_COMMIT=COMMIT bash benchmarks/gpu.sh encoders extract
#
# A call has HISTOFAST_GPU_SECONDS (570); what does not fit is cut short or left out, and said.
# Writes to $OUT (default benchmarks/results/gpu): checks.txt, device.json, tests.xml, memcheck.log,
# racecheck.log, gpu.json, gpu.md, log.txt. Of several calls `benchmarks/compare.py` makes one table.
# Exit status: 0 when all that was asked for ran, found a GPU, and passed.
#
# Dry run without a GPU, on tiny sizes: HISTOFAST_BENCH_TINY=1 benchmarks/gpu.sh tests kernels ...
set -euo pipefail
cd "$(dirname "$0")/.."
tiny=${HISTOFAST_BENCH_TINY:-0}
limit_s=${HISTOFAST_GPU_SECONDS:-570}
out=${OUT:-benchmarks/results/gpu}
work=${HISTOFAST_GPU_WORK:-/tmp/histofast-gpu} # outlives a call
mkdir -p "$out" "$work/wheels"
out=$(cd "$out" && pwd)
site=$work/site ort=$work/ort
export PYTHONPATH=$ort:$site${PYTHONPATH:+:$PYTHONPATH} PATH=$site/bin:$PATH PYTHONUNBUFFERED=1
export HISTOFAST_REQUIRE_GPU=1 HISTOFAST_BENCH_OUT=$out/gpu
export HISTOFAST_BENCH_CACHE=${HISTOFAST_BENCH_CACHE:-$work/cache}
status=0

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
    local name=$1 most_s=$2 rc=0 begun=$SECONDS said
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
pytest=(python3 -m pytest -p no:cacheprovider -q -W default -o faulthandler_timeout=120)

fetch() {
    rm -rf .whl/base .whl/ort
    mkdir -p .whl/base .whl/ort
    local platforms=() wheel i
    for i in _2_28 _2_27 _2_17 2014 1; do platforms+=(--platform "manylinux${i}_x86_64"); done
    local download=(python3 -m pip download -q --no-deps --only-binary :all: --python-version 3.12
        --implementation cp "${platforms[@]}")
    "${download[@]}" -d .whl/base imagecodecs openslide-bin openslide-python scikit-build-core \
        pytorch-cka==1.1.3
    "${download[@]}" -d .whl/ort onnxruntime-gpu
    wheel=$(basename .whl/ort/*.whl)
    for i in 1 2 3 4 5; do
        mkdir .whl/ort/$i
        split -n $i/5 ".whl/ort/$wheel" >".whl/ort/$i/$wheel.$i"
        (cd .whl/ort && sha256sum "$wheel" >"$i/sha256")
    done
    rm ".whl/ort/$wheel"
    du -sm .whl/base .whl/ort/*
}

keep() {
    local wheel
    [ ! -d "$ort/onnxruntime" ] || return 0
    compgen -G '.whl/ort/*/*' >/dev/null || return 0
    cp .whl/ort/*/* "$work/wheels/"
    wheel=$(cut -d ' ' -f 3 "$work/wheels/sha256") # "<sum>  <name>"
    step "onnxruntime-gpu: $(compgen -G "$work/wheels/$wheel.?" | wc -l) of 5 pieces are here"
    [ "$(compgen -G "$work/wheels/$wheel.?" | wc -l)" = 5 ] || return 0
    (cd "$work/wheels" && cat "$wheel".[1-5] >"$wheel" && sha256sum -c sha256)
    install "$ort" "$work/wheels/$wheel"
    rm "$work/wheels/$wheel"*
    # Where pip would have put them: ONNX Runtime looks for CUDA and cuDNN beside itself.
    ln -sfn "$(python3 -c 'import nvidia; print(next(iter(nvidia.__path__)))')" "$ort/nvidia"
}

build() {
    local now
    now=$(find cpp python models CMakeLists.txt pyproject.toml -type f -not -name '*.pyc' -print0 |
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

from histofast import _core
from histofast.encoders import device_problem

assert _core.cuda_is_compiled(), "this library was built without CUDA"
count = _core.cuda_device_count()
assert count >= 1, "the library is built with CUDA but finds no GPU"


def last_line(*command):
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        return str(error)
    return said.strip().splitlines()[-1]


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
    "onnxruntime without CUDA because": device_problem("cuda"),
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
        kernels | similarity | encoders | extract)
            run "benchmarks: $stage" 540 "${pytest[@]}" -s "benchmarks/bench_gpu_$stage.py"
            ;;
        *.py) run "benchmarks: $stage" 540 "${pytest[@]}" -s "$stage" ;;
        *)
            echo "no such stage: $stage"
            status=2
            ;;
        esac
    done
    step "results in $out"
    ! [ -f "$out/gpu.md" ] || cat "$out/gpu.md"
    ! [ -f "$out/checks.txt" ] || cat "$out/checks.txt"
    return $status
}

if [ $# -eq 0 ]; then
    sed -n '2,/^set -/{/^set -/!s/^# \{0,1\}//p}' "$0"
    exit 2
fi
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
