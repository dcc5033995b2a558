"""A network and pictures in, class activation maps out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histofast._arrays import check
from histofast._numbers import whole_number
from histofast._stopping import stop_if_asked
from histofast.errors import ModelError
from histofast.explain.cam.definitions import METHODS, Method, check_methods
from histofast.networks import Gradients, Recorder, channels_last, gradients

BATCH = 32


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cams:
    """Class activation maps of n pictures.

    Attributes:
        layer: of the network.
        classes: (n, c) int64 number of the class that each map is of.
        output: (n, d) float32 logits of the network.
        maps: (n, c, h, w) float32 of each method, not below 0; h and w are those of the layer.
    """

    layer: str
    classes: NDArray[np.int64]
    output: NDArray[np.float32]
    maps: Mapping[Method, NDArray[np.float32]]


def cams(
    network: Any,
    pixels: NDArray[np.uint8],
    *,
    layer: str,
    methods: Sequence[str] = ("hirescam",),
    classes: Sequence[int] | NDArray[np.integer[Any]] | None = None,
    batch_size: int = BATCH,
) -> Cams:
    """Show where in pictures a network finds what it says of them.

    The network is left as it was: mode, hooks, gradients of its weights.

    Args:
        network: of `networks.create` with a head, or `adopt`, in evaluation mode; it runs where it is.
        pixels: (n, h, w, 3) uint8, n >= 1.
        layer: a stage or any module whose output is a map: (n, k, h, w), or tokens of a transformer of timm,
            of which those before the patches are left out.
        methods: "gradcam", "gradcam++", "hirescam".
        classes: (c) of the outputs, the same for all pictures, or (n, c) of each; None: of each picture
            the one with the highest output.
        batch_size: pictures at a time.

    Raises:
        TypeError: another network, or pixels of another type.
        ModelError: no such layer (near names are offered), one whose output is no map, or from which
            no gradient comes.
        ValueError: training mode, a network without a head, classes or methods there are not, no pictures.

    Determinism: by the device; a map may differ in the last bits with what is in its batch.
    """
    chosen = check_methods(methods)
    recorder = Recorder(network, [layer])
    batch_size = whole_number("batch_size", batch_size, at_least=1)
    n, *_ = check("pixels", pixels, "uint8", ("n", "h", "w", 3), contiguous=False)
    if n == 0:
        raise ValueError("pixels must be of at least 1 picture, got none")
    wanted = _classes(network, classes, n)
    parts = [
        of_batch(recorder, part, chosen, classes=None if wanted is None else wanted[rows])
        for rows, part in _batches(pixels, batch_size)
    ]
    return joined(parts)


def joined(parts: Sequence[Cams]) -> Cams:
    """Return the maps of several batches as one; at least one."""
    return Cams(
        layer=parts[0].layer,
        classes=np.concatenate([part.classes for part in parts]),
        output=np.concatenate([part.output for part in parts]),
        maps={m: np.concatenate([part.maps[m] for part in parts]) for m in parts[0].maps},
    )


def _batches(pixels: NDArray[np.uint8], size: int) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
    for first in range(0, len(pixels), size):
        stop_if_asked()
        rows = slice(first, first + size)
        yield rows, pixels[rows]


def _classes(network: Any, classes: Any, n: int) -> NDArray[np.int64] | None:
    """Return (n, c) checked classes, or None."""
    if not network.classes:
        raise ValueError(
            f"network must have a head whose outputs are classes, {network.architecture} gives "
            "features: make it with classes=..."
        )
    if classes is None:
        return None
    given = np.asarray(classes)
    if given.dtype.kind not in "iu" or given.ndim not in (1, 2) or given.shape[-1] == 0:
        raise ValueError(
            f"classes must be whole numbers (c,) or (n, c), got {given.dtype} {given.shape}"
        )
    if given.ndim == 2 and len(given) != n:
        raise ValueError(f"classes must be of each of {n} pictures, got {len(given)}")
    wrong = given[(given < 0) | (given >= network.classes)]
    if wrong.size:
        last = network.classes - 1
        which = f"within 0..{last}" if last else "0, for the network has one output"
        raise ValueError(f"classes must be {which}, got {wrong[0]}")
    told: NDArray[np.int64] = np.broadcast_to(given, (n, given.shape[-1])).astype(np.int64)
    return told


def of_batch(
    recorder: Recorder,
    pixels: NDArray[np.uint8],
    methods: Sequence[Method],
    *,
    classes: NDArray[np.int64] | None = None,
) -> Cams:
    """Return the maps of one batch; see `cams`, which has checked everything."""
    told: list[Tensor] = []

    def directions(output: Tensor) -> list[Tensor]:
        if classes is None:
            told.append(output.argmax(1, keepdim=True))
        else:
            told.append(torch.from_numpy(classes).to(output.device))
        width = output.shape[1]
        return [
            torch.nn.functional.one_hot(column, width).to(output.dtype)
            for column in told[0].unbind(1)
        ]

    found = gradients(recorder, pixels, directions)
    layer = recorder.names[0]
    of_picture = pixels.shape[1:3]
    maps = as_maps(recorder.network, layer, found.activations[layer], of_picture)
    slopes = [as_maps(recorder.network, layer, each[layer], of_picture) for each in found.gradients]
    if not any(slope.any() for slope in slopes):
        _refuse_other_tokens(recorder, found)
    return Cams(
        layer=layer,
        classes=told[0].cpu().numpy(),
        output=found.output.float().cpu().numpy(),
        maps={
            method: torch.stack([METHODS[method](maps, slope) for slope in slopes], 1)
            .float()
            .cpu()
            .numpy()
            for method in methods
        },
    )


def _refuse_other_tokens(recorder: Recorder, found: Gradients) -> None:
    """Refuse a layer of a transformer whose patches nothing reads any more."""
    layer = recorder.names[0]
    if any(each[layer].any() for each in found.gradients):
        raise ModelError(
            f"layer {layer} of {recorder.network.architecture} must be one whose patches are read, "
            "got gradients of other tokens alone: take the first norm of that block, or a block before it"
        )


def as_maps(network: Any, layer: str, values: Tensor, picture: tuple[int, int]) -> Tensor:
    """Return what a layer gives, or a gradient by it, as (n, k, h, w).

    Args:
        network: that it is of; a model of timm tells how many tokens come before those of patches,
            how these lie, and whether channels come last.
        layer: its name.
        values: as the layer gives them.
        picture: height and width of the pictures, px.

    Raises:
        ModelError: it is no map.
    """
    model = getattr(network, "model", network)
    what = f"layer {layer} of {network.architecture} must give a map"
    if values.ndim == 4:
        return values.permute(0, 3, 1, 2) if channels_last(network) else values
    shape = " x ".join(map(str, values.shape))
    if values.ndim != 3:
        raise ModelError(f"{what}, got {shape}: take one before the pooling")
    prefix = getattr(model, "num_prefix_tokens", None)
    if prefix is None:
        raise ModelError(
            f"{what}, got {shape}, and the model does not tell which tokens are patches"
        )
    h, w = _grid(model, picture)
    if values.shape[1] != prefix + h * w:
        raise ModelError(
            f"{what}, got {shape}, not {prefix} + {h} x {w} tokens: take a whole block, or its first norm"
        )
    tokens = values[:, prefix:].transpose(1, 2)  # (n, k, h * w)
    return tokens.reshape(len(values), -1, h, w)


def _grid(model: Any, picture: tuple[int, int]) -> tuple[int, int]:
    """Return how many patches of a transformer lie below and beside each other."""
    embedding = getattr(model, "patch_embed", None)
    counted = getattr(embedding, "dynamic_feat_size", None)
    if counted is not None:
        h, w = counted(picture)
        return int(h), int(w)
    side = getattr(embedding, "patch_size", None) or (1, 1)
    return picture[0] // side[0], picture[1] // side[1]
