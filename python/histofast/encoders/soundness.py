"""What an ONNX file claims, held against what it has, before anything makes room for it.

A tensor has the numbers that its sizes claim; weights lie in the file, or where it says; graphs
within graphs and functions that call functions have an end, and stay few when they are put in. ONNX
Runtime trusts a file in this, or its stack ends first. Read where it lies, without the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

from histofast.encoders.protobuf import Span, fields, spans, text, varints

MAX_BYTES = 2**31 - 1  # of one ONNX file: protobuf's limit
_DEEPEST = 30  # graphs within graphs, and functions that call functions; protobuf reads no deeper
_MOST_NODES = 1_000_000  # with functions put in where they are called
_MOST_FIELDS = 3_000_000  # of the whole file

# Fields of ONNX's messages by their numbers, see onnx.proto3.
_PRODUCER, _GRAPH, _OPSET, _PROPS, _FUNCTION = (2, 3), 7, 8, 14, 25  # of a model
_NODE, _GRAPH_NAME, _INITIALIZER, _VALUES, _SPARSE = 1, 2, 5, (11, 12, 13), 15  # of a graph
_TENSORS_OF, _OP_TYPE, _ATTRIBUTE, _DOMAIN, _NOTES = (1, 2, 3), 4, 5, 7, 9  # of a node
_ATTRIBUTE_NAME, _TENSOR_NAME, _VALUE_NAME = 1, 8, 1
_ENTRY = (1, 2)  # key and value of an entry, domain of a set of operations
_A_TENSOR, _A_GRAPH, _TENSORS, _GRAPHS = 5, 6, 10, 11  # of an attribute
_A_SPARSE, _SPARSES = 22, 23
_FUNCTION_NAME, _FUNCTION_NODE, _FUNCTION_DOMAIN = 1, 7, 10
_DIMS, _DTYPE, _RAW, _EXTERNAL, _LOCATION = 1, 2, 9, 13, 14  # of a tensor
_NUMBERS = {4: 4, 5: 1, 6: 1, 7: 1, 10: 8, 11: 1}  # its typed values: least bytes of one
_S_VALUES, _S_INDICES, _S_DIMS = 1, 2, 3  # of a sparse tensor
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 8: 8, 9: 8, 10: 16, 11: 64, 12: 32}
_BITS |= {13: 64, 14: 64, 15: 128, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4}
_BITS |= {24: 8, 25: 2, 26: 2}
_STRING, _PACKED = 8, 4  # the type of texts; at most so many numbers share one typed value
_ENGINE = "EPContext"  # runs what a vendor's compiler has left, here or in a file


class UnsoundError(Exception):
    """A file that claims what it has not; the text says what."""


class Outside(NamedTuple):
    """A tensor whose numbers lie in another file: where it says, and the bytes that they are."""

    location: str
    offset: str
    length: str
    claimed_bytes: int

    @staticmethod
    def told(entries: Mapping[str, str], claimed_bytes: int) -> Outside:
        """Return what the entries of a tensor tell of its place."""
        return Outside(
            entries.get("location", ""),
            entries.get("offset", ""),
            entries.get("length", ""),
            claimed_bytes,
        )


def claimed_bytes(dims: Sequence[int], dtype: int) -> int:
    """Return the bytes that the numbers of a tensor take, `dtype` one that ONNX knows."""
    return math.ceil(math.prod(dims) * _BITS.get(dtype, 0) / 8)


def check_sound(file: BinaryIO, size_bytes: int, *, external: bool = False) -> list[Outside]:
    """Refuse a model whose claims its file does not bear out.

    Args:
        file: an ONNX file, seekable.
        size_bytes: its size.
        external: weights may lie in other files.

    Returns:
        The tensors that do, unchecked against those files.

    Raises:
        UnsoundError: it does not hold what it claims.
        BrokenMessageError: it is no ONNX file.
    """
    model = _Model(file, size_bytes, external=external)
    model.check()
    return model.outside


class _Model:
    def __init__(self, file: BinaryIO, size_bytes: int, *, external: bool) -> None:
        self._file, self._end, self._external = file, size_bytes, external
        self.outside: list[Outside] = []
        self._fields = 0
        self._dense_bytes = 0  # of sparse tensors
        self._calls: dict[tuple[str, str], list[tuple[str, str]]] = {}

    def check(self) -> None:
        graph: list[tuple[str, str]] = []
        parts = (*_PRODUCER, _GRAPH, _OPSET, _PROPS, _FUNCTION)
        for number, span in self._spans((0, self._end), *parts):
            if number == _GRAPH:
                graph += self._graph(span, depth=0)
            elif number == _FUNCTION:
                with self._nothing_outside():
                    self._function(span)
            elif number in _PRODUCER:
                text(self._file, span)
            else:
                self._texts(span, *_ENTRY)
        self._count(graph)

    @contextmanager
    def _nothing_outside(self) -> Iterator[None]:
        """Take no weights in other files, which are looked for in the graph alone."""
        external, self._external = self._external, False
        yield
        self._external = external

    def _spans(self, span: Span, *numbers: int) -> Iterator[tuple[int, Span]]:
        for found in spans(self._file, span, *numbers):
            self._fields += 1
            if self._fields > _MOST_FIELDS:
                raise UnsoundError(f"it has over {_MOST_FIELDS:,} parts")
            yield found

    def _texts(self, span: Span, *numbers: int) -> None:
        """Refuse what is no text where one should be: libraries give bytes then, or fail."""
        for number, value in fields(self._file, span):
            if number in numbers and not isinstance(value, int):
                text(self._file, value)

    # --- nodes ---------------------------------------------------------------------------------

    def _graph(self, span: Span, *, depth: int) -> list[tuple[str, str]]:
        """Check a graph; return its operations and those of the graphs in it, by domain and name."""
        if depth > _DEEPEST:
            raise UnsoundError(f"it has graphs within graphs, over {_DEEPEST} deep")
        operations = []
        parts = (_NODE, _GRAPH_NAME, _INITIALIZER, *_VALUES, _SPARSE)
        for number, inner in self._spans(span, *parts):
            if number == _NODE:
                operations += self._node(inner, depth=depth)
            elif number == _INITIALIZER:
                self._tensor(inner)
            elif number == _GRAPH_NAME:
                text(self._file, inner)
            elif number in _VALUES:
                self._texts(inner, _VALUE_NAME)
            else:
                self._sparse(inner)
        return operations

    def _node(self, span: Span, *, depth: int) -> list[tuple[str, str]]:
        name = domain = ""
        operations = []
        parts = (*_TENSORS_OF, _OP_TYPE, _ATTRIBUTE, _DOMAIN, _NOTES)
        for number, inner in self._spans(span, *parts):
            if number in _TENSORS_OF:
                text(self._file, inner)
            elif number == _NOTES:
                self._texts(inner, *_ENTRY)
            elif number == _OP_TYPE:
                name = text(self._file, inner)
            elif number == _DOMAIN:
                domain = text(self._file, inner)
            else:
                operations += self._attribute(inner, depth=depth)
        if name == _ENGINE:
            raise UnsoundError(f"it holds a compiled engine ({name}), which is never run")
        return [(domain, name), *operations]

    def _attribute(self, span: Span, *, depth: int) -> list[tuple[str, str]]:
        graphs, tensors, sparse = (_A_GRAPH, _GRAPHS), (_A_TENSOR, _TENSORS), (_A_SPARSE, _SPARSES)
        operations = []
        for number, inner in self._spans(span, _ATTRIBUTE_NAME, *graphs, *tensors, *sparse):
            if number == _ATTRIBUTE_NAME:
                text(self._file, inner)
            elif number in graphs:
                operations += self._graph(inner, depth=depth + 1)
            elif number in tensors:
                self._tensor(inner)
            else:
                self._sparse(inner)
        return operations

    def _function(self, span: Span) -> None:
        name = domain = ""
        operations = []
        for number, inner in self._spans(span, _FUNCTION_NAME, _FUNCTION_DOMAIN, _FUNCTION_NODE):
            if number == _FUNCTION_NAME:
                name = text(self._file, inner)
            elif number == _FUNCTION_DOMAIN:
                domain = text(self._file, inner)
            else:
                operations += self._node(inner, depth=0)
        self._calls[domain, name] = operations

    def _count(self, graph: list[tuple[str, str]]) -> None:
        """Refuse functions that never end, or grow beyond all bounds where they are put in."""
        known: dict[tuple[str, str], tuple[int, int]] = {}  # nodes and height of a function

        def measured(operations: list[tuple[str, str]], depth: int) -> tuple[int, int]:
            nodes = height = 0
            for operation in operations:
                if operation not in self._calls:
                    nodes += 1
                    continue
                if operation not in known and depth <= _DEEPEST:
                    known[operation] = measured(self._calls[operation], depth + 1)
                if depth > _DEEPEST or known[operation][1] > _DEEPEST:
                    raise UnsoundError(
                        f"it has functions that call functions, over {_DEEPEST} deep"
                    )
                nodes, height = nodes + known[operation][0], max(height, known[operation][1])
            if nodes > _MOST_NODES:
                raise UnsoundError(f"it has over {_MOST_NODES:,} nodes, functions put in")
            return nodes, height + 1

        measured(graph, 0)
        for function in self._calls:
            measured([function], 0)

    # --- tensors -------------------------------------------------------------------------------

    def _tensor(self, span: Span) -> int:
        """Hold the numbers that a tensor claims against those it has; return the bits of one."""
        dims: list[int] = []
        dtype = raw_bytes = values = 0
        is_raw = is_outside = False
        entries: dict[str, str] = {}
        for number, value in fields(self._file, span):
            self._fields += 1
            if number == _DIMS:
                dims += varints(self._file, value)
            elif number == _TENSOR_NAME and not isinstance(value, int):
                text(self._file, value)
            elif number == _DTYPE and isinstance(value, int):
                dtype = value
            elif number == _RAW and not isinstance(value, int):
                raw_bytes, is_raw = value[1] - value[0], True
            elif number in _NUMBERS:
                values += 1 if isinstance(value, int) or number == 6 else _count_of(value, number)
            elif number == _EXTERNAL and not isinstance(value, int):
                is_outside = True
                entries |= self._entry(value)
            elif number == _LOCATION and value == 1:
                is_outside = True
        claimed = _product(dims)
        if dtype not in _BITS:
            raise UnsoundError(f"a tensor is of the unknown type {dtype}")
        if is_outside:
            if not self._external:
                raise UnsoundError("it keeps weights in other files, which its checksum is not of")
            if claimed * _BITS[dtype] > 8 * MAX_BYTES:
                raise UnsoundError(f"a tensor claims {claimed} numbers in another file")
            self.outside.append(Outside.told(entries, claimed_bytes(dims, dtype)))
            return _BITS[dtype]
        if is_raw and raw_bytes != math.ceil(claimed * _BITS[dtype] / 8):
            raise UnsoundError(f"a tensor claims {claimed} numbers and has {raw_bytes} bytes")
        if not is_raw and claimed > values * _PACKED:
            raise UnsoundError(f"a tensor claims {claimed} numbers and has {values}")
        return _BITS[dtype]

    def _entry(self, span: Span) -> dict[str, str]:
        found = {number: text(self._file, inner) for number, inner in self._spans(span, *_ENTRY)}
        return {found.get(1, ""): found.get(2, "")}

    def _sparse(self, span: Span) -> None:
        dims: list[int] = []
        bits = 0
        for number, value in fields(self._file, span):
            if number == _S_DIMS:
                dims += varints(self._file, value)
            elif number in (_S_VALUES, _S_INDICES) and not isinstance(value, int):
                with self._nothing_outside():
                    found = self._tensor(value)
                bits = found if number == _S_VALUES else bits
        self._dense_bytes += _product(dims) * bits // 8
        if self._dense_bytes > MAX_BYTES:
            raise UnsoundError(
                f"its sparse tensors are {self._dense_bytes} bytes in full, over {MAX_BYTES}"
            )


def _count_of(span: Span, number: int) -> int:
    return (span[1] - span[0]) // _NUMBERS[number]


def _product(dims: list[int]) -> int:
    if any(size >= 1 << 63 for size in dims):
        raise UnsoundError("a tensor has a negative size")
    return math.prod(dims)
