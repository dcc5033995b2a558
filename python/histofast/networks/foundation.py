"""Published vision transformers by their names in the registry: their files known, checked, and made networks.

Which file it is, is found out before timm is imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from histofast._files import path_of, regular_file
from histofast._words import listed
from histofast.encoders import FoundationEntry, registry, sha256_of
from histofast.errors import ModelError
from histofast.networks.reading import read_weights, refuse_unreadable
from histofast.networks.renaming import State, renamed
from histofast.networks.timm import HUB, TimmNetwork, check_layer, create_timm
from histofast.networks.timm_names import timm_name
from histofast.networks.weights import fitting, part_of_several


def foundation_name(entry: FoundationEntry) -> str:
    """Return the name of an entry's network: timm's, with all that makes it what the entry says.

    Example:
        >>> foundation_name(registry().foundation["phikon"])
        "timm:vit_base_patch16_224(global_pool='token',norm_eps=1e-12)"
    """
    arguments: dict[str, Any] = dict(entry.arguments)
    if entry.pooling != "pooled":
        arguments["global_pool"] = "token" if entry.pooling == "cls" else entry.pooling
    if entry.eps is not None:
        arguments["norm_eps"] = entry.eps
    if entry.crop_px is not None:
        arguments["cropped_from_px"] = entry.patch_px
    return timm_name(entry.network, arguments)


def create_foundation(
    entry: FoundationEntry,
    *,
    weights: str | os.PathLike[str] | None,
    layer: str | None = None,
    classes: int = 0,
    seed: int = 0,
    partial: bool = False,
) -> TimmNetwork:
    """Build a published vision transformer up to a cut, with the tensors of its file.

    Args:
        entry: of the registry's `foundation`.
        weights, layer, classes, seed, partial: see `create`.

    Raises:
        FileNotFoundError, ModelError, ValueError: as `create`; a file of another network is refused with the
            names that it fits.
    """
    if weights is None or os.fspath(weights) == HUB:
        raise ValueError(f"weights must be a file for {entry.name}: get {entry.where}")
    path = regular_file(path_of("weights", weights), kind="weights file", error=ModelError)
    name = foundation_name(entry)
    if layer is not None:
        check_layer(name, layer)  # before gigabytes are read
    refuse_unreadable(path)
    sha256 = sha256_of(path)
    _refuse_known(entry, sha256, path)
    raw = read_weights(path)
    reason = misfit(entry, raw)
    if reason is not None and not partial:
        raise ModelError(f"{path} is not of {entry.name}, {reason}: {_offer(entry, raw, path)}")
    try:
        state = renamed(raw, entry.rename)
    except ModelError as error:  # of a part of a network that is asked for
        raise ModelError(f"{path}: {error}: {_offer(entry, raw, path)}") from None
    del raw
    network = create_timm(
        name,
        weights=path,
        state=state,
        sha256=sha256,
        layer=layer,
        classes=classes,
        seed=seed,
        partial=partial,
    )
    assert network.loaded is not None
    _check_positions(entry, network.loaded.positions_of, path)
    is_published = sha256 == entry.sha256
    if not is_published and entry.sha256 is not None:
        note = f"not the published file of {entry.name} by its sha256, but one that fits"
        network.loaded = replace(network.loaded, notes=(note,))
    network.origin = f"{entry.name}: {entry.where}" + ("" if is_published else "; file not known")
    network.licence = entry.terms
    network.mean, network.std, network.standardised_by = entry.mean, entry.std, "registry"
    network.mpp = entry.mpp
    network.eval()
    return network


def _refuse_known(entry: FoundationEntry, sha256: str, path: Path) -> None:
    """Refuse a file that the registry knows as another one's."""
    known = registry()
    for other in known.foundation.values():
        if other.sha256 == sha256 and other.name != entry.name:
            raise ModelError(
                f"{path} is the file of {other.name}, not of {entry.name}: say {other.name}"
            )
    weights = known.weights_of(sha256)
    if weights is not None:
        raise ModelError(f"{path} holds weights of {weights.network}, not of {entry.name}")


def _check_positions(entry: FoundationEntry, side: int | None, path: Path) -> None:
    """Refuse positions that were resampled from another grid than the entry's."""
    side_px = None if side is None else side * entry.token_px
    if side_px not in (None, entry.positions_px):
        wanted = entry.positions_px or entry.crop_px or entry.patch_px
        raise ModelError(
            f"{path} is not of {entry.name}, whose position embeddings are for {wanted} px, it has those "
            f"for {side_px} px: get {entry.where}"
        )


def misfit(entry: FoundationEntry, raw: Mapping[str, torch.Tensor]) -> str | None:
    """Return why tensors are not those of an entry, as far as their number and first shapes tell; else None."""
    try:
        state = renamed(raw, entry.rename)
    except ModelError as error:
        return str(error)
    if len(state) != entry.tensors:
        return f"which has {entry.tensors} tensors, it has {len(state)}"
    if (
        entry.rename == "swin"
    ):  # its stem has small kernels; all shapes are held against it when it is loaded
        return None
    kernel = state["patch_embed.proj.weight"]
    registers = state["reg_token"].shape[1] if "reg_token" in state else 0
    got = tuple(kernel.shape[:1]) + tuple(kernel.shape[-1:]) + (1 + registers,)
    wanted = (entry.width, entry.token_px, entry.prefix_tokens)
    if kernel.ndim != 4 or got != wanted:
        return f"which has {_said(*wanted)}, it has {_said(*got)}"
    return None


def _said(width: int, token_px: int, prefix_tokens: int) -> str:
    return f"{width} features of {token_px} px and {prefix_tokens} tokens before them"


def _offer(entry: FoundationEntry, raw: State, path: Path) -> str:
    """Return the names of what a file fits, or where to get the right one."""
    if part := part_of_several(path.name):
        return part
    names = [e.name for e in registry().foundation.values() if misfit(e, raw) is None]
    own = None if names else fitting(raw)
    if names or own:
        return f"it fits {listed(names or [str(own)])}"
    return f"get {entry.where}"
