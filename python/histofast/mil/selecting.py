"""A run on the features of a cheap encoder in, what chooses the patches for an expensive one out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from histofast.features import read_identity
from histofast.learning import fold_folder, sha256_of, unseen_folds
from histofast.mil.bag_model import BagModel
from histofast.mil.bags import Bags
from histofast.mil.models import MODELS
from histofast.mil.prediction import attend
from histofast.mil.reading import threads_of_torch
from histofast.mil.runs import MODEL, Run, load_model, open_run
from histofast.patches import StainOptions
from histofast.pipeline import Selection

_AS_IT_IS = "as it is"  # of options: colours that nothing was done to
# What of the options of features cuts their patches, and what `ExtractOptions` calls it.
_CUTS = {
    "patch_px": "patch_px",
    "mpp": "mpp",
    "overlap": "overlap_px",
    "min_tissue": "min_tissue",
    "edge": "edge",
    "resample": "resample",
}


@dataclass(frozen=True, kw_only=True)
class AttentionRanking:
    """What the models of a run attend to; see `pipeline.Ranking`.

    Attributes:
        run: of a model that attends to patches.
        file: of the encoder of its features; None: it is found by its name.
    """

    run: Run
    file: str | Path | None = None

    @property
    def encoder(self) -> str | Path:
        """Name or file of the run's encoder."""
        return self.made_by["name"] if self.file is None else self.file

    @property
    def made_by(self) -> Mapping[str, str]:
        """Its name and sha256."""
        told = self.run.encoder
        return {"name": str(told["name"]), "sha256": str(told["sha256"])}

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """How the patches of the run's features were cut, as far as their files told."""
        told = self.run.options
        found = {ours: told[name] for name, ours in _CUTS.items() if told.get(name) is not None}
        if isinstance(found.get("mpp"), str):  # of each slide its own
            found["mag"] = float(str(found["mpp"]).removesuffix("x"))
        elif "mpp" in found:
            found["mag"] = None
        icc = "srgb" if told.get("icc", _AS_IT_IS) == "srgb" else None
        return {**found, "stain": _stain_of(self.run), "icc": icc}

    @property
    def identity(self) -> Mapping[str, Any]:
        """The run, its encoder, and how the patches are cut that its models are shown."""
        cut = {name: self.run.options.get(name) for name in (*_CUTS, "stain")}
        if self.options["icc"] is not None:
            cut["icc"] = self.options["icc"]
        # As one text: a feature file says of its own patches what has these names.
        shown = ", ".join(f"{name} {value}" for name, value in sorted(cut.items()))
        return {
            "run": self._content,
            "model": self.run.model,
            "encoder": dict(self.made_by),
            "patches_shown": shown,
        }

    @cached_property
    def _content(self) -> str:
        """Checksum of the run and of the weights of its models, which a GPU does not make twice alike."""
        digest = hashlib.sha256(self.run.record.sha256.encode())
        for fold in range(len(self.run.folds)):
            digest.update(sha256_of(fold_folder(self.run.path, fold) / MODEL).encode())
        return digest.hexdigest()

    @cached_property
    def _models(self) -> tuple[BagModel, ...]:
        return tuple(load_model(self.run, fold)[0] for fold in range(len(self.run.folds)))

    def folds_of(self, slide: str) -> tuple[int, ...]:
        """Return the folds whose models have not seen a slide; all, where the run does not know it."""
        return unseen_folds(slide, names=self.run.names, folds=self.run.folds)

    def attention(
        self, features: NDArray[np.float32], *, folds: tuple[int, ...]
    ) -> NDArray[np.float64]:
        """Return the attention of (n, d) patches (n,), the mean over these folds; it sums to 1."""
        if self.run.options.get("dtype") == "float16":  # as the models have learnt them
            features = features.astype(np.float16).astype(np.float32)
        with threads_of_torch(1):  # the same bits, however many CPUs there are
            return attend([self._models[fold] for fold in folds], torch.from_numpy(features))


def selection(
    run: Run | str | Path,
    *,
    keep: float = 0.2,
    keep_random: float = 0.1,
    seed: int = 0,
    select_encoder: str | Path | None = None,
) -> Selection:
    """Have `extract` encode only what the attention of a run ranks highest, and some of the rest at random.

    The attention of a patch is the mean over the models of the run that have not seen its slide, or over all
    models where the run does not know the slide. Slides are known by their names.

    Args:
        run: finished, of a model that attends to patches, on the features of a cheap encoder; or its folder.
        keep: share of the patches of a slide that is taken for its attention, above 0, at most 1.
        keep_random: share of the other patches that is taken at random, 0..1.
        seed: of that draw.
        select_encoder: file of the run's encoder; None: found by its name.

    Raises:
        ValueError, TypeError: a model without attention; a run that does not tell its encoder; numbers out of
            range.
        FileNotFoundError, ModelError: no run, one that is not finished, or a broken one.

    Example:
        extract("slides/", out="features", encoder="uni2-h.onnx", select=selection("runs/abmil", keep=0.2))
    """
    run = run if isinstance(run, Run) else open_run(run)
    refuse_unattending(run)
    if not {"name", "sha256"} <= run.encoder.keys():
        raise ValueError(
            f"{run.path} must tell which encoder made its features, got none: train it on features that "
            "histofast made"
        )
    ranking = AttentionRanking(run=run, file=select_encoder)
    _ = ranking.options, ranking._models, ranking.identity  # refuse before the slides
    return Selection(ranking=ranking, keep=keep, keep_random=keep_random, seed=seed)


def attention_by(run: Run, bags: Bags) -> Iterator[NDArray[np.float64]]:
    """Yield the attention of the patches of each bag, as `selection` has it.

    Raises:
        ModelError, FeatureError: models or features that are broken.
    """
    ranking = AttentionRanking(run=run)
    for i, name in enumerate(bags.names):
        features = np.array(bags.read(i), np.float32, order="C")
        yield ranking.attention(features, folds=ranking.folds_of(name))


def refuse_unattending(run: Run) -> None:
    """Refuse a run whose models have no attention.

    Raises:
        ValueError: it is one.
    """
    refuse_without_attention(run.model, of=f"run {run.path}")


def refuse_without_attention(model: str, *, of: str) -> None:
    """Refuse a model that weighs no patches.

    Raises:
        ValueError: it is one.
    """
    if model not in attending():
        raise ValueError(
            f"model of {of} must attend to patches ({', '.join(attending())}), got {model}, which has no "
            "attention to choose patches by"
        )


def attending() -> tuple[str, ...]:
    """Return the names of the models that attend to patches."""
    return tuple(name for name, model in MODELS.items() if model.attends)


def _stain_of(run: Run) -> StainOptions | None:
    """Return how colours were changed before the run's features were made.

    Raises:
        ValueError: they were, and no feature file is there to tell how.
    """
    if run.options.get("stain", _AS_IT_IS) == _AS_IT_IS:
        return None
    told = (read_identity(path) for path in run.paths if path.is_file())
    made = next((each for each in told if each and "stain" in each), None)
    if made is None:
        raise ValueError(
            f"{run.path} was trained on features with colours of {run.options['stain']}, whose files are gone: "
            "put them where they were"
        )
    return StainOptions.of_identity(made["stain"])
