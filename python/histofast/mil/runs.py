"""The folder of a training run: what was asked, the models of its folds, what they are worth.

    run.json             arguments, classes, encoder, names and targets of bags, folds
    init.safetensors     what all folds start from, where that is asked for
    fold-<i>/            model.safetensors, log.csv; state.pt until the fold is done
    predictions.csv      of test bags, each by the model that has not seen it
    metrics.json         of these predictions; written last: a run that has it is finished

Every file is whole or not there, so a run may be killed at any moment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from histofast._machine import TORCH, check_device
from histofast._tables import read_csv
from histofast._words import one_line
from histofast.errors import ModelError
from histofast.learning import (
    METRICS,
    PREDICTIONS,
    Each,
    Fold,
    RunRecord,
    Task,
    aside,
    fold_folder,
    open_recorded,
    read_json,
    refuse_out_of_range,
    unchanged,
    write_bytes,
)
from histofast.mil.bag_model import BagModel
from histofast.mil.bags import Bags
from histofast.mil.models import create

KIND = "train"
MODEL, STATE, LOG = "model.safetensors", "state.pt", "log.csv"
INIT = "init.safetensors"  # what all folds start from, where they do
FILES = (INIT, *(f"fold-*/{name}" for name in (MODEL, STATE, LOG)))
_ABOUT, _SUM = "histofast.bag_model", "sha256"  # in the metadata of a model, and within that
_DAMAGED = (AttributeError, KeyError, TypeError, ValueError)  # of JSON that is not as it should be
_ANEW = f"remove {METRICS} and train again with the same arguments, trained folds are kept"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How to train.

    Attributes:
        folds: of the cross-validation, >= 2; one where the labels have splits.
        epochs: at most, >= 1.
        lr: learning rate of AdamW, > 0.
        weight_decay: decoupled, >= 0; 0 is plain Adam.
        patience: epochs without a better validation metric after which a fold ends, >= 1.
        accumulate: bags per step of the optimiser; in survival the size of a risk set, >= 16. None: 1,
            in survival 16.
        balance: weigh bags so that all classes count the same.
        max_patches: most patches of a bag in training, drawn anew every epoch; None: all. Evaluation
            always takes all.
        auxiliary: weight of the loss that some models add themselves, >= 0.
        patch_loss: weight of the loss of every patch against its slide's label, >= 0.
        metric: of the validation bags, chooses the epoch; "loss" is one as well. None: "loss" where a
            fold validates on fewer than 30 bags or the metric is undefined there, else "auroc" (two
            classes), "balanced_accuracy", "mae" or "c_index". Equal values are told apart by the loss.
        seed: of folds, weights, order, dropout and drawn patches, >= 0.
        device: "auto" is CUDA where there is some; cpu, cuda or such as cuda:1.
        amp: "auto" computes training steps in bfloat16 on CUDA; evaluation is float32.
        model_options: of the model, as numbers and text.

    Raises:
        ValueError: a value out of range.
    """

    folds: int = 5
    epochs: int = 20
    lr: float = 1e-3
    weight_decay: float = 0.0
    patience: int = 8
    accumulate: int | None = None
    balance: bool = True
    max_patches: int | None = None
    auxiliary: float = 1.0
    patch_loss: float = 0.0
    metric: str | None = None
    seed: int = 0
    device: str = aside("auto")
    amp: Literal["auto", "off"] = "auto"
    model_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no training can be done with."""
        least = {"folds": 2, "epochs": 1, "patience": 1, "accumulate": 1, "max_patches": 1}
        least |= dict.fromkeys(("auxiliary", "patch_loss", "weight_decay", "seed"), 0)
        refuse_out_of_range(self, least, above_0=("lr",))
        check_device(self.device, TORCH)
        if self.amp not in ("auto", "off"):
            raise ValueError(f"amp must be one of auto, off, got {self.amp!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """What turns a fold model's output into a value: times `scale`, plus `offset`.

    Regression is learnt on targets of mean 0 and deviation 1; log risks are told relative to the mean
    of the training bags, without which those of different folds could not be compared.
    """

    offset: float = 0.0
    scale: float = 1.0


# Of run.json.
_FORM = {
    "identity": {
        "model": str,
        "task": str,
        "classes": [str],
        "d": int,
        "config": dict,
        "metric": str,
        "slides": Each({"patient": str, "features": str, "target": (int, float, list)}),
        "folds": Each({part.name: [int] for part in fields(Fold)}),
    },
    "about": {"encoder": dict, "options": dict, "left_out": [str], "config": dict, "paths": [str]},
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Run:
    """A training run as it lies in its folder.

    Attributes:
        path: the folder.
        model: name of the model.
        task: what was learnt.
        classes: in the order of the outputs; () for other tasks.
        d: features per patch.
        encoder: name and sha256 of what made the features; {} where the files did not tell.
        options: with which the features were made, as far as their files told.
        config: how it was trained.
        init: `sha256` of the file that all folds start from, `names` and `tensors` of what is taken of it;
            None where they start from random weights.
        metric: what chose the epochs.
        names: (b) of the bags.
        paths: (b) their feature files, as they were when the run was started.
        patients: (b) patient of each, "" where not known.
        targets: (b,) int64 class, (b,) float64 value, or (b, 2) float64 time and event.
        folds: which bags trained, chose and tested.
        left_out: names of slides that had no patch, and are not among the bags.
        record: what all of this was read from.
    """

    path: Path
    model: str
    task: Task
    classes: tuple[str, ...]
    d: int
    encoder: Mapping[str, Any]
    options: Mapping[str, Any]
    config: TrainConfig
    init: Mapping[str, str] | None
    metric: str
    names: tuple[str, ...]
    paths: tuple[Path, ...]
    patients: tuple[str, ...]
    targets: NDArray[Any]
    folds: tuple[Fold, ...]
    left_out: tuple[str, ...]
    record: RunRecord

    @property
    def is_finished(self) -> bool:
        """Whether all folds are trained and measured."""
        return (self.path / METRICS).is_file()

    def models(self, *, device: str = "cpu") -> tuple[BagModel, ...]:
        """Return the model of each fold, in evaluation mode.

        Raises:
            ModelError: a fold is not trained yet, or its file is broken or of another model.
        """
        return tuple(load_model(self, i)[0].to(device) for i in range(len(self.folds)))

    def units(self) -> tuple[Unit, ...]:
        """Return the unit of each fold model's output; Raises: as `models`."""
        return tuple(load_model(self, i)[1] for i in range(len(self.folds)))

    def fold_of(self, name: str) -> int | None:
        """Return the fold that tested a slide, None if none did."""
        if name not in self.names:
            return None
        i = self.names.index(name)
        return next((k for k, fold in enumerate(self.folds) if i in fold.test), None)

    def metrics(self) -> dict[str, Any]:
        """Return what metrics.json holds: `out_of_fold`, `of_folds` and `folds`, by name.

        Both of the first have value, low and high: of these models on patients like these, and of
        this way of training. `folds` has the value of each.

        Raises:
            ModelError: the run is not finished, or metrics.json was changed since.
        """
        self._need_finished()
        return read_json(self.path / METRICS, remedy=_ANEW)

    def predictions(self) -> dict[str, NDArray[np.float64]]:
        """Return what predictions.csv holds of each slide that was tested, by name.

        Returns:
            (c,) probabilities, or () the value or log risk.

        Raises:
            ModelError: the run is not finished, or the table was changed since.
        """
        path = unchanged(self.path / PREDICTIONS, self.metrics()[PREDICTIONS], remedy=_ANEW)
        header, *rows = read_csv(path)
        first = len(header) - outputs_of(self.task, self.classes)
        found = {row[0]: np.array([float(cell) for cell in row[first:]]) for row in rows}
        return found if self.classes else {name: value[0] for name, value in found.items()}

    def _need_finished(self) -> None:
        if not self.is_finished:
            raise ModelError(
                f"{self.path} must be a finished run, got no {METRICS}: train it again with the "
                "same arguments"
            )

    @classmethod
    def of(cls, path: Path, record: RunRecord) -> Self:
        """Make a run of what run.json holds."""
        identity, about = record.identity, record.about
        slides = identity["slides"]
        return cls(
            path=path,
            model=identity["model"],
            task=identity["task"],
            classes=tuple(identity["classes"]),
            d=identity["d"],
            encoder=about["encoder"],
            options=about["options"],
            config=TrainConfig(**identity["config"], **about["config"]),
            init=_init_of(identity),
            metric=identity["metric"],
            names=tuple(slides),
            paths=tuple(Path(path) for path in about["paths"]),
            patients=tuple(slide["patient"] for slide in slides.values()),
            targets=np.array(
                [slide["target"] for slide in slides.values()],
                np.int64 if identity["task"] == "classification" else np.float64,
            ),
            folds=tuple(
                Fold(**{part.name: np.array(fold[part.name], np.int64) for part in fields(Fold)})
                for fold in identity["folds"].values()
            ),
            left_out=tuple(about["left_out"]),
            record=record,
        )


