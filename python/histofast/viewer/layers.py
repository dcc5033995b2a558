"""The slides of a viewer, a run and a folder of maps in; what may be laid over each slide out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histofast.errors import FeatureError
from histofast.viewer.keeping import Kept, bytes_of
from histofast.viewer.layer import Layer, Source
from histofast.viewer.of_features import OfFeatures
from histofast.viewer.of_maps import OfMaps
from histofast.viewer.of_run import OfRun

if TYPE_CHECKING:
    from histofast.features import FeatureFile
    from histofast.viewer.catalogue import Catalogue

__all__ = ["Layer", "Layers"]

_KEPT_BYTES = 128 << 20


class Layers:
    """The layers of each slide of a catalogue. Thread-safe; values are computed when first asked for."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        run: str | Path | None = None,
        explain: str | Path | None = None,
    ) -> None:
        """Open what is given; nothing heavy is computed.

        Args:
            catalogue: the slides.
            run: folder of `train`; needs torch.
            explain: folder of what `histofast heatmap` wrote, see `maps`.

        Raises:
            ModuleNotFoundError: a run, and torch is not installed.
            FileNotFoundError, ModelError: no such run or folder, or a run that is not trained.
        """
        self._catalogue = catalogue
        self._run = None if run is None else OfRun(run)
        maps = None if explain is None else OfMaps(explain)
        given: tuple[Source | None, ...] = (self._run, maps, OfFeatures(catalogue))
        self._sources = tuple(source for source in given if source is not None)
        self._values = Kept[NDArray[Any]](most_bytes=_KEPT_BYTES, weigh=bytes_of)

    def run_told(self) -> dict[str, Any] | None:
        """Return name, classes and folds of the run, None without one."""
        return None if self._run is None else self._run.told()

    def of(self, index: int) -> list[Layer]:
        """Return the layers of a slide, those that are most asked for first.

        Raises:
            FileNotFoundError, FeatureError: its features cannot be read.
        """
        return [layer for _, layer in self._of(index)]

    def notes(self, index: int) -> list[str]:
        """Say why a slide has no more layers, one sentence each; nothing of features that cannot be read."""
        try:
            file = self._catalogue.features(index)
        except (FileNotFoundError, FeatureError):
            return []
        if file is None:
            return []
        entry = self._catalogue.entries[index]
        return [note for source in self._sources for note in source.notes(entry, file)]

    def values(self, index: int, layer_id: str) -> NDArray[Any]:
        """Return the values of a layer, one for each patch.

        Returns:
            (n,) float32 of a scalar, NaN where there is none, or of categories, -1 where there is none; (n, 3)
            uint8 of colours. Read-only.

        Raises:
            KeyError: the slide has no such layer.
            FileNotFoundError, FeatureError: its features cannot be read, or say nothing.
        """
        return self._values.get((index, layer_id), lambda: self._made(index, layer_id))

    def prediction(self, index: int) -> dict[str, Any] | None:
        """Return what the run says of a slide, if that is known without work; see `OfRun.prediction`."""
        return None if self._run is None else self._run.prediction(self._catalogue.entries[index])

    def prediction_of_patch(self, index: int, row: int) -> dict[str, Any] | None:
        """Return what the run says of a patch alone, None without one. Raises as `values`."""
        file = self._catalogue.features(index)
        if self._run is None or file is None:
            return None
        return self._run.of_patch(self._catalogue.entries[index], file, row)

    def close(self) -> None:
        """Let go of what is kept."""
        self._values.clear()

    def _of(self, index: int) -> list[tuple[Source, Layer]]:
        file = self._catalogue.features(index)
        if file is None:
            return []
        entry = self._catalogue.entries[index]
        return [(source, layer) for source in self._sources for layer in source.layers(entry, file)]

    def _made(self, index: int, layer_id: str) -> NDArray[Any]:
        source = next((source for source, layer in self._of(index) if layer.id == layer_id), None)
        if source is None:
            raise KeyError(layer_id)
        file = self._file(index)
        values = source.values(self._catalogue.entries[index], file, layer_id)
        values = np.array(values, np.uint8 if values.ndim == 2 else np.float32)
        values.flags.writeable = False
        return values

    def _file(self, index: int) -> FeatureFile:
        file = self._catalogue.features(index)
        assert file is not None
        return file
