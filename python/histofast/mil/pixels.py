"""The pixels behind a run's features, read again from its slides or patch images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histofast.errors import FeatureError
from histofast.features import FeatureFile, open_features
from histofast.mil.bags import Bags, Paths, open_bags
from histofast.mil.runs import Run
from histofast.patches import PatchImages, PatchReader, PatchSample

Slides = str | Path | Sequence[str | Path] | None

# What tells the pixels of a patch, of all that made a feature file.
_OF_PIXELS = ("slide", "patches", "level0_mpp", "patch_px", "mpp")


def bags_of(run: Run, features: Paths | None) -> Bags:
    """Open the features that a run was trained on, in its order and with its targets.

    Args:
        run: the run.
        features: its feature files; None: where they were.

    Raises:
        FileNotFoundError: a feature file that is not there.
        FeatureError: features of fewer slides, or others than the run was trained on.
    """
    if features is None:
        lost = [path for path in run.paths if not path.is_file()]
        if lost:
            raise FileNotFoundError(
                f"{lost[0]} is not there any more: name the folder of the run's features with features=..."
            )
    found = open_bags(run.paths if features is None else features, None, task=run.task)
    at = {name: i for i, name in enumerate(found.names)}
    lacking = [name for name in run.names if name not in at]
    if lacking:
        raise FeatureError(
            f"features must be of all {len(run.names)} slides of the run, got none of "
            f"{len(lacking)}: {', '.join(lacking[:3])}"
        )
    bags = found.part([at[name] for name in run.names])
    if bags.d != run.d:
        raise FeatureError(f"features must be {run.d} per patch as the run's, got {bags.d}")
    slides = run.record.identity["slides"]
    other = [
        name
        for name, content in zip(bags.names, bags.contents(), strict=True)
        if content != slides[name]["features"]
    ]
    if other:
        raise FeatureError(
            f"features must be those that the run was trained on, got others of {len(other)} of "
            f"{len(bags)} slides, first {other[0]}: train it again on these"
        )
    return replace(bags, targets=run.targets, classes=run.classes, patients=run.patients)


class Pixels:
    """The patches of bags, by row. A context manager: it holds threads that decode."""

    def __init__(
        self,
        bags: Bags,
        *,
        slides: Slides = None,
        patches: str | Path | PatchImages | None = None,
    ):
        """List the slides, or the table of patches.

        Raises:
            FeatureError: some bags have none.
            FileNotFoundError, ValueError: as `PatchReader`.
        """
        self._bags = bags
        self._reader = PatchReader(slides, patches=patches)
        self._files: dict[int, FeatureFile] = {}  # by row, without their features
        missing = [name for name in bags.names if name not in self._reader.names]
        if missing:
            self._reader.close()
            raise FeatureError(
                f"slides must be all {len(bags)} of the run, got none of {len(missing)}: "
                f"{', '.join(missing[:3])}"
            )

    def read(self, row: int, patches: NDArray[np.int64]) -> Tensor:
        """Return (k, p, p, 3) uint8: chosen patches of a bag.

        Raises:
            FeatureError, SlideError, TileError: as `PatchReader.read`.
        """
        return torch.from_numpy(self._reader.read(self.file(row), patches))

    def file(self, row: int) -> FeatureFile:
        """Open a feature file once; its features are left to the bags."""
        if row not in self._files:
            file = open_features(self._bags.paths[row])
            # A map that is kept would hold a file descriptor for every slide.
            self._files[row] = replace(file, features=np.empty((0, self._bags.d), np.float32))
        return self._files[row]

    def contents(self) -> dict[str, dict[str, str]]:
        """Return a checksum of what the pixels follow from, by the names of the bags."""
        return {name: {"pixels": self._content(row)} for row, name in enumerate(self._bags.names)}

    def _content(self, row: int) -> str:
        made_of = self.file(row).identity or {}
        told: list[Any] = [made_of.get(key) for key in _OF_PIXELS]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def sample(self, *, n: int, seed: int = 0) -> PatchSample:
        """Draw about n patches at random, as many of each slide, in the order of the slides."""
        rng = np.random.default_rng(seed)
        rows = np.sort(rng.permutation(len(self._bags))[:n])
        drawn: list[NDArray[np.uint8]] = []
        names: list[str] = []
        for place, row in enumerate(rows.tolist()):
            share = -(-(n - len(names)) // (len(rows) - place))  # what others lack
            size = int(self._bags.sizes[row])
            chosen = np.sort(rng.choice(size, min(share, size), replace=False))
            drawn.append(self.read(row, chosen).numpy())
            names += [self._bags.names[row]] * len(chosen)
        return PatchSample(pixels=np.concatenate(drawn), sources=tuple(names))

    def close(self) -> None:
        """Let the threads go."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sample_of_run(
    run: Run,
    *,
    slides: Slides = None,
    patches: str | Path | PatchImages | None = None,
    features: Paths | None = None,
    n: int = 512,
    seed: int = 0,
) -> PatchSample:
    """Draw patches that a run was trained on, at their scale: what its features know of it.

    Args:
        run: the run.
        slides: the slides that its features are of.
        patches: instead, the patch images that they are of, as `extract` was given them.
        features: the run's feature files; None: where they were.
        n: patches.
        seed: of the draw.

    Raises:
        FeatureError, FileNotFoundError, SlideError, TileError, ValueError: as `finetune`.

    Determinism: bitwise.
    """
    with Pixels(bags_of(run, features), slides=slides, patches=patches) as pixels:
        return pixels.sample(n=n, seed=seed)
