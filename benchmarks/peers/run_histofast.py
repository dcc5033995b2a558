"""One slide by histofast's Python, told in JSON on the last line. See race.py."""

from __future__ import annotations

import json
import sys
import time

import numpy as np

began = time.perf_counter()
import histofast


def main() -> None:
    job = json.loads(sys.argv[1])
    encoder = job["encoder"]
    histofast.load_encoder(encoder)  # as the peers have loaded theirs
    ready = time.perf_counter()
    report = histofast.extract(
        job["slide"],
        out=job["out"],
        encoder=encoder,
        mpp=job["mpp"],
        patch_px=job["patch_px"],
        threads=job["threads"],
        device="cpu",
    )
    seconds = time.perf_counter() - ready
    file = histofast.read_features(report.slides[0].outputs[0])
    side = job["patch_px"] * job["mpp"] / file.attributes["level0_mpp"]
    np.savez(
        job["result"], boxes=np.hstack([file.coords, file.coords + side]), features=file.features
    )
    told = {"version": histofast.__version__, "patches": len(file.coords), "seconds": seconds}
    print(json.dumps(told | {"loading_s": ready - began}))


if __name__ == "__main__":
    main()
