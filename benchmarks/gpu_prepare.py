"""What the benchmarks on a GPU need and cores can make: encoder files and slides.

    python benchmarks/gpu_prepare.py FOLDER       `gpu.sh prepare` does it beside other stages

In the order in which it is wanted; what is there stays.
"""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(sys.argv[1] if len(sys.argv) == 2 else "")
if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
    sys.exit(__doc__)

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "tests")]

from bench_gpu_extract import make_slides
from gpu_rivals import CONVOLUTIONS, VITS, file_of

FOLDER.mkdir(parents=True, exist_ok=True)
file_of(CONVOLUTIONS, FOLDER)
make_slides(FOLDER)
for name in VITS:
    file_of(name, FOLDER)