def _init_of(identity: Mapping[str, Any]) -> dict[str, str] | None:
    told = identity.get("init")
    return None if told is None else {k: str(told[k]) for k in ("sha256", "names", "tensors")}


def open_run(path: str | Path) -> Run:
    """Open the folder of a training run, finished or not.

    Raises:
        FileNotFoundError: no such folder, or none of a run.
        ModelError: its run.json is broken, or of another kind of run.
    """
    return open_recorded(path, Run.of, kind=KIND, form=_FORM)


def slides_of(bags: Bags) -> dict[str, dict[str, Any]]:
    """Return what numbers follow from of each slide, by its name, in the order of the bags."""
    return {
        name: {"features": content, "patient": patient, "target": target}
        for name, content, patient, target in zip(
            bags.names, bags.contents(), bags.patients, bags.targets.tolist(), strict=True
        )
    }


def outputs_of(task: Task, classes: Sequence[str]) -> int:
    """How many outputs a model of this task has."""
    return len(classes) if task == "classification" else 1


def values_of(task: Task, outputs: NDArray[np.floating[Any]], unit: Unit) -> NDArray[np.float64]:
    """Turn raw outputs (b, o) into probabilities (b, c), or values or log risks (b,)."""
    raw = outputs.astype(np.float64)
    if task == "classification":
        grown = np.exp(raw - raw.max(axis=1, keepdims=True))
        probabilities: NDArray[np.float64] = grown / grown.sum(axis=1, keepdims=True)
        return probabilities
    return raw[:, 0] * unit.scale + unit.offset


