"""What the tensors of a graph are called, by whoever exported it and by the modules of a network."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import onnx

from histofast._words import did_you_mean
from histofast.errors import ModelError
from histofast.graphs.graph import Graph, names_read, scopes_of
from histofast.graphs.images import ImageInput, image_input

_SIZES = {"Shape", "Size"}
_OF_A_PASS = "_empty_nn_module_stack_from_metadata_hook"  # of nodes that torch's exporter put in


class TensorNames:
    """The names that the tensors of a graph go by.

    `nodes` are those between input and outputs, in order; `carriers` are the tensors that carry
    everything on alone; `names` has the name of each tensor. A module of the network ends with the
    last tensor of it that holds more than sizes.
    """

    def __init__(self, graph: Graph, image: ImageInput | None = None) -> None:
        self.where = graph.where
        image = image or image_input(graph)
        dependent = graph.dependent_on(image.name)
        needed = graph.needed_for(graph.output_names)
        self.nodes = [node for node in needed if not dependent.isdisjoint(node.output)]
        self.carriers = self._carriers(image.name, set(graph.output_names))
        self._scopes = {node.output[0]: _scope_of(node) for node in self.nodes}
        self.names, self._ends = _named(self._scopes, self._with_values(image.name))

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

    def _with_values(self, start: str) -> set[str]:
        """Return what depends on the values of a tensor, and not on its sizes alone."""
        found = {start}
        for node in self.nodes:
            if node.op_type not in _SIZES and not found.isdisjoint(names_read(node)):
                found.update(node.output)
        return found

    def ends_of_parts(self, work: Mapping[str, int]) -> set[str]:
        """Return the tensors that the parts of the network end with, carriers or not.

        Parts are modules that work: of at most half of all work and in no other such module, and
        those that hold them.

        Args:
            work: of the tensors that cost something.
        """
        total = sum(work.values())
        share: Counter[str] = Counter()
        for tensor, cost in work.items():
            scope = self._scopes.get(tensor)
            share.update(dict.fromkeys(scope.modules if scope else (), cost))
        parts = set()
        for scope in self._scopes.values():
            for module in scope.modules:
                if share[module]:
                    parts.add(module)
                if share[module] <= total / 2:
                    break
        return {self._ends[part] for part in parts if part in self._ends}

    def far_from_carriers(self, work: Mapping[str, int], *, least_share: float) -> set[str]:
        """Return the tensors that lie where no tensor carries all over so much of the work.

        Args:
            work: of the tensors that cost something.
            least_share: of all work, that lies between one carrier and the next, 0..1.
        """
        least = least_share * sum(work.values())
        found: set[str] = set()
        between: list[str] = []
        for node in self.nodes:
            between.append(node.output[0])
            if node.output[0] in self.carriers or node is self.nodes[-1]:
                if sum(work.get(tensor, 0) for tensor in between) > least:
                    found.update(between)
                between = []
        return found

    def aliases_of(self, tensor: str) -> tuple[str, ...]:
        """Return the modules that end with this tensor, the largest first."""
        taken = set(self.names.values()) | self.names.keys()
        return tuple(a for a, end in self._ends.items() if end == tensor and a not in taken)

    def find(self, at: str, *, carrying: bool = False) -> str:
        """Return the tensor of a name.

        Args:
            at: a tensor, a name, or a module, for which its end is taken.
            carrying: refuse every tensor that does not carry all.

        Raises:
            ModelError: there is none, or it does not carry all.
        """
        named = {name: tensor for tensor, name in self.names.items()}
        tensor = at if at in self.names else named.get(at) or self._ends.get(at)
        if tensor is not None and (tensor in self.carriers or not carrying):
            return tensor
        every = self._ends | named
        known = {name for name, t in every.items() if t in self.carriers or not carrying}
        hint = (
            did_you_mean(at, sorted(known)) or ": list them with `histofast models truncate --list`"
        )
        if tensor is not None:
            raise ModelError(
                f"{self.where}: {at!r} does not carry everything on, other tensors go beside it"
                f"{hint}"
            )
        raise ModelError(f"{self.where} has no tensor {at!r}{hint}")

    def find_all(self, at: Sequence[str]) -> dict[str, str]:
        """Return the tensors of names, in the order of the graph; see `find`."""
        place = {node.output[0]: i for i, node in enumerate(self.nodes)}
        found = {name: self.find(name) for name in at}
        return dict(sorted(found.items(), key=lambda pair: place[pair[1]]))


class _Scope(NamedTuple):
    """Where a tensor is made: in which modules, the outermost first, and what it is called for that.

    `module` is the last of them, and `name` begins with it; where nobody noted either, both are the
    tensor's own name, whose dots part modules in files of ours.
    """

    modules: tuple[str, ...]
    module: str
    name: str


def _scope_of(node: onnx.NodeProto) -> _Scope:
    noted = scopes_of(node)
    if noted is not None:  # "['', 'layer1', 'layer1.0', 'layer1.0.relu', 'relu_2']"
        found: list[str] = ["", *ast.literal_eval(noted)]
        operation = found.pop()
        modules = [name for module in found if (name := module.removeprefix(_OF_A_PASS))]
    elif node.name.startswith("/"):  # /layer1/layer1.0/relu/Relu
        *found, operation = node.name[1:].split("/")
        modules = [_dotted(found[: i + 1]) for i in range(len(found))]
    else:
        tensor = node.output[0]
        return _Scope(tuple(_begins(tensor)[:-1]), tensor, tensor)
    module = modules[-1] if modules else ""
    return _Scope(tuple(modules), module, f"{module}.{operation}".lstrip("."))


def _named(
    scopes: Mapping[str, _Scope], with_values: set[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the name of each node's tensor, and the last tensor of each module.

    What ends a module is named for it, for the innermost of several; else for what it does there.
    """
    names = {tensor: scope.name for tensor, scope in scopes.items()}
    ends: dict[str, str] = {}
    for tensor, scope in scopes.items():
        if tensor in with_values:
            ends.update(dict.fromkeys(_begins(scope.module), tensor))
    names |= {tensor: module for module, tensor in sorted(ends.items()) if names[tensor] != tensor}
    times = Counter(names.values())
    return {
        tensor: name if times[name] == 1 and (name == tensor or name not in scopes) else tensor
        for tensor, name in names.items()
    }, ends


def _begins(module: str) -> list[str]:
    """Return `layer1`, `layer1.0` and `layer1.0.relu` of `layer1.0.relu`."""
    parts = module.split(".") if module else []
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _dotted(parts: Sequence[str]) -> str:
    """Turn `layer1`, `layer1.0`, `relu` into `layer1.0.relu`: a child of a list repeats its parent."""
    kept: list[str] = []
    for parent, part in zip(["", *parts], parts, strict=False):
        repeated = next(
            (p for p in (parent, parent.rpartition(".")[2]) if part.startswith(f"{p}.")), ""
        )
        kept.append(part.removeprefix(f"{repeated}.") if repeated else part)
    return ".".join(kept)
