"""A run and features in; its attention to the patches of a slide and what it says of each of them out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histofast.viewer.keeping import Kept
from histofast.viewer.layer import Layer

if TYPE_CHECKING:
    from histofast.features import FeatureFile
    from histofast.mil import Look
    from histofast.viewer.catalogue import Entry

_KEPT_BYTES = 128 << 20
_ATTENTION, _CLASS, _VALUE = "attention", "class", "value"  # layers
_VALUES = {"regression": "Value", "survival": "Log risk"}  # by task


class OfRun:
    """The layers of a run of `histofast train`: a `Source`.

    Of each slide those models are meant that have not seen it, or all where the run does not know it.
    """

    def __init__(self, run: str | Path) -> None:
        """Load the models of a run.

        Raises:
            ModuleNotFoundError: torch is not installed.
            FileNotFoundError, ModelError: no run, or one that is not trained.
        """
        from histofast.mil import Looker, open_run

        self._looker = Looker(open_run(run))
        self._run = self._looker.run
        self._out_of_fold = self._run.predictions() if self._run.is_finished else {}
        self._looks = Kept["Look"](most_bytes=_KEPT_BYTES, weigh=_bytes_of)

    def told(self) -> dict[str, Any]:
        """Return name, classes and folds."""
        folds = list(range(len(self._run.folds)))
        return {"name": self._run.path.name, "classes": list(self._run.classes), "folds": folds}

    # --- slides ---------------------------------------------------------------------------------

    def prediction(self, entry: Entry) -> dict[str, Any] | None:
        """Return what the run says of a slide, if that is known without work.

        Of a slide of the run, what the model says that has not seen it; of another one, the mean of the models
        once they have looked at it.
        """
        value = self._out_of_fold.get(entry.slide)
        if value is None and entry.slide not in self._run.names:
            looks = [self._looks.seen((entry.index, k)) for k in range(len(self._run.folds))]
            seen = [look.slide for look in looks if look is not None]
            value = np.mean(seen, axis=0) if len(seen) == len(looks) else None
        return None if value is None else self._said(value)

    def of_patch(self, entry: Entry, file: FeatureFile, row: int) -> dict[str, Any] | None:
        """Return what the run says of a patch alone; None where it says nothing."""
        if self._looker.misfit(file) or self._is_silent(file):
            return None
        return self._said(np.asarray(self._patches(entry, file)[row]))

    def _said(self, value: NDArray[Any]) -> dict[str, Any] | None:
        """As JSON has it, which knows no NaN."""
        if not np.isfinite(value).all():
            return None
        classes = list(self._run.classes)
        if not classes:
            return {"classes": [], "p": [], "class": f"{float(value):.4g}", "value": float(value)}
        p = [float(each) for each in value]
        return {"classes": classes, "p": p, "class": classes[int(value.argmax())]}

    # --- layers ---------------------------------------------------------------------------------

    def layers(self, entry: Entry, file: FeatureFile) -> list[Layer]:
        """See `Source`."""
        if self._looker.misfit(file) or not len(file.features):
            return []
        attention = self._of_attention(entry) if self._looker.attends else []
        return attention + ([] if self._is_silent(file) else self._of_predictions(entry))

    def notes(self, entry: Entry, file: FeatureFile) -> list[str]:
        """See `Source`."""
        if misfit := self._looker.misfit(file):
            return [f"no attention and no predictions: {misfit}"]
        if self._is_silent(file):
            why = f"{self._run.model} scores no single patch, and is not given so many one by one"
            return [f"no predictions by patch: {why}"]
        return []

    def values(self, entry: Entry, file: FeatureFile, layer_id: str) -> NDArray[Any]:
        """See `Source`.

        Raises:
            FeatureError: features that the models cannot look at.
        """
        kind, _, number = layer_id.partition("-")
        if kind == _ATTENTION:
            folds = (int(number),) if number else self._looker.folds_of(entry.slide)
            return _mean([self._look(entry, file, k).attention for k in folds])
        patches = self._patches(entry, file)
        if kind == _CLASS:
            likeliest: NDArray[Any] = patches.argmax(axis=1)
            return likeliest
        return patches if kind == _VALUE else patches[:, int(number)]

    def _of_attention(self, entry: Entry) -> list[Layer]:
        run, unseen = self._run, self._looker.folds_of(entry.slide)
        mean = Layer(
            id=_ATTENTION, name="Attention", group="attention", low=0, note=self._whose(entry)
        )
        if len(run.folds) == 1:
            return [mean]
        is_known = entry.slide in run.names
        seen = set(range(len(run.folds))) - (
            set(unseen) if run.fold_of(entry.slide) is not None else set()
        )
        return [mean] + [
            Layer(
                id=f"{_ATTENTION}-{k}",
                name=f"Attention, model of fold {k}",
                group="attention",
                low=0,
                note="this model was trained with this slide" if is_known and k in seen else None,
            )
            for k in range(len(run.folds))
        ]

    def _of_predictions(self, entry: Entry) -> list[Layer]:
        how = (
            "own score of each patch"
            if self._looker.scores_patches
            else "answer to each patch as if it were alone"
        )
        note = f"the models' {how}; {self._whose(entry)}"
        if not self._run.classes:
            name = f"{_VALUES[self._run.task]} of each patch"
            return [Layer(id=_VALUE, name=name, group="prediction", note=note)]
        layers = [
            Layer(
                id=f"p-{i}",
                name=f"p({name}) of each patch",
                group="prediction",
                low=0,
                high=1,
                note=note,
            )
            for i, name in enumerate(self._run.classes)
        ]
        likeliest = Layer(
            id=_CLASS,
            name="Likeliest class of each patch",
            group="prediction",
            kind="category",
            categories=self._run.classes,
            note=note,
        )
        return [*layers, likeliest]

    def _whose(self, entry: Entry) -> str:
        """Say which models are meant."""
        fold, n = self._run.fold_of(entry.slide), len(self._run.folds)
        if fold is not None:
            return f"of the model of fold {fold}, which was not trained with this slide"
        of = "of the one model" if n == 1 else f"mean of the {n} models"
        if entry.slide in self._run.names:
            return f"{of}, trained with this slide"
        return f"{of}; the run does not know this slide"

    # --- looking --------------------------------------------------------------------------------

    def _is_silent(self, file: FeatureFile) -> bool:
        return not self._looker.tells_patches(len(file.features))

    def _look(self, entry: Entry, file: FeatureFile, fold: int) -> Look:
        return self._looks.get((entry.index, fold), lambda: self._looker.look(file, fold=fold))

    def _patches(self, entry: Entry, file: FeatureFile) -> NDArray[np.float32]:
        """(n, c) or (n,), the mean over the models."""
        folds = self._looker.folds_of(entry.slide)
        return _mean([self._look(entry, file, k).patches for k in folds])


def _mean(of_models: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32]:
    """The mean over models of what they say, which layers are only made of where they do."""
    said = [each for each in of_models if each is not None]
    assert len(said) == len(of_models)
    mean: NDArray[np.float32] = np.mean(said, axis=0)
    return mean


def _bytes_of(look: Look) -> int:
    return sum(array.nbytes for array in (look.attention, look.patches) if array is not None)
