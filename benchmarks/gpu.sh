#!/usr/bin/env bash
# Build with CUDA, run the GPU tests, run the GPU benchmarks: all that a machine with a GPU is borrowed for.
# NOT YET RUN ON A GPU: written without one; expect to mend it on its first run.
#
#   benchmarks/gpu.sh [BENCHMARK_FILE...]      named files are run as well as what is marked gpu
#
# Needs nvcc, a driver, and a python3 with torch, onnx, onnxruntime, h5py, pytest, nanobind and scikit-build-core.
# No network: what that python3 lacks is carried in .whl/ (ignored by git), as wheels for its version. Today:
#   pip download --no-deps --only-binary :all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
#       --platform manylinux1_x86_64 -d .whl imagecodecs openslide-bin openslide-python rich
#
# Writes to $OUT (default benchmarks/results/gpu): device.json, tests.xml, benchmarks.json, named.json.
# Exit status: 0 when the tests passed and the benchmarks ran.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-benchmarks/results/gpu}
mkdir -p "$out"
out=$(cd "$out" && pwd)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
site=$work/site
export PYTHONPATH=$site PATH=$site/bin:$PATH PYTHONUNBUFFERED=1
install=(python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site")

step() { printf '\n=== %4d s  %s\n' $SECONDS "$1"; }

if compgen -G '.whl/*.whl' >/dev/null; then
    step "carried wheels"
    "${install[@]}" .whl/*.whl
fi

step "build with CUDA"
"${install[@]}" --no-build-isolation -Cbuild-dir="$work/build" \
    -Ccmake.define.HISTOFAST_CUDA=ON -Ccmake.define.CMAKE_CUDA_ARCHITECTURES=native .

step "import"
python3 - "$out/device.json" <<'EOF'
import json
import platform
import subprocess
import sys
from importlib.metadata import distributions

from histofast import _core

assert _core.cuda_is_compiled(), "HISTOFAST_CUDA=ON built a library without CUDA"
count = _core.cuda_device_count()
assert count >= 1, "the library is built with CUDA but finds no GPU"
nvcc = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
about = {
    "gpus": [_core.cuda_device_name(i) for i in range(count)],
    "nvcc": nvcc.strip().splitlines()[-1],
    "python": platform.python_version(),
    "histofast": _core.version,
    "cpu_isa": _core.best_isa().name,
    "packages": {
        d.name: d.version
        for d in distributions()
        if d.name.lower().startswith(("numpy", "onnx", "torch", "nanobind", "scikit-build"))
    },
}
with open(sys.argv[1], "w") as file:
    json.dump(about, file, indent=1)
print(json.dumps(about, indent=1))
EOF

# Nothing is left out quietly: a gpu test that finds no GPU fails, and so does finding no gpu test.
status=0
step "gpu tests"
HISTOFAST_REQUIRE_GPU=1 python3 -m pytest -p no:cacheprovider -m gpu --junitxml="$out/tests.xml" || status=$?

run_benchmarks() { # run_benchmarks NAME PYTEST_ARGUMENT...
    local name=$1 rc=0
    shift
    step "benchmarks: $name"
    HISTOFAST_REQUIRE_GPU=1 HISTOFAST_BENCH_CACHE="$work/cache" python3 -m pytest -p no:cacheprovider -s \
        --benchmark-json="$out/$name.json" "$@" || rc=$?
    case $rc in
    0) ;;
    5) echo "no benchmark of this kind yet" ;;
    *) status=$rc ;;
    esac
}
gpu_files=$(grep -lE 'mark\.gpu' benchmarks/bench_*.py || true)
if [ -n "$gpu_files" ]; then
    # Only the files that have one: the others import rivals that need not be here.
    run_benchmarks benchmarks -m gpu $gpu_files
else
    step "benchmarks: none is marked gpu yet"
fi
[ $# -eq 0 ] || run_benchmarks named "$@"

step "done, exit status $status; results in $out"
exit $status
