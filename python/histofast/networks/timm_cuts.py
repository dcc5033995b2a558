"""Where models of timm can be cut, and their features there.

Vision transformers are cut after a block, `block1` and on; their tokens go through the model's own
last norm, as probes of DINO have it, or at `-no-norm` through none, and are pooled in one of `POOLS`.
Others are cut at timm's feature stages, whose maps are averaged.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

Pool = Literal["mean", "cls", "cls+mean"]
# Of the patches' tokens, without class token and registers; that is what a bare `blockN` means.
POOLS: tuple[Pool, ...] = ("cls", "cls+mean", "mean")
NO_NORM = "-no-norm"  # ends the name of a cut whose tokens are as they leave their block


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One cut: its name, the module that it ends with, and the how manieth of timm's stages that is.

    `pool` is None for stages that leave maps; `norm` is whether tokens go through the model's last norm.
    """

    name: str
    module: str
    at: int
    d: int
    pool: Pool | None = None
    norm: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What is done up to a cut of one picture, and held: multiply-adds, and numbers in weights."""

    multiply_adds: int
    parameters: int


class BlockCut(NamedTuple):
    """A cut of a vision transformer by its parts: the block, the way of pooling, with its norm or not."""

    block: str
    pool: str
    norm: bool


def block_cut(name: str) -> BlockCut | None:
    """Return what the name of a cut says; None for one that is not of a vision transformer's block.

    Example:
        >>> block_cut("block3-cls-no-norm")
        BlockCut(block='block3', pool='cls', norm=False)
    """
    found = re.fullmatch(r"(block\d+)(?:-(cls|cls\+mean))?(-no-norm)?", name)
    return None if found is None else BlockCut(found[1], found[2] or "mean", found[3] is None)


def block_of(name: str) -> str:
    """Return the cut of the same block that is called by it alone; of other cuts the cut itself."""
    found = block_cut(name)
    return name if found is None else found.block


def places_of(model: Any) -> tuple[Place, ...]:
    """Return the cuts of a model in order; none where timm says none.

    Those of one block are ordered by norm and pool: the one called by the block alone comes last.
    """
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
            name=block_name(f"block{at + 1}", pool, norm=norm),
            module=module,
            at=at,
            d=d * (1 + (pool == "cls+mean")),
            pool=pool,
            norm=norm,
        )
        for at, (module, d) in enumerate(stages)
        for norm in (False, True)
        for pool in pools
    )


def block_name(block: str, pool: str, *, norm: bool = True) -> str:
    """Return what a cut after a block is called; `norm`: whether its tokens go through the last norm.

    Example:
        >>> block_name("block3", "mean"), block_name("block3", "cls+mean", norm=False)
        ('block3', 'block3-cls+mean-no-norm')
    """
    return block + ("" if pool == "mean" else f"-{pool}") + ("" if norm else NO_NORM)


def _leaves_tokens(model: Any, stages: Sequence[tuple[str, int]]) -> bool:
    """Whether stages are all the blocks of a model of one width, which can be normed as its last."""
    known = inspect.signature(model.forward_intermediates).parameters
    return (
        [module for module, _ in stages] == [f"blocks.{i}" for i in range(len(stages))]
        and len({d for _, d in stages}) == 1
        and hasattr(model, "num_prefix_tokens")
        and isinstance(getattr(model, "norm", None), nn.Module)
        and {"norm", "return_prefix_tokens", "output_fmt"} <= known.keys()
    )


def prune(model: Any, place: Place) -> None:
    """Take what lies beyond a cut out of a model."""
    model.prune_intermediate_layers([place.at], prune_norm=not place.norm, prune_head=True)


def features_at(
    model: Any, places: Sequence[Place], x: torch.Tensor, *, whole: bool = False
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """Return the features of cuts, (n, d) each, from one run.

    Args:
        model: of timm.
        places: one or several of its cuts.
        x: (n, 3, side, side) float32, standardised.
        whole: go on to the end.

    Returns:
        The features, and what the model gives at its end; None if that is not asked for.
    """
    at = sorted({place.at for place in places})
    are_maps = places[0].pool is None
    has_prefix = not are_maps and model.num_prefix_tokens > 0
    found = model.forward_intermediates(
        x,
        indices=at,
        norm=False,
        intermediates_only=not whole,
        output_fmt="NCHW" if are_maps else "NLC",
        **({"return_prefix_tokens": True} if has_prefix else {}),
    )
    last, stages = found if whole else (None, found)
    features = []
    for place in places:
        stage = stages[at.index(place.at)]
        if are_maps:
            features.append(stage.mean((2, 3)))
        else:
            features.append(_pooled(model, place, *(stage if has_prefix else (stage,))))
    return features, None if last is None else model.forward_head(last)


def _pooled(
    model: Any, place: Place, patches: torch.Tensor, prefix: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the features, (n, d), of tokens (n, tokens, d) of patches, and of those before them."""
    assert place.pool is not None
    parts = []
    for pool in place.pool.split("+"):
        tokens = prefix[:, 0] if pool == "cls" and prefix is not None else patches
        normed = model.norm(tokens) if place.norm else tokens
        parts.append(normed if pool == "cls" else normed.mean(1))
    return torch.cat(parts, 1)


def work_of(
    model: nn.Module, places: Sequence[Place], *, side_px: int
) -> tuple[dict[str, Work], Work]:
    """Return what each cut takes, and the whole: products of attention count too.

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
    held = _held(model, places)
    work = {
        place.name: Work(multiply_adds=reached[place.module] // 2, parameters=held[place.name])
        for place in places
    }
    done = counter.get_total_flops() // 2  # a multiply-add is two operations
    return work, Work(multiply_adds=done, parameters=_parameters(model))


def _held(model: nn.Module, places: Sequence[Place]) -> dict[str, int]:
    """Return how many parameters are left at each cut, from the end on: what is cut stays so."""
    left = copy.deepcopy(model)
    found = {}
    for place in sorted(places, key=lambda place: (place.at, place.norm), reverse=True):
        kept = next((p for p in places if p.at == place.at and p.norm), place)
        prune(left, kept)
        norm = getattr(left, "norm", None) if kept.norm and not place.norm else None
        found[place.name] = _parameters(left) - (0 if norm is None else _parameters(norm))
    return found


def _parameters(module: nn.Module) -> int:
    return sum(values.numel() for values in module.parameters())
