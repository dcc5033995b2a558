"""What the layers of a network give for a batch of patches, handed on while the network runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from histofast.errors import ModelError
from histofast.networks.adopted import AdoptedNetwork
from histofast.networks.kinds import AnyNetwork
from histofast.networks.known import no_such
from histofast.networks.network import Network
from histofast.networks.verifying import PixelsIn

Consume = Callable[[str, Any], None]


class Recorder:
    """The layers of a network that are looked at; nothing of it is changed.

    What consumes an activation does so within the layer's own call, before the network goes on: a
    later layer that works in place overwrites nothing that is still needed, and nothing is copied.
    The network runs where it is; on a GPU without TF32, whose 10 bits would show in the numbers.

    Attributes:
        network: that is looked at.
        names: of the layers.
        modules: theirs, by name.
    """

    def __init__(self, network: Any, layers: Sequence[str] | None = None) -> None:
        """Find the layers.

        Args:
            network: of `create` or `adopt`, in evaluation mode.
            layers: names of its stages, or of any module in it; None: its blocks, the stages that
                hold a convolution or a linear map.

        Raises:
            ModelError: no such layer (close names are offered).
            TypeError: no network of `create` or `adopt`.
            ValueError: training mode, or no layer.
        """
        check_network(network)
        self.network = network
        stages = stages_of(network)
        modules = _modules(network) | stages
        if layers is None:
            layers = [name for name, module in stages.items() if _is_block(module)]
        for name in layers:
            if name not in modules:
                of = f" of {network.architecture}"
                raise ModelError(no_such("layer", name, stages or modules, of=of, others=modules))
        if not layers:
            raise ValueError(f"layers of {network.architecture} must be at least one, got none")
        self.names = tuple(dict.fromkeys(layers))
        self.modules = {name: modules[name] for name in self.names}

    def run(self, pixels: NDArray[np.uint8], consume: Consume) -> NDArray[np.float32]:
        """Run a batch; `consume` is called with each layer's name and (n, ...) float32 activations.

        Args:
            pixels: (n, h, w, 3) uint8.
            consume: must not keep the array it gets: NumPy's, or of a network on a GPU a tensor
                there. Of a tuple it gets the first tensor.

        Returns:
            (n, d) float32, what the network gives.

        Raises:
            ModelError: a layer is used more than once in a pass, or gives no tensor.
            Whatever `consume` raises; the network is left as it was.
        """
        seen: set[str] = set()

        def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def hand_on(module: nn.Module, inputs: Any, output: Any) -> None:
                value = output[0] if isinstance(output, tuple | list) else output
                if name in seen or not isinstance(value, torch.Tensor):
                    how = "is used more than once" if name in seen else "gives no tensor"
                    raise ModelError(f"layer {name} of {self.network.architecture} {how}")
                seen.add(name)
                value = value.detach()
                consume(name, value if value.is_cuda else value.numpy())

            return hand_on

        handles = []
        try:
            for name, module in self.modules.items():
                handles.append(module.register_forward_hook(hook(name)))
            device = next(self.network.parameters()).device
            with torch.inference_mode(), without_tf32(device):
                whole = PixelsIn(self.network).eval().to(device)
                out: NDArray[np.float32] = whole(torch.from_numpy(pixels).to(device)).cpu().numpy()
        finally:
            for handle in handles:
                handle.remove()
        return out


def check_network(network: Any) -> None:
    """Refuse what is no network of ours, and one in training mode.

    Raises:
        TypeError: no network of `create` or `adopt`.
        ValueError: training mode.
    """
    if not isinstance(network, AnyNetwork):
        raise TypeError(
            f"network must be of histofast.networks.create, got {type(network).__name__}: give "
            "a module of your own to histofast.networks.adopt first"
        )
    if any(module.training for module in network.modules()):
        raise ValueError("network must be in evaluation mode: call network.eval() first")


def without_tf32(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Return what keeps a GPU to whole float32; nothing elsewhere."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    flags: contextlib.AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    return flags


def channels_last(network: nn.Module) -> bool:
    """Say whether maps of a network are (n, h, w, channels), as some models of timm tell."""
    model = getattr(network, "model", network)
    return str(getattr(model, "output_fmt", "NCHW")) == "NHWC"


def stages_of(network: AnyNetwork) -> dict[str, nn.Module]:
    """Return what a network calls its stages, from pixels to the end."""
    if isinstance(network, Network):
        return {name: network.stage(name) for name in network.stage_names}
    if isinstance(network, AdoptedNetwork):
        return network.stages()
    found = getattr(network.model, "feature_info", None) or []
    names = [str(entry["module"]) for entry in found]
    known = dict(network.model.named_modules())  # a cut model has lost the later ones
    return {name: known[name] for name in names if name in known}


def _modules(network: AnyNetwork) -> dict[str, nn.Module]:
    """Return all modules by the names that the network's own state dict gives them."""
    whole = network if isinstance(network, Network) else network.model
    return {name: module for name, module in whole.named_modules() if name}


def _is_block(stage: nn.Module) -> bool:
    return any(isinstance(module, nn.Conv2d | nn.Linear) for module in stage.modules())
