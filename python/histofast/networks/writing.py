"""The graph of an encoder file, written node by node from the symbolic trace of a torch network.

Nodes are in the order of execution and have the names of modules, so that the same weights give the
same bytes whatever the version of torch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from histofast.errors import ModelError
from histofast.graphs import PixelGraph
from histofast.networks.network import Network

_HEAD = "head"  # its name in the file, whatever the state dict calls it


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
