"""Many cuts of a torch network as one encoder file that computes all their features in one run."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._files import path_of
from histofast.encoders import OUTPUT, EncoderMetadata, EncoderSpec, cut_name, read_specs
from histofast.errors import ModelError
from histofast.graphs import (
    PixelGraph,
    Standardising,
    checked_patches,
    replacing_encoder,
    wrap_cuts,
    write_model,
)
from histofast.networks.bare import opset_of, write_bare
from histofast.networks.exporting import (
    check_size,
    check_target,
    meant_for,
    metadata_of,
    origin_of,
    spend_memory,
)
from histofast.networks.known import cuts_of, no_such
from histofast.networks.network import Network
from histofast.networks.timm import TimmCuts, TimmNetwork
from histofast.networks.timm_cuts import block_of
from histofast.networks.verifying import verify_cuts, wanted_of_cuts
from histofast.networks.writing import Writer


def export_cuts(
    network: Network | TimmNetwork,
    out: str | os.PathLike[str],
    *,
    layers: Sequence[str] | None = None,
    name: str | None = None,
    patch_px: int | None = None,
    mpp: float | None = None,
    opset: int | None = None,
    provenance: str | None = None,
    licence: str | None = None,
    patches: NDArray[np.uint8] | None = None,
    overwrite: bool = False,
) -> tuple[EncoderSpec, ...]:
    """Write many cuts of a network as one file that computes all their features in one run.

    Each cut is verified against torch as `export` does it; of what `export` writes for that cut
    alone its features differ in the last bits at most. A BatchNorm behind a convolution that is a
    cut itself is not folded into it.

    Args:
        network: in evaluation mode, built up to the last of the cuts or beyond, without a head.
        out: of the .onnx file; its folder must exist.
        layers: of `network.stage_names`, in any order; None: all, of a vision transformer of timm
            every block by the mean of the patches' tokens, and the whole.
        name: what the encoders' names begin with, before `-<layer>`; None: the stem of `out`.
        patch_px, mpp, opset, provenance, licence, patches, overwrite: see `export`.

    Returns:
        The spec of each cut, in the order of the network.

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
        FileNotFoundError: the folder does not exist.
        ModelError: no such layer (close names are offered), an operation that cannot be written,
            patches too small for the network, or results that differ (the first cut to do so is
            named).
        TypeError: a module of one's own.
        ValueError: the network is in training mode or has a head, or another argument is out of
            range.

    Determinism: the same network and arguments give the same bytes.
    """
    return _export_cuts(
        [network],
        out,
        layers=layers,
        name=name,
        patch_px=patch_px,
        mpp=mpp,
        opset=opset,
        provenance=provenance,
        licence=licence,
        patches=patches,
        overwrite=overwrite,
    )


def export_cuts_made(
    make: Callable[[], Network | TimmNetwork], out: str | os.PathLike[str], **options: Any
) -> tuple[EncoderSpec, ...]:
    """Make a network, write its cuts as one file, and let go of it as soon as it is written.

    As `export_made` does for one encoder: a large network and its file are not in memory together.

    Args:
        make: gives the network, which is of no use afterwards.
        out: path of the .onnx file.
        options: the keyword arguments of `export_cuts`.

    Raises:
        What `make` and `export_cuts` raise.
    """
    return _export_cuts([make()], out, spend=True, **options)


def _export_cuts(
    held: list[Network | TimmNetwork],
    out: str | os.PathLike[str],
    *,
    layers: Sequence[str] | None = None,
    spend: bool = False,
    name: str | None = None,
    patch_px: int | None = None,
    mpp: float | None = None,
    opset: int | None = None,
    provenance: str | None = None,
    licence: str | None = None,
    patches: NDArray[np.uint8] | None = None,
    overwrite: bool = False,
) -> tuple[EncoderSpec, ...]:
    """Write cuts of the one network that is held; it is taken, so that it can be let go of."""
    out = path_of("out", out)
    network = held[0]
    if not isinstance(network, Network | TimmNetwork):
        raise TypeError(
            "network must be of histofast's own architectures or of timm to write its cuts, got "
            f"{type(network).__name__}: export it whole, then use graphs.join_cuts on the file"
        )
    check_target(network, out)
    if network.classes:
        raise ValueError(f"network must have no head, got one of {network.classes} classes")
    opset = opset_of(network, opset)
    chosen = _chosen_layers(network, layers)
    patch_px, mpp = meant_for(network, patch_px, mpp)
    patches = checked_patches(patches, patch_px)
    if isinstance(network, Network):
        check_size(network, patch_px)
    provenance, licence = origin_of(network, provenance, licence)
    stem = out.stem if name is None else name
    told: dict[str, Any] = {"mpp": mpp, "provenance": provenance, "licence": licence}
    encoders = _encoders(network, chosen, stem, patch_px=patch_px, **told)
    with replacing_encoder(out, overwrite=overwrite) as pending:
        if isinstance(network, Network):
            _write_own(network, encoders, pending, name=stem)
            verify_cuts(pending, wanted_of_cuts(network, chosen, patches), shown=out)
        else:
            del network
            _write_by_torch(
                held,
                encoders,
                pending,
                name=stem,
                patches=patches,
                opset=opset,
                spend=spend,
                shown=out,
            )
    return read_specs(out)


def _encoders(
    network: Network | TimmNetwork, layers: Sequence[str], stem: str, **told: Any
) -> dict[str, EncoderMetadata]:
    """Return what the file says of each cut."""
    return {
        layer: metadata_of(
            network,
            name=cut_name(stem, layer),
            layer=layer,
            d=_width_of(network, layer),
            **told,
        )
        for layer in layers
    }


def _write_own(
    network: Network, encoders: dict[str, EncoderMetadata], pending: Path, *, name: str
) -> None:
    """Write cuts of a network of our own, node by node."""
    graph = PixelGraph(mean=network.mean, std=network.std)
    tensors = Writer(network, graph, kept=tuple(encoders)).write_cuts()
    features = {tensor: encoders[layer] for layer, tensor in tensors.items()}
    write_model(graph.finish_cuts(features, name=name), pending)


def _write_by_torch(
    held: list[Any],
    encoders: dict[str, EncoderMetadata],
    pending: Path,
    *,
    name: str,
    patches: NDArray[np.uint8],
    opset: int,
    spend: bool,
    shown: Path,
) -> None:
    """Let torch write the network that is held, and let go of it before its file is run."""
    cuts = TimmCuts(held.pop(), list(encoders))
    outputs = {f"{OUTPUT}.{layer}": metadata for layer, metadata in encoders.items()}
    size_px = patches.shape[1]
    wants = Standardising(mean=cuts.mean, std=cuts.std)
    with tempfile.TemporaryDirectory(dir=pending.parent) as folder:
        bare = Path(folder) / "network.onnx"
        write_bare(cuts, bare, patch_px=size_px, opset=opset, outputs=list(outputs))
        wanted = wanted_of_cuts(cuts.network, cuts.layers, patches)
        if spend:
            spend_memory(cuts)
        del cuts
        gc.collect()  # torch's exporter leaves circles
        wrap_cuts(bare, pending=pending, encoders=outputs, wants=wants, size_px=size_px, name=name)
    verify_cuts(pending, wanted, shown=shown)


def _width_of(network: Network | TimmNetwork, layer: str) -> int:
    if isinstance(network, TimmNetwork):
        return network.width_of(layer)
    return next(cut.d for cut in cuts_of(network.architecture) if cut.name == layer)


def _chosen_layers(network: Network | TimmNetwork, layers: Sequence[str] | None) -> tuple[str, ...]:
    """Return the cuts to write, in the order of the network."""
    known = network.stage_names
    if layers is None:
        return tuple(layer for layer in known if block_of(layer) == layer)
    if not layers:
        raise ValueError("layers must name at least one, got none: leave it out for all")
    for layer in layers:
        if layer not in known:
            raise ModelError(no_such("layer", layer, known, of=f" of {network.architecture}"))
    return tuple(layer for layer in known if layer in layers)
