"""Values of patches to lay over a slide."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from histofast.viewer.catalogue import Catalogue


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


class Layers:
    """The layers of each slide of a catalogue."""

    def __init__(
        self, catalogue: Catalogue, *, run: Path | None = None, explain: Path | None = None
    ) -> None:
        """Look up what there is; nothing heavy is computed."""
        self._catalogue = catalogue

    def run_told(self) -> dict[str, Any] | None:
        """Return name, classes and folds of the run, None without one."""
        return None

    def of(self, index: int) -> list[Layer]:
        """Return the layers of a slide."""
        return []

    def values(self, index: int, layer_id: str) -> NDArray[Any]:
        """Return the values of a layer.

        Raises:
            KeyError: the slide has no such layer.
        """
        raise KeyError(layer_id)

    def notes(self, index: int) -> list[str]:
        """Say why a slide lacks layers."""
        return []

    def close(self) -> None:
        """Let go of what is kept."""

    def prediction(self, index: int) -> dict[str, Any] | None:
        """Return what the run says of a slide: classes, their probabilities, the likeliest."""
        return None
