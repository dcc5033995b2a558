"""What layers give for pictures, and how what comes out moves with it; the network is left as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from histofast.errors import ModelError
from histofast.networks.recorder import Recorder, check_network, without_tf32
from histofast.networks.reuse import inputs_of

Directions = Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Gradients:
    """Layers of a network for a batch of n pictures.

    Attributes:
        output: (n, c) what the network gives.
        activations: (n, ...) what each layer gives, by its name.
        gradients: of each direction, d (output . direction) / d activations, of the same shape.
    """

    output: Tensor
    activations: Mapping[str, Tensor]
    gradients: tuple[Mapping[str, Tensor], ...]


def gradients(recorder: Recorder, pixels: NDArray[np.uint8], directions: Directions) -> Gradients:
    """Run a batch forwards, and back to some layers.

    What is before the first of the layers keeps no graph, and no gradient of a weight is computed: this is
    less work than a step of training. Whether weights ask for gradients, or the caller is in `torch.no_grad`
    or `torch.inference_mode`, makes no difference.

    Args:
        recorder: of the layers; its network runs where it is.
        pixels: (n, h, w, 3) uint8.
        directions: called with the (n, c) output; returns tensors of its shape, each a direction that
            every picture's output is followed along. Pictures do not mix, as in evaluation mode.

    Raises:
        ModelError: a layer is used more than once in a pass, or not at all, or gives no floating-point
            tensor; nothing that comes out follows from it with a gradient.
        ValueError: training mode; a network that was made within `torch.inference_mode`.
    """
    network = recorder.network
    check_network(network)
    if any(t.is_inference() for t in (*network.parameters(), *network.buffers())):
        raise ValueError(
            "network must have tensors that gradients can pass, got some of torch.inference_mode: "
            "make it outside of that"
        )
    kept: dict[str, Tensor] = {}
    device = next(network.parameters()).device
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        without_tf32(device),
        frozen(network),
        _tapped(recorder, kept),
    ):
        output: Tensor = network(inputs_of(network, pixels))
        _check(recorder, kept, output)
        told = list(directions(output.detach()))
        found = tuple(
            _back(recorder, kept, output, direction, keep=i + 1 < len(told))
            for i, direction in enumerate(told)
        )
    return Gradients(
        output=output.detach(),
        activations={name: value.detach() for name, value in kept.items()},
        gradients=found,
    )


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Have no weight ask for gradients, as long as it lasts."""
    were = [p for p in network.parameters() if p.requires_grad]
    try:
        for parameter in were:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in were:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def _tapped(recorder: Recorder, kept: dict[str, Tensor]) -> Iterator[None]:
    """Keep what the layers give, with a graph from there on; what follows gets a copy."""
    architecture = recorder.network.architecture

    def hook(name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def tap(module: nn.Module, inputs: Any, output: Any) -> Any:
            several = isinstance(output, tuple | list)
            value = output[0] if several else output
            if name in kept or not isinstance(value, Tensor) or not value.is_floating_point():
                how = "is used more than once" if name in kept else "gives no tensor of numbers"
                raise ModelError(f"layer {name} of {architecture} {how}")
            if not value.requires_grad:
                value = value.detach().requires_grad_()
            kept[name] = value
            onwards = value.clone()  # what works in place must not change what is kept
            return (onwards, *output[1:]) if several else onwards

        return tap

    handles = []
    try:
        for name, module in recorder.modules.items():
            handles.append(module.register_forward_hook(hook(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check(recorder: Recorder, kept: Mapping[str, Tensor], output: Tensor) -> None:
    architecture = recorder.network.architecture
    for name in recorder.names:
        if name not in kept:
            raise ModelError(f"layer {name} of {architecture} is not used in a pass")
    if not output.requires_grad:
        raise ModelError(_no_gradient(architecture, recorder.names[0]))


def _back(
    recorder: Recorder, kept: Mapping[str, Tensor], output: Tensor, direction: Tensor, *, keep: bool
) -> Mapping[str, Tensor]:
    found = torch.autograd.grad(
        output,
        [kept[name] for name in recorder.names],
        direction,
        retain_graph=keep,
        allow_unused=True,
    )
    for name, gradient in zip(recorder.names, found, strict=True):
        if gradient is None:
            raise ModelError(_no_gradient(recorder.network.architecture, name))
    return dict(zip(recorder.names, found, strict=True))


def _no_gradient(architecture: str, layer: str) -> str:
    return (
        f"layer {layer} of {architecture} must be followed with gradients to what comes out, got "
        "none: is a part of the network run without them, or the layer beside the way to its output"
    )
