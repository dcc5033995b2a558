"""How a network is trained: every number that the result depends on, and presets of published ones."""

from __future__ import annotations

import json
import math
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self, get_args, get_type_hints

from histofast._files import path_of, refuse_stand_in, regular_file
from histofast._words import clipped, did_you_mean, one_line, text_of
from histofast.datasets import Augmentation
from histofast.learning import METRICS_OF, refuse_out_of_range

Optimiser = Literal["adamw", "adam", "sgd", "adamp"]
Schedule = Literal["constant", "cosine", "step"]
BatchNorm = Literal["train", "eval"]
ClassWeights = Literal["all", "labels", "none"]

_WIDEST = 60  # characters of a value in a message
_WHOLE = ("all", "head", "head-then-all")
_KNOWN_METRICS = ("loss", *dict.fromkeys(METRICS_OF["classification"]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How to train one network on one split.

    Attributes:
        epochs: passes over the training images, >= 1.
        batch_size: images per step, >= 1; >= 2 where BatchNorms measure it. A last batch of one image
            joins the one before.
        optimiser: adamw, adam, sgd, or adamp (Heo et al., 2021, arXiv 2006.08217).
        lr: learning rate at the top of the schedule, > 0.
        head_lr: of the steps in which only the head trains; None: ten times `lr`.
        weight_decay: of all parameters, >= 0; decoupled in adamw and adamp.
        momentum: of sgd, 0 to 1.
        schedule: constant, cosine (to 0 at the last step), or step: times `step_factor` every
            `step_epochs`. Steps of the head alone have a constant rate and are not part of it.
        warmup: share of the steps in which the rate rises from 0, 0 to 1.
        step_epochs, step_factor: of schedule step.
        freeze: "all" trains everything, "head" the head alone, "head-then-all" the head for
            `head_epochs` and then everything, "from:LAYER" LAYER and what comes behind. BatchNorms of
            what does not train keep their statistics.
        head_epochs: of head-then-all, counted among `epochs`.
        batchnorm: "train" lets BatchNorms measure the batch, "eval" keeps their statistics.
        ema: decay of the exponential average of weights and statistics that is evaluated and kept, in
            0..1; 0: none. It is min(ema, (1 + t) / (10 + t)) at step t, or short runs would keep
            their beginning.
        dropout: share of the features that the head is not shown in training, in 0..1.
        label_smoothing: in 0..1.
        class_weights: "labels" weighs labels, where a picture has several, by one over their frequency, as
            HistoKT does; "all" lets classes, of which a picture has one, count the same as well; "none".
        augmentation: of training images.
        every: steps between evaluations; None: an epoch.
        patience: evaluations without a better one that end the run; None: it goes on to the end.
        metric: of the validation images, chooses the weights that are kept; "loss" is one as well.
            None: auroc of two classes or several labels, else balanced_accuracy, and loss where that is
            not defined or the images are fewer than 30.
        px: side that images are resampled to; None: as they are.
        amp: "auto" computes training steps in bfloat16 on CUDA; evaluation is float32.

    Raises:
        TypeError, ValueError: a value of another kind or out of range.
    """

    epochs: int = 20
    batch_size: int = 64
    optimiser: Optimiser = "adamw"
    lr: float = 5e-4
    head_lr: float | None = None
    weight_decay: float = 0.05
    momentum: float = 0.9
    schedule: Schedule = "cosine"
    warmup: float = 0.05
    step_epochs: int = 20
    step_factor: float = 0.5
    freeze: str = "head-then-all"
    head_epochs: int = 1
    batchnorm: BatchNorm = "train"
    ema: float = 0.999
    dropout: float = 0.0
    label_smoothing: float = 0.0
    class_weights: ClassWeights = "all"
    augmentation: Augmentation = field(
        default_factory=lambda: Augmentation(flips=True, quarter_turns=True, hed=0.05)
    )
    every: int | None = None
    patience: int | None = None
    metric: str | None = None
    px: int | None = None
    amp: Literal["auto", "off"] = "auto"

    def __post_init__(self) -> None:
        """Refuse what no training can be done with."""
        least = {"epochs": 1, "batch_size": 1, "step_epochs": 1, "px": 8}
        least |= {"every": 1, "patience": 1, "head_epochs": 0, "weight_decay": 0}
        refuse_out_of_range(self, least, above_0=("lr", "step_factor"))
        if self.head_lr is not None and not 0 < self.head_lr < math.inf:
            raise ValueError(f"head_lr must be above 0, got {self.head_lr}")
        for name in ("momentum", "warmup", "ema", "dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 0 and below 1, got {getattr(self, name)}"
                )
        for name, kind in (
            ("optimiser", Optimiser),
            ("schedule", Schedule),
            ("batchnorm", BatchNorm),
            ("class_weights", ClassWeights),
        ):
            _refuse_other(name, getattr(self, name), get_args(kind))
        _refuse_other("amp", self.amp, ("auto", "off"))
        if self.metric is not None:
            _refuse_other("metric", self.metric, _KNOWN_METRICS)
        if self.freeze not in _WHOLE and not re.fullmatch(r"from:.+", self.freeze):
            raise ValueError(
                f"freeze must be all, head, head-then-all or from: and a layer, got {self.freeze!r}"
            )
        if self.freeze == "head-then-all" and self.head_epochs >= self.epochs:
            raise ValueError(
                f"epochs must be above head_epochs of the recipe, {self.head_epochs}, got {self.epochs}: "
                'take more, or train all layers from the start with freeze="all"'
            )
        if self.batch_size == 1 and self.batchnorm == "train" and self.freeze != "head":
            raise ValueError(
                "batch_size must be at least 2 where BatchNorms measure the batch, got 1: or keep "
                "their statistics with batchnorm eval"
            )

    @classmethod
    def preset(cls, name: str) -> Self:
        """Return one of `PRESETS`.

        Raises:
            ValueError: there is none of this name.
        """
        if name not in PRESETS:
            raise ValueError(
                f"recipe must be one of {', '.join(PRESETS)}, or a TOML file, got {name!r}"
                f"{did_you_mean(name, PRESETS)}"
            )
        return cls(**PRESETS[name])

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a TOML file: fields of a recipe, a table [augmentation], and `preset` to begin with.

        Raises:
            FileNotFoundError: no such file.
            ValueError: no TOML, an unknown field (a close one is offered), a value out of range.
        """
        path = path_of("path", path)
        regular_file(path, kind="recipe")
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            refuse_stand_in(path)
            raise ValueError(f"recipe {path} must be TOML, got {one_line(error)}") from None
        preset = values.pop("preset", "ours")
        try:
            return cls.preset(text_of("preset", preset)).changed(values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None

    def changed(self, values: Mapping[str, Any]) -> Self:
        """Return a recipe with other values, as a TOML file has them.

        Raises:
            ValueError: an unknown field, or a value of another kind or out of range.
        """
        values = dict(_checked(type(self), values, of=""))
        if "augmentation" in values:
            told = _checked(Augmentation, values["augmentation"], of="augmentation.")
            values["augmentation"] = replace(self.augmentation, **told)
        return replace(self, **values)

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Self:
        """Return what `asdict` made these values of."""
        return cls(**{**values, "augmentation": Augmentation(**values["augmentation"])})

    def to_toml(self) -> str:
        """Return what `read` makes this recipe of."""
        plain = asdict(self)
        augmentation = plain.pop("augmentation")
        lines = [f"{name} = {_toml(value)}" for name, value in plain.items() if value is not None]
        inner = [
            f"{name} = {_toml(value)}" for name, value in augmentation.items() if value is not None
        ]
        return "\n".join([*lines, "", "[augmentation]", *inner, ""])


def as_recipe(recipe: Recipe | str | Path) -> Recipe:
    """Return a recipe, the preset of a name, or what a TOML file holds.

    Raises:
        FileNotFoundError, ValueError: as `Recipe.read` and `Recipe.preset`.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, str) and not recipe.endswith(".toml"):
        return Recipe.preset(recipe)
    return Recipe.read(recipe)


def _refuse_other(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        near = did_you_mean(str(value), known)
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}{near}")


def _checked(kind: type[Any], values: object, *, of: str) -> dict[str, Any]:
    """Return values that have the fields and types of a dataclass; whole numbers become floats."""
    if not isinstance(values, Mapping):
        raise TypeError(f"{of.rstrip('.')} must be a table, got {values!r}")
    hints = get_type_hints(kind)
    known = [part.name for part in fields(kind)]
    found = {}
    for name, value in values.items():
        if name not in known:
            near = did_you_mean(name, known)
            raise ValueError(
                f"{of}{name} must be a field of a recipe{near or ': ' + ', '.join(known)}"
            )
        wanted = str(hints[name])
        if "float" in wanted and type(value) is int and abs(value) <= sys.float_info.max:
            value = float(value)
        plain = {bool: "bool", int: "int", float: "float", str: "str"}.get(type(value), "")
        is_text = plain == "str" and ("str" in wanted or "Literal" in wanted)
        if name != "augmentation" and not is_text and (not plain or plain not in wanted):
            got = clipped(repr(value), _WIDEST)
            raise ValueError(f"{of}{name} must be {_shown(wanted)}, got {got}")
        found[name] = value
    return found


def _shown(hint: str) -> str:
    if "bool" in hint:
        return "true or false"
    if "int" in hint:
        return "a whole number"
    return "a number" if "float" in hint else "text"


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return json.dumps(value)  # numbers, text and booleans are spelt alike


# What was published, as far as it is known; what is our reading is said. None of them says more of its
# head than that it is linear.
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "ours": {},
        # HistoKT, tuning (its repository): AdamP, StepLR, 250 epochs, batches of 64, best by accuracy; several
        # labels weigh N / n_c. Our reading: the rate, the middle of its grid of 1e-3 to 5e-5 of which each
        # target had its best; and that classes, of which a picture has one, have no weights.
        "histokt": {
            "epochs": 250,
            "batch_size": 64,
            "optimiser": "adamp",
            "lr": 2e-4,
            "weight_decay": 5e-4,
            "schedule": "step",
            "warmup": 0.0,
            "step_epochs": 20,
            "step_factor": 0.5,
            "freeze": "all",
            "ema": 0.0,
            "class_weights": "labels",
            "metric": "accuracy",
            "augmentation": Augmentation(flips=True, rotate_deg=45.0, translate=0.1),
        },
        # Revisiting Hidden Representations (its repository): Adam 1e-5, 200 epochs, patience 30 on the
        # validation loss, dropout 0.5, batches of 128. Its BatchNorms keep their statistics but where a
        # second call forgets to: kept throughout here. It flips left and right only and zooms each axis by
        # itself: ours flips up and down too, and zooms both alike.
        "hidden-representations": {
            "epochs": 200,
            "batch_size": 128,
            "optimiser": "adam",
            "lr": 1e-5,
            "weight_decay": 0.0,
            "schedule": "constant",
            "warmup": 0.0,
            "freeze": "all",
            "batchnorm": "eval",
            "ema": 0.0,
            "dropout": 0.5,
            "class_weights": "none",
            "patience": 30,
            "metric": "loss",
            "augmentation": Augmentation(
                flips=True, rotate_deg=10.0, translate=0.1, shear_deg=0.1, scale=0.1
            ),
        },
        # Transfusion: Adam (of retinas; SGD of chest X-rays), rate 0.001, batches of 32 are told second hand;
        # epochs, the lack of a schedule and of augmentation, and the choice by AUROC are our reading.
        "transfusion": {
            "epochs": 50,
            "batch_size": 32,
            "optimiser": "adam",
            "lr": 1e-3,
            "weight_decay": 0.0,
            "schedule": "constant",
            "warmup": 0.0,
            "freeze": "all",
            "ema": 0.0,
            "class_weights": "none",
            "metric": "auroc",
            "augmentation": Augmentation(),
        },
    }
)
