"""One vector of each slide, as HDF5: no feature file, and passed over where those are looked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from histofast._files import replacing, write_error


def write_vectors(
    path: Path,
    vectors: NDArray[np.float32],
    *,
    slides: Sequence[str],
    n_patches: Sequence[int],
    told: Mapping[str, str],
    overwrite: bool = False,
) -> None:
    """Write `features` (b, k) float32, `slides` (b) texts and `n_patches` (b,) int64.

    Args:
        path: of the file.
        vectors: (b, k) float32.
        slides: (b) names.
        n_patches: (b) of each.
        told: attributes of the features.
        overwrite: replace an existing file.

    Raises:
        FileExistsError: it exists and `overwrite` is False.
        WriteError: it cannot be written, or the disk is full.

    Determinism: equal arguments give equal bytes with one h5py release.
    """
    with replacing(path, overwrite=overwrite) as pending:
        try:
            with h5py.File(pending, "w", libver=("earliest", "v110"), locking=False) as file:
                features = file.create_dataset("features", data=vectors.astype("<f4"))
                # What STAMP calls features of no patches: readers of those pass them over.
                features.attrs.update({**told, "feat_type": "slide"})
                file.attrs["feat_type"] = "slide"
                texts = [name.encode("utf-8", "backslashreplace") for name in slides]
                width = max(map(len, texts), default=1)
                kind = h5py.string_dtype("utf-8", width)
                file.create_dataset("slides", data=np.array(texts, f"S{width}").astype(kind))
                file.create_dataset("n_patches", data=np.array(n_patches, "<i8"))
        except (OSError, RuntimeError) as error:  # h5py reports a failed flush as RuntimeError
            raise write_error(path, error) from error
