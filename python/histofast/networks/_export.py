"""From a torch network to an encoder file, proven equal before it takes its name.

The graph is written node by node from a symbolic trace, in the order of execution and with the
module's names, so that the same weights give the same bytes whatever the version of torch.
"""

# mypy: allow-subclassing-any
from __future__ import annotations

import operator
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from histofast._arrays import check
from histofast.encoders import EncoderMetadata, EncoderSpec, load, registry
from histofast.encoders._graph import PixelGraph, replacing, to_bytes
from histofast.errors import ModelError
from histofast.networks._create import create
from histofast.networks._network import Network

EXPORTER = "histofast.networks 1"  # raised when the same weights would give another file
MAX_RELATIVE_ERROR = 1e-5
_BATCHES = (1, 2, 7)


class PixelsIn(nn.Module):
    """A network as its encoder file computes it: uint8 (n, h, w, 3) in, float32 (n, d) out."""

    def __init__(self, network: Network) -> None:
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
    **options: Any,
) -> EncoderSpec:
    """Build a network from a weights file, cut it, and write it as an encoder file.

    Args:
        network: one of `names()`.
        weights: see `create`.
        out: path of the .onnx file.
        layer: see `create`.
        options: the keyword arguments of `export`.

    Raises:
        What `create` and `export` raise.
    """
    return export(create(network, weights=weights, layer=layer), out, **options)


def export(
    network: Network,
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    patch_px: int = 256,
    mpp: float = 0.5,
    provenance: str | None = None,
    licence: str | None = None,
    patches: NDArray[np.uint8] | None = None,
    overwrite: bool = False,
) -> EncoderSpec:
    """Write a network as an encoder file; any patch size goes in, pixels unscaled.

    Before the file takes its name, ONNX Runtime runs it in batches of 1, 2 and 7 and on a
    rectangle, and every row must agree with torch to 1e-5 of its norm.

    Args:
        network: in evaluation mode.
        path: of the .onnx file; its folder must exist.
        name: what the encoder is called; None: the stem of `path`.
        patch_px: the patch size it is meant for.
        mpp: the resolution it is meant for, um/px.
        provenance: where the weights come from; None: what the registry says of them.
        licence: the terms of the weights; None: likewise.
        patches: (n >= 7, patch_px, patch_px, 3) uint8 to compare on; made up when omitted.
        overwrite: replace an existing file.

    Returns:
        The new file's spec.

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
        FileNotFoundError: the folder does not exist.
        ModelError: an operation that cannot be written, or results that differ.
        ValueError: the network is in training mode, or another argument is out of range.

    Determinism: the same network and arguments give the same bytes.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise ValueError(f"path must end in .onnx, got {path}")
    if network.training:
        raise ValueError("network must be in evaluation mode: call network.eval() first")
    if patches is None:
        patches = _stained_noise(max(_BATCHES), patch_px)
    (n,) = check("patches", patches, "uint8", ("n", patch_px, patch_px, 3))
    if n < max(_BATCHES):
        raise ValueError(f"patches must be at least {max(_BATCHES)}, got {n}")
    known = registry().weights_of(network.weights_sha256) if network.weights_sha256 else None
    untold = "random weights" if network.weights_sha256 is None else "not stated"
    metadata = EncoderMetadata(
        name=path.stem if name is None else name,
        network=network.architecture,
        layer=network.layer,
        d=network.d,
        patch_px=patch_px,
        mpp=mpp,
        precision="float32",
        weights_sha256=network.weights_sha256 or "random",
        provenance=provenance or (known.provenance if known else untold),
        licence=licence or (known.licence if known else untold),
        exporter=EXPORTER,
    )
    graph = PixelGraph(mean=network.mean, std=network.std)
    model = graph.finish(_Writer(network, graph).write(), metadata=metadata)
    with replacing(path, overwrite=overwrite) as pending:
        pending.write_bytes(to_bytes(model))
        _verify(pending, PixelsIn(network).eval(), patches, shown=path)
    with load(path, device="cpu", threads=1) as encoder:
        return encoder.spec


class _Writer:
    """Writes the nodes of a traced network into a graph, folding BatchNorms into convolutions."""

    def __init__(self, network: Network, graph: PixelGraph) -> None:
        self._network = network
        self._graph = graph
        self._traced = fx.symbolic_trace(network)
        self._modules: dict[str, nn.Module] = dict(self._traced.named_modules())
        self._tensors: dict[fx.Node, str] = {}

    def write(self) -> str:
        """Return the name of the tensor of features."""
        names = self._names()
        for node in self._traced.graph.nodes:
            if node.op == "placeholder":
                self._tensors[node] = self._graph.standardised
            elif node.op == "output":
                return self._tensors[node.args[0]]
            elif self._folded_into(node) is not None:
                self._tensors[node] = self._tensors[node.args[0]]
            else:
                self._tensors[node] = self._write_node(node, names[node])
        raise AssertionError("a traced graph ends with its output")

    def _names(self) -> dict[fx.Node, str]:
        """Name tensors for the modules that make them; the last of a stage has the stage's name."""
        names: dict[fx.Node, str] = {}
        last_of_stage: dict[str, fx.Node] = {}
        prefix = self._network.prefix
        for node in self._traced.graph.nodes:
            stack = [key.removeprefix(prefix) for key in node.meta.get("nn_module_stack", {})]
            inner = stack[-1] if stack else ""
            function = getattr(node.target, "__name__", str(node.target))
            of_module = node.op == "call_module"
            names[node] = inner if of_module else f"{inner}.{function}".lstrip(".")
            if inner:
                last_of_stage[inner.split(".")[0]] = node
        return names | {node: stage for stage, node in last_of_stage.items()}

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

    def _concat(self, node: fx.Node, _: Any, inputs: list[str], name: str) -> str:
        axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        return self._graph.add("Concat", inputs, name=name, axis=axis)

    def _add(self, node: fx.Node, _: Any, inputs: list[str], name: str) -> str:
        return self._graph.add("Add", inputs, name=name)

    def _global_mean(self, node: fx.Node, _: Any, inputs: list[str], name: str) -> str:
        if node.args[1:] != ((2, 3),):
            raise ModelError(f"{name}: mean over {node.args[1:]} has no ONNX form here")
        pooled = self._graph.add("GlobalAveragePool", inputs, name="pooled")
        return self._graph.add("Flatten", [pooled], name="pooled.flat", axis=1)


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


