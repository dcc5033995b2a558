"""Torch modules that somebody else has built, made to fit where networks of `create` go."""

# mypy: allow-subclassing-any
from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from histofast.encoders import NOT_STATED
from histofast.errors import ModelError

_FEW = 3  # children: a container of containers is opened


def state_sha256(module: nn.Module) -> str:
    """Return a checksum of the names, kinds and values of a module's tensors."""
    whole = hashlib.sha256()
    for name, value in module.state_dict().items():
        if isinstance(value, torch.Tensor):
            whole.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            flat = value.detach().cpu().reshape(-1)  # no view of a number as bytes
            whole.update(flat.view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


class AdoptedNetwork(nn.Module):
    """A torch module with what is needed to feed it pixels; see `adopt`."""

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        mean: Sequence[float],
        std: Sequence[float],
        input_px: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.architecture = name
        self.mean = tuple(map(float, mean))
        self.std = tuple(map(float, std))
        self.input_px = input_px
        self.classes = classes
        self.layer = "output"
        self.origin = f"the torch module {name}"
        self.licence = NOT_STATED

    @property
    def weights_sha256(self) -> str:
        """A checksum of the names and values of its tensors."""
        return state_sha256(self.model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: Any = self.model(x)
        if isinstance(out, tuple | list):
            out = out[0]
        maps: torch.Tensor = out
        return maps.mean((2, 3)) if maps.ndim == 4 else maps.flatten(1)

    def stages(self) -> dict[str, nn.Module]:
        """Return its children, or, as long as these are fewer than three, theirs."""
        found = dict(self.model.named_children())
        while len(found) < _FEW:
            inner = {
                f"{name}.{key}": module
                for name, child in found.items()
                for key, module in (child.named_children() or ())
            }
            leaves = {name: child for name, child in found.items() if not list(child.children())}
            if not inner:
                break
            found = leaves | inner
        order = [name for name, _ in self.model.named_modules() if name in found]
        return {name: found[name] for name in order}

    def twin(self, *, seed: int) -> AdoptedNetwork | None:
        """Return a copy with random weights; None where a module does not say how to draw them."""
        other = copy.deepcopy(self)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in other.modules():
                reset = getattr(module, "reset_parameters", None)
                if reset is not None:
                    reset()
                elif any(True for _ in module.parameters(recurse=False)):
                    return None
        return other


def refuse_other_than_features(network: AdoptedNetwork, patch_px: int) -> None:
    """Refuse a module whose output is not one row of features, or one set of maps, for each patch.

    Raises:
        ModelError: a sequence, maps with their channels last, or something else.
    """
    try:
        with torch.inference_mode():
            out: Any = network.model(torch.zeros(2, 3, patch_px, patch_px))
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError):
        return  # whoever exports it says why
    out = out[0] if isinstance(out, tuple | list) and out else out
    if not isinstance(out, torch.Tensor):
        raise ModelError(f"{network.architecture} must give a tensor, got {type(out).__name__}")
    shape = tuple(out.shape)
    shown = f"({', '.join(map(str, ('n', *shape[1:])))})"
    if len(shape) not in (2, 4) or shape[0] != 2:
        raise ModelError(
            f"{network.architecture} must give features (n, d) or maps (n, c, h, w), got {shown}: let a module "
            "around it take a token, or their mean"
        )
    if len(shape) == 4 and shape[1] == shape[2] != shape[3]:
        raise ModelError(
            f"{network.architecture} must give maps (n, c, h, w), got {shown}, whose channels are last: let a "
            "module around it permute them"
        )


def adopt(
    model: nn.Module,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    name: str | None = None,
    input_px: int = 224,
    classes: int = 0,
) -> AdoptedNetwork:
    """Make a torch module fit for `histofast.compare` and `histofast.export`.

    Args:
        model: takes (n, 3, h, w) float32, standardised; gives a tensor, or a tuple that begins with
            one. Maps (n, c, h, w) are averaged over the picture. Put into evaluation mode.
        mean, std: per channel, of pixels in 0..1.
        name: what to call it; the name of its class when None.
        input_px: side of the pictures it was made for.
        classes: how many, if what it gives are logits; 0: features.

    Raises:
        TypeError: no torch module.
        ValueError: not three finite numbers each, std not above 0, input_px below 1.

    Example:
        >>> network = adopt(nn.Conv2d(3, 4, 3), mean=(0.5,) * 3, std=(0.25,) * 3)
        >>> network.architecture
        'Conv2d'
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch module, got {type(model).__name__}")
    for key, values in (("mean", mean), ("std", std)):
        if len(values) != 3 or not torch.tensor(values, dtype=torch.float64).isfinite().all():
            raise ValueError(f"{key} must be three finite numbers, got {tuple(values)}")
    if min(std) <= 0:
        raise ValueError(f"std must be above 0, got {tuple(std)}")
    if input_px < 1:
        raise ValueError(f"input_px must be at least 1, got {input_px}")
    network = AdoptedNetwork(
        model,
        name=name or type(model).__name__,
        mean=mean,
        std=std,
        input_px=input_px,
        classes=classes,
    )
    network.eval()
    return network
