"""How much pictures excite the channels of a layer: of real ones all channels, of a searched one its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from histofast._arrays import to_numpy
from histofast._stopping import stop_if_asked
from histofast.networks import Network, Recorder

_BATCH = 32


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Excitations:
    """What real pictures do to all channels of a layer.

    Attributes:
        means: (n, c) float64 mean of each channel's map over its places.
        dead: (c,) whether a channel's map holds one value at all places of all pictures.
        side: (h, w) of the maps.
    """

    means: NDArray[np.float64]
    dead: NDArray[np.bool_]
    side: tuple[int, int]

    @property
    def channels(self) -> int:
        """How many the layer has."""
        return int(self.means.shape[1])


def excitations(
    network: Network,
    layer: str,
    pixels: NDArray[np.uint8],
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Excitations:
    """Run real pictures up to a layer and beyond.

    Args:
        network: of `networks.create`, in evaluation mode.
        layer: a stage, or any module in it.
        pixels: (n, h, w, 3) uint8.
        on_progress: called with the number of pictures that are done, and of all.

    Raises:
        ModelError: no such layer (close names are offered), or one that is used more than once.
        ValueError: the layer has no maps; pictures too small for the network.
    """
    recorder = Recorder(network, [layer])
    means: list[NDArray[np.float64]] = []
    low: Any = np.inf
    high: Any = -np.inf
    side = (0, 0)

    def consume(name: str, value: Any) -> None:
        nonlocal low, high, side
        maps = to_numpy(value)
        refuse_without_maps(network, layer, maps.shape)
        side = maps.shape[2:]
        means.append(maps.mean((2, 3), dtype=np.float64))
        low = np.minimum(low, maps.min((0, 2, 3)))
        high = np.maximum(high, maps.max((0, 2, 3)))

    for begin in range(0, len(pixels), _BATCH):
        stop_if_asked()
        _run(recorder, np.array(pixels[begin : begin + _BATCH]), consume)
        if on_progress is not None:
            on_progress(min(begin + _BATCH, len(pixels)), len(pixels))
    return Excitations(means=np.concatenate(means), dead=low == high, side=side)


def _run(
    recorder: Recorder, pixels: NDArray[np.uint8], consume: Callable[[str, Any], None]
) -> None:
    try:
        recorder.run(pixels, consume)
    except RuntimeError as error:
        if "size" not in str(error):
            raise
        px = pixels.shape[1]
        raise ValueError(
            f"px must be large enough for {recorder.network.architecture}, got {px}: use a larger px"
        ) from error


def refuse_without_maps(network: Network, layer: str, shape: tuple[int, ...]) -> None:
    """Refuse a layer whose channels are no maps.

    Raises:
        ValueError: it gives anything but (n, channels, h, w).
    """
    if len(shape) != 4:
        told = ", ".join(["n", *map(str, shape[1:])])
        raise ValueError(
            f"layer {layer} of {network.architecture} must give maps (n, channels, h, w), got "
            f"({told}): name one before the pooling"
        )


class _Reached(Exception):  # no error: what follows the layer is not needed
    """A pass has come to its layer."""


class Excitation:
    """What a picture with a graph does to one channel; the network is run up to its layer.

    Where the channel's map is 0 everywhere behind a ReLU, what goes into that is maximised instead: a
    channel that the picture at the start leaves silent could not be found otherwise.
    """

    def __init__(self, network: Network, layer: str, channel: int) -> None:
        self.network = network
        self.channel = channel
        self._layer = Recorder(network, [layer]).modules[layer]
        relus = [m for m in self._layer.modules() if isinstance(m, nn.ReLU)]
        self._last_relu = relus[-1] if relus else None
        device = next(network.parameters()).device
        self._mean = torch.tensor(network.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(network.std, device=device).view(1, 3, 1, 1)

    def __call__(self, picture: Tensor) -> Tensor:
        """Return the mean of the channel's map for (1, 3, h, w) colours in 0..1."""
        reached: dict[str, Tensor] = {}

        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            reached["before"], reached["after"] = inputs[0], output

        def stop(module: nn.Module, inputs: Any, output: Tensor) -> None:
            reached["maps"] = output
            raise _Reached

        relu = self._last_relu
        handles = [] if relu is None else [relu.register_forward_hook(keep)]
        handles.append(self._layer.register_forward_hook(stop))
        try:
            self.network((picture - self._mean) / self._std)
        except _Reached:
            pass
        finally:
            for handle in handles:
                handle.remove()
        maps = reached["maps"]
        is_silent = not bool(maps[:, self.channel].any())
        if is_silent and reached.get("after") is reached["maps"]:
            maps = reached["before"]
        found: Tensor = maps[:, self.channel].mean()
        return found
