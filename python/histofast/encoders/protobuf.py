"""The fields of a protobuf message, read where they lie; what nobody asks for is skipped unread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

_MOST_FIELDS = 100_000  # of one message; graphs have thousands
_MOST_BYTES = 1 << 24  # of one text; ours have hundreds
_MOST_PACKED = 1024  # bytes of the sizes of one tensor
_HEAD = 20  # a key and a length take no more
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types

Span = tuple[int, int]  # of a file: from, to


class BrokenMessageError(Exception):
    """These bytes are no such message."""


def fields(file: BinaryIO, span: Span) -> Iterator[tuple[int, int | Span]]:
    """Yield number and value of each field of a message: a number, or where its bytes lie.

    Raises:
        BrokenMessageError: something goes beyond the message, or has no form of protobuf.
    """
    at, end = span
    for _ in range(_MOST_FIELDS):
        if at == end:
            return
        file.seek(at)
        head = file.read(min(_HEAD, end - at))
        key, used = _varint(head, 0)
        number, kind = key >> 3, key & 7
        value: int | Span
        if kind == _VARINT:
            value, used = _varint(head, used)
            size = 0
        elif kind == _BYTES:
            size, used = _varint(head, used)
            value = (at + used, at + used + size)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
            value = (at + used, at + used + size)
        else:
            raise BrokenMessageError(f"wire type {kind}")
        at += used + size
        if number == 0 or at > end:
            raise BrokenMessageError(f"field {number} up to byte {at} of {end}")
        yield number, value
    raise BrokenMessageError(f"more than {_MOST_FIELDS} fields")


def spans(file: BinaryIO, span: Span, *numbers: int) -> Iterator[tuple[int, Span]]:
    """Yield those fields of these numbers that have bytes.

    Raises:
        BrokenMessageError: as `fields`; or such a field is a number.
    """
    for number, value in fields(file, span):
        if number in numbers:
            if isinstance(value, int):
                raise BrokenMessageError(f"field {number} is a number")
            yield number, value


def text(file: BinaryIO, span: Span) -> str:
    """Return the text that lies there.

    Raises:
        BrokenMessageError: too long, or not UTF-8.
    """
    at, end = span
    if end - at > _MOST_BYTES:
        raise BrokenMessageError(f"a text of {end - at} bytes")
    file.seek(at)
    try:
        return file.read(end - at).decode()
    except UnicodeDecodeError as error:
        raise BrokenMessageError(str(error)) from None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number and where it ends: seven bits per byte, the lowest first."""
    number = 0
    for shift, byte in enumerate(data[at : at + 10]):
        number |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return number & 0xFFFF_FFFF_FFFF_FFFF, at + shift + 1
    raise BrokenMessageError("a number without end")


def varints(file: BinaryIO, value: int | Span) -> list[int]:
    """Return the numbers of one entry of a repeated field: one, or several packed together.

    Raises:
        BrokenMessageError: too many, or without end.
    """
    if isinstance(value, int):
        return [value]
    at, end = value
    if end - at > _MOST_PACKED:
        raise BrokenMessageError(f"{end - at} bytes of numbers")
    file.seek(at)
    data = file.read(end - at)
    numbers, used = [], 0
    while used < len(data):
        number, used = _varint(data, used)
        numbers.append(number)
    return numbers
