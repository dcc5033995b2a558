"""Weights of gated attention that somebody has trained, as the start of a training.

Published heads hold one linear layer, a gated scorer and a classifier, as our `gated` does, under names of
their own: those of MIL-Lab (Feather, `abmil.base.*`) and of CLAM are data below. What tells classes apart
is left out: it was trained on other classes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from histofast._files import path_of
from histofast._words import count, joined, listed
from histofast.encoders import sha256_of
from histofast.errors import ModelError
from histofast.learning import write_bytes
from histofast.mil.bag_model import BagModel
from histofast.mil.runs import INIT
from histofast.networks import read_weights

STARTED = ("gated", "clam")  # models that have these layers

# Names of their layers by ours; `value` and `gate` are the two halves of `score.both`.
_OURS = {"embed": "embed.0", "both": "score.both", "last": "score.last"}
_SPELLINGS = {
    "histofast": _OURS,
    "MIL-Lab": {
        "embed": "patch_embed.0",
        "value": "global_attn.attention_a.0",
        "gate": "global_attn.attention_b.0",
        "last": "global_attn.attention_c",
    },
    **{
        f"CLAM{variant}": {
            "embed": "attention_net.0",
            "value": f"attention_net.{at}.attention_a.0",
            "gate": f"attention_net.{at}.attention_b.0",
            "last": f"attention_net.{at}.attention_c",
        }
        for variant, at in (("", 3), (" without dropout", 2))
    },
}
# Classifiers of slides and of patches, each by the first word of its names.
_OF_CLASSES = re.compile(r"(head|instance|classifiers?|instance_classifiers)\b")
_KINDS = ("weight", "bias")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Start:
    """The weights that a training starts from.

    Attributes:
        path: of the file.
        sha256: of the file.
        spelling: whose names it has.
        state: tensors by the names of our `gated`, float32, without a head.
        d: width of the features.
        options: `hidden` and `attention`, the widths of the model.
        taken: tensors of the file that are in `state`.
        left_out: names of the others.
    """

    path: Path
    sha256: str
    spelling: str
    state: Mapping[str, Tensor]
    d: int
    options: Mapping[str, int]
    taken: int
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        """What is taken, in a line."""
        rest = f"; left out: {listed(self.left_out, most=9)}" if self.left_out else ""
        return (
            f"every fold starts from {count(self.taken, 'tensor')} of {self.path} (names of {self.spelling}), "
            f"its head from random numbers{rest}"
        )

    @property
    def identity(self) -> dict[str, str]:
        """What numbers follow from of it."""
        return {"sha256": self.sha256, "names": self.spelling, "tensors": _checksum(self.state)}


def read_start(path: str | Path, *, model: str, d: int, options: Mapping[str, Any]) -> Start:
    """Read the weights that a training is to start from.

    Args:
        path: safetensors or torch file, of which nothing is executed: a published gated-attention head
            with one linear layer before it, or a fold's `model.safetensors` of our `gated` or `clam`.
        model: that is trained.
        d: width of the features that it is trained on.
        options: of the model, which must agree with the file's widths.

    Raises:
        FileNotFoundError: no such file.
        ModelError: no weights, or those of another model; of other widths.
        ValueError: the model has no such layers, or its options other widths.
    """
    path = path_of("init", path)
    if model not in STARTED:
        raise ValueError(
            f"model must be {' or '.join(STARTED)} with init, which is gated attention, got {model}"
        )
    found = read_weights(path)
    spelling, layers, left_out = _layers_of(found, path)
    state = _state_of(layers, path)
    hidden, width = state["embed.0.weight"].shape
    sizes = {"hidden": hidden, "attention": state["score.last.weight"].shape[1]}
    if width != d:
        raise ModelError(
            f"{path} is for features of width {width}, these have {d}: extract features with the encoder "
            "that it was trained on"
        )
    for name, size in sizes.items():
        if options.get(name, size) != size:
            raise ValueError(f"{name} must be {size} with {path}, got {options[name]}")
    return Start(
        path=path,
        sha256=sha256_of(path),
        spelling=spelling,
        state=state,
        d=d,
        options=sizes,
        taken=len(found) - len(left_out),
        left_out=left_out,
    )


def _layers_of(
    found: Mapping[str, Tensor], path: Path
) -> tuple[str, dict[str, Tensor], tuple[str, ...]]:
    """Return whose names a file has, its tensors as `embed.weight`, and the names of what is of classes."""
    wanted = f"{path} must hold gated attention with one linear layer before it"
    spelling, before = max(
        ((spelling, _before(found, names)) for spelling, names in _SPELLINGS.items()),
        key=lambda each: len(_present(found, *each)),
    )
    present = _present(found, spelling, before)
    if not present:
        known = joined([name for name in _SPELLINGS if " " not in name])
        raise ModelError(
            f"{wanted}, under the names of {known}, got tensors such as {listed(list(found))}"
        )
    missing = [key for key in _keys(spelling, before) if key not in present]
    if missing:
        raise ModelError(f"{wanted}, under the names of {spelling}, lacks {listed(missing)}")
    rest = [key for key in found if key not in present]
    strange = [key for key in rest if not _OF_CLASSES.match(key.removeprefix(before))]
    if strange:
        raise ModelError(f"{wanted}, and nothing else but classifiers, got {listed(strange)} too")
    layers = {ours: found[key] for key, ours in present.items()}
    return spelling, layers, tuple(rest)


def _before(found: Mapping[str, Tensor], names: Mapping[str, str]) -> str:
    """Return what stands before the names of a spelling in a file: `model.` in Hugging Face's."""
    end = f"{names['last']}.weight"
    return next((key.removesuffix(end) for key in found if key.endswith(end)), "")


