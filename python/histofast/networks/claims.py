"""What a torch file claims, told from its directory and the instructions of its pickles.

torch makes room for whatever a file says, and reads beyond a record that is shorter than its tensor.
So the claims are held against the file's size first; nothing is imported, called or allocated here.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

_DEEPEST = 100  # tuples within tuples: hashing them is recursion without a limit
_MAGIC = 0x1950A86A20F9469CFC6C  # what a torch file from before 1.6 begins with
_PICKLES = 5  # of such a file: magic, version, system, content, keys of the storages
# What a pickle of plain tensors imports, and the class without code that training scripts keep beside.
_OF_TENSORS = (
    *("torch.", "collections.", "numpy.", "_codecs.encode", "builtins.bytearray"),
    "argparse.Namespace",
)
_OF_MODULES = "torch.nn.modules."  # and one of whole modules, which are code
_ITEM_BYTES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
    "ComplexDoubleStorage": 16,
    "ComplexFloatStorage": 8,
    "QInt32Storage": 4,
    "QInt8Storage": 1,
    "QUInt8Storage": 1,
    "QUInt4x2Storage": 1,
    "QUInt2x4Storage": 1,
    "UntypedStorage": 1,
}


class BadClaimsError(Exception):
    """A file that is damaged or claims what it has not; the text goes into brackets."""


class HoldsCodeError(Exception):
    """A pickle that would import something else than tensors: its name."""


def check_claims(path: Path) -> None:
    """Refuse a torch file that torch could not read within the memory that its size asks for.

    Raises:
        BadClaimsError: damaged, or it claims more than it has.
        HoldsCodeError: damaged, and it would import something.
    """
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if is_zip:
            _check_archive(file, size)
        else:
            _check_pickles(_Clipped(file, size), size)


def _check_archive(file: BinaryIO, size: int) -> None:
    try:
        archive = zipfile.ZipFile(file)
        records = {entry.filename: entry.file_size for entry in archive.infolist()}
        if len(records) < len(archive.infolist()):
            raise BadClaimsError("two records of one name")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise BadClaimsError("compressed records, which torch does not write")
        if sum(records.values()) > size:
            raise BadClaimsError(f"records of {sum(records.values())} bytes in a file of {size}")
        folder = next(iter(records), "").partition("/")[0]
        content = _instructions(io.BytesIO(archive.read(f"{folder}/data.pkl")))
    except (BadClaimsError, HoldsCodeError):
        raise
    except Exception as error:  # noqa: BLE001  # zipfile raises whatever a number in the file leads to
        raise BadClaimsError(str(error) or type(error).__name__) from None
    for key, claimed in content.storages:
        there = records.get(f"{folder}/data/{key}")
        if there is None or claimed > there:
            raise BadClaimsError(f"storage {key} of {claimed} bytes, {there or 0} are there")


def _check_pickles(stream: _Clipped, size: int) -> None:
    content = [_instructions(stream)]
    if content[0].value != _MAGIC:
        raise _damaged("no pickle that torch wrote", content[0].imported)
    content += [_instructions(stream) for _ in range(_PICKLES - 1)]
    storages: dict[Any, int] = {}
    for key, claimed in (claim for part in content for claim in part.storages):
        storages[key] = max(claimed, storages.get(key, 0))
    there = size - stream.tell()
    if sum(storages.values()) > there:
        raise BadClaimsError(f"storages of {sum(storages.values())} bytes, {there} are there")


class _Clipped:
    """A file of which no more is asked than there is: `read` makes room for what it is asked for."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self.readline, self.tell = file.readline, file.tell

    def read(self, n: int) -> bytes:
        return self._file.read(max(0, min(n, self._size - self._file.tell())))


# --- The instructions of a pickle ------------------------------------------------------------


