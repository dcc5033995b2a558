"""What it costs to import the package and to ask for help: the best of several fresh processes.

pytest benchmarks/bench_startup.py -s
"""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

BARE = "pass"


def seconds(code):
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - began


@pytest.mark.parametrize(
    ("what", "code", "limit_s"),
    [
        ("import histofast", "import histofast", 0.3),
        ("histofast --help", ("import sys; sys.argv[1:] = ['--help']\n"
         "from histofast.cli import main; main()"), 0.6),
    ],
)  # fmt: skip
def test_startup(what, code, limit_s, table, benchmark):
    seconds(code)
    ours = min(seconds(code) for _ in range(7))
    bare = min(seconds(BARE) for _ in range(7))
    table.add(
        what=f"{what}, fresh process",
        ours=f"{ours:.3f} s",
        rival=f"limit {limit_s} s (bare Python {bare:.3f} s)",
        theirs="",
        ratio=limit_s / ours,
        goal=1,
    )
    benchmark.pedantic(seconds, args=(code,), rounds=3)
