"""From a torch network to an encoder file, proven equal before it takes its name."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from histofast._files import path_of
from histofast._numbers import mpp_number, whole_number
from histofast.encoders import (
    NOT_STATED,
    RANDOM,
    EncoderMetadata,
    EncoderSpec,
    SourceEntry,
    load,
    read_spec,
    registry,
)
from histofast.errors import ModelError
from histofast.graphs import (
    PixelGraph,
    checked_patches,
    replacing_encoder,
    wrap_exported,
    write_model,
)
from histofast.networks.adopted import AdoptedNetwork, refuse_other_than_features
from histofast.networks.bare import opset_of, write_bare
from histofast.networks.creation import create
from histofast.networks.kinds import AnyNetwork
from histofast.networks.network import Network
from histofast.networks.recorder import check_network
from histofast.networks.timm import TimmNetwork
from histofast.networks.verifying import verify, verify_against, wanted_of
from histofast.networks.writing import Writer

EXPORTER = "histofast.networks 1"  # raised when the same weights would give another file
_PATCH_PX = 256
_MPP = 0.5
_LARGEST_PX = 512  # every network here takes this size


def export_encoder(
    network: str,
    *,
    weights: str | os.PathLike[str],
    out: str | os.PathLike[str],
    layer: str | None = None,
    classes: int = 0,
    bn_eps: float | None = None,
    timm_args: Mapping[str, Any] | None = None,
    partial: bool = False,
    **options: Any,
) -> EncoderSpec:
    """Build a network from a weights file, cut it, and write it as an encoder file.

    Args:
        network: one of `names()`.
        weights: see `create`.
        out: path of the .onnx file.
        layer, classes, bn_eps, timm_args, partial: see `create`.
        options: the keyword arguments of `export`.

    Raises:
        What `create` and `export` raise.
    """

    def make() -> AnyNetwork:
        return create(
            network,
            weights=weights,
            layer=layer,
            classes=classes,
            bn_eps=bn_eps,
            timm_args=timm_args,
            partial=partial,
        )

    return export_made(make, out, **options)


def export_made(
    make: Callable[[], AnyNetwork], out: str | os.PathLike[str], **options: Any
) -> EncoderSpec:
    """Make a network, write it as an encoder file, and let go of it as soon as it is written.

    For large ones: `export` tries the file while somebody holds the network, so both are in memory;
    here it is one of them at a time.

    Args:
        make: gives the network, which is of no use afterwards.
        out: path of the .onnx file.
        options: the keyword arguments of `export`.

    Raises:
        What `make` and `export` raise.
    """
    return _export([make()], out, spend=True, **options)


def export(
    network: AnyNetwork,
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    patch_px: int | None = None,
    mpp: float | None = None,
    opset: int | None = None,
    provenance: str | None = None,
    licence: str | None = None,
    patches: NDArray[np.uint8] | None = None,
    overwrite: bool = False,
) -> EncoderSpec:
    """Write a network as an encoder file; any patch size goes in, pixels unscaled.

    Before the file takes its name, ONNX Runtime runs it in batches of 1, 2 and 7 and on a
    rectangle, and every row must agree with torch to 1e-5 of its norm (logits: of the norm of the
    terms that they are sums of). In the file a tensor has the
    name of the stage that it leaves, and that of a head is `head`. Models of timm and modules of your own
    (through `networks.adopt`) go through torch's own exporter and take the one patch size only.

    Args:
        network: of `create` or `adopt`, in evaluation mode.
        out: of the .onnx file; its folder must exist.
        name: what the encoder is called; None: the stem of `out`.
        patch_px: the patch size it is meant for; None: that of the weights' source, else 256, or
            what the network was designed for where that is larger or it is not one of ours.
        mpp: the resolution it is meant for, um/px; None: that of the weights' source, else 0.5.
        opset: version of ONNX's operators. None: 18 for a network of histofast's own, else 23, which has
            an operator for attention; 18 is for TensorRT and older runtimes.
        provenance: where the weights come from; None: what the registry says of them.
        licence: the terms of the weights; None: likewise.
        patches: (n >= 7, patch_px, patch_px, 3) uint8 to compare on; made up when omitted.
        overwrite: replace an existing file.

    Returns:
        The new file's spec.

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
        FileNotFoundError: the folder does not exist.
        ModelError: an operation that cannot be written, patches too small for the network, or
            results that differ (the first stage to do so is named).
        ValueError: the network is in training mode, or another argument is out of range.

    Determinism: the same network and arguments give the same bytes.
    """
    return _export(
        [network],
        out,
        name=name,
        patch_px=patch_px,
        mpp=mpp,
        opset=opset,
        provenance=provenance,
        licence=licence,
        patches=patches,
        overwrite=overwrite,
    )


def _export(
    held: list[AnyNetwork],
    out: str | os.PathLike[str],
    *,
    spend: bool = False,
    name: str | None = None,
    patch_px: int | None = None,
    mpp: float | None = None,
    opset: int | None = None,
    patches: NDArray[np.uint8] | None = None,
    **options: Any,
) -> EncoderSpec:
    """Write the one network that is held; it is taken, so that it can be let go of."""
    out = path_of("out", out)
    network = held[0]
    check_target(network, out)
    opset = opset_of(network, opset)
    patch_px, mpp = meant_for(network, patch_px, mpp)
    options |= {
        "name": out.stem if name is None else name,
        "patch_px": patch_px,
        "mpp": mpp,
        "patches": checked_patches(patches, patch_px),
    }
    if isinstance(network, Network):
        return _export_own(network, out, **options)
    del network
    return _export_by_torch(held, out, spend=spend, opset=opset, **options)


def _export_own(
    network: Network,
    out: Path,
    *,
    name: str,
    patch_px: int,
    mpp: float,
    patches: NDArray[np.uint8],
    provenance: str | None = None,
    licence: str | None = None,
    overwrite: bool = False,
) -> EncoderSpec:
    """Write a network of our own, node by node."""
    check_size(network, patch_px)
    provenance, licence = origin_of(network, provenance, licence)
    metadata = metadata_of(
        network,
        name=name,
        layer=network.layer + ("+head" if network.classes else ""),
        d=network.d,
        patch_px=patch_px,
        mpp=mpp,
        provenance=provenance,
        licence=licence,
    )
    graph = PixelGraph(mean=network.mean, std=network.std)
    writer = Writer(network, graph)
    model = graph.finish(writer.write(), metadata=metadata)
    with replacing_encoder(out, overwrite=overwrite) as pending:
        write_model(model, pending)
        verify(pending, network, patches, stage_of_tensor=writer.stage_of_tensor, shown=out)
    with load(out, device="cpu", threads=1) as encoder:
        return encoder.spec


def check_target(network: AnyNetwork, out: Path) -> None:
    check_network(network)
    if out.suffix != ".onnx":
        raise ValueError(f"out must end in .onnx, got {out}")


def meant_for(network: AnyNetwork, patch_px: int | None, mpp: float | None) -> tuple[int, float]:
    """Return the patch size and the resolution: as told, else the source's, else the usual."""
    source = _source_of(network)
    patch_px, mpp = whole_number("patch_px", patch_px, at_least=1), mpp_number("mpp", mpp)
    if patch_px is None:
        patch_px = network.input_px
        if isinstance(network, Network):
            stated_px = None if source is None else source.patch_px
            patch_px = max(_PATCH_PX, patch_px) if stated_px is None else stated_px
    if mpp is None and isinstance(network, TimmNetwork):
        mpp = network.mpp
    if mpp is None:
        mpp = _MPP if source is None or source.mpp is None else source.mpp
    return patch_px, mpp


