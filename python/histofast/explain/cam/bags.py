"""Models of slides and a slide's patches in; where within the patches an output comes from, out.

With attention a_i held where it is, a slide's output is sum_i a_i v_i of what is said of each patch alone, and
its gradient by the maps of patch i is a_i times that of v_i: attention times the patch's own map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histofast._arrays import check
from histofast._numbers import whole_number
from histofast._stopping import stop_if_asked
from histofast.explain.cam.capture import BATCH, as_maps
from histofast.explain.cam.definitions import METHODS, Method, check_methods
from histofast.mil import BagModel, create
from histofast.networks import Recorder, drawn_anew, frozen, gradients

_AGREE = 1e-3  # of what is said of a patch, how far the weighted mean may be off
_CHUNK = 256  # patches whose graphs are held at a time

Read = Callable[[NDArray[np.int64]], NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BagCams:
    """Class activation maps of n patches of one slide, times attention, and their null.

    Attributes:
        layer: of the network.
        maps: (n, h, w) float64 of each method, not below 0; h and w are those of the layer.
        null: the same of a network and models with all weights drawn anew.
    """

    layer: str
    maps: Mapping[Method, NDArray[np.float64]]
    null: Mapping[Method, NDArray[np.float64]]


def cams_of_bag(
    network: Any,
    models: Sequence[BagModel],
    *,
    features: NDArray[np.float32],
    read: Read,
    number: int,
    methods: Sequence[str] = ("hirescam",),
    layer: str | None = None,
    seed: int = 0,
) -> BagCams:
    """Show where within the patches of a slide an output of models comes from, the mean over models.

    Args:
        network: that the features were made with, in evaluation mode; it runs where it is.
        models: that attend to patches and score each (attention, gated), in evaluation mode.
        features: (n, d) float32 of the patches, n >= 1.
        read: gives (k, h, w, 3) uint8 pixels of the patches of these numbers.
        number: of the output.
        methods: "gradcam", "gradcam++", "hirescam".
        layer: of the network, see `cams`; None: the last stage.
        seed: of the weights drawn anew.

    Raises:
        TypeError: features of another type.
        ValueError: no models, patches, such method or output; a model whose output is no weighted mean of its
            patches'; a network of `adopt` that does not say how its weights are drawn.
        ModelError: a layer without a map.

    Determinism: by the device and the seed.
    """
    chosen = check_methods(methods)
    n, _ = check("features", features, "float32", ("n", "d"))
    if not n:
        raise ValueError("features must be of at least 1 patch, got none")
    if not models:
        raise ValueError("models must be at least one, got none")
    number = whole_number("number", number, at_least=0)
    outputs = min(model.outputs for model in models)
    if number >= outputs:
        raise ValueError(f"number must be below {outputs}, the outputs of the models, got {number}")
    recorder = Recorder(network, [network.layer if layer is None else layer])
    other = Recorder(drawn_anew(network, seed=seed), recorder.names)  # refuses before the work
    maps = _maps(recorder, models, torch.from_numpy(features), read, chosen, number)
    null = _null(other, models, n, read, chosen, number, seed=seed)
    return BagCams(layer=recorder.names[0], maps=maps, null=null)


def nulls_of_bag(
    network: Any,
    models: Sequence[BagModel],
    *,
    n: int,
    read: Read,
    number: int,
    seeds: Sequence[int],
    methods: Sequence[str] = ("hirescam",),
    layer: str | None = None,
) -> Iterator[Mapping[Method, NDArray[np.float64]]]:
    """Yield what `cams_of_bag` has as null, of the n patches of a slide, for each of several seeds.

    Raises:
        ValueError, ModelError: as `cams_of_bag`.
    """
    chosen = check_methods(methods)
    names = Recorder(network, [network.layer if layer is None else layer]).names
    for seed in seeds:
        other = Recorder(drawn_anew(network, seed=seed), names)
        yield _null(other, models, n, read, chosen, number, seed=seed)


def _null(
    other: Recorder,
    models: Sequence[BagModel],
    n: int,
    read: Read,
    methods: Sequence[Method],
    number: int,
    *,
    seed: int,
) -> dict[Method, NDArray[np.float64]]:
    """Return the maps of an encoder that is drawn anew, and of models drawn anew on its features."""
    seeds = np.random.SeedSequence(seed).generate_state(len(models)).tolist()
    anew = [
        create(model.name, d=model.d, outputs=model.outputs, seed=each, **model.options)
        for model, each in zip(models, seeds, strict=True)
    ]
    return _maps(other, anew, _encoded(other, n, read), read, methods, number)


def _batches(n: int) -> Iterator[NDArray[np.int64]]:
    for first in range(0, n, BATCH):
        stop_if_asked()
        yield np.arange(first, min(n, first + BATCH))


def _encoded(recorder: Recorder, n: int, read: Read) -> Tensor:
    """Return (n, d) what a network gives for all patches."""
    parts = [torch.from_numpy(recorder.run(read(r), lambda *_: None)) for r in _batches(n)]
    return torch.cat(parts)


def _maps(
    recorder: Recorder,
    models: Sequence[BagModel],
    bag: Tensor,
    read: Read,
    methods: Sequence[Method],
    number: int,
) -> dict[Method, NDArray[np.float64]]:
    """Return (n, h, w) attention times the maps of each patch, the mean over models."""
    told = [attention_and_slopes(model, bag, number=number) for model in models]
    layer = recorder.names[0]
    found: dict[Method, list[NDArray[np.float64]]] = {method: [] for method in methods}
    for rows in _batches(len(bag)):
        pixels = read(rows)
        out = gradients(recorder, pixels, partial(_along, [slope[rows] for _, slope in told]))
        size = pixels.shape[1:3]
        maps = as_maps(recorder.network, layer, out.activations[layer], size)
        slopes = [as_maps(recorder.network, layer, each[layer], size) for each in out.gradients]
        for method, parts in found.items():
            total = torch.zeros(())
            for (attention, _), slope in zip(told, slopes, strict=True):
                cam = METHODS[method](maps, slope)
                total = total + attention[rows, None, None] * cam.double().cpu()
            parts.append((total / len(told)).numpy())
    return {method: np.concatenate(parts) for method, parts in found.items()}


def _along(slopes: Sequence[Tensor], output: Tensor) -> list[Tensor]:
    return [slope.to(output) for slope in slopes]


def attention_and_slopes(model: BagModel, bag: Tensor, *, number: int) -> tuple[Tensor, Tensor]:
    """Return attention and how what a model says of each patch alone moves with its features.

    Args:
        model: in evaluation mode.
        bag: (n, d) float32.
        number: of the output.

    Returns:
        (n,) float64 a_i, and (n, d) gradients of v_i, what the model says of a slide of patch i alone.

    Raises:
        ValueError: a model without attention, or whose output is not sum_i a_i v_i.
    """
    with frozen(model), torch.inference_mode(False), torch.enable_grad():
        features = bag.detach().clone()
        whole = model(features)
        parts = [_alone(model, part, number) for part in features.split(_CHUNK)]
    said, slopes = (torch.cat(each) for each in zip(*parts, strict=True))
    output = float(whole.output[number])
    off = 1.0
    if whole.attention is not None:
        added = float((whole.attention.double() * said.double()).sum())
        off = abs(added - output) / (1e-6 + float(said.abs().max()))
    if off > _AGREE:
        raise ValueError(
            "method must be of a run whose models say of a slide the mean of what they say of its patches, "
            f"weighted by attention, got {model.name}: train one of attention or gated"
        )
    assert whole.attention is not None
    return whole.attention.double(), slopes


def _alone(model: BagModel, part: Tensor, number: int) -> tuple[Tensor, Tensor]:
    features = part.clone().requires_grad_()
    said = torch.stack([model(features[i : i + 1]).output[number] for i in range(len(part))])
    (slope,) = torch.autograd.grad(said.sum(), features)
    return said.detach(), slope
