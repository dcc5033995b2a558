"""A run and feature files in, predictions of slides and attention of patches out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histofast._files import check_target, path_of
from histofast._notes import noted
from histofast._progress import shows
from histofast.errors import FeatureError
from histofast.features import FeatureFile, differences_of_options, open_features
from histofast.learning import (
    PREDICTIONS,
    Labels,
    LabelsOfPatients,
    Metric,
    Task,
    metrics,
    plain,
    read_labels,
    write_csv,
    write_json,
)
from histofast.mil.bag_model import BagModel
from histofast.mil.bags import Bags, Paths, open_bags
from histofast.mil.reading import bags_on
from histofast.mil.runs import Run, Unit, load_model, open_run, values_of
from histofast.networks import pick_device


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Predictions:
    """What the models of a run say of slides, on average.

    Attributes:
        names: (b) of the slides.
        task: of the run.
        classes: (c) of the run; () for other tasks.
        values: (b, c) float64 probabilities, or (b,) values, or (b,) log risks relative to the
            training bags; NaN where a slide has no patch.
        n_patches: (b,) int64, of each slide.
        metrics: of the slides that have labels, each with its interval over patients; {} without labels.
        labelled: how many slides these are.
        patients: how many patients; None where slides count as patients.
        notes: what to know before trusting them, one line each.
    """

    names: tuple[str, ...]
    task: Task
    classes: tuple[str, ...]
    values: NDArray[np.float64]
    n_patches: NDArray[np.int64]
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    labelled: int = 0
    patients: int | None = None
    notes: tuple[str, ...] = ()

    def rows(self) -> Iterator[list[Any]]:
        """Yield the lines of the table, the header first; what is not predicted is None."""
        yield ["slide", "n_patches", "prediction", *(f"p_{name}" for name in self.classes)]
        for name, n, value in zip(self.names, self.n_patches.tolist(), self.values, strict=True):
            if not n:
                yield [name, 0, None, *(None for _ in self.classes)]
            elif self.classes:
                yield [name, n, self.classes[int(value.argmax())], *map(float, value)]
            else:
                yield [name, n, float(value)]

    def told(self) -> dict[str, Any]:
        """Return what predictions are worth, as JSON holds it."""
        return {
            "metrics": {name: plain(metric) for name, metric in self.metrics.items()},
            "slides": self.labelled,
            "patients": self.patients,
            "notes": list(self.notes),
        }


@shows("predicting slides")
@noted
def predict(
    run: Run | str | Path,
    features: Paths,
    *,
    out: str | Path | None = None,
    labels: str | Path | LabelsOfPatients | None = None,
    label_column: str = "label",
    attention: bool = False,
    other_encoder: bool = False,
    other_options: bool = False,
    device: str = "auto",
    overwrite: bool = False,
    progress: bool | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Predict slides as the mean of the models of a run's folds.

    A slide without a patch, such as one without tissue, has a row without a prediction; a note says
    so.

    Args:
        run: a run whose folds are trained, or its folder.
        features: a folder of feature files, or files and folders; made by the run's encoder.
        out: CSV table to write: slide, n_patches, prediction, p_<class>.
        labels: table of what is true of the slides, as `open_bags` reads it, of some or all of them: the
            predictions are measured on those, and with `out` <out without suffix>-metrics.json is written.
        label_column: of that table.
        attention: also write x, y (level-0 px) and attention, the mean over the models, of each
            slide's patches to <out without suffix>-attention/<slide>.csv.
        other_encoder: take features of another file than the run's encoder, such as the same network
            alone instead of among other cuts; a note says so.
        other_options: take features that were made with other options than the run's, such as another
            mpp or overlap; a note says so.
        device: "auto" is CUDA where there is some; cpu, cuda or such as cuda:1.
        overwrite: replace files that exist.
        progress: show it as a line of text: True, False; None: in a notebook, unless `on_progress` hears it.
        on_progress: called with slides done and slides in all.

    Raises:
        ValueError: attention without `out` or of a model that has none; an unknown device; labels of no
            slide, of another class, or as `open_bags`.
        FeatureError: no labelled slide has a patch; features of another width, encoder or options, that are broken or hold NaN, or without
            coordinates where attention is asked for.
        ModelError: a run that is not trained, or whose files are broken.
        FileNotFoundError: no such run or features, or no folder to write in.
        FileExistsError: a file to write exists.
        OSError: the disk is full; what is there stays whole.

    Determinism: bitwise on one CPU with one number of threads.

    Example:
        predict("runs/abmil", "features", out="predictions.csv").values
    """
    if not isinstance(run, Run):
        run = open_run(run)
    where = None if out is None else path_of("out", out)
    if attention and where is None:
        raise ValueError("out must name a table when attention is asked for: it goes beside it")
    chosen = pick_device(device)
    models, units = run.models(device=str(chosen)), run.units()
    bags = open_bags(features, None, task=run.task)
    truth = None if labels is None else _truth(run, bags, labels, label_column)
    notes = [
        *_check_encoder(run, bags, allowed=other_encoder),
        *_check_options(run, bags, allowed=other_options),
        *_seen(run, bags),
        *bags.notes,
        *(() if truth is None else truth.notes),
    ]
    folder = None
    if where is not None:
        folder = where.with_name(f"{where.stem}-attention") if attention else None
        _check_targets(where, folder, bags, overwrite=overwrite)
        if truth is not None:
            check_target(_metrics_beside(where), overwrite=overwrite)
    values = []
    with torch.inference_mode(), bags_on(chosen, bags, range(len(bags))) as found:
        for i, bag in enumerate(found):
            value, attended = _look(run, models, units, bag, attend=attention)
            values.append(value)
            if folder is not None:
                assert attended is not None
                _write_attention(folder / f"{bags.names[i]}.csv", bags.paths[i], attended)
            if on_progress is not None:
                on_progress(i + 1, len(bags))
    predictions = _predictions(run, bags, values, notes)
    if truth is not None:
        predictions = _measured(predictions, truth)
    if where is not None:
        write_csv(where, predictions.rows())
        if truth is not None:
            write_json(_metrics_beside(where), predictions.told())
    return predictions


