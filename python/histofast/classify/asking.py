"""What is asked of a run in, checked; what its numbers follow from out."""

from __future__ import annotations

import contextlib
import math
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from histofast._numbers import whole_number
from histofast.classify.recipe import Recipe, as_recipe
from histofast.classify.runs import KIND
from histofast.classify.state import first_trained_stage
from histofast.datasets import Images, open_images, split
from histofast.errors import SlideError
from histofast.learning import Fold, RunRecord, check_metric, metrics, or_none
from histofast.networks import Network, check_size, starts
from histofast.slides import read_image

# Raised whenever the same input would give other numbers than before; part of every run's identity.
REVISION = 1

_FEW = 30  # validation images; a metric of ranks takes few values on fewer


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A run that is asked for: what its numbers follow from, but for the content of files.

    Attributes:
        images: with targets.
        fold: which of them train, validate and test.
        network, start, recipe, seed: as of `train`.
    """

    images: Images
    fold: Fold
    network: str
    start: starts.Start
    recipe: Recipe
    seed: int

    @cached_property
    def metric(self) -> str:
        """What chooses the weights.

        Raises:
            ValueError: the recipe's is none of this task, or is not defined on the validation images.
        """
        images, asked = self.images, self.recipe.metric
        if asked is not None:
            check_metric("metric", asked, task=images.task)
            if asked != "loss" and not self._is_defined(asked):
                raise ValueError(
                    f"metric {asked} must be defined on the validation images, got too few, or "
                    "one class only: choose loss"
                )
            return asked
        two = images.task == "multilabel" or len(images.classes) == 2
        usual = "auroc" if two else "balanced_accuracy"
        few = len(self.fold.validation) < _FEW
        return "loss" if few or not self._is_defined(usual) else usual

    def begin(self) -> Network:
        """Build the network as it begins.

        Raises:
            FileNotFoundError, ModelError: a start that is not there or does not fit; no such layer.
        """
        begun = starts.begin(
            self.network, self.start, classes=len(self.images.classes), seed=self.seed
        )
        first_trained_stage(begun, self.recipe.freeze)
        return begun

    @cached_property
    def px(self) -> int:
        """Side of the images that the network will see; of the first that can be read, if they stay as they are.

        Raises:
            ValueError: no image can be read.
        """
        if self.recipe.px is not None:
            return self.recipe.px
        for file in self.images.files:
            with contextlib.suppress(SlideError, OSError):
                return len(read_image(file))
        raise ValueError("images must be readable, got none")

    def told(self, contents: tuple[str, ...]) -> dict[str, Any]:
        """Return what the numbers follow from besides network and start, as JSON holds it.

        Args:
            contents: what `datasets.contents_of` says of the images.
        """
        images = self.images
        plain: list[Any] = images.targets.tolist()
        if images.task == "multilabel":
            plain = [[or_none(value) for value in row] for row in plain]
        return {
            "revision": REVISION,
            "seed": self.seed,
            "recipe": asdict(self.recipe),
            "task": images.task,
            "classes": images.classes,
            "group_kind": images.group_kind,
            "images": {
                name: {"content": content, "group": group, "target": target}
                for name, content, group, target in zip(
                    images.names, contents, images.groups, plain, strict=True
                )
            },
            "split": {part.name: getattr(self.fold, part.name).tolist() for part in fields(Fold)},
            "metric": self.metric,
        }

    def record(self, contents: tuple[str, ...], begun: Network) -> RunRecord:
        """Return what run.json holds.

        Args:
            contents: what `datasets.contents_of` says of the images.
            begun: the network as it begins.

        Raises:
            FileNotFoundError, ModelError: as `begin`.
        """
        from histofast import __version__

        return RunRecord(
            kind=KIND,
            identity={
                "network": {
                    "name": begun.architecture,
                    "mean": begun.mean,
                    "std": begun.std,
                    "bn_eps": starts.eps_of(begun),
                },
                "start": starts.identity(self.start),
                **self.told(contents),
            },
            about={
                "versions": {"histofast": __version__, "torch": torch.__version__},
                "data": str(self.images.path.resolve()),
                "start": str(self.start),
                "mpp": sorted({mpp for mpp in self.images.mpp if mpp is not None}),
                "notes": list(self.images.notes),
            },
        )

    def _is_defined(self, metric: str) -> bool:
        """Whether some probabilities, of which no two are equal, have this metric."""
        images, validation = self.images, self.fold.validation
        b, c = len(validation), len(images.classes)
        ramp = np.linspace(0.1, 0.2, b)
        outputs = np.tile(ramp[:, None] / c, c)
        if images.task == "classification":
            outputs[:, -1] = 1 - outputs[:, :-1].sum(axis=1)
        return math.isfinite(score(images, validation, outputs)[metric])

    @classmethod
    def of(
        cls,
        data: Images | str | Path,
        *,
        network: str,
        start: starts.Start | str,
        recipe: Recipe | str | Path,
        fold: int,
        folds: int,
        seed: int,
    ) -> Self:
        """Check what `train` is asked for.

        Raises:
            FileNotFoundError, ValueError: as `train`, of all but the files of the start.
            ModelError: a network, or what a start asks of it, that cannot be.
        """
        starts.network_of(network, start)
        images = data if isinstance(data, Images) else open_images(data)
        if not images.has_targets:
            raise ValueError("data must have labels to be trained on, got none")
        seed = whole_number("seed", seed, at_least=0)
        return cls(
            images=images,
            fold=_split(images, fold=fold, folds=folds, seed=seed),
            network=network,
            start=starts.parse(start),
            recipe=as_recipe(recipe),
            seed=seed,
        )


def _split(images: Images, *, fold: int, folds: int, seed: int) -> Fold:
    """Return the split of a data set; refuse a training part without a class."""
    chosen = split(images, fold=fold, folds=folds, seed=seed)
    if len(chosen.train) < 2:
        raise ValueError(
            f"training images must be at least 2, got {len(chosen.train)}: more "
            f"{images.group_kind}s are needed, or another fold"
        )
    if images.task == "classification":
        counts = np.bincount(images.targets[chosen.train], minlength=len(images.classes))
        if not counts.all():
            raise ValueError(
                "training images must be of every class, got none of "
                f"{images.classes[int(counts.argmin())]}: more {images.group_kind}s are needed, or "
                "another fold"
            )
    return chosen


def refuse_small(network: Network, px: int) -> None:
    """Refuse images that some layer of a network is larger than.

    Raises:
        ModelError: with the smallest size that the network takes.
    """
    check_size(network, px, remedy="resample the pictures to a larger px, or take another network")


def score(
    images: Images, rows: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> dict[str, float]:
    """Return what probabilities of some images are worth: metrics by name, without intervals."""
    found = metrics(
        images.task,
        images.targets[rows],
        probabilities,
        groups=[images.groups[i] for i in rows],
        classes=images.classes,
        resamples=0,
    )
    return {name: metric.value for name, metric in found.items()}
