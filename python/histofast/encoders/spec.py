"""What an encoder file says of itself: the metadata of the pixel-in form, read and written here.

The form: one input `pixels` uint8 (n, h, w, 3) RGB, one output `features` float32 (n, d), and the
metadata entries below, all of them text under the prefix `histofast.`. A *file of cuts* has several
outputs instead, each (n, d) and an encoder of its own; its entry `cuts` takes the place of `layer`
and `d`, and the names of its encoders begin with its own.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from histofast._files import regular_file
from histofast._numbers import mpp_number, whole_number
from histofast._words import clipped, one_line, printable
from histofast.encoders.hashing import checksums
from histofast.encoders.sizes import PatchSizes
from histofast.errors import ModelError

FORMAT = 1  # raised when a reader of the older form could misread a file of the newer one
PREFIX = "histofast."
INPUT, OUTPUT = "pixels", "features"
CUTS = f"{PREFIX}cuts"  # JSON: [{"output": ..., "name": ..., "layer": ..., "d": ...}, ...], maybe "work"
_CUT_FIELDS = {"output": str, "name": str, "layer": str, "d": int}
_CUT_OPTIONS = {"work": str}
_CUT_KINDS = _CUT_FIELDS | _CUT_OPTIONS
MOST_PX = 16_384  # side of a patch; above, one patch takes a GB
MOST_FEATURES = 1_000_000  # d; above, one row takes 4 MB
_SHOWN = 12  # cuts named in a line
_WIDEST = 60  # characters of a value in a message
NOT_STATED, RANDOM = "not stated", "random weights"  # instead of origin and licence
_LONGEST = 200  # characters of a name, which becomes that of a folder
_FOLDER = re.compile(rf"(?!\.+$)[^/\\\s]{{1,{_LONGEST}}}")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderMetadata:
    """What an encoder is made for and made of; written into the file by whoever exports it.

    `patch_px` and `mpp` are what it is meant for, not what it is limited to. `weights_sha256` is
    that of the source weights file, or "random" for a network that was never trained. One that takes
    other sizes only in steps from `patch_px`, as a U-Net does, has that as `step_px`. An encoder
    made from another file (wrapped, cut, of lower precision) has that file's sha256 as `made_from`
    and, where the two were compared, the outcome as `agreement`, a JSON object. One that gives the
    features of another along their principal axes says what these keep as `reduction`, a JSON object.
    A cut of a network of timm says as `work`, a JSON object, what it takes of a patch and of weights: `gmac`,
    billions of multiply-adds, `parameters`, and the shares of the whole network's, `gmac_share` and
    `parameters_share`.
    """

    name: str
    network: str
    layer: str
    d: int
    patch_px: int
    mpp: float
    precision: str
    weights_sha256: str
    provenance: str
    licence: str
    exporter: str
    made_from: str | None = None
    agreement: str | None = None
    step_px: int | None = None
    reduction: str | None = None
    work: str | None = None

    def __post_init__(self) -> None:
        for key, most in (("d", MOST_FEATURES), ("patch_px", MOST_PX), ("step_px", MOST_PX)):
            number = whole_number(key, getattr(self, key), at_least=1, at_most=most)
            object.__setattr__(self, key, number)
        mpp = mpp_number("mpp", self.mpp)
        if type(self.mpp) is not int:  # which stays as it is written in files
            object.__setattr__(self, "mpp", mpp)
        if not _FOLDER.fullmatch(self.name) or not self.name.isprintable():
            raise ValueError(
                f"name must be 1..{_LONGEST} characters without spaces, slashes and control "
                f"characters, not only dots, got {clipped(repr(self.name), _WIDEST)}"
            )

    @property
    def terms(self) -> str | None:
        """The licence in a line that can be shown; None where nobody stated one."""
        is_stated = self.licence.strip() not in ("", NOT_STATED, RANDOM)
        return printable(clipped(one_line(self.licence), _LONGEST)) if is_stated else None

    def to_props(self) -> dict[str, str]:
        """Return the metadata entries of the ONNX file, in writing order."""
        entries = {
            key: getattr(self, key)
            for key in _METADATA_FIELDS
            if key not in _OPTIONAL or getattr(self, key) is not None
        }
        return {PREFIX + key: str(value) for key, value in ({"format": FORMAT} | entries).items()}

    @staticmethod
    def from_props(props: Mapping[str, str], *, where: str) -> EncoderMetadata:
        """Read the entries back.

        Args:
            props: all metadata entries of the file; others than ours are ignored.
            where: what to call the file in messages.

        Raises:
            ModelError: an entry is missing or unreadable, or the format is newer than this reader.
        """
        if PREFIX + "format" not in props:
            raise ModelError(
                f"{where} lacks the metadata of the pixel-in form ('{PREFIX}format'): "
                "wrap it with `histofast models add`, or export it from its network with "
                "`histofast models export`"
            )
        if props[PREFIX + "format"] != str(FORMAT):
            raise ModelError(
                f"{where} is of encoder format {clipped(one_line(props[PREFIX + 'format']), _WIDEST)}, this histofast reads "
                f"{FORMAT}: update histofast, or export the encoder again"
            )
        values: dict[str, str | int | float] = {}
        for key in _METADATA_FIELDS:
            if PREFIX + key not in props:
                if key in _OPTIONAL:
                    continue
                raise ModelError(
                    f"{where} lacks the metadata entry '{PREFIX}{key}': export it again"
                )
            text = props[PREFIX + key]
            kind = _KINDS.get(key, str)
            try:
                values[key] = kind(text)
            except ValueError:
                raise ModelError(
                    f"{where}: metadata entry '{PREFIX}{key}' must be {kind.__name__}, "
                    f"got {clipped(repr(text), _WIDEST)}: export it again"
                ) from None
        try:
            return EncoderMetadata(**values)  # type: ignore[arg-type]
        except ValueError as error:
            raise ModelError(f"{where}: metadata: {error}: export it again") from None


_METADATA_FIELDS = tuple(field.name for field in fields(EncoderMetadata))
_OPTIONAL = ("made_from", "agreement", "step_px", "reduction", "work")
_OF_CUTS = ("layer", "d", "work")  # what cuts of a file differ in, beside their names
_KINDS = {"d": int, "patch_px": int, "mpp": float, "step_px": int}


def cut_name(name: str, layer: str) -> str:
    """Return what the encoder of one cut is called: a name that can be a folder's.

    Example:
        >>> cut_name("r18", "/layer1/Relu output")
        'r18-layer1-Relu-output'
    """
    return f"{name}-{re.sub('[^A-Za-z0-9._+-]+', '-', layer).strip('-')}"


def cuts_to_props(encoders: Mapping[str, EncoderMetadata], *, name: str) -> dict[str, str]:
    """Return the metadata entries of a file of cuts.

    Args:
        encoders: by the output that gives their features; they differ in name, layer, d and work only.
        name: of the file.

    Raises:
        ValueError: two encoders of one name, or none.
    """
    names = [encoder.name for encoder in encoders.values()]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"cuts must have different names, got {', '.join(names) or 'none'}")
    props = next(iter(encoders.values())).to_props()
    for key in _OF_CUTS:
        props.pop(PREFIX + key, None)
    entries = [
        {"output": output, "name": encoder.name, "layer": encoder.layer, "d": encoder.d}
        | ({} if encoder.work is None else {"work": encoder.work})
        for output, encoder in encoders.items()
    ]
    return props | {f"{PREFIX}name": name, CUTS: json.dumps(entries)}


def cuts_from_props(props: Mapping[str, str], *, where: str) -> dict[str, EncoderMetadata]:
    """Read the entries of a file of cuts back: encoders by output.

    Args:
        props: all metadata entries of the file, `CUTS` among them.
        where: what to call the file in messages.

    Raises:
        ModelError: an entry is missing or unreadable, or the format is newer than this reader.
    """
    encoders = {}
    for entry in _cut_entries(props, where):
        own = {f"{PREFIX}{key}": str(entry[key]) for key in ("name", *_OF_CUTS) if key in entry}
        encoders[entry["output"]] = EncoderMetadata.from_props({**props, **own}, where=where)
    return encoders


def refuse_cuts(props: Mapping[str, str], *, where: str) -> None:
    """Refuse a file of cuts where one encoder is wanted.

    Raises:
        ModelError: it is one; its cuts are named.
    """
    if CUTS not in props:
        return
    entries = _cut_entries(props, where)
    layers = [clipped(one_line(entry["layer"]), _WIDEST // 2) for entry in entries]
    shown = ", ".join(layers[:_SHOWN]) + (", ..." if len(layers) > _SHOWN else "")
    raise ModelError(
        f"{where} computes {len(layers)} cut{'s' * (len(layers) > 1)} in one run ({shown}), wanted one encoder: "
        "use it with extract or encoders.load_all, or export the one cut by itself"
    )


def _cut_entries(props: Mapping[str, str], where: str) -> list[dict[str, Any]]:
    """Return what the entry `CUTS` lists, as `_CUT_FIELDS` wants it."""
    try:
        entries = json.loads(props[CUTS])
    except (ValueError, RecursionError):
        entries = None
    fits = isinstance(entries, list) and all(
        isinstance(entry, dict)
        and entry.keys() - _CUT_OPTIONS.keys() == _CUT_FIELDS.keys()
        and all(type(entry[key]) is kind for key, kind in _CUT_KINDS.items() if key in entry)
        for entry in entries
    )
    distinct = fits and [len({entry[key] for entry in entries}) for key in ("output", "name")]
    if not distinct or min(distinct) < max(1, len(entries)):
        raise ModelError(f"{where}: metadata entry '{CUTS}' is not a list of cuts: export it again")
    return list(entries)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderSpec(EncoderMetadata):
    """An encoder file as it lies on disk: its metadata, its identity, the sizes it accepts.

    `height_px` and `width_px` are None where the graph takes any; `sha256` and `size_bytes` are of
    the file, or of the weights beside it and the file (`cat E.onnx.data E.onnx | sha256sum`), `output` the one of the graph that gives the features. `is_cut` is whether others lie beside it.
    """

    path: Path
    sha256: str
    size_bytes: int
    height_px: int | None
    width_px: int | None
    output: str = OUTPUT
    is_cut: bool = False

    @property
    def sizes(self) -> PatchSizes:
        """Which sides of patches it takes."""
        if self.height_px is not None:
            return PatchSizes(px=self.height_px, step_px=0)
        return PatchSizes(px=self.patch_px, step_px=self.step_px or 1)

    def derived(self, **changes: Any) -> EncoderMetadata:
        """Return the metadata of a file made from this one: its own, but for `changes`."""
        own = {key: getattr(self, key) for key in _METADATA_FIELDS}
        measured = {
            "agreement": None,
            "reduction": None,
        }  # of this file, not of what is made from it
        return EncoderMetadata(**own | {"made_from": self.sha256} | measured | changes)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits.

    Raises:
        FileNotFoundError: nothing is there.
        ModelError: it is no file.
    """
    return checksums([regular_file(Path(path), kind="file", error=ModelError)]).whole