def _predictions(
    run: Run, bags: Bags, values: Sequence[NDArray[np.float64]], notes: Sequence[str]
) -> Predictions:
    """Put the slides without a patch among the others, by name."""
    nothing = np.full(len(run.classes) if run.classes else (), np.nan)
    names = (*bags.names, *bags.empty)
    order = sorted(range(len(names)), key=names.__getitem__)
    sizes = [*bags.sizes.tolist(), *(0 for _ in bags.empty)]
    every = [*values, *(nothing for _ in bags.empty)]
    return Predictions(
        names=tuple(names[i] for i in order),
        task=run.task,
        classes=run.classes,
        values=np.stack([every[i] for i in order]),
        n_patches=np.array([sizes[i] for i in order], np.int64),
        notes=tuple(notes),
    )


def _truth(run: Run, bags: Bags, labels: str | Path | LabelsOfPatients, column: str) -> Labels:
    found = read_labels(
        labels,
        [*bags.names, *bags.empty],
        task=run.task,
        missing="skip",
        label_column=column,
        classes=run.classes or None,
        without=bags.empty,
    )
    if not found.names:
        raise FeatureError(
            f"{labels} must have labels of slides that have patches, got those of slides without one only: "
            "was no tissue found?"
        )
    return found


def _measured(predictions: Predictions, truth: Labels) -> Predictions:
    """Hold predictions against what is true of the slides, the same model for all of them."""
    place = {name: i for i, name in enumerate(predictions.names)}
    groups = [patient or name for patient, name in zip(truth.patients, truth.names, strict=True)]
    found = metrics(
        predictions.task,
        truth.targets,
        predictions.values[[place[name] for name in truth.names]],
        groups=groups,
        classes=predictions.classes,
    )
    return replace(
        predictions,
        metrics=found,
        labelled=len(truth.names),
        patients=len(set(groups)) if all(truth.patients) else None,
    )


def _metrics_beside(table: Path) -> Path:
    return table.with_name(f"{table.stem}-metrics.json")


def attention_of(
    run: Run, features: NDArray[np.floating[Any]], *, folds: Sequence[int] | None = None
) -> NDArray[np.float64]:
    """Return the attention of a slide's patches (n,), the mean over models; it sums to 1.

    Args:
        run: whose folds are trained.
        features: (n, d) float32 or float16, n >= 1.
        folds: whose models to take; None: all.

    Raises:
        ValueError: features of another shape, or NaN; a model without attention; no fold.
        IndexError: no such fold.
        ModelError: a fold is not trained, or its file is broken.
    """
    chosen = range(len(run.folds)) if folds is None else folds
    if not len(chosen):
        raise ValueError("folds must name at least one fold, got none")
    wrong = [i for i in chosen if not 0 <= i < len(run.folds)]
    if wrong:
        raise IndexError(f"fold must be within 0..{len(run.folds) - 1}, got {wrong[0]}")
    if features.ndim != 2 or len(features) < 1 or features.shape[1] != run.d:
        raise ValueError(
            f"features must be of shape (n, {run.d}) with n >= 1 as the run's, got {features.shape}"
        )
    if not np.isfinite(features).all():
        raise ValueError("features must be finite, got NaN or infinity")
    bag = torch.from_numpy(np.array(features, np.float32, order="C"))
    return attend([load_model(run, i)[0] for i in chosen], bag)


