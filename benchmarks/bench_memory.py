"""Peak memory of `extract` on slides of 4k, 20k and 60k pixels a side, default encoder.

    pytest benchmarks/bench_memory.py -s

Each in a process of its own; the largest resident size the kernel saw. The 60k slide is built from
repeated tiles. Goal: flat within 10 %, under 1.2 GB.
"""

from __future__ import annotations

import json
import subprocess
import sys

from histofast.patches import make_slide

SIDES = (4_096, 20_480, 60_160)
SCRIPT = """
import json, sys, histofast
report = histofast.extract(sys.argv[1], out=sys.argv[2])
assert report.exit_code == 0
# Not ru_maxrss: it starts at the size of the process that started this one.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = int(status["VmHWM"].split()[0]) * 1024
print(json.dumps({"patches": report.patches, "bytes": peak}))
"""


def test_peak_memory(cache, table, benchmark, tmp_path):
    peaks = {}
    for side in SIDES:
        path = cache / f"memory-{side}.tif"
        if not path.exists():
            make_slide(
                path,
                width_px=side,
                height_px=side,
                seed=2,
                repeat_px=4096 if side > 30_000 else None,
            )
        command = [sys.executable, "-c", SCRIPT, str(path), str(tmp_path / str(side))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        result = json.loads(done.stdout)
        peaks[side] = result["bytes"]
        print(f"\n  {side} px: {result['bytes'] / 1e6:.0f} MB, {result['patches']} patches")
    listed = ", ".join(f"{side // 1000}k: {peak / 1e6:.0f} MB" for side, peak in peaks.items())
    table.add(
        what="peak memory of extract, flat",
        ours=listed,
        rival="smallest / largest",
        theirs="",
        ratio=min(peaks.values()) / max(peaks.values()),
        goal=1 / 1.1,
    )
    table.add(
        what="peak memory of extract",
        ours=f"{max(peaks.values()) / 1e6:.0f} MB",
        rival="limit 1200 MB",
        theirs="",
        ratio=1.2e9 / max(peaks.values()),
        goal=1,
    )
    benchmark.pedantic(lambda: None, rounds=1)