def _verify(file: Path, module: PixelsIn, patches: NDArray[np.uint8], *, shown: Path) -> None:
    """Refuse a file whose features differ from torch's.

    Raises:
        ModelError: by more than the tolerance.
    """
    p = patches.shape[1]
    cases = [patches[:n] for n in _BATCHES]
    if p >= 64:  # no square
        cases.append(np.ascontiguousarray(patches[:2, 5:]))
    with load(file, device="cpu", threads=1) as encoder, torch.inference_mode():
        for case in cases:
            wanted = module(torch.from_numpy(case)).numpy()
            got = encoder.encode_together(case)
            norms = np.linalg.norm(wanted, axis=1)
            errors = np.linalg.norm(got - wanted, axis=1) / np.maximum(norms, np.finfo("f4").tiny)
            if not errors.max() <= MAX_RELATIVE_ERROR:  # also true for NaN
                n, h, w, _ = case.shape
                raise ModelError(
                    f"{shown} is not written: ONNX Runtime and torch differ by {errors.max():.1e} "
                    f"of the features' norm (batch of {n}, {h} x {w} px), wanted at most "
                    f"{MAX_RELATIVE_ERROR:.0e}"
                )


def _stained_noise(n: int, patch_px: int) -> NDArray[np.uint8]:
    """Return patches with the colours of H&E and detail of many sizes, to compare networks on."""
    rng = np.random.default_rng(0)
    # Optical densities of haematoxylin and eosin per channel (Ruifrok and Johnston, 2001).
    stains = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    amounts = np.zeros((n, patch_px, patch_px, 2))
    size_px = 1
    while size_px < patch_px:
        cells = -(-patch_px // size_px)
        field = rng.random((n, cells, cells, 2)).repeat(size_px, 1).repeat(size_px, 2)
        amounts += field[:, :patch_px, :patch_px] / 2
        size_px *= 4
    # Optical density is a decimal logarithm.
    light: NDArray[np.float64] = 10.0 ** -(amounts @ stains)  # (n, h, w, 3)
    return np.rint(255 * light).astype(np.uint8)