class _Name(str):
    """What a pickle would import."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class _Tuple:
    items: tuple[Any, ...]
    depth: int


@dataclass(slots=True)
class _Content:
    """What one pickle is: its value, if that is a number; what it imports; keys and bytes of storages."""

    value: Any = None
    imported: list[str] = field(default_factory=list)
    storages: list[tuple[Any, int]] = field(default_factory=list)


def _instructions(stream: io.BytesIO | _Clipped) -> _Content:
    """Follow the instructions of one pickle with values that stand for the real ones."""
    content = _Content()
    try:
        _follow(stream, content)
    except BadClaimsError as error:
        raise _damaged(str(error), content.imported) from None
    except Exception as error:  # noqa: BLE001  # pickletools raises whatever damaged bytes lead to
        # What a table of values lacks is told by its key alone.
        is_told = str(error) and not isinstance(error, KeyError)
        raise _damaged(str(error) if is_told else "damaged", content.imported) from None
    return content


def _damaged(reason: str, imported: list[str]) -> Exception:
    foreign = [
        name
        for name in imported
        if not name.startswith(_OF_TENSORS) or name.startswith(_OF_MODULES)
    ]
    return HoldsCodeError(foreign[0]) if foreign else BadClaimsError(reason)


def _follow(stream: io.BytesIO | _Clipped, content: _Content) -> None:
    stack: list[Any] = []
    marked: list[list[Any]] = []
    memo: dict[Any, Any] = {}
    for opcode, argument, _ in pickletools.genops(stream):  # type: ignore[arg-type]
        name = opcode.name
        if name == "STOP":
            content.value = stack.pop()
            return
        if name == "MARK":
            marked.append(stack)
            stack = []
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            items, stack = stack, marked.pop()
            if name == "TUPLE":
                stack.append(_tuple(items))
        elif name.startswith("TUPLE"):
            items = _popped(stack, int(name[-1]))
            stack.append(_tuple(items))
        elif name == "GLOBAL":
            content.imported.append(str(argument).replace(" ", "."))
            stack.append(_Name(content.imported[-1]))
        elif name == "STACK_GLOBAL":
            content.imported.append(".".join(map(str, _popped(stack, 2))))
            stack.append(_Name(content.imported[-1]))
        elif name in ("REDUCE", "NEWOBJ"):
            _check_call(*_popped(stack, 2))
            stack.append(None)
        elif name == "BINPERSID":
            content.storages.append(_storage(stack.pop()))
            stack.append(None)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in _TAKEN:
            _popped(stack, _TAKEN[name])
        elif name in _GIVEN:
            stack.append(argument)
        elif name not in _IGNORED:
            raise BadClaimsError(f"instruction {name}, which torch does not write")
    raise AssertionError("a pickle ends with STOP, or genops raises")


_TAKEN = {"APPEND": 1, "BUILD": 1, "SETITEM": 2}
_GIVEN = {"NONE", "NEWFALSE", "NEWTRUE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"}
_GIVEN |= {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}
_GIVEN |= {"SHORT_BINUNICODE"}  # of newer pickles, which torch refuses: names what they import
_IGNORED = {"PROTO", "FRAME"}


def _popped(stack: list[Any], n: int) -> list[Any]:
    if len(stack) < n:
        raise BadClaimsError("an instruction without its values")
    items = stack[-n:]
    del stack[-n:]
    return items


def _tuple(items: list[Any]) -> _Tuple:
    depth = 1 + max((item.depth for item in items if isinstance(item, _Tuple)), default=0)
    if depth > _DEEPEST:
        raise BadClaimsError(f"tuples within tuples, over {_DEEPEST} deep")
    return _Tuple(tuple(items), depth)


def _check_call(called: Any, arguments: Any) -> None:
    """Refuse what makes room for a number of things: `bytearray(n)`, `torch.Tensor(n)`."""
    makes = isinstance(called, _Name) and called.endswith(("bytearray", "Tensor"))
    if makes and isinstance(arguments, _Tuple) and any(type(a) is int for a in arguments.items):
        raise BadClaimsError(f"{called} of a size and no content")


def _storage(claim: Any) -> tuple[Any, int]:
    """Return the key and the bytes of a storage: ("storage", type, key, device, count, ...)."""
    if not isinstance(claim, _Tuple) or len(claim.items) < 5 or claim.items[0] != "storage":
        raise BadClaimsError("a reference to something else than a storage")
    _, kind, key, _, count = claim.items[:5]
    item_bytes = _ITEM_BYTES.get(kind.rpartition(".")[2]) if isinstance(kind, _Name) else None
    if item_bytes is None or type(count) is not int or count < 0 or isinstance(key, _Tuple):
        raise BadClaimsError(f"a storage of {count} x {kind}")
    return key, count * item_bytes