def metadata_of(
    network: Network | TimmNetwork,
    *,
    name: str,
    layer: str,
    d: int,
    patch_px: int,
    mpp: float,
    provenance: str,
    licence: str,
) -> EncoderMetadata:
    """Return what an encoder file says of a cut of a network, in float32."""
    return EncoderMetadata(
        name=name,
        network=network.architecture,
        layer=layer,
        d=d,
        patch_px=patch_px,
        mpp=mpp,
        precision="float32",
        weights_sha256=network.weights_sha256 or "random",
        provenance=provenance,
        licence=licence,
        exporter=EXPORTER,
        # Those of our own stay the bytes that they were.
        work=network.work_of(layer) if isinstance(network, TimmNetwork) else None,
    )


def _export_by_torch(
    held: list[Any],
    path: Path,
    *,
    spend: bool,
    opset: int,
    name: str,
    patch_px: int,
    mpp: float,
    patches: NDArray[np.uint8],
    provenance: str | None = None,
    licence: str | None = None,
    overwrite: bool = False,
) -> EncoderSpec:
    """Let torch write the network that is held, and wrap that file as any foreign one.

    It is let go of before its file is run, and its memory given back if it may be spent: rules of
    onnxscript hold on to what was exported last.
    """
    network = held.pop()
    if isinstance(network, AdoptedNetwork):
        refuse_other_than_features(network, patch_px)
    provenance, licence = origin_of(network, provenance, licence)
    told: dict[str, Any] = {
        "mean": network.mean,
        "std": network.std,
        "name": name,
        "network": network.architecture,
        "layer": network.layer + ("+head" if network.classes else ""),
        "mpp": mpp,
        "provenance": provenance,
        "licence": licence,
        "weights_sha256": network.weights_sha256 or "random",
    }
    if isinstance(network, TimmNetwork) and not network.classes:
        told["work"] = network.work_of(network.layer)
    are_logits = bool(network.classes)
    with replacing_encoder(path, overwrite=overwrite) as pending:
        # Temporary files may be in memory, here they are on the disk of the encoder.
        with tempfile.TemporaryDirectory(dir=pending.parent) as folder:
            bare = Path(folder) / "network.onnx"
            write_bare(network, bare, patch_px=patch_px, opset=opset)
            wanted = wanted_of(network, patches)
            if spend:
                spend_memory(network)
            del network
            gc.collect()  # torch's exporter leaves circles
            features = wanted[0].features.numpy()
            wrap_exported(bare, out=pending, features=features, patch_px=patch_px, **told)
        verify_against(pending, wanted, shown=path, are_logits=are_logits)
    return read_spec(path)


