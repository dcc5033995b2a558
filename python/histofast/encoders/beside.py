"""Weights that lie beside an ONNX file: where, whether all of them are there, the checksum over all.

A file of protobuf ends at 2 GiB. An encoder that is larger is two files, `<name>.onnx` and
`<name>.onnx.data`, which belong together: the first has the checksum of the second in its metadata.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from histofast._files import refuse_stand_in, regular_file
from histofast._words import clipped, one_line
from histofast.encoders.checking import check_model
from histofast.encoders.form import read_form
from histofast.encoders.hashing import checksums
from histofast.encoders.soundness import Outside
from histofast.encoders.spec import PREFIX
from histofast.errors import ModelError

DATA_SUFFIX = ".data"  # behind the whole name of the ONNX file
DATA_SHA256 = f"{PREFIX}data_sha256"  # the metadata entry with the checksum of the other file
_DIGITS = 20  # of a place in a file, and no more
_WIDEST = 100  # characters of a name in a message


class Place(NamedTuple):
    """Where the numbers of a tensor lie: so many bytes from there in a file of that name."""

    location: str
    file: Path
    offset: int
    length: int


def places_of(path: Path, tensors: Sequence[Outside]) -> list[Place]:
    """Return where the numbers of tensors lie, having checked that all of them are there.

    Args:
        path: of the ONNX file.
        tensors: those that `check_sound` found outside of it.

    Raises:
        ModelError: a file is missing, too short, outside the folder, or less than is read of it.
    """
    files: dict[str, Path] = {}
    places = []
    for tensor in tensors:
        location = tensor.location
        if location not in files:
            files[location] = _data_file(path, location)
        ends = [tensor.offset or "0", tensor.length or "0"]
        if not all(end.isdecimal() and len(end) < _DIGITS for end in ends):
            raise ModelError(f"{path} does not say where its weights lie: export it again")
        offset, length = map(int, ends)
        length = length or tensor.claimed_bytes
        if offset + length > files[location].stat().st_size:
            raise ModelError(f"{files[location]} is truncated: copy or export {path.name} again")
        if length != tensor.claimed_bytes:
            raise ModelError(
                f"{path} has a tensor of {tensor.claimed_bytes} bytes and {length} bytes for it in "
                f"{_shown(files[location])}: export it again"
            )
        places.append(Place(location, files[location], offset, length))
    read_bytes = sum(place.length for place in places)
    there_bytes = sum(file.stat().st_size for file in set(files.values()))
    if read_bytes > there_bytes:  # tensors may name the same bytes again and again
        raise ModelError(
            f"{path} reads {read_bytes} bytes from {there_bytes} beside it: export it again"
        )
    return places


def files_of(path: Path) -> tuple[Path, ...]:
    """Return the files of an encoder, the ONNX file last, having checked that they hold its weights.

    Raises:
        FileNotFoundError: no such file.
        ModelError: no sound ONNX file; its weights are not there, or in more files than one.
    """
    tensors = check_model(path, external=True)
    if not tensors:
        return (path,)
    locations = {tensor.location for tensor in tensors}
    if len(locations) > 1:
        raise ModelError(
            f"{path} keeps its weights in {len(locations)} files, an encoder has at most one beside "
            "it: wrap it with `histofast models add`"
        )
    (location,) = locations
    if Path(location).name != location:
        raise _outside_its_folder(path)
    return places_of(path, tensors)[0].file, path


def identity_of(path: Path) -> tuple[str, int]:
    """Return SHA-256 and size of an encoder: over all of its files, `cat E.onnx.data E.onnx`.

    Raises:
        FileNotFoundError, ModelError: as `files_of`; the files are of two encoders.
    """
    files = files_of(path)
    found = checksums(files)
    if len(files) > 1:
        told = read_form(path).props.get(DATA_SHA256)
        if told is None:
            raise ModelError(
                f"{path} does not say which weights belong to it: wrap it with `histofast models add`"
            )
        check_of_one_making(path, files[0], told=told, got=found.data)
    return found.whole, sum(file.stat().st_size for file in files)


def check_of_one_making(path: Path, data: Path, *, told: str, got: str) -> None:
    """Refuse an encoder beside weights that are not its own, as a writer that was killed leaves it.

    Raises:
        ModelError: the checksum that it tells of them is not theirs.
    """
    if told != got:
        raise ModelError(
            f"{path} and {_shown(data)} are not of one making: copy both again, or export it again"
        )


def _data_file(path: Path, location: str) -> Path:
    # Hugging Face keeps both files as links into one folder.
    folders = {path.parent.resolve(), path.resolve().parent}
    try:
        file = (path.parent / location).resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle, a NUL
        file = path.parent.resolve()
    if folders.isdisjoint(file.parents):
        raise _outside_its_folder(path)
    try:
        regular_file(file, kind="weights file", error=ModelError)
    except FileNotFoundError:
        raise ModelError(
            f"{path} keeps its weights in {_shown(file)}, which is missing: put it beside the file"
        ) from None
    refuse_stand_in(file, error=ModelError)
    return file


def _outside_its_folder(path: Path) -> ModelError:
    return ModelError(
        f"{path} names weights outside its folder: export it again, or copy both files, not links to "
        "them, into one folder"
    )


def _shown(file: Path) -> str:
    return clipped(one_line(file.name), _WIDEST)
