"""Torch, as it comes, beside an encoder on the same patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from compare import Table


def race_torch(
    table: Table,
    name: str,
    ours: Callable[[], object],
    module: Callable[[torch.Tensor], object],
    x: torch.Tensor,
    *,
    batches: Sequence[int],
    threads: int,
    layout: str = "",
    goal: float,
    rounds: int = 5,
) -> None:
    """Enter a race of an encoder against eager torch at several batch sizes, judged by the best of them.

    Args:
        table: where rows go.
        name: of the network.
        ours: encodes the patches of `x`.
        module: in the layout of `x`.
        x: (n, 3, h, w) scaled patches.
        batches: sizes that torch may choose from.
        threads: of torch.
        layout: of memory, as rows call it.
        goal: for the ratio to torch at its best.
        rounds: of the race.
    """
    torch.set_num_threads(threads)

    def eager(batch: int) -> None:
        with torch.inference_mode():
            for start in range(0, len(x), batch):
                module(x[start : start + batch])

    way = f"torch {torch.__version__} eager{f', {layout}' * bool(layout)}"
    rivals: dict[str, Any] = {
        f"{way}, batch {b}, {threads} threads": partial(eager, b) for b in batches
    }
    what = f"{name}, float32"
    ratios = table.race(what, ours, rivals, goals={}, work=len(x), unit="patches/s", rounds=rounds)
    table.add(
        what=what,
        ours="",
        rival=f"torch eager, the best of batches {', '.join(map(str, batches))}",
        theirs="",
        ratio=min(ratios.values()),
        goal=goal,
    )


def scaled(pixels: torch.Tensor, network: Any) -> torch.Tensor:
    """Return (n, h, w, 3) uint8 pixels as (n, 3, h, w) float32, as the network wants them."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (network.mean, network.std))
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std
