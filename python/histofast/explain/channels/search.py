"""The search for a picture that excites a channel: the published schedule, in as many steps as asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from histofast._stopping import stop_if_asked
from histofast.explain.channels.exciting import Excitation
from histofast.explain.channels.looks import Looks
from histofast.explain.channels.priors import Phases, Searched, Spectrum, total_variation
from histofast.explain.channels.transforms import LIGHT, STANDARD, Transforms, drawn, seen
from histofast.networks import Network, frozen

Prior = Literal["own", "published"]
_DRAWS = 12  # stream of random numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A part of a search, with an optimiser of its own; it begins where the one before ended.

    Attributes:
        steps: of Adam.
        lr: their size.
        transforms: that a step draws from.
        variation: weight of the total variation, which is taken off the excitation.
    """

    steps: int
    lr: float
    transforms: Transforms
    variation: float = 0.0


# As published: Graziani, Andrearczyk, Mueller, 2019, Visualizing and interpreting feature reuse.
PUBLISHED = (
    Stage(steps=512, lr=0.1, transforms=STANDARD),
    Stage(steps=1024, lr=0.1, transforms=LIGHT, variation=0.025),
    Stage(steps=2048, lr=0.01, transforms=STANDARD, variation=0.0025),
)
# Phases need no total variation: high frequencies are as strong as in tissue and no stronger.
OWN = (Stage(steps=512, lr=0.1, transforms=STANDARD),)


def schedule_of(prior: Prior, steps: int | None = None) -> tuple[Stage, ...]:
    """Return the stages of a search.

    Args:
        prior: "published" or "own".
        steps: of all of them together, in the proportions of the schedule; None: as it stands.

    Raises:
        ValueError: no such prior; fewer steps than stages.
    """
    if prior not in get_args(Prior):
        raise ValueError(f"prior must be one of {', '.join(get_args(Prior))}, got {prior!r}")
    stages = PUBLISHED if prior == "published" else OWN
    if steps is None:
        return stages
    if steps < len(stages):
        raise ValueError(f"steps must be at least {len(stages)}, one for each stage, got {steps}")
    planned = np.cumsum([stage.steps for stage in stages])
    ends = np.maximum(np.rint(planned * steps / planned[-1]), np.arange(1, len(stages) + 1))
    shares = np.diff(ends.astype(np.int64), prepend=0)
    return tuple(
        Stage(steps=int(n), lr=s.lr, transforms=s.transforms, variation=s.variation)
        for s, n in zip(stages, shares, strict=True)
    )


def search(
    network: Network,
    layer: str,
    channel: int,
    *,
    stages: tuple[Stage, ...],
    px: int,
    looks: Looks | None = None,
    seed: int = 0,
    on_step: Callable[[int], None] | None = None,
) -> NDArray[np.uint8]:
    """Search for a picture that excites a channel.

    Args:
        network: in evaluation mode, where it is to run; no gradient is kept in it.
        layer: with maps.
        channel: of the layer.
        stages: of the search.
        px: side of the picture.
        looks: of real pictures of this side: the picture gets their magnitudes and colours, only its
            phases are searched. None: it is made of the published frequencies and colours.
        seed: of the picture at the start and of the transforms, alike for all channels and networks.
        on_step: called with the number of steps that are done.

    Returns:
        (px, px, 3) uint8.

    Raises:
        Interrupted: asked to stop.

    Determinism: the same bytes by the seed on one CPU with the same number of threads; on a GPU not.
    """
    device = next(network.parameters()).device
    made: Searched = (
        Spectrum(px, seed=seed, device=device)
        if looks is None
        else Phases(looks, seed=seed, device=device)
    )
    excitation = Excitation(network, layer, channel)
    rng = np.random.default_rng([_DRAWS, seed])
    done = 0
    with frozen(network):
        for stage in stages:
            optimiser = torch.optim.Adam([made.parameter], lr=stage.lr)
            for _ in range(stage.steps):
                stop_if_asked()
                step(made, excitation, stage, optimiser, rng)
                done += 1
                if on_step is not None:
                    on_step(done)
    with torch.no_grad():
        shown = (255 * made.picture()[0]).round().clamp(0, 255).to(torch.uint8)
    found: NDArray[np.uint8] = shown.permute(1, 2, 0).contiguous().cpu().numpy()
    return found


def step(
    made: Searched,
    excitation: Excitation,
    stage: Stage,
    optimiser: torch.optim.Optimizer,
    rng: np.random.Generator,
) -> None:
    """Take one step of a search."""
    picture = made.picture()
    shown = seen(picture, drawn(stage.transforms, rng), wraps=made.wraps)
    loss = -excitation(shown)
    if stage.variation:
        loss = loss + stage.variation * total_variation(picture)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
