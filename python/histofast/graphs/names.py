"""What the tensors of a graph are called, by whoever exported it and by the modules of a network."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence

import onnx

from histofast._words import did_you_mean
from histofast.errors import ModelError
from histofast.graphs.graph import Graph, names_read, scopes_of
from histofast.graphs.images import image_input


class TensorNames:
    """The names that the tensors of a graph go by.

    `nodes` are those between input and outputs, in order; `carriers` are the tensors that carry
    everything on alone; `names` has the name of each tensor.
    """

    def __init__(self, graph: Graph) -> None:
        self.where = graph.where
        image = image_input(graph)
        dependent = graph.dependent_on(image.name)
        needed = graph.needed_for(graph.output_names)
        self.nodes = [node for node in needed if not dependent.isdisjoint(node.output)]
        self.carriers = self._carriers(image.name, set(graph.output_names))
        self.names, self._ends = _named(self.nodes)

    def _carriers(self, start: str, outputs: set[str]) -> set[str]:
        """Walk along the graph: a tensor that is alone in being needed later carries all."""
        last_read = {name: i for i, node in enumerate(self.nodes) for name in names_read(node)}
        last_read |= dict.fromkeys(outputs, len(self.nodes))
        alive, found = {start}, set()
        for i, node in enumerate(self.nodes):
            alive = {name for name in (*alive, *node.output) if last_read.get(name, -1) > i}
            if alive == {node.output[0]}:
                found.add(node.output[0])
        return found

    def aliases_of(self, tensor: str) -> tuple[str, ...]:
        """Return the modules that end with this tensor, the largest first."""
        taken = set(self.names.values()) | self.names.keys()
        return tuple(a for a, end in self._ends.items() if end == tensor and a not in taken)

    def find(self, at: str, *, carrying: bool = False) -> str:
        """Return the tensor of a name.

        Args:
            at: a tensor, a name, or an alias of a tensor that carries all.
            carrying: refuse every tensor that does not carry all.

        Raises:
            ModelError: there is none, or it does not carry all.
        """
        named = {name: tensor for tensor, name in self.names.items()}
        ends = {alias: end for alias, end in self._ends.items() if end in self.carriers}
        tensor = at if at in self.names else named.get(at) or ends.get(at)
        if tensor is not None and (tensor in self.carriers or not carrying):
            return tensor
        known = {n for n, t in named.items() if t in self.carriers or not carrying} | ends.keys()
        hint = (
            did_you_mean(at, sorted(known)) or ": list them with `histofast models truncate --list`"
        )
        if tensor is not None or at in self._ends:
            raise ModelError(
                f"{self.where}: {at!r} does not carry everything on, other tensors go beside it"
                f"{hint}"
            )
        raise ModelError(f"{self.where} has no tensor {at!r}{hint}")


def _named(nodes: Sequence[onnx.NodeProto]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the name of each node's tensor, and the last tensor of each module.

    What ends a module is named for it, for the innermost of several; else for what it does there.
    """
    scopes: dict[str, str] = {}
    names: dict[str, str] = {}
    for node in nodes:
        tensor, noted = node.output[0], scopes_of(node)
        if noted is not None:  # "['', 'layer1', 'layer1.0', 'layer1.0.relu', 'relu_2']"
            scope, operation = ["", *ast.literal_eval(noted)][-2:]
            scope = scope.removeprefix("_empty_nn_module_stack_from_metadata_hook")
        elif node.name.startswith("/"):  # /layer1/layer1.0/relu/Relu
            *parts, operation = node.name[1:].split("/")
            scope = _dotted(parts)
        else:
            scopes[tensor] = names[tensor] = tensor
            continue
        scopes[tensor], names[tensor] = scope, f"{scope}.{operation}".lstrip(".")
    ends: dict[str, str] = {}
    for tensor, scope in scopes.items():
        parts = scope.split(".") if scope else []
        ends.update({".".join(parts[: i + 1]): tensor for i in range(len(parts))})
    names |= {tensor: module for module, tensor in sorted(ends.items()) if names[tensor] != tensor}
    times = Counter(names.values())
    return {
        tensor: name if times[name] == 1 and (name == tensor or name not in scopes) else tensor
        for tensor, name in names.items()
    }, ends


def _dotted(parts: Sequence[str]) -> str:
    """Turn `layer1`, `layer1.0`, `relu` into `layer1.0.relu`: a child of a list repeats its parent."""
    kept: list[str] = []
    for part in parts:
        if kept and part.startswith(f"{kept[-1].rpartition('.')[2]}."):
            part = part.partition(".")[2]
        kept.append(part)
    return ".".join(kept)
