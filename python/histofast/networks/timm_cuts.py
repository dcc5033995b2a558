"""Where models of timm can be cut, and their features there.

Vision transformers are cut after a block, `block1` and on; their tokens go through the model's own
last norm, as probes of DINO have it, and are pooled in one of `POOLS`. Others are cut at timm's feature
stages, whose maps are averaged.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

Pool = Literal["mean", "cls", "cls+mean"]
# Of the patches' tokens, without class token and registers; that is what a bare `blockN` means.
POOLS: tuple[Pool, ...] = ("cls", "cls+mean", "mean")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One cut: its name, the module that it ends with, and the how manieth of timm's stages that is.

    `pool` is None for stages that leave maps.
    """

    name: str
    module: str
    at: int
    d: int
    pool: Pool | None = None


def places_of(model: Any) -> tuple[Place, ...]:
    """Return the cuts of a model in order, those of one block by pool; none where timm says none."""
    # Models that can be cut say so by both; a few have neither.
    if not hasattr(model, "forward_intermediates") or not hasattr(model, "feature_info"):
        return ()
    stages = [(str(entry["module"]), int(entry["num_chs"])) for entry in model.feature_info]
    if not _leaves_tokens(model, stages):
        return tuple(
            Place(name=module, module=module, at=at, d=d) for at, (module, d) in enumerate(stages)
        )
    pools = POOLS if getattr(model, "cls_token", None) is not None else ("mean",)
    return tuple(
        Place(
            name=block_name(f"block{at + 1}", pool),
            module=module,
            at=at,
            d=d * (1 + (pool == "cls+mean")),
            pool=pool,
        )
        for at, (module, d) in enumerate(stages)
        for pool in pools
    )


def block_name(block: str, pool: str) -> str:
    """Return what a cut after a block is called.

    Example:
        >>> block_name("block3", "mean"), block_name("block3", "cls+mean")
        ('block3', 'block3-cls+mean')
    """
    return block if pool == "mean" else f"{block}-{pool}"


def _leaves_tokens(model: Any, stages: Sequence[tuple[str, int]]) -> bool:
    """Whether stages are all the blocks of a model of one width, which can be normed as its last."""
    known = inspect.signature(model.forward_intermediates).parameters
    return (
        [module for module, _ in stages] == [f"blocks.{i}" for i in range(len(stages))]
        and len({d for _, d in stages}) == 1
        and hasattr(model, "num_prefix_tokens")
        and {"norm", "return_prefix_tokens", "output_fmt"} <= known.keys()
    )


def prune(model: Any, place: Place) -> None:
    """Take what lies beyond a cut out of a model."""
    model.prune_intermediate_layers([place.at], prune_norm=place.pool is None, prune_head=True)


def features_at(model: Any, place: Place, x: torch.Tensor) -> torch.Tensor:
    """Return the features of a cut, (n, d)."""
    if place.pool is None:
        (maps,) = model.forward_intermediates(
            x, indices=[place.at], norm=False, intermediates_only=True, output_fmt="NCHW"
        )
        pooled: torch.Tensor = maps.mean((2, 3))
        return pooled
    has_prefix = model.num_prefix_tokens > 0
    (found,) = model.forward_intermediates(
        x,
        indices=[place.at],
        norm=True,
        intermediates_only=True,
        output_fmt="NLC",
        return_prefix_tokens=has_prefix,
    )
    patches, *prefix = found if has_prefix else (found,)  # (n, tokens, d) each
    parts = {"cls": [tokens[:, 0] for tokens in prefix], "mean": [patches.mean(1)]}
    return torch.cat([part for pool in place.pool.split("+") for part in parts[pool]], 1)


def shares_of(model: nn.Module, places: Sequence[Place], *, side_px: int) -> dict[str, float]:
    """Return the share of all multiply-adds that is done at each cut, products of attention too.

    Args:
        model: on the device `meta`.
        places: some of its cuts.
        side_px: of the pictures.
    """
    reached: dict[str, int] = {}
    counter = FlopCounterMode(display=False)

    def note(module: str) -> Any:
        return lambda *_: reached.update({module: counter.get_total_flops()})

    modules = {place.module for place in places}
    hooks = [model.get_submodule(module).register_forward_hook(note(module)) for module in modules]
    with torch.no_grad(), counter:
        model(torch.empty(1, 3, side_px, side_px, device="meta"))
    for hook in hooks:
        hook.remove()
    done = counter.get_total_flops()
    return {place.name: reached[place.module] / done for place in places}
