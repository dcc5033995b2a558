"""Features of all cuts of a network: one run of a file of cuts against one extraction per cut.

    pytest benchmarks/bench_cuts.py -s

Random weights, 224 px patches in memory. One extraction per cut does the sum of the cuts' shares of
the network's work, one run of all does it once: the quotient is what can be gained, and the goal is
0.8 of that.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from histofast import encoders, graphs

pytest.importorskip("torch")

from histofast import networks

PX, PATCHES = 224, 32
SHARE = 0.8


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_all_cuts_in_one_run(name, table, benchmark, tmp_path):
    cuts = networks.layers(name)
    whole = networks.create(name)
    networks.export_cuts(whole, tmp_path / "all.onnx", patch_px=PX)
    for cut in cuts:
        shorter = networks.create(name, layer=cut.name)
        networks.export(shorter, tmp_path / f"{cut.name}.onnx", patch_px=PX)
    pixels = graphs.stained_noise(PATCHES, PX)
    possible = sum(cut.flops_share for cut in cuts)
    with ExitStack() as stack:
        together = stack.enter_context(encoders.load_all(tmp_path / "all.onnx", device="cpu"))
        alone = [
            stack.enter_context(encoders.load(tmp_path / f"{cut.name}.onnx", device="cpu"))
            for cut in cuts
        ]

        def one_by_one():
            for encoder in alone:
                encoder.encode(pixels)

        rival = f"one extraction per cut ({possible:.2f} x the operations)"
        table.race(
            f"{name}, features of all {len(cuts)} cuts",
            lambda: together.encode(pixels),
            {rival: one_by_one, "the last cut alone": lambda: alone[-1].encode(pixels)},
            goals={rival: round(SHARE * possible, 2)},
            work=PATCHES,
            unit="patches/s",
            rounds=5,
        )
        benchmark.pedantic(lambda: together.encode(pixels), rounds=1)