def attend(models: Sequence[BagModel], bag: Tensor) -> NDArray[np.float64]:
    """Return the attention of a bag's patches (n,), the mean over models; it sums to 1.

    Args:
        models: of one run, in evaluation mode.
        bag: (n, d) float32 on their device.

    Raises:
        ValueError: a model without attention.
    """
    with torch.inference_mode():
        return _mean_attention([model(bag).attention for model in models], models[0].name)


def _mean_attention(found: Sequence[Tensor | None], name: str) -> NDArray[np.float64]:
    shares = [tensor.double().cpu().numpy() for tensor in found if tensor is not None]
    if len(shares) < len(found):
        raise ValueError(f"model must attend to patches, got {name}, which has no attention")
    mean: NDArray[np.float64] = np.mean(shares, axis=0)
    return mean


def _look(
    run: Run, models: Sequence[BagModel], units: Sequence[Unit], bag: Tensor, *, attend: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return a slide's value, (c,) or (), and the attention of its patches if asked for."""
    outputs = [model(bag) for model in models]
    values = [
        values_of(run.task, output.output.float().cpu().numpy()[None], unit)[0]
        for output, unit in zip(outputs, units, strict=True)
    ]
    attended = None
    if attend:
        attended = _mean_attention([output.attention for output in outputs], run.model)
    return np.mean(values, axis=0), attended


def _check_encoder(run: Run, bags: Bags, *, allowed: bool = False) -> list[str]:
    """Refuse features that the run's models were not trained on; return what cannot be told."""
    if bags.d != run.d:
        raise FeatureError(
            f"features must be {run.d} per patch as the run's, got {bags.d}: extract them with "
            f"{_name_of(run.encoder)}"
        )
    if not run.encoder or not bags.encoder:
        which = "the run" if not run.encoder else "the features"
        return [f"encoder of {which} not known: not compared"]
    key = "sha256" if {"sha256"} <= run.encoder.keys() & bags.encoder.keys() else "name"
    if run.encoder.get(key) != bags.encoder.get(key):
        if allowed:
            return [
                f"features are of {_name_of(bags.encoder)}, the run's of {_name_of(run.encoder)}"
            ]
        raise FeatureError(
            f"features must be of the run's encoder, {_name_of(run.encoder)}, got "
            f"{_name_of(bags.encoder)}: extract them with the run's, or, if it is the same network, "
            "say so with other_encoder=True"
        )
    return []


def _check_options(run: Run, bags: Bags, *, allowed: bool) -> list[str]:
    """Refuse features made otherwise than the run's; encoders are looked at by themselves."""
    known, asked = (
        {name: value for name, value in options.items() if not name.startswith("encoder")}
        for options in (run.options, bags.options)
    )
    wanted, got = differences_of_options(known, asked)
    if not wanted:
        return []
    if allowed:
        return [f"features are made with {got}, the run's with {wanted}"]
    raise FeatureError(
        f"features must be made with the run's options, {wanted}, got {got}: extract them so, or, if "
        "that is meant, say so with other_options=True"
    )


def _name_of(encoder: Any) -> str:
    if not encoder:
        return "the run's encoder"
    text = str(encoder.get("name"))
    return f"{text} (sha256 {str(encoder['sha256'])[:12]})" if "sha256" in encoder else text


def _seen(run: Run, bags: Bags) -> list[str]:
    seen = len(set(run.names) & set(bags.names))
    if not seen:
        return []
    fair = run.path / PREDICTIONS
    note = (
        f"{seen} of {len(bags)} slides took part in the training, and their predictions are too good: "
        f"fair ones are in {fair}"
    )
    return [note]


def _check_targets(where: Path, folder: Path | None, bags: Bags, *, overwrite: bool) -> None:
    """Find out before the work what could not be written after it."""
    check_target(where, overwrite=overwrite)
    if folder is not None and folder.is_dir():
        for name in bags.names:
            check_target(folder / f"{name}.csv", overwrite=overwrite)
    if folder is not None:
        lacking = [path for path in bags.paths if not _has_places(open_features(path))]
        if lacking:
            raise FeatureError(
                f"coordinates must be in the feature files for attention, got none in {lacking[0]}"
            )
        folder.mkdir(exist_ok=True)


def _has_places(file: FeatureFile) -> bool:
    """Whether coordinates are those of a slide, not row numbers of ready-made patches."""
    return file.coords is not None and bool(file.attributes.get("coords_known", True))


def _write_attention(path: Path, features: Path, attention: NDArray[np.float64]) -> None:
    coords = open_features(features).coords
    assert coords is not None
    rows = [(int(x), int(y), float(a)) for (x, y), a in zip(coords, attention, strict=True)]
    write_csv(path, [("x", "y", "attention"), *rows])
