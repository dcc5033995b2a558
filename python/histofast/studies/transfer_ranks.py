"""Ranks of the layers of networks in training, over epochs, of all ways to a target: numbers only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from histofast.classify import EpochOfLayers
from histofast.learning import Difference, corrected_differences
from histofast.studies.transfer_found import TransferFound, Way

MEASURES: Mapping[str, str] = {
    "stable_rank": "stable rank",
    "effective_rank": "effective rank",
    "knowledge_gain": "knowledge gain",
}
DIRECT, BY_SOURCE = "trained directly", "after a source"

Values = NDArray[np.float64]
Epochs = Sequence[EpochOfLayers]
Kind = tuple[str, str]  # a target, and one of the measures


def measured(epoch: EpochOfLayers) -> Values:
    """Return (k, m) each measure of each layer, in the order of `MEASURES`."""
    return np.array([[asdict(layer)[name] for name in MEASURES] for layer in epoch.layers])


def curves_of(runs: Sequence[Sequence[Epochs | None]]) -> Values:
    """Return the mean over layers, and over ways, of each split at each epoch.

    Args:
        runs: of ways, and of the splits of each; None: the run failed.

    Returns:
        (n, epochs, m), from the start to the last epoch that all runs reached; NaN of a split in which a run
        failed.
    """
    known = [run for of_way in runs for run in of_way if run is not None]
    last = min(map(len, known), default=0)
    nothing = np.full((last, len(MEASURES)), np.nan)
    curves: Values = np.mean(
        [
            [
                nothing if run is None else [measured(epoch).mean(axis=0) for epoch in run[:last]]
                for run in of_way
            ]
            for of_way in runs
        ],
        axis=0,
    )
    return curves


def by_source(found: TransferFound, start: str, target: str) -> list[Way]:
    """Return the ways to a target by each other set."""
    return [found.cell(start, source, target) for source in found.sets if source != target]


def curves_to(found: TransferFound, start: str, target: str) -> dict[str, Values]:
    """Return `curves_of` the target trained directly, and after a source (the mean of all other sets)."""
    ways = {
        DIRECT: [Way(start=start, target=target)],
        BY_SOURCE: by_source(found, start, target),
    }
    return {
        name: curves_of([found.ranks[way] for way in of_kind]) for name, of_kind in ways.items()
    }


def ends_compared(found: TransferFound, start: str) -> dict[Kind, Difference]:
    """Return how much higher layers end after a source than trained directly, at the last epoch of both."""
    pairs: dict[Kind, tuple[Values, Values]] = {}
    for target in found.sets if found.ranks else ():
        curves = curves_to(found, start, target)
        last = min(curve.shape[1] for curve in curves.values())
        for k, measure in enumerate(MEASURES):
            ends = [curve[:, last - 1, k] if last else _nothing(curve) for curve in curves.values()]
            pairs[target, measure] = ends[1], ends[0]
    return corrected_differences(pairs, test_share=found.test_share)


def of_layers(runs: Sequence[Epochs | None]) -> Iterator[tuple[str, int, Values, Values]]:
    """Yield each layer of a way, of how many splits, and the mean (m,) of its measures at start and end."""
    known = [run for run in runs if run is not None]
    if not known:
        return
    first = np.mean([measured(run[0]) for run in known], axis=0)
    last = np.mean([measured(run[-1]) for run in known], axis=0)
    for k, layer in enumerate(known[0][0].layers):
        yield layer.layer, len(known), first[k], last[k]


def _nothing(curve: Values) -> Values:
    return np.full(len(curve), np.nan)
