"""What an encoder file says of itself: the metadata of the pixel-in form, read and written here.

The form: one input `pixels` uint8 (n, h, w, 3) RGB, one output `features` float32 (n, d), and the
metadata entries below, all of them text under the prefix `histofast.`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from histofast.errors import ModelError

FORMAT = 1  # raised when a reader of the older form could misread a file of the newer one
PREFIX = "histofast."
INPUT, OUTPUT = "pixels", "features"


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderMetadata:
    """What an encoder is made for and made of; written into the file by whoever exports it.

    `patch_px` and `mpp` are what it is meant for, not what it is limited to. `weights_sha256` is
    that of the source weights file, or "random" for a network that was never trained. An encoder
    made from another file (wrapped, cut, of lower precision) has that file's sha256 as `made_from`
    and, where the two were compared, the outcome as `agreement`, a JSON object.
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

    def __post_init__(self) -> None:
        for key in ("d", "patch_px"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, got {getattr(self, key)}")
        if not 0.05 <= self.mpp <= 20:
            raise ValueError(f"mpp must be in 0.05..20 um/px, got {self.mpp}")
        if not self.name or any(c in "/\\" or c.isspace() for c in self.name):
            raise ValueError(
                f"name must be non-empty without spaces and slashes, got {self.name!r}"
            )

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
                f"{where} is of encoder format {props[PREFIX + 'format']}, this histofast reads "
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
            kind = {"d": int, "patch_px": int, "mpp": float}.get(key, str)
            try:
                values[key] = kind(text)
            except ValueError:
                raise ModelError(
                    f"{where}: metadata entry '{PREFIX}{key}' must be {kind.__name__}, "
                    f"got {text!r}: export it again"
                ) from None
        try:
            return EncoderMetadata(**values)  # type: ignore[arg-type]
        except ValueError as error:
            raise ModelError(f"{where}: metadata: {error}: export it again") from None


_METADATA_FIELDS = tuple(field.name for field in fields(EncoderMetadata))
_OPTIONAL = ("made_from", "agreement")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderSpec(EncoderMetadata):
    """An encoder file as it lies on disk: its metadata, its identity, the sizes it accepts.

    `height_px` and `width_px` are None where the graph takes any; `sha256` is that of the file.
    """

    path: Path
    sha256: str
    size_bytes: int
    height_px: int | None
    width_px: int | None

    def derived(self, **changes: Any) -> EncoderMetadata:
        """Return the metadata of a file made from this one: its own, but for `changes`."""
        own = {key: getattr(self, key) for key in _METADATA_FIELDS}
        return EncoderMetadata(**own | {"made_from": self.sha256, "agreement": None} | changes)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
