"""Peak memory of `classify.train` on 2,000 and 20,000 images: decoding, one epoch, evaluation.

    pytest benchmarks/bench_classify_memory.py -s

ResNet18 on pictures of 32 px, each run in a process of its own, augmentation on. What counts is the memory of
the process alone (RssAnon, looked at every 20 ms): mapped pixels are the page cache's, which gives them back
when somebody else needs it. Goal: flat within 10 %. HISTOFAST_BENCH_IMAGES for fewer than 20,000.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np

LARGE = int(os.environ.get("HISTOFAST_BENCH_IMAGES", "20000"))
COUNTS = (LARGE // 10, LARGE)
PX = 32
SCRIPT = """
import json, sys, threading, time
import histofast
from histofast.datasets import Augmentation

def anonymous():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["RssAnon"].split()[0]) * 1024

peak, ended = [0], threading.Event()
def watch():
    while not ended.wait(0.02):
        peak[0] = max(peak[0], anonymous())
watcher = threading.Thread(target=watch)
watcher.start()
found = histofast.datasets.decode(histofast.datasets.open_images(sys.argv[1]), cache=sys.argv[2])
decoding, peak[0] = peak[0], 0
recipe = histofast.classify.Recipe(
    epochs=1, freeze="all", batch_size=64, augmentation=Augmentation(flips=True, hed=0.05)
)
histofast.classify.train(
    sys.argv[1], network="resnet18", out=sys.argv[3], recipe=recipe, cache=sys.argv[2], device="cpu"
)
ended.set()
watcher.join()
print(json.dumps({"decoding": decoding, "training": peak[0], "mapped": found.pixels.nbytes}))
"""


def make(folder, count):
    from histofast.slides import write_png

    rng = np.random.default_rng(0)
    for name, low in (("a", 60), ("b", 120)):
        (folder / name).mkdir(parents=True)
        for i in range(count // 2):
            pixels = rng.integers(low, low + 120, (PX, PX, 3), dtype=np.uint8)
            write_png(folder / name / f"{i}.png", pixels)


def test_peak_memory(table, benchmark, tmp_path):
    found = {}
    for count in COUNTS:
        make(tmp_path / str(count), count)
        folders = [str(tmp_path / f"{part}{count}") for part in ("", "cache", "run")]
        command = [sys.executable, "-c", SCRIPT, *folders]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[count] = json.loads(done.stdout.splitlines()[-1])
        print(f"\n  {count} images: {found[count]}")
    for part, goal in (("decoding", None), ("training", 1 / 1.1)):
        peaks = {count: values[part] for count, values in found.items()}
        table.add(
            what=f"peak memory of {part}, flat",
            ours=", ".join(f"{count:,}: {peak / 1e6:.0f} MB" for count, peak in peaks.items()),
            rival="smallest / largest",
            theirs="",
            ratio=min(peaks.values()) / max(peaks.values()),
            goal=goal,
        )
    benchmark.pedantic(lambda: None, rounds=1)