# --- Reading and writing -----------------------------------------------------------------------


def save_model(path: Path, model: BagModel, *, unit: Unit) -> None:
    """Write a model with what rebuilds it."""
    about = {
        "name": model.name,
        "d": model.d,
        "outputs": model.outputs,
        "options": dict(model.options),
        "offset": unit.offset,
        "scale": unit.scale,
    }
    state = _state_of(model)
    # One entry: safetensors writes several in any order.
    told = json.dumps({**about, _SUM: _checksum(about, state)})
    write_bytes(path, save(state, metadata={_ABOUT: told}))


def write_weights(path: Path, module: nn.Module) -> None:
    """Write the state of a module as safetensors."""
    write_bytes(path, save(_state_of(module)))


def _state_of(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}


def _checksum(about: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """Of all that a model's file holds, whatever the order of its tensors."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def load_model(run: Run, fold: int) -> tuple[BagModel, Unit]:
    """Return the model of a fold in evaluation mode, and the unit of its output.

    Raises:
        ModelError: the fold is not trained yet, or its file is broken or of another model.
    """
    path = fold_folder(run.path, fold) / MODEL
    if not path.is_file():
        raise ModelError(
            f"{run.path} must be trained, got no model of fold {fold}: train it again with the "
            "same arguments"
        )
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[_ABOUT])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about.pop(_SUM) != _checksum(about, state):
            raise ValueError("another checksum than it was written with")
        unit = Unit(offset=about["offset"], scale=about["scale"])
        made = (about["name"], about["d"], about["outputs"])
    except (SafetensorError, OSError, RecursionError, *_DAMAGED) as error:
        raise ModelError(
            f"{path} must be a model that `train` wrote, got {type(error).__name__} "
            f"({one_line(error)}): remove it to train the fold anew"
        ) from error
    wanted = (run.model, run.d, outputs_of(run.task, run.classes))
    if made != wanted:
        raise ModelError(
            f"{path} must be of the run's model {wanted[0]} with {wanted[1]} features and "
            f"{wanted[2]} outputs, got {made[0]} with {made[1]} and {made[2]}"
        )
    model = create(made[0], d=made[1], outputs=made[2], **about["options"])
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise ModelError(f"{path} must hold the weights of {made[0]}, got: {said}") from error
    return model.eval(), unit