def _keys(spelling: str, before: str) -> dict[str, str]:
    """Return the names that a spelling asks for, and what they are to us, as `embed.weight`."""
    return {
        f"{before}{theirs}.{kind}": f"{ours}.{kind}"
        for ours, theirs in _SPELLINGS[spelling].items()
        for kind in _KINDS
    }


def _present(found: Mapping[str, Tensor], spelling: str, before: str) -> dict[str, str]:
    return {key: ours for key, ours in _keys(spelling, before).items() if key in found}


def _state_of(layers: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return tensors by our names, whose shapes go together."""
    layers = {key: tensor.detach().to("cpu", torch.float32) for key, tensor in layers.items()}
    for key, tensor in layers.items():
        if tensor.ndim != 1 + key.endswith("weight") or not tensor.numel():
            raise ModelError(f"{path} must hold linear layers, {key} is of shape {_shape(tensor)}")
        if not tensor.isfinite().all():
            raise ModelError(f"{path} holds NaN or infinity in {key}: copy or download it again")
    hidden, attention = len(layers["embed.weight"]), layers["last.weight"].shape[1]
    if len(layers["last.weight"]) != 1:
        raise ModelError(
            f"{path} must hold attention of one head, got {len(layers['last.weight'])} of them"
        )
    halves = ("both",) if "both.weight" in layers else ("value", "gate")
    wide = 2 * attention // len(halves)
    sizes = {"embed": hidden, "last": 1, **dict.fromkeys(halves, wide)}
    shapes = {f"{name}.weight": (wide, hidden) for name in halves}
    for key, shape in (shapes | {f"{name}.bias": (size,) for name, size in sizes.items()}).items():
        if layers[key].shape != shape:
            raise ModelError(
                f"{path} must hold layers that go together, {key} of shape {shape}, got "
                f"{_shape(layers[key])}"
            )
    for kind in _KINDS:
        layers[f"both.{kind}"] = torch.cat([layers[f"{name}.{kind}"] for name in halves])
    return {
        f"{ours}.{kind}": layers[f"{name}.{kind}"].contiguous()
        for name, ours in _OURS.items()
        for kind in _KINDS
    }


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _checksum(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {list(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def keep_start(folder: Path, start: Start) -> None:
    """Write the weights into the folder of a run, for all who train its folds."""
    write_bytes(folder / INIT, save(dict(start.state)))


def put_start(folder: Path, told: Mapping[str, str], model: BagModel) -> None:
    """Let a new model start from the weights that are kept in the folder of its run.

    Raises:
        ModelError: they are not there, or not as they were written.
    """
    path = folder / INIT
    remedy = "remove the folder and train again with the same arguments"
    try:
        state = read_weights(path)
    except FileNotFoundError:
        state = {}
    except ModelError as error:
        raise ModelError(f"{error}: {remedy}") from error
    if _checksum(state) != told["tensors"]:
        raise ModelError(f"{path} must be as it was written, got another or none: {remedy}")
    _, strange = model.load_state_dict(state, strict=False)
    assert not strange, "the widths of the model are those of its start"
