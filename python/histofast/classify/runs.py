"""The folder of a run: one network, one start, one data set, one split, one recipe, one seed.

    run.json              network, start, images by content, split, recipe, seed
    recipe.toml           how it was trained, to be read again
    log.csv               an evaluation a row
    layers.csv            ranks of a layer after an epoch a row, where they were asked for
    state.pt              until it is trained
    weights.safetensors   the network with its head, as torchvision spells it
    predictions.csv       of validation and test images
    metrics.json          of these predictions, with checksums of the above; written last: a run that has
                          it is finished

Every file is whole or not there, so a run may be killed at any moment.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save

from histofast._tables import read_csv
from histofast.classify.layers import EpochOfLayers, read_layers
from histofast.classify.recipe import Recipe
from histofast.datasets import GroupKind, ImageTask
from histofast.errors import ModelError
from histofast.learning import (
    LOWER_IS_BETTER,
    METRICS,
    PREDICTIONS,
    Each,
    Fold,
    Reached,
    RunRecord,
    check_metric,
    open_recorded,
    read_json,
    steps_to,
    unchanged,
    write_bytes,
)
from histofast.networks import Network, create

KIND = "classify"
WEIGHTS, STATE, LOG, RECIPE = "weights.safetensors", "state.pt", "log.csv", "recipe.toml"
LAYERS = "layers.csv"
CURVES = ("curves.png", "curves.svg")
FILES = (WEIGHTS, STATE, LOG, LAYERS, RECIPE, *CURVES)
_ANEW = "remove it and run classify again with the same arguments"


# Of run.json.
_FORM = {
    "identity": {
        # A network without BatchNorms has no eps.
        "network": {
            "name": str,
            "mean": [float] * 3,
            "std": [float] * 3,
            "bn_eps": (float, type(None)),
        },
        "start": dict,
        "seed": int,
        "recipe": dict,
        "task": str,
        "classes": [str],
        "group_kind": str,
        "images": Each({"group": str, "target": (int, list)}),
        "split": {part.name: [int] for part in fields(Fold)},
        "metric": str,
    },
    "about": {"data": str, "start": str, "mpp": [float]},
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Run:
    """A run as it lies in its folder.

    Attributes:
        path: the folder.
        architecture: name of the network.
        task, classes: what was learnt; classes in the order of the outputs.
        group_kind: what groups are.
        recipe: how it was trained.
        metric: what chose the weights.
        seed: of all that was random.
        names: (n) of the images.
        groups: (n) whose each is.
        targets: (n,) int64, or (n, c) float64 with NaN where not known.
        fold: which images trained, chose and tested.
        record: what all of this was read from.
    """

    path: Path
    architecture: str
    task: ImageTask
    classes: tuple[str, ...]
    group_kind: GroupKind
    recipe: Recipe
    metric: str
    seed: int
    names: tuple[str, ...]
    groups: tuple[str, ...]
    targets: NDArray[Any]
    fold: Fold
    record: RunRecord

    @property
    def is_finished(self) -> bool:
        """Whether it is trained and measured."""
        return (self.path / METRICS).is_file()

    @property
    def px(self) -> int:
        """Side of the images that the network sees.

        Raises:
            ModelError: as `metrics`.
        """
        return int(self.metrics()["px"])

    @property
    def mpp(self) -> float | None:
        """Resolution of the images, um/px; None where it is not known, not one, or not that of `px`."""
        told = self.record.about.get("mpp", [])
        return float(told[0]) if len(told) == 1 and self.recipe.px is None else None

    def network(self, *, layer: str | None = None, head: bool = True) -> Network:
        """Return the trained network, in evaluation mode.

        Args:
            layer: the last stage, one of `networks.layers(run.architecture)`; None: the last of all.
            head: with its head, which only the whole network has.

        Raises:
            ModelError: the run is not finished, or its weights were changed since; no such layer.
            ValueError: a head on a network that is cut.
        """
        path = unchanged(self.path / WEIGHTS, self.metrics()[WEIGHTS], remedy=_ANEW)
        told = self.record.identity["network"]
        network = create(
            self.architecture,
            weights=path,
            layer=layer,
            classes=len(self.classes) if head else 0,
            bn_eps=told["bn_eps"],
        )
        assert isinstance(network, Network)
        if head and network.loaded is not None and network.loaded.head != "loaded":
            raise ValueError(
                f"head must be of the whole {self.architecture}, which was trained with it, got "
                f"layer {layer}: leave out one of them"
            )
        network.mean, network.std = tuple(told["mean"]), tuple(told["std"])
        return network

    def metrics(self) -> dict[str, Any]:
        """Return what metrics.json holds: `test` and `validation`, each with value, low and high by name.

        Raises:
            ModelError: the run is not finished, or metrics.json was changed since.
        """
        if not self.is_finished:
            raise ModelError(
                f"{self.path} must be a finished run, got no {METRICS}: run classify again with the "
                "same arguments"
            )
        return read_json(self.path / METRICS, remedy=_ANEW)

    def predictions(self) -> dict[str, NDArray[np.float64]]:
        """Return (c,) probabilities of each validation and test image, by name.

        Raises:
            ModelError: the run is not finished, or the table was changed since.
        """
        path = unchanged(self.path / PREDICTIONS, self.metrics()[PREDICTIONS], remedy=_ANEW)
        _, *rows = read_csv(path)
        c = len(self.classes)
        return {row[0]: np.array([float(cell) for cell in row[-c:]]) for row in rows}

    def log(self) -> dict[str, NDArray[np.float64]]:
        """Return the columns of log.csv, (n,) of the n evaluations, by name.

        Raises:
            ModelError: the run is not finished, or the table was changed since.
        """
        path = unchanged(self.path / LOG, self.metrics()[LOG], remedy=_ANEW)
        header, *rows = read_csv(path)
        values = np.array([[float(cell) for cell in row] for row in rows], np.float64)
        return dict(zip(header, values.T, strict=True))

    def layers(self) -> tuple[EpochOfLayers, ...]:
        """Return the ranks of the layers after every epoch, and at the start, as layers.csv has them.

        Raises:
            ValueError: the run was trained without them.
            ModelError: the run is not finished, or the table was changed since.
        """
        written = self.metrics().get(LAYERS)
        if written is None:
            raise without_layers(self.path)
        return read_layers(unchanged(self.path / LAYERS, written, remedy=_ANEW))

    def steps_to(self, threshold: float, *, metric: str | None = None) -> Reached | None:
        """Return when the validation images first got to a threshold, of what `log` holds.

        Args:
            threshold: the value asked for; `metric` decides whether higher or lower is better.
            metric: of the task, or "loss"; None: the one that chose the weights.

        Returns:
            The step, interpolated between two evaluations; censored where none got there. None where the
            metric is defined at no evaluation (validation images of one class).

        Raises:
            ModelError: as `log`.
            ValueError: no such metric; a threshold that is not finite.
        """
        metric = self.metric if metric is None else check_metric("metric", metric, task=self.task)
        log = self.log()
        values = log[f"validation_{metric}"]
        if np.isnan(values).all():
            return None
        return steps_to(
            log["step"], values, threshold, higher_is_better=metric not in LOWER_IS_BETTER
        )

    @classmethod
    def of(cls, path: Path, record: RunRecord) -> Self:
        """Make a run of what run.json holds."""
        identity = record.identity
        images = identity["images"]
        is_one = identity["task"] == "classification"
        targets = [
            image["target"] if is_one else [np.nan if v is None else v for v in image["target"]]
            for image in images.values()
        ]
        return cls(
            path=path,
            architecture=identity["network"]["name"],
            task=identity["task"],
            classes=tuple(identity["classes"]),
            group_kind=identity["group_kind"],
            recipe=Recipe.of_json(identity["recipe"]),
            metric=identity["metric"],
            seed=identity["seed"],
            names=tuple(images),
            groups=tuple(image["group"] for image in images.values()),
            targets=np.array(targets, np.int64 if is_one else np.float64),
            fold=Fold(
                **{
                    part.name: np.array(identity["split"][part.name], np.int64)
                    for part in fields(Fold)
                }
            ),
            record=record,
        )


def open_run(path: str | Path) -> Run:
    """Open the folder of a run, finished or not.

    Raises:
        FileNotFoundError: no such folder, or none of a run.
        ModelError: its run.json is broken, or of another kind of run.
    """
    return open_recorded(path, Run.of, kind=KIND, form=_FORM)


def without_layers(path: Path) -> ValueError:
    """Return what is raised where a run was begun without measuring its layers."""
    return ValueError(
        f"layer_metrics must be asked for when a run is begun, {path} was begun without: train it "
        "into another folder with layer_metrics=True"
    )


def save_weights(path: Path, network: Network) -> None:
    """Write the weights of a network with its head."""
    state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    write_bytes(path, save(state))
