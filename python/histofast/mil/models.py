"""Models of bags by name: `create` builds one, with weights that a seed decides."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from histofast._words import did_you_mean, text_of
from histofast.mil.attention import AttentionPooling, GatedAttention
from histofast.mil.bag_model import BagModel, BagOutput
from histofast.mil.clam import INSTANCE_LOSSES, Clam
from histofast.mil.dsmil import Dsmil
from histofast.mil.pooling import MaxPooling, MeanPooling
from histofast.mil.transmil import TransMil

__all__ = ["BagModel", "BagOutput", "create", "names"]

MODELS: dict[str, type[BagModel]] = {
    model.name: model
    for model in (AttentionPooling, GatedAttention, MeanPooling, MaxPooling, Clam, TransMil, Dsmil)
}
CHOICES = {"instance_loss": tuple(INSTANCE_LOSSES)}


def names() -> tuple[str, ...]:
    """Return the names of the models that `create` builds."""
    return tuple(MODELS)


def create(name: str, *, d: int, outputs: int, seed: int = 0, **options: Any) -> BagModel:
    """Build a model of bags, in evaluation mode, with random weights.

    Layers are drawn by torch's own rules for them. torch's global generator is left as it was.

    Args:
        name: one of `names()`: "attention" (HistoTransfer), "gated" (Ilse), "mean", "max", "clam",
            "transmil", "dsmil".
        d: width of the features.
        outputs: classes, or 1 for a value or a log risk.
        seed: of the weights.
        options: of the model, see its docstring; the defaults are those published.

    Raises:
        ValueError: no such model or option (close names are offered); `d`, `outputs` or an option
            out of range; fewer than two outputs for clam, whose loss of instances needs classes;
            heads of transmil that do not divide its width.
        TypeError: an option of another type.

    Determinism: the same seed gives the same weights on any machine with the same torch.

    Example:
        >>> create("attention", d=512, outputs=2).options["embedding"]
        64
    """
    if text_of("name", name) not in MODELS:
        near = did_you_mean(name, MODELS)
        raise ValueError(f"name must be one of {', '.join(MODELS)}, got {name!r}{near}")
    if d < 1:
        raise ValueError(f"d must be at least 1, got {d}")
    model = MODELS[name]
    if outputs < model.least_outputs:
        why = ": its loss of instances needs classes" if model.least_outputs > 1 else ""
        raise ValueError(
            f"outputs must be at least {model.least_outputs} for {name}, got {outputs}{why}"
        )
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(model).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    for key in options:
        if key not in defaults:
            raise ValueError(
                f"options of {name} must be of {', '.join(defaults)}, got {key}"
                f"{did_you_mean(key, defaults)}"
            )
    chosen = {
        key: _checked(key, options.get(key, default), default, model=name)
        for key, default in defaults.items()
    }
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        built = model(d, outputs, **chosen)
    built.options = chosen
    built.eval()
    return built


def _checked(key: str, value: Any, default: Any, *, model: str) -> Any:
    """Return the value of an option if it is of its default's kind and in range."""
    kind = type(default)
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{key} must be {kind.__name__}, got {type(value).__name__}")
    if key in CHOICES:
        wanted, fits = f"one of {', '.join(CHOICES[key])}", value in CHOICES[key]
    elif key == "dropout":
        wanted, fits = "at least 0 and less than 1", 0 <= value < 1
    elif kind is float:
        wanted, fits = "finite and at least 0", 0 <= value < float("inf")
    elif kind is int:
        least = 0 if key == "hidden" and model in ("mean", "max") else 1
        wanted, fits = f"at least {least}", value >= least
    else:
        return value
    if not fits:
        raise ValueError(f"{key} must be {wanted}, got {value!r}")
    return kind(value)
