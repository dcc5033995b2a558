"""Features in, layers that need no model out: tissue, colours of features, groups of alike patches, choice, labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histofast.errors import FeatureError, HistofastError
from histofast.viewer.clusters import centres_of, nearest
from histofast.viewer.colours import Colouring, colouring_of
from histofast.viewer.keeping import Kept
from histofast.viewer.layer import Layer

if TYPE_CHECKING:
    from histofast.features import FeatureFile
    from histofast.viewer.catalogue import Catalogue, Entry

CLUSTERS = 8
MOST_SLIDES = 64  # of a sample of the cohort
SAMPLED = 8192  # patches of it
_SEED = 0
_KEPT_BYTES = 32 << 20
_ON_ALL = "on all slides alike: fitted on a sample of all feature files"


class OfFeatures:
    """The layers of feature files: a `Source`.

    Colours and groups are fitted once, on a sample of the patches of all slides that have features of the same
    encoder, so that they mean the same on each.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        """Take the slides whose features are sampled."""
        self._catalogue = catalogue
        self._colourings = Kept[Colouring](
            most_bytes=_KEPT_BYTES, weigh=lambda made: made.axes.nbytes
        )
        self._centres = Kept[NDArray[np.float32]](
            most_bytes=_KEPT_BYTES, weigh=lambda made: made.nbytes
        )

    def layers(self, entry: Entry, file: FeatureFile) -> list[Layer]:
        """See `Source`."""
        if not len(file.features):
            return []
        found = []
        if file.selection is not None:
            note = "of the run that chose which patches are encoded"
            found.append(
                Layer(id="choice", name="Attention that chose", group="attention", low=0, note=note)
            )
        if file.labels:
            names = tuple(sorted(set(file.labels) - {""}))
            found.append(
                Layer(
                    id="labels",
                    name="Labels of patches",
                    group="labels",
                    kind="category",
                    categories=names,
                )
            )
        groups = tuple(f"group {i + 1}" for i in range(CLUSTERS))
        found += [
            Layer(
                id="colours",
                name="Features as colours",
                group="features",
                kind="colour",
                note=f"the three directions in which features differ most, {_ON_ALL}",
            ),
            Layer(
                id="clusters",
                name="Groups of alike patches",
                group="features",
                kind="category",
                categories=groups,
                note=f"k-means, the largest group first, {_ON_ALL}",
            ),
        ]
        if file.tissue_fraction is not None:
            found.append(Layer(id="tissue", name="Share of tissue", group="tissue", low=0, high=1))
        return found

    def notes(self, entry: Entry, file: FeatureFile) -> list[str]:
        """See `Source`."""
        return []

    def values(self, entry: Entry, file: FeatureFile, layer_id: str) -> NDArray[Any]:
        """See `Source`.

        Raises:
            FeatureError: no features are finite.
        """
        if layer_id == "colours":
            return self._colourings.get(made_by(file), lambda: self._colouring(file)).of(
                file.features
            )
        if layer_id == "clusters":
            centres = self._centres.get(
                made_by(file), lambda: centres_of(self._sample(file), CLUSTERS)
            )
            return nearest(file.features, centres)
        if layer_id == "choice":
            assert file.selection is not None
            return file.selection.attention
        if layer_id == "labels":
            numbers = {name: i for i, name in enumerate(sorted(set(file.labels) - {""}))}
            return np.array([numbers.get(label, -1) for label in file.labels])
        assert file.tissue_fraction is not None
        return file.tissue_fraction

    def _colouring(self, file: FeatureFile) -> Colouring:
        return colouring_of(self._sample(file))

    def _sample(self, like: FeatureFile) -> NDArray[np.float32]:
        """Draw patches (<= 8,192, d) of slides with features of the same encoder, as many of each.

        Raises:
            FeatureError: none is finite.
        """
        rng = np.random.default_rng(_SEED)
        there = [entry.index for entry in self._catalogue.entries if entry.features is not None]
        drawn = sorted(rng.permutation(there)[:MOST_SLIDES].tolist())
        files = [
            file
            for file in map(self._opened, drawn)
            if file is not None and made_by(file) == made_by(like)
        ]
        files = files or [like]
        rows = []
        for file in files:
            n = len(file.features)
            chosen = np.sort(rng.choice(n, min(n, SAMPLED // len(files)), replace=False))
            rows.append(np.asarray(file.features[chosen], np.float32))
        sample = np.concatenate(rows)
        sample = sample[np.isfinite(sample).all(axis=1)]
        if not len(sample):
            raise FeatureError(f"features of {like.path} must be finite numbers, got none that are")
        return sample

    def _opened(self, index: int) -> FeatureFile | None:
        """What is broken says so where it is looked at."""
        try:
            return self._catalogue.features(index)
        except (FileNotFoundError, HistofastError):
            return None


def made_by(file: FeatureFile) -> tuple[int, str]:
    encoder = (file.identity or {}).get("encoder")
    return file.features.shape[1], str(encoder.get("sha256")) if isinstance(encoder, dict) else ""
