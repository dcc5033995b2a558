"""What the file of a network of tissue says of itself: metadata of a graph from pixels to a mask.

The form: one input `pixels` uint8 (n, h, w, 3) RGB, one output `tissue` uint8 (n, h / cell_px, w / cell_px), 1
is tissue, and the entries below as text under the prefix `histofast.`, as encoders have theirs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from histofast._files import path_of, regular_file
from histofast._numbers import mpp_number, whole_number
from histofast._words import clipped, one_line
from histofast.encoders.beside import identity_of
from histofast.encoders.checking import check_not_empty
from histofast.encoders.form import Value, read_form
from histofast.encoders.spec import INPUT, PREFIX
from histofast.errors import ModelError

FORMAT = 1  # raised when a reader of the older form could misread a file of the newer one
TISSUE_FORMAT = f"{PREFIX}tissue_format"
TISSUE = "tissue"  # the output
MOST_PX = 4_096  # side of a tile; above, a few take a GB
_WIDEST = 60  # characters of a value in a message
_LONGEST = 200  # characters of a name
_WRAP = "wrap it with `histofast models add --tissue CLASSES`"


@dataclass(frozen=True, kw_only=True, slots=True)
class TissueMetadata:
    """What a network of tissue is made for and made of; written into the file by `graphs.wrap_tissue`.

    Attributes:
        name: what it is called.
        network: what the network that it was made of is called.
        tissue: what of that network's map is tissue, in words.
        mpp: um per pixel that it sees; exactly.
        tile_px: side of the squares that it sees.
        margin_px: of these, on every side, what is context only: the mask there is another square's.
        cell_px: pixels across, and down, that a pixel of its mask stands for.
        weights_sha256: of the file that it was made of.
        provenance, licence, exporter: as of an encoder.

    Raises:
        TypeError, ValueError: a number out of range, margins that leave nothing of a tile, or sides that
            are no whole number of cells.
    """

    name: str
    network: str
    tissue: str
    mpp: float
    tile_px: int
    margin_px: int
    cell_px: int
    weights_sha256: str
    provenance: str
    licence: str
    exporter: str

    def __post_init__(self) -> None:
        mpp = mpp_number("mpp", self.mpp)
        object.__setattr__(self, "mpp", mpp)
        for name, least in (("tile_px", 1), ("margin_px", 0), ("cell_px", 1)):
            number = whole_number(name, getattr(self, name), at_least=least, at_most=MOST_PX)
            object.__setattr__(self, name, number)
        if 2 * self.margin_px >= self.tile_px:
            raise ValueError(
                f"margin_px must leave something of a tile of {self.tile_px} px, got {self.margin_px}"
            )
        for name in ("tile_px", "margin_px"):
            if getattr(self, name) % self.cell_px:
                raise ValueError(
                    f"{name} must be a multiple of {self.cell_px} px, which a pixel of the mask stands "
                    f"for, got {getattr(self, name)}"
                )
        if not (1 <= len(self.name) <= _LONGEST and self.name.isprintable()):
            raise ValueError(
                f"name must be 1..{_LONGEST} printable characters, got "
                f"{clipped(repr(self.name), _WIDEST)}"
            )

    def to_props(self) -> dict[str, str]:
        """Return the metadata entries of the ONNX file, in writing order."""
        own = {each.name: getattr(self, each.name) for each in fields(TissueMetadata)}
        entries = {TISSUE_FORMAT: FORMAT} | {PREFIX + key: value for key, value in own.items()}
        return {key: str(value) for key, value in entries.items()}

    @staticmethod
    def from_props(props: Mapping[str, str], *, where: str) -> TissueMetadata:
        """Read the entries back.

        Raises:
            ModelError: an entry is missing or unreadable, or the format is newer than this reader.
        """
        if props[TISSUE_FORMAT] != str(FORMAT):
            told = clipped(one_line(props[TISSUE_FORMAT]), _WIDEST)
            raise ModelError(
                f"{where} is of tissue format {told}, this histofast reads {FORMAT}: update histofast, or "
                f"{_WRAP}"
            )
        values: dict[str, object] = {}
        for key, kind in _KINDS.items():
            text = props.get(PREFIX + key)
            try:
                if text is None:
                    raise ModelError(f"{where} lacks the metadata entry '{PREFIX}{key}': {_WRAP}")
                values[key] = kind(text)
            except ValueError:
                raise ModelError(
                    f"{where}: metadata entry '{PREFIX}{key}' must be {kind.__name__}, got "
                    f"{clipped(repr(text), _WIDEST)}: {_WRAP}"
                ) from None
        try:
            return TissueMetadata(**values)  # type: ignore[arg-type]
        except ValueError as error:
            raise ModelError(f"{where}: metadata: {error}: {_WRAP}") from None


_NUMBERS: dict[str, type] = {"mpp": float, "tile_px": int, "margin_px": int, "cell_px": int}
_KINDS: dict[str, type] = {
    each.name: _NUMBERS.get(each.name, str) for each in fields(TissueMetadata)
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TissueSpec(TissueMetadata):
    """A network of tissue as it lies on disk; `sha256` and `size_bytes` are as of an encoder."""

    path: Path
    sha256: str
    size_bytes: int


def read_tissue_spec(path: str | os.PathLike[str]) -> TissueSpec:
    """Return what the file of a network of tissue says of itself; no weight is read but for the checksum.

    Raises:
        FileNotFoundError: no such file.
        ModelError: it is no network of tissue.
    """
    path = path_of("path", path)
    check_not_empty(regular_file(path, kind="network of tissue", error=ModelError))
    form = read_form(path)
    if TISSUE_FORMAT not in form.props:
        if f"{PREFIX}format" in form.props:
            raise ModelError(
                f"{path} is an encoder, wanted a network of tissue: {_WRAP} from its own file"
            )
        raise ModelError(
            f"{path} lacks the metadata of a network of tissue ('{TISSUE_FORMAT}'): {_WRAP}"
        )
    if not (len(form.inputs) == len(form.outputs) == 1 and _fits(form.inputs[0], form.outputs[0])):
        shown = ", ".join(map(str, (*form.inputs, *form.outputs)))
        raise ModelError(
            f"{path} must take '{INPUT}' uint8 (n, h, w, 3) and give '{TISSUE}' uint8 (n, h, w), got "
            f"{clipped(shown, 200)}: {_WRAP}"
        )
    metadata = TissueMetadata.from_props(form.props, where=str(path))
    sides = form.inputs[0].shape[1:3]
    if any(isinstance(side, int) and side != metadata.tile_px for side in sides):
        raise ModelError(
            f"{path} says tiles of {metadata.tile_px} px, its input is {form.inputs[0]}: {_WRAP}"
        )
    sha256, size_bytes = identity_of(path)
    return TissueSpec(**asdict(metadata), path=path, sha256=sha256, size_bytes=size_bytes)


def _fits(given: Value, output: Value) -> bool:
    is_input = given.name == INPUT and given.dtype == "uint8" and len(given.shape) == 4
    is_output = output.name == TISSUE and output.dtype == "uint8" and len(output.shape) == 3
    return is_input and given.shape[3] == 3 and is_output
