"""Whether this machine can compile histofast, said in one line before CMake fills pages.

python scripts/compiler.py      # exit status 1 and the line, when it cannot
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path

NAMES = ("c++", "CC", "g++", "xlC", "icpx", "icx", "clang++")  # CMake's, in its order
INSTALL = (
    "apt install g++ (Debian, Ubuntu), dnf install gcc-c++ (RHEL, Fedora), conda install gxx "
    "(conda) or xcode-select --install (macOS), or install a wheel of histofast, which needs none"
)
PROGRAM = """\
#include <Python.h>
#include <optional>
#include <thread>
int main() {
    const std::optional<int> zero = 0;
    if constexpr (sizeof(PyObject*) > 0) return *zero;
}
"""


class Unable(Exception):
    """This machine cannot compile histofast; the message says what to install."""


def check(include: str | None = None, env: Mapping[str, str] = os.environ) -> None:
    """Find the compiler that CMake will find, and compile a few lines of C++17 with it.

    Args:
        include: the folder of Python.h; of the running Python when omitted.
        env: where CXX, CXXFLAGS and PATH are looked up.

    Raises:
        Unable: no compiler, one too old, or no Python.h; in one line.
    """
    given = shlex.split(env.get("CXX", ""))
    names = given[:1] or NAMES
    found = next((name for name in names if shutil.which(name, path=env.get("PATH", ""))), None)
    if found is None:
        got = f"CXX={env['CXX']}, which is not there" if given else "none on the PATH"
        raise Unable(f"a C++17 compiler must be installed to build histofast, got {got}: {INSTALL}")
    include = include or sysconfig.get_path("include")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not Path(include, "Python.h").is_file():
        raise Unable(
            f"the headers of Python {version} must be installed to build histofast, got no "
            f"{include}/Python.h: apt install python{version}-dev (Debian, Ubuntu) or dnf install "
            f"python{version}-devel (RHEL, Fedora), or install a wheel of histofast, which needs "
            "none"
        )
    problem = _problem([found, *given[1:]], include, env)
    if problem is not None:
        raise Unable(
            f"the compiler must know C++17 to build histofast, got {found} that says "
            f"'{problem}': install a newer one with {INSTALL}"
        )


def _problem(compiler: list[str], include: str, env: Mapping[str, str]) -> str | None:
    """Why the compiler cannot compile the program, in its own words; None when it can."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "program.cpp")
        source.write_text(PROGRAM)
        flags = [*shlex.split(env.get("CXXFLAGS", "")), "-std=c++17", f"-I{include}"]
        command = [*compiler, *flags, "-c", str(source), "-o", f"{source}.o"]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        except OSError as error:
            return str(error)
    if ran.returncode == 0:
        return None
    lines = [line.strip() for line in (ran.stderr + ran.stdout).splitlines() if line.strip()]
    said = [line for line in lines if "error" in line.lower()] or lines
    return said[0] if said else f"nothing, with exit status {ran.returncode}"


if __name__ == "__main__":
    try:
        check()
    except Unable as reason:
        sys.exit(f"histofast: {reason}")
