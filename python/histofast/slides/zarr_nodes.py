"""Documents of an OME-Zarr in, as its writer left them: attributes of groups, which picture is meant."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from histofast._remote import Address, Place
from histofast._words import clipped, listed, one_line
from histofast.errors import SlideError
from histofast.slides.tiff_pages import beside_name
from histofast.slides.tiff_scale import Ome, read_ome
from histofast.slides.zarr_store import GROUP_DOCUMENTS, MAX_DOCUMENT_BYTES, Store

_OME_XML = "OME/METADATA.ome.xml"
_MOST_IMAGES = 1000
_RAW_LAYOUT = "bioformats2raw.layout"


class Documents:
    """Reads the documents of a store, each once, and keeps what was read.

    Attributes:
        path: of the slide, for messages.
        store: where they lie.
        seen: documents by key.
    """

    def __init__(self, path: Place, store: Store) -> None:
        self.path, self.store = path, store
        self.seen: dict[str, bytes] = {}
        self._array_names = [".zarray", "zarr.json"]

    def where(self, key: str) -> str:
        """Name a place in the store for a message."""
        return f"{str(self.path).rstrip('/')}/{key}" if key else str(self.path)

    def place_of(self, key: str) -> Place:
        """Return the path or address of a key."""
        if isinstance(self.path, Address):
            return self.path.at(f"{self.path.key}/{key}")
        return self.path / key

    def read(self, key: str) -> dict[str, Any] | None:
        """Return the object of a JSON document; None where there is no document.

        Raises:
            SlideError: it cannot be read, is too long or holds something else.
        """
        try:
            text = self.store.read(key, most_bytes=MAX_DOCUMENT_BYTES)
            if text is None:
                return None
            self.seen[key] = text
            found = json.loads(text)
        except (OSError, ValueError, RecursionError) as error:
            why = clipped(one_line(getattr(error, "strerror", None) or error), 200)
            raise SlideError(f"{self.where(key)} cannot be read: {why}") from error
        if not isinstance(found, dict):
            raise SlideError(
                f"{self.where(key)} must hold a JSON object, got {type(found).__name__}"
            )
        return found

    def array(self, key: str) -> dict[str, Any]:
        """Return the document of an array.

        Raises:
            SlideError: there is none, or it cannot be read.
        """
        for name in self._array_names:
            found = self.read(f"{key}/{name}")
            if found is not None:
                return found if name == ".zarray" else {"node_type": None, **found}
        raise SlideError(
            f"{self.where(key)} is named as a level and not there: copy the slide again"
        )

    def attributes(self, key: str) -> dict[str, Any] | None:
        """Return what a group says of pictures, in whichever format; None where there is no group.

        Raises:
            SlideError: it cannot be read, or is an array.
        """
        prefix = f"{key}/" if key else ""
        group = self.read(f"{prefix}zarr.json")
        if group is not None:
            self._array_names.sort(key="zarr.json".__ne__)  # the likely one first
            if group.get("node_type") == "array":
                raise SlideError(f"{self.where(key)} is an array: name the image it is a level of")
            attributes = group.get("attributes")
            ome = attributes.get("ome") if isinstance(attributes, dict) else None
            return ome if isinstance(ome, dict) else {}
        if self.store.read(f"{prefix}.zarray", most_bytes=MAX_DOCUMENT_BYTES) is not None:
            raise SlideError(f"{self.where(key)} is an array: name the image it is a level of")
        found = [self.read(f"{prefix}{name}") for name in GROUP_DOCUMENTS[1:]]
        return None if found == [None, None] else found[1] or {}

    def ome_xml(self) -> Ome:
        """Return what the converter kept of the original's OME-XML, as far as it is sound."""
        try:
            text = self.store.read_part(_OME_XML, 0, MAX_DOCUMENT_BYTES)
        except (OSError, ValueError):
            text = None
        return read_ome((text or b"").decode(errors="replace"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """Which image of a store is the slide.

    Attributes:
        key: of its group.
        multiscale: what the group says of its levels.
        version: of OME-Zarr, as it says.
        beside: groups of label, macro, thumbnail, by name.
        objective_power: of the objective that took it; empty where nothing says.
    """

    key: str
    multiscale: Mapping[str, Any]
    version: str
    beside: Mapping[str, str]
    objective_power: str


def find_picture(documents: Documents) -> Picture:
    """Find the image in a store that is the slide.

    Raises:
        SlideError: there is none, or several are as good.
    """
    attributes = documents.attributes("")
    if attributes is None:
        raise SlideError(
            f"{documents.path} has no zarr.json, .zgroup or .zattrs, which OME-Zarr has: copy it again"
        )
    if "multiscales" in attributes:
        return _picture(documents, "", attributes)
    if _RAW_LAYOUT in attributes:
        return _of_series(documents)
    inside = [name for name in documents.store.folders("")[:_MOST_IMAGES] if name != "OME"]
    if "plate" not in attributes:
        inside = [name for name in inside if _has_picture(documents, name)]
        if not inside:
            raise SlideError(
                f"{documents.path} holds no image: its group says nothing of multiscales"
            )
    what = "a plate of wells" if "plate" in attributes else f"the images {listed(inside)}"
    example = "A/1/0" if "plate" in attributes else inside[0]
    raise SlideError(f"{documents.path} holds {what}: name one, as {documents.path}/{example}")


def _has_picture(documents: Documents, key: str) -> bool:
    try:
        return "multiscales" in (documents.attributes(key) or {})
    except SlideError:  # an array, or broken: none to be named
        return False


def _picture(documents: Documents, key: str, attributes: Mapping[str, Any]) -> Picture:
    multiscales = attributes["multiscales"]
    first = multiscales[0] if isinstance(multiscales, list) and multiscales else None
    if not isinstance(first, dict):
        raise SlideError(
            f"multiscales of {documents.where(key)} must be a list of objects, got {_said(multiscales)}"
        )
    version = first.get("version", attributes.get("version", ""))
    return Picture(key=key, multiscale=first, version=str(version), beside={}, objective_power="")


def _of_series(documents: Documents) -> Picture:
    """The one series that is no label, macro or thumbnail."""
    ome = documents.ome_xml()
    found: dict[str, tuple[str, Picture]] = {}
    for place, key in enumerate(_series(documents)):
        attributes = documents.attributes(key)
        if attributes is None or "multiscales" not in attributes:
            raise SlideError(
                f"{documents.where(key)} is named as an image and none: copy the slide again"
            )
        picture = _picture(documents, key, attributes)
        name = ome.images[place].name if place < len(ome.images) else ""
        found[key] = name or str(picture.multiscale.get("name", "")), picture
    scans = {key: each for key, each in found.items() if not beside_name(each[0])}
    if len(scans) != 1:
        said = [f"{key} ({name})" if name else key for key, (name, _) in (scans or found).items()]
        if not said:
            raise SlideError(f"{documents.path} holds no image: copy it again")
        example = next(iter(scans or found))
        raise SlideError(
            f"{documents.path} holds the images {listed(said)}: name one, as {documents.path}/{example}"
        )
    ((_, scan),) = scans.values()
    objectives = set(ome.magnifications.values())
    return Picture(
        key=scan.key,
        multiscale=scan.multiscale,
        version=scan.version,
        beside={beside_name(name): key for key, (name, _) in found.items() if key not in scans},
        objective_power=objectives.pop() if len(objectives) == 1 else "",
    )


def _series(documents: Documents) -> list[str]:
    """Groups of the images that bioformats2raw made, in the order of the original's."""
    listed_ones = (documents.attributes("OME") or {}).get("series")
    if isinstance(listed_ones, list):
        keys = [key for key in listed_ones if isinstance(key, str) and is_inside(key)]
        if len(keys) != len(listed_ones) or len(keys) > _MOST_IMAGES:
            raise SlideError(
                f"series of {documents.where('OME')} must name images, got {_said(listed_ones)}"
            )
        return keys
    numbered: list[str] = []
    while len(numbered) < _MOST_IMAGES and documents.attributes(str(len(numbered))) is not None:
        numbered.append(str(len(numbered)))
    return numbered


def is_inside(key: str) -> bool:
    """Whether a key stays in its store."""
    parts = key.split("/")
    return all(part and part not in (".", "..") and "\\" not in part for part in parts) and (
        "\0" not in key and ":" not in parts[0]
    )


def _said(value: object) -> str:
    return clipped(one_line(json.dumps(value)), 100)
