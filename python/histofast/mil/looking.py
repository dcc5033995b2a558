"""A run's models, kept, and the features of one slide in; attention and what each says of every patch, out."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histofast.errors import FeatureError
from histofast.features import FeatureFile, differences_of_options, options_of
from histofast.learning import unseen_folds
from histofast.mil.bag_model import BagModel
from histofast.mil.models import MODELS
from histofast.mil.runs import Run, values_of

MOST_ALONE = 10_000  # patches that are given to a model one after the other


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Look:
    """What a model of a run says of one slide of n patches.

    Attributes:
        attention: (n,) float32 share of each patch; None for a model that does not attend to patches.
        patches: (n, c) float32 probabilities, or (n,) values or log risks, of each patch alone; None where a
            model that scores no patch by itself would have to be given more than 10,000, one by one.
        slide: (c,) or () float64, of the slide.
    """

    attention: NDArray[np.float32] | None
    patches: NDArray[np.float32] | None
    slide: NDArray[np.float64]


class Looker:
    """The models of a run, for one slide after the other. Thread-safe: one model runs at a time.

    Attributes:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        """Load the models.

        Raises:
            ModelError: a fold is not trained yet, or its file is broken.
        """
        self.run = run
        self._models, self._units = run.models(), run.units()
        self._lock = threading.Lock()

    @property
    def attends(self) -> bool:
        """Whether the models tell the share of each patch."""
        return MODELS[self.run.model].attends

    @property
    def scores_patches(self) -> bool:
        """Whether the models score each patch themselves."""
        return MODELS[self.run.model].scores_patches

    def tells_patches(self, n: int) -> bool:
        """Whether a look at a slide of n patches tells what a model says of each."""
        return self.scores_patches or n <= MOST_ALONE

    def folds_of(self, slide: str) -> tuple[int, ...]:
        """Return the folds whose models have not seen a slide; all, where the run does not know it."""
        return unseen_folds(slide, names=self.run.names, folds=self.run.folds)

    def misfit(self, file: FeatureFile) -> str:
        """Say why features are not those that the run's models can look at; "" where they are."""
        d = file.features.shape[-1]
        made, wanted = _encoder_of(file), self.run.encoder
        if made and wanted and made.get("sha256") != wanted.get("sha256"):
            return f"features are of {_name_of(made)}, the run's of {_name_of(wanted)}"
        if d != self.run.d:
            return f"features are {d} per patch, the run's {self.run.d}"
        known, told = (
            {name: value for name, value in options.items() if not name.startswith("encoder")}
            for options in (self.run.options, options_of(file))
        )
        ours, theirs = differences_of_options(known, told)
        return f"features are made with {theirs}, the run's with {ours}" if ours else ""

    def look(self, file: FeatureFile, *, fold: int) -> Look:
        """Have the model of a fold look at a slide.

        Raises:
            FeatureError: features of another encoder, width or options, none, or NaN and infinite ones.
        """
        if misfit := self.misfit(file):
            raise FeatureError(f"{file.path}: {misfit}")
        if not len(file.features) or not np.isfinite(file.features).all():
            got = "NaN or infinity" if len(file.features) else "none"
            raise FeatureError(f"features of {file.path} must be finite numbers, got {got}")
        with self._lock, torch.inference_mode():
            model, unit = self._models[fold], self._units[fold]
            bag = torch.from_numpy(np.array(file.features, np.float32, order="C"))
            output = model(bag)
            alone = _alone(model, bag, output.patch_outputs)
        task = self.run.task
        return Look(
            attention=None if output.attention is None else output.attention.float().numpy(),
            patches=None
            if alone is None
            else values_of(task, alone.float().numpy(), unit).astype(np.float32),
            slide=values_of(task, output.output.float().numpy()[None], unit)[0],
        )


def _alone(model: BagModel, bag: Tensor, scored: Tensor | None) -> Tensor | None:
    """Return (n, c) outputs for each patch: the model's own scores, else what it says of the patch alone."""
    if scored is not None:
        return scored
    if len(bag) > MOST_ALONE:
        return None
    return torch.stack([model(patch[None]).output for patch in bag])


def _encoder_of(file: FeatureFile) -> Mapping[str, str]:
    encoder = (file.identity or {}).get("encoder")
    return encoder if isinstance(encoder, Mapping) else {}


def _name_of(encoder: Mapping[str, str]) -> str:
    return f"{encoder.get('name')} (sha256 {str(encoder.get('sha256'))[:12]})"
