"""From a torch network to an encoder file, proven equal before it takes its name.

The graph is written node by node from a symbolic trace, in the order of execution and with the
module's names, so that the same weights give the same bytes whatever the version of torch.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from histofast._arrays import check
from histofast._files import replacing
from histofast.encoders import (
    EncoderMetadata,
    EncoderSpec,
    SourceEntry,
    cut_name,
    load,
    load_all,
    read_spec,
    read_specs,
    registry,
)
from histofast.errors import ModelError
from histofast.graphs import (
    PixelGraph,
    capture,
    read_model,
    set_metadata,
    stained_noise,
    to_bytes,
    wrap,
)
from histofast.networks.adopted import AdoptedNetwork
from histofast.networks.creation import create
from histofast.networks.known import cuts_of, no_such
from histofast.networks.network import Network
from histofast.networks.timm import TimmNetwork, bare_onnx

EXPORTER = "histofast.networks 1"  # raised when the same weights would give another file
MAX_RELATIVE_ERROR = 1e-5
_BATCHES = (1, 2, 7)
_PATCH_PX = 256
_MPP = 0.5
_LARGEST_PX = 512  # every network here takes this size
_TALLER_PX = 5
_HEAD = "head"  # its name in the file, whatever the state dict calls it


class PixelsIn(nn.Module):
    """A network as its encoder file computes it: uint8 (n, h, w, 3) in, float32 (n, d) out."""

    def __init__(self, network: Network | TimmNetwork | AdoptedNetwork) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", 255 * torch.tensor(network.mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(network.std).view(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = pixels.permute(0, 3, 1, 2).to(torch.float32)  # (n, 3, h, w)
        features: torch.Tensor = self.network((x - self.mean) / self.std)
        return features


def export_encoder(
    network: str,
    *,
    weights: str | os.PathLike[str],
    out: str | os.PathLike[str],
    layer: str | None = None,
    classes: int = 0,
    bn_eps: float | None = None,
    partial: bool = False,
    **options: Any,
) -> EncoderSpec:
    """Build a network from a weights file, cut it, and write it as an encoder file.

    Args:
        network: one of `names()`.
        weights: see `create`.
        out: path of the .onnx file.
        layer, classes, bn_eps, partial: see `create`.
        options: the keyword arguments of `export`.

    Raises:
        What `create` and `export` raise.
    """
    made = create(
        network, weights=weights, layer=layer, classes=classes, bn_eps=bn_eps, partial=partial
    )
    return export(made, out, **options)


def export(
    network: Network | TimmNetwork,
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    patch_px: int | None = None,
    mpp: float | None = None,
    provenance: str | None = None,
    licence: str | None = None,
    patches: NDArray[np.uint8] | None = None,
    overwrite: bool = False,
) -> EncoderSpec:
    """Write a network as an encoder file; any patch size goes in, pixels unscaled.

    Before the file takes its name, ONNX Runtime runs it in batches of 1, 2 and 7 and on a
    rectangle, and every row must agree with torch to 1e-5 of its norm. In the file a tensor has the
    name of the stage that it leaves, and that of a head is `head`. Models of timm go through
    torch's own exporter and take the one patch size only.

    Args:
        network: in evaluation mode.
        path: of the .onnx file; its folder must exist.
        name: what the encoder is called; None: the stem of `path`.
        patch_px: the patch size it is meant for; None: that of the weights' source, else 256, or
            what the network was designed for where that is larger or it is one of timm.
        mpp: the resolution it is meant for, um/px; None: that of the weights' source, else 0.5.
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
    path = Path(path)
    _check_target(network, path)
    patch_px, mpp = _meant_for(network, patch_px, mpp)
    patches = _checked_patches(patches, patch_px)
    if isinstance(network, TimmNetwork):
        return _export_timm(
            network,
            path,
            name=name,
            patch_px=patch_px,
            mpp=mpp,
            provenance=provenance,
            licence=licence,
            patches=patches,
            overwrite=overwrite,
        )
    _check_size(network, patch_px)
    provenance, licence = _origin(network, provenance, licence)
    metadata = _metadata(
        network,
        name=path.stem if name is None else name,
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
    with replacing(path, overwrite=overwrite) as pending:
        pending.write_bytes(to_bytes(model))
        _verify(pending, network, patches, stage_of_tensor=writer.stage_of_tensor, shown=path)
    with load(path, device="cpu", threads=1) as encoder:
        return encoder.spec


def export_cuts(
    network: Network | TimmNetwork,
    path: str | os.PathLike[str],
    *,
    layers: Sequence[str] | None = None,
    name: str | None = None,
    patch_px: int | None = None,
    mpp: float | None = None,
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
        path: of the .onnx file; its folder must exist.
        layers: of `network.stage_names`, in any order; None: all.
        name: what the encoders' names begin with, before `-<layer>`; None: the stem of `path`.
        patch_px, mpp, provenance, licence, patches, overwrite: see `export`.

    Returns:
        The spec of each cut, in the order of the network.

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
        FileNotFoundError: the folder does not exist.
        ModelError: no such layer (close names are offered), an operation that cannot be written,
            patches too small for the network, or results that differ (the first cut to do so is
            named).
        TypeError: a network of timm.
        ValueError: the network is in training mode or has a head, or another argument is out of
            range.

    Determinism: the same network and arguments give the same bytes.
    """
    path = Path(path)
    if not isinstance(network, Network):
        raise TypeError(
            "network must be of histofast's own architectures to write its cuts, got "
            f"{type(network).__name__}: export it whole, then use graphs.join_cuts on the file"
        )
    _check_target(network, path)
    if network.classes:
        raise ValueError(f"network must have no head, got one of {network.classes} classes")
    chosen = _chosen_layers(network, layers)
    patch_px, mpp = _meant_for(network, patch_px, mpp)
    patches = _checked_patches(patches, patch_px)
    _check_size(network, patch_px)
    provenance, licence = _origin(network, provenance, licence)
    stem = path.stem if name is None else name
    graph = PixelGraph(mean=network.mean, std=network.std)
    writer = Writer(network, graph, kept=chosen)
    tensors = writer.write_cuts()
    widths = {cut.name: cut.d for cut in cuts_of(network.architecture)}
    features = {
        tensor: _metadata(
            network,
            name=cut_name(stem, layer),
            layer=layer,
            d=widths[layer],
            patch_px=patch_px,
            mpp=mpp,
            provenance=provenance,
            licence=licence,
        )
        for layer, tensor in tensors.items()
    }
    model = graph.finish_cuts(features, name=stem)
    with replacing(path, overwrite=overwrite) as pending:
        pending.write_bytes(to_bytes(model))
        _verify_cuts(pending, network, patches, shown=path)
    return read_specs(path)


def _chosen_layers(network: Network, layers: Sequence[str] | None) -> tuple[str, ...]:
    """Return the cuts to write, in the order of the network."""
    known = network.stage_names
    if layers is None:
        return known
    if not layers:
        raise ValueError("layers must name at least one, got none: leave it out for all")
    for layer in layers:
        if layer not in known:
            raise ModelError(no_such("layer", layer, known, of=f" of {network.architecture}"))
    return tuple(layer for layer in known if layer in layers)


def _check_target(network: Network | TimmNetwork, path: Path) -> None:
    if path.suffix != ".onnx":
        raise ValueError(f"path must end in .onnx, got {path}")
    if network.training:
        raise ValueError("network must be in evaluation mode: call network.eval() first")


def _meant_for(
    network: Network | TimmNetwork, patch_px: int | None, mpp: float | None
) -> tuple[int, float]:
    """Return the patch size and the resolution: as told, else the source's, else the usual."""
    source = _source_of(network)
    if patch_px is None:
        patch_px = network.input_px
        if isinstance(network, Network):
            stated_px = None if source is None else source.patch_px
            patch_px = max(_PATCH_PX, patch_px) if stated_px is None else stated_px
    if mpp is None:
        mpp = _MPP if source is None or source.mpp is None else source.mpp
    return patch_px, mpp


def _checked_patches(patches: NDArray[np.uint8] | None, patch_px: int) -> NDArray[np.uint8]:
    """Return what to compare on: as given, or made up."""
    if patches is None:
        patches = stained_noise(max(_BATCHES), patch_px)
    (n,) = check("patches", patches, "uint8", ("n", patch_px, patch_px, 3))
    if n < max(_BATCHES):
        raise ValueError(f"patches must be at least {max(_BATCHES)}, got {n}")
    return patches


def _metadata(
    network: Network,
    *,
    name: str,
    layer: str,
    d: int,
    patch_px: int,
    mpp: float,
    provenance: str,
    licence: str,
) -> EncoderMetadata:
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
    )


def _export_timm(
    network: TimmNetwork,
    path: Path,
    *,
    name: str | None,
    patch_px: int,
    mpp: float,
    provenance: str | None,
    licence: str | None,
    patches: NDArray[np.uint8],
    overwrite: bool,
) -> EncoderSpec:
    """Let torch write the network, and wrap that file as any foreign one."""
    with replacing(path, overwrite=overwrite) as pending:
        with bare_onnx(network, patch_px=patch_px) as bare:
            wrapped = bare.with_name("wrapped.onnx")
            spec = wrap(
                bare,
                out=wrapped,
                mean=network.mean,
                std=network.std,
                name=path.stem if name is None else name,
                network=network.architecture,
                layer=network.layer + ("+head" if network.classes else ""),
                mpp=mpp,
                provenance=provenance or network.origin,
                licence=licence or network.licence,
                patches=patches,
            )
            metadata = spec.derived(
                weights_sha256=network.weights_sha256 or "random", made_from=None
            )
            model = read_model(wrapped)
        set_metadata(model, metadata.to_props())
        pending.write_bytes(to_bytes(model))
        _verify(pending, network, patches, stage_of_tensor={}, shown=path)
    return read_spec(path)


def _origin(network: Network, provenance: str | None, licence: str | None) -> tuple[str, str]:
    """Return provenance and licence: as told, else the registry's, else that nobody said."""
    if network.loaded is None:
        return provenance or "random weights", licence or "random weights"
    known = registry().weights_of(network.loaded.sha256)
    source = _source_of(network)
    if source is not None:
        provenance = provenance or f"{source.name}: {source.where}"
        licence = licence or source.licence
    provenance = provenance or (known.provenance if known else "not stated")
    if network.loaded.missing:
        provenance += f"; {len(network.loaded.missing)} tensors random"
    if network.loaded.head == "new":
        provenance += "; random head"
    return provenance, licence or (known.licence if known else "not stated")


def _source_of(network: Network | TimmNetwork) -> SourceEntry | None:
    if not isinstance(network, Network) or network.source is None:
        return None
    return registry().sources[network.source]


def _check_size(network: Network, patch_px: int) -> None:
    """Refuse patches that some layer of the network is larger than.

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
        f"{patch_px} px: choose a larger patch_px, or an earlier layer"
    )


def _why_not(network: Network, patch_px: int) -> str | None:
    try:
        with torch.inference_mode():
            network(torch.zeros(1, 3, patch_px, patch_px))
    except RuntimeError as error:  # torch has no type of its own for this
        return str(error).splitlines()[0]
    return None


class Writer:
    """Writes the nodes of a traced network into a graph, folding BatchNorms into convolutions."""

    def __init__(self, network: Network, graph: PixelGraph, *, kept: Sequence[str] = ()) -> None:
        """Trace the network; what leaves the stages `kept` will be in the graph as it is."""
        self._network = network
        self._kept = kept
        self._graph = graph
        self._traced = fx.symbolic_trace(network)
        self._modules: dict[str, nn.Module] = dict(self._traced.named_modules())
        self._tensors: dict[fx.Node, str] = {}
        # What has a BatchNorm folded in is that stage's, and the convolution's own is not there.
        self.stage_of_tensor: dict[str, str] = {}
        self._names_of, self._last_of_stage = self._names()

    def write(self) -> str:
        """Return the name of the tensor of features, having filled `stage_of_tensor`."""
        for node in self._written():
            if node.op == "output":
                self.stage_of_tensor = {self._tensors[n]: s for s, n in self._last_of_stage.items()}
                return self._tensors[node.args[0]]
        raise AssertionError("a traced graph ends with its output")

    def write_cuts(self) -> dict[str, str]:
        """Return the tensor of pooled features of each stage `kept`; nothing follows the last."""
        stage_of = {self._last_of_stage[stage]: stage for stage in self._kept}
        pooled: dict[str, str] = {}
        for node in self._written():
            if node in stage_of:
                stage = stage_of[node]
                pooled[stage] = self._pooled([self._tensors[node]], f"pooled.{stage}")
                if len(pooled) == len(stage_of):
                    return pooled
        raise AssertionError("every stage leaves a tensor")

    def _written(self) -> Iterator[fx.Node]:
        """Yield the nodes in their order, each once its tensor is in the graph."""
        for node in self._traced.graph.nodes:
            if node.op == "placeholder":
                self._tensors[node] = self._graph.standardised
            elif self._folded_into(node) is not None:
                self._tensors[node] = self._tensors[node.args[0]]
            elif node.op != "output":
                self._tensors[node] = self._write_node(node, self._names_of[node])
            yield node

    def parts(self) -> Iterator[tuple[str, nn.Module, nn.BatchNorm2d | None]]:
        """Yield what has weights: the name of its tensors, the module, and the norm folded in."""
        for node in self._traced.graph.nodes:
            module = self._module(node)
            if isinstance(module, nn.Conv2d):
                after = next(iter(node.users))
                folded = self._folded_into(after) is not None
                norm = self._module(after) if folded else None
                assert norm is None or isinstance(norm, nn.BatchNorm2d)
                yield self._names_of[node], module, norm
            elif isinstance(module, nn.Linear) or (
                isinstance(module, nn.BatchNorm2d) and self._folded_into(node) is None
            ):
                yield self._names_of[node], module, None

    def _names(self) -> tuple[dict[fx.Node, str], dict[str, fx.Node]]:
        """Name tensors for the modules that make them; the last of a stage has the stage's name."""
        names: dict[fx.Node, str] = {}
        last_of_stage: dict[str, fx.Node] = {}
        stage_of_key = dict(zip(self._network.stage_keys, self._network.stage_names, strict=True))
        for node in self._traced.graph.nodes:
            path = next(reversed(node.meta.get("nn_module_stack", {})), "")
            key, dot, rest = path.removeprefix(self._network.prefix).partition(".")
            inner = _HEAD if path == self._network.head else stage_of_key.get(key, key) + dot + rest
            function = getattr(node.target, "__name__", str(node.target))
            of_module = node.op == "call_module"
            names[node] = inner if of_module else f"{inner}.{function}".lstrip(".")
            if key in stage_of_key:
                last_of_stage[stage_of_key[key]] = node
        return names | {node: stage for stage, node in last_of_stage.items()}, last_of_stage

    def _write_node(self, node: fx.Node, name: str) -> str:
        inputs = [self._tensors[a] for a in node.all_input_nodes]
        target = self._modules[node.target] if node.op == "call_module" else node.target
        kind = type(target) if isinstance(target, nn.Module) else target
        writers: dict[Any, Callable[..., str]] = {
            nn.Conv2d: self._conv,
            nn.BatchNorm2d: self._batch_norm,
            nn.ReLU: self._relu,
            nn.MaxPool2d: self._max_pool,
            nn.AvgPool2d: self._average_pool,
            nn.Linear: self._linear,
            torch.cat: self._concat,
            operator.add: self._add,
            "mean": self._global_mean,
        }
        if kind not in writers:
            shown = kind if isinstance(kind, str) else kind.__name__
            raise ModelError(
                f"{self._network.architecture}: {shown} at {name or 'the top'} has no ONNX form here"
            )
        return writers[kind](node, target, inputs, name)

    def _folded_into(self, node: fx.Node) -> nn.Conv2d | None:
        """Return the convolution that takes this BatchNorm in, if there is one."""
        if not isinstance(self._module(node), nn.BatchNorm2d):
            return None
        (source,) = node.all_input_nodes
        if any(self._last_of_stage[stage] is source for stage in self._kept):
            return None
        conv = self._module(source)
        return conv if isinstance(conv, nn.Conv2d) and len(source.users) == 1 else None

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self._modules[str(node.target)] if node.op == "call_module" else None

    def _conv(self, node: fx.Node, conv: nn.Conv2d, inputs: list[str], name: str) -> str:
        weight = conv.weight.detach().double().numpy()  # (out, in / groups, kh, kw)
        bias = None if conv.bias is None else conv.bias.detach().double().numpy()
        after = next(iter(node.users))
        if self._folded_into(after) is not None:
            scale, shift = _affine(self._module(after))
            weight = weight * scale[:, None, None, None]
            bias = shift if bias is None else bias * scale + shift
        constants = {"weight": weight} | ({} if bias is None else {"bias": bias})
        for key, value in constants.items():
            inputs.append(self._graph.constant(value.astype(np.float32), name=f"{name}.{key}"))
        if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
            raise ModelError(f"{name}: padding {conv.padding!r} has no ONNX form here")
        return self._graph.add(
            "Conv",
            inputs,
            name=name,
            kernel_shape=conv.kernel_size,
            strides=conv.stride,
            pads=conv.padding * 2,
            dilations=conv.dilation,
            group=conv.groups,
        )

    def _batch_norm(self, node: fx.Node, norm: nn.Module, inputs: list[str], name: str) -> str:
        # ONNX Runtime runs this node within its blocked layout and fuses the ReLU; the eps is in
        # the scale already, so that float32 does not round it again.
        scale, shift = _affine(norm)
        values = {"scale": scale, "shift": shift, "zero": 0 * scale, "one": 0 * scale + 1}
        inputs += [
            self._graph.constant(value.astype(np.float32), name=f"{name}.{key}")
            for key, value in values.items()
        ]
        return self._graph.add("BatchNormalization", inputs, name=name, epsilon=0.0)

    def _relu(self, node: fx.Node, relu: nn.Module, inputs: list[str], name: str) -> str:
        return self._graph.add("Relu", inputs, name=name)

    def _max_pool(self, node: fx.Node, pool: nn.MaxPool2d, inputs: list[str], name: str) -> str:
        return self._graph.add(
            "MaxPool",
            inputs,
            name=name,
            kernel_shape=_pair(pool.kernel_size),
            strides=_pair(pool.stride),
            pads=_pair(pool.padding) * 2,
            ceil_mode=int(pool.ceil_mode),
        )

    def _average_pool(self, node: fx.Node, pool: nn.AvgPool2d, inputs: list[str], name: str) -> str:
        return self._graph.add(
            "AveragePool",
            inputs,
            name=name,
            kernel_shape=_pair(pool.kernel_size),
            strides=_pair(pool.stride),
            pads=_pair(pool.padding) * 2,
            ceil_mode=int(pool.ceil_mode),
            count_include_pad=int(pool.count_include_pad),
        )

    def _linear(self, node: fx.Node, linear: nn.Linear, inputs: list[str], name: str) -> str:
        for key, value in linear.named_parameters():  # weight (out, in), bias
            inputs.append(self._graph.constant(value.detach().numpy(), name=f"{name}.{key}"))
        return self._graph.add("Gemm", inputs, name=name, transB=1)

    def _concat(self, node: fx.Node, _: Any, inputs: list[str], name: str) -> str:
        axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        return self._graph.add("Concat", inputs, name=name, axis=axis)

    def _add(self, node: fx.Node, _: Any, inputs: list[str], name: str) -> str:
        return self._graph.add("Add", inputs, name=name)

    def _global_mean(self, node: fx.Node, _: Any, inputs: list[str], name: str) -> str:
        if node.args[1:] != ((2, 3),):
            raise ModelError(f"{name}: mean over {node.args[1:]} has no ONNX form here")
        return self._pooled(inputs, "pooled")

    def _pooled(self, inputs: list[str], name: str) -> str:
        pooled = self._graph.add("GlobalAveragePool", inputs, name=name)
        return self._graph.add("Flatten", [pooled], name=f"{name}.flat", axis=1)


def _affine(norm: nn.Module | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return scale and shift of a BatchNorm in evaluation mode, in float64."""
    assert isinstance(norm, nn.BatchNorm2d)
    mean, var, weight, bias = (
        value.detach().double().numpy()
        for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        if value is not None
    )
    scale = weight / np.sqrt(var + norm.eps)
    return scale, bias - mean * scale


def _pair(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _verify(
    file: Path,
    network: Network | TimmNetwork,
    patches: NDArray[np.uint8],
    *,
    stage_of_tensor: dict[str, str],
    shown: Path,
) -> None:
    """Refuse a file whose features differ from torch's.

    Raises:
        ModelError: by more than the tolerance.
    """
    cases = _cases(patches, of_any_size=isinstance(network, Network))
    module = PixelsIn(network).eval()
    with load(file, device="cpu", threads=1) as encoder, torch.inference_mode():
        for case in cases:
            error = _largest_error(encoder.encode_together(case), module(torch.from_numpy(case)))
            if error <= MAX_RELATIVE_ERROR:  # false for NaN
                continue
            n, h, w, _ = case.shape
            where = (
                _first_wrong_stage(file, network, case, stage_of_tensor=stage_of_tensor)
                if isinstance(network, Network)
                else "torch's exporter and ONNX Runtime are at odds"
            )
            raise ModelError(
                f"{shown} is not written: ONNX Runtime and torch differ by {error:.1e} of the "
                f"features' norm (batch of {n}, {h} x {w} px), wanted at most "
                f"{MAX_RELATIVE_ERROR:.0e}: {where}"
            )


def _verify_cuts(file: Path, network: Network, patches: NDArray[np.uint8], *, shown: Path) -> None:
    """Refuse a file of cuts whose features differ from torch's.

    Raises:
        ModelError: those of a cut, which is named, by more than the tolerance.
    """
    module = PixelsIn(network).eval()
    wanted: dict[str, torch.Tensor] = {}

    def keep(layer: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        return lambda _, inputs, maps: wanted.update({layer: maps.mean((2, 3))})

    with load_all(file, device="cpu", threads=1) as joined, ExitStack() as hooks:
        for spec in joined.specs:
            handle = network.stage(spec.layer).register_forward_hook(keep(spec.layer))
            hooks.callback(handle.remove)
        for case in _cases(patches, of_any_size=True):
            with torch.inference_mode():
                module(torch.from_numpy(case))
            for spec, got in zip(joined.specs, joined.encode_together(case), strict=True):
                error = _largest_error(got, wanted[spec.layer])
                if error <= MAX_RELATIVE_ERROR:  # false for NaN
                    continue
                n, h, w, _ = case.shape
                raise ModelError(
                    f"{shown} is not written: ONNX Runtime and torch differ by {error:.1e} of the "
                    f"features' norm (batch of {n}, {h} x {w} px), wanted at most "
                    f"{MAX_RELATIVE_ERROR:.0e}: {spec.layer} is the first cut to do so"
                )


def _cases(patches: NDArray[np.uint8], *, of_any_size: bool) -> list[NDArray[np.uint8]]:
    """Return the batches to compare on: of several lengths, and one of rectangles."""
    cases = [patches[:n] for n in _BATCHES]
    if of_any_size:
        cases.append(np.concatenate([patches[:2], patches[:2, :_TALLER_PX]], axis=1))
    return cases


def _first_wrong_stage(
    file: Path, network: Network, pixels: NDArray[np.uint8], *, stage_of_tensor: dict[str, str]
) -> str:
    wanted: dict[str, torch.Tensor] = {}

    def keep(stage: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        return lambda module, inputs, output: wanted.update({stage: output})

    hooks = [network.stage(s).register_forward_hook(keep(s)) for s in stage_of_tensor.values()]
    PixelsIn(network).eval()(torch.from_numpy(pixels))
    for hook in hooks:
        hook.remove()
    got = capture(file, list(stage_of_tensor), pixels)
    for tensor, stage in stage_of_tensor.items():
        error = _largest_error(got[tensor], wanted[stage])
        if not error <= MAX_RELATIVE_ERROR:
            return f"{stage} is the first stage to do so, by {error:.1e}"
    return "all stages agree, it is what follows them"


def _largest_error(got: NDArray[np.float32], wanted: torch.Tensor) -> float:
    """Return the largest error of a row, relative to the norm of the row wanted."""
    rows = wanted.numpy().reshape(len(got), -1).astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    errors = np.linalg.norm(got.reshape(len(got), -1) - rows, axis=1)
    return float((errors / np.maximum(norms, np.finfo("f4").tiny)).max())
