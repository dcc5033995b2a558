"""The parts of the study, each a job: a run that chooses patches, and models of slides on what is chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast.errors import FeatureError
from histofast.features import FeatureFile, open_features
from histofast.graphs import bench
from histofast.learning import read_json, write_json
from histofast.mil import Bags, TrainConfig, attention_by, open_run
from histofast.pipeline import attention_on, selected_rows, selected_sizes
from histofast.studies.plan import train_one

RUN, KEPT, SPEED = "run", "kept.json", "speed.json"
_RANDOM = 11  # stream of random numbers
_ROUNDS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """How patches are chosen: see `pipeline.selected_rows`."""

    keep: float
    keep_random: float
    seed: int

    @property
    def told(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"keep": self.keep, "keep_random": self.keep_random, "seed": self.seed}


def train_part(
    *, bags: Bags, model: str, config: TrainConfig, threads: int | None, out: Path
) -> None:
    """Train on all patches: what chooses, or what the others are held against."""
    train_one(bags=bags, out=out / RUN, model=model, config=config, threads=threads)


def train_on_attended(
    *,
    bags: Bags,
    cheap: Bags,
    selector: Path,
    share: Share,
    model: str,
    config: TrainConfig,
    threads: int | None,
    out: Path,
) -> None:
    """Train on the patches that another run attends to, which has seen no slide that is tested."""
    attention = attention_by(open_run(selector / RUN), cheap)
    rows = []
    for i, values in enumerate(attention):
        values = _onto(open_features(cheap.paths[i]), open_features(bags.paths[i]), values)
        rows.append(selected_rows(values, **share.told)[0])
    _train_on(bags, rows, model=model, config=config, threads=threads, out=out)


def train_on_random(
    *,
    bags: Bags,
    share: Share,
    model: str,
    config: TrainConfig,
    threads: int | None,
    out: Path,
) -> None:
    """Train on as many patches of each slide, drawn at random."""
    rows = []
    for name, n in zip(bags.names, bags.sizes.tolist(), strict=True):
        size = sum(selected_sizes(n, keep=share.keep, keep_random=share.keep_random))
        own = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        numbers = np.random.default_rng([_RANDOM, share.seed, own]).random(n)
        rows.append(np.sort(np.argsort(numbers, kind="stable")[:size]).astype(np.int64))
    _train_on(bags, rows, model=model, config=config, threads=threads, out=out)


def _train_on(bags: Bags, rows: list[NDArray[np.int64]], *, out: Path, **told: Any) -> None:
    train_part(bags=bags.chosen(rows), out=out, **told)
    kept = {name: len(each) for name, each in zip(bags.names, rows, strict=True)}
    write_json(out / KEPT, {"kept": kept})


def _onto(
    cheap: FeatureFile, costly: FeatureFile, attention: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the attention of the patches of another file of the same slide.

    Raises:
        FeatureError: nobody can tell which patches lie where.
    """
    n = len(costly.features)
    if cheap.coords is None or costly.coords is None:
        is_same = len(attention) == n
    else:
        is_same = np.array_equal(cheap.coords, costly.coords)
        if not is_same and cheap.patch_l0 is not None and costly.patch_l0 is not None:
            return attention_on(
                attention,
                cheap.coords,
                cheap.patch_l0,
                onto_l0=costly.coords,
                onto_side_l0=costly.patch_l0,
            )
    if not is_same:
        raise FeatureError(
            f"{costly.path} must hold the patches of {cheap.path}, or tell where its own lie, got {n} of "
            f"{len(attention)}: extract both with the same patch size, mpp and overlap"
        )
    return attention


def kept_of(folder: Path) -> Mapping[str, int]:
    """Return how many patches of each slide a part has kept.

    Raises:
        ModelError: its file was changed since.
    """
    told = read_json(folder / KEPT, remedy=f"remove {folder} to make it anew")
    kept: Mapping[str, int] = told["kept"]
    return kept


def time_encoders(*, encoders: Mapping[str, str], device: str, out: Path) -> None:
    """Time encoders one after the other, each on patches of its own size, in float32 as they are."""
    speeds = {}
    for name, file in encoders.items():
        (times,) = bench([file], device=device, rounds=_ROUNDS).encoders
        speeds[name] = {"patches_per_s": times.patches_per_s, "provider": times.provider}
    write_json(out / SPEED, {"encoders": speeds})


def speeds_of(folder: Path) -> dict[str, float]:
    """Return patches per second by encoder.

    Raises:
        ModelError: its file was changed since.
    """
    told = read_json(folder / SPEED, remedy=f"remove {folder} to make it anew")
    return {name: float(times["patches_per_s"]) for name, times in told["encoders"].items()}
