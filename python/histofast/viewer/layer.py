"""What may be laid over a slide: values of its patches, and what to know of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from numpy.typing import NDArray

if TYPE_CHECKING:
    from histofast.features import FeatureFile
    from histofast.viewer.catalogue import Entry


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """Values of the patches of one slide.

    Attributes:
        id: what the page asks for it by.
        name: as it is shown.
        group: of layers that belong together.
        kind: numbers, indices of `categories`, or colours.
        low, high: what the colours of a scalar begin and end with; None: its least and greatest value.
        categories: their names.
        note: what to know of it.
    """

    id: str
    name: str
    group: str
    kind: Literal["scalar", "category", "colour"] = "scalar"
    low: float | None = None
    high: float | None = None
    categories: tuple[str, ...] | None = None
    note: str | None = None


class Source(Protocol):
    """Where layers come from. Thread-safe."""

    def layers(self, entry: Entry, file: FeatureFile) -> list[Layer]:
        """Return the layers of a slide; nothing heavy is computed."""

    def notes(self, entry: Entry, file: FeatureFile) -> list[str]:
        """Say why there are no more of them, one sentence each."""

    def values(self, entry: Entry, file: FeatureFile, layer_id: str) -> NDArray[Any]:
        """Return (n,) float32 of a scalar, NaN: none; (n,) integers of categories, -1: none; (n, 3) uint8 colours."""
