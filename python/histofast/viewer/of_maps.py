"""A folder of maps in, a layer of each table that lies on the patches of a slide out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from histofast._words import count
from histofast.viewer.layer import Layer
from histofast.viewer.maps import Mapped, Maps

if TYPE_CHECKING:
    from histofast.features import FeatureFile
    from histofast.viewer.catalogue import Entry


class OfMaps:
    """The layers of a folder of maps: a `Source`."""

    def __init__(self, folder: str | Path) -> None:
        """List the tables; Raises: as `Maps`."""
        self._maps = Maps(folder)

    def layers(self, entry: Entry, file: FeatureFile) -> list[Layer]:
        """See `Source`."""
        found, _ = self._found(entry, file)
        return [
            Layer(
                id=f"map-{number}",
                name=each.name,
                group="maps",
                note=None if each.places == 1 else f"mean of {each.places} places in each patch",
            )
            for number, each in enumerate(found)
        ]

    def notes(self, entry: Entry, file: FeatureFile) -> list[str]:
        """See `Source`; without words of files where names are hidden."""
        _, notes = self._found(entry, file)
        if notes and entry.name != entry.slide:
            return [f"{count(len(notes), 'table')} of values cannot be shown on this slide"]
        return notes

    def values(self, entry: Entry, file: FeatureFile, layer_id: str) -> NDArray[Any]:
        """See `Source`."""
        found, _ = self._found(entry, file)
        return found[int(layer_id.removeprefix("map-"))].values

    def _found(self, entry: Entry, file: FeatureFile) -> tuple[list[Mapped], list[str]]:
        if file.coords is None:
            return [], []
        return self._maps.of(entry.slide, file.coords, file.patch_l0)
