"""What is asked of channels, and what was found: numbers, pictures and where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._numbers import whole_number
from histofast.datasets import evenly
from histofast.explain.channels.exciting import Excitations
from histofast.explain.channels.search import Prior, Stage, schedule_of

STRONGEST = 9  # real pictures beside each that was found


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What is asked of the channels of a layer.

    Attributes:
        channels: to show; None: `n` of them, evenly taken from all.
        n: how many, where none are named.
        px: side of the pictures, found and real.
        prior: "own": found pictures have the magnitudes of frequencies and the colours of the real
            ones; "published": what photographs have, by Lucid.
        steps: of each search; None: as published, 3,584, or 512 for "own".
        pictures: real ones, at most, drawn at random.
        seed: of the draw, of searches, and of random weights.

    Raises:
        TypeError, ValueError: what is no such number, or out of range; a channel twice.
    """

    channels: tuple[int, ...] | None = None
    n: int = 16
    px: int = 128
    prior: Prior = "own"
    steps: int | None = None
    pictures: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "n": whole_number("n", self.n, at_least=1),
            "px": whole_number("px", self.px, at_least=32, at_most=1024),
            "steps": whole_number("steps", self.steps, at_least=1),
            "pictures": whole_number("pictures", self.pictures, at_least=STRONGEST),
            "seed": whole_number("seed", self.seed, at_least=0),
        }
        if self.channels is not None:
            found = tuple(whole_number("channels", c, at_least=0) for c in self.channels)
            if not found or len(set(found)) < len(found):
                got = ", ".join(map(str, found)) or "none"
                raise ValueError(f"channels must be different numbers, got {got}")
            checked["channels"] = found
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        schedule_of(self.prior, self.steps)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Of each search."""
        return schedule_of(self.prior, self.steps)

    def chosen(self, channels: int, *, layer: str) -> tuple[int, ...]:
        """Return which of a layer's channels to show.

        Raises:
            ValueError: one that it does not have.
        """
        if self.channels is None:
            return tuple(evenly(np.arange(channels), self.n).tolist())
        for channel in self.channels:
            if channel >= channels:
                raise ValueError(
                    f"channels must be in 0..{channels - 1}, those of layer {layer}, got {channel}"
                )
        return self.channels


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Side:
    """One of the networks.

    Attributes:
        name: what to call it.
        weights: as they were told.
        real: what the real pictures do to all channels of its layer.
        found: (px, px, 3) uint8 of each channel that is shown, None of a dead one.
        values: what each of them does to its channel; NaN without.
    """

    name: str
    weights: str
    real: Excitations
    found: tuple[NDArray[np.uint8] | None, ...]
    values: tuple[float, ...]

    def strongest(self, channel: int) -> NDArray[np.int64]:
        """Return the numbers of the real pictures that excite a channel most, the strongest first."""
        found: NDArray[np.int64] = np.argsort(-self.real.means[:, channel], kind="stable")
        return found[:STRONGEST]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Look:
    """What channels of a layer look for.

    Attributes:
        network, layer: whose.
        options: what was asked for.
        channels: that are shown.
        sides: the network, and the one it is held against, if there is one.
        images: where the real pictures come from.
        names, groups: of each real picture.
        of: how many there were to draw from.
        pixels: (n, px, px, 3) uint8 of the real pictures.
        notes: what was left out or is unusual, a line each.
    """

    network: str
    layer: str
    options: Options
    channels: tuple[int, ...]
    sides: tuple[Side, ...]
    images: Path
    names: tuple[str, ...]
    groups: tuple[str, ...]
    of: int
    pixels: NDArray[np.uint8]
    notes: tuple[str, ...] = ()

    def together(self) -> NDArray[np.float64]:
        """Return (c,) r over real pictures between a channel of the two networks; NaN where one is dead."""
        a, b = (side.real.means - side.real.means.mean(0) for side in self.sides)
        dead = self.sides[0].real.dead | self.sides[1].real.dead
        lengths = np.sqrt((a * a).sum(0) * (b * b).sum(0))
        found: NDArray[np.float64] = np.divide(
            (a * b).sum(0), lengths, out=np.full(len(lengths), np.nan), where=~dead & (lengths > 0)
        )
        return found