def spend_memory(network: torch.nn.Module) -> None:
    """Give the memory of a network back, whoever else has its tensors."""
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = torch.empty(0, dtype=tensor.dtype)


def origin_of(network: AnyNetwork, provenance: str | None, licence: str | None) -> tuple[str, str]:
    """Return provenance and licence: as told, else the registry's, else that nobody said."""
    if not isinstance(network, Network):
        return provenance or network.origin, licence or network.licence
    if network.loaded is None:
        return provenance or RANDOM, licence or RANDOM
    known = registry().weights_of(network.loaded.sha256)
    source = _source_of(network)
    if source is not None:
        provenance = provenance or f"{source.name}: {source.where}"
        licence = licence or source.licence
    provenance = provenance or (known.provenance if known else NOT_STATED)
    if network.loaded.missing:
        provenance += f"; {len(network.loaded.missing)} tensors random"
    if network.loaded.head == "new":
        provenance += "; random head"
    return provenance, licence or (known.licence if known else NOT_STATED)


def _source_of(network: AnyNetwork) -> SourceEntry | None:
    if not isinstance(network, Network) or network.source is None:
        return None
    return registry().sources[network.source]


def check_size(
    network: Network,
    patch_px: int,
    *,
    remedy: str = "choose a larger patch_px, or an earlier layer",
) -> None:
    """Refuse patches that some layer of the network is larger than.

    Args:
        network: of any depth.
        patch_px: side of the patches.
        remedy: what to do instead.

    Raises:
        ModelError: with the smallest size that the network takes.
    """
    reason = _why_not(network, patch_px)
    if reason is None:
        return
    too_small, enough = patch_px, 2 * patch_px
    while _why_not(network, enough) is not None:
        too_small, enough = enough, 2 * enough
        if too_small > _LARGEST_PX:  # so the size is not the matter
            raise ModelError(f"{network.architecture} cannot be run: {reason}")
    while enough - too_small > 1:
        middle = (too_small + enough) // 2
        if _why_not(network, middle) is None:
            enough = middle
        else:
            too_small = middle
    raise ModelError(
        f"{network.architecture} up to {network.layer} needs patches of at least {enough} px, got "
        f"{patch_px} px: {remedy}"
    )


def _why_not(network: Network, patch_px: int) -> str | None:
    try:
        with torch.inference_mode():
            network(torch.zeros(1, 3, patch_px, patch_px))
    except RuntimeError as error:  # torch has no type of its own for this
        return str(error).splitlines()[0]
    return None
