"""What is compared: two networks, their layers, and the images that both see in one order."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import check
from histofast._tables import is_table, read_table
from histofast.comparison.source import Source
from histofast.graphs import Tap
from histofast.patches import (
    IMAGE_SUFFIXES,
    PatchImages,
    PatchSample,
    TissueOptions,
    sample_patches,
)

MIN_IMAGES = 32
FAR = 1_000_003  # from the seeds that people give the networks they compare


@dataclass(frozen=True, kw_only=True, slots=True)
class Subjects:
    """Two networks and n images.

    Attributes:
        a, b: what runs the networks.
        label_a, label_b: what to call them.
        pixels: (n, h, w, 3) uint8.
        group_of: (n,) the number of the group that each image belongs to.
        order: (n,) in which order the networks see the images: batches mix the groups.
        images_sha256: of the ids of the images in that order.
        pairs: (k, 2) places of the layers of the same name.
        classes: that both networks tell apart; 0: they have no heads of one size.
        labels: (n,) true classes; None: not known.
    """

    a: Source
    b: Source
    label_a: str
    label_b: str
    pixels: NDArray[np.uint8]
    group_of: NDArray[np.int64]
    order: NDArray[np.int64]
    images_sha256: str
    pairs: NDArray[np.int64]
    classes: int
    labels: NDArray[np.integer[Any]] | None

    @property
    def n_groups(self) -> int:
        return int(self.group_of.max()) + 1


def subjects_of(
    a: Any,
    b: Any,
    sample: PatchSample,
    *,
    sources: tuple[Source, Source],
    groups: Sequence[Any] | None,
    labels: NDArray[np.integer[Any]] | None,
    names: tuple[str | None, str | None],
    seed: int,
) -> Subjects:
    """Put together what `compare` is given; `sources` and `names` are of a and of b."""
    first, second = sources
    if len(sample) < MIN_IMAGES:
        raise ValueError(f"images must be at least {MIN_IMAGES}, got {len(sample)}")
    group_of = _groups_of(sample, groups)
    classes = _classes_of(a, b)
    order = np.random.default_rng(seed).permutation(len(sample))
    ids = [
        f"{sample.sources[i]}:{hashlib.sha256(sample.pixels[i].tobytes()).hexdigest()}"
        for i in order
    ]
    return Subjects(
        a=first,
        b=second,
        label_a=names[0] or _label(a, "a"),
        label_b=names[1] or _label(b, "b"),
        pixels=sample.pixels,
        group_of=group_of,
        order=order,
        images_sha256=hashlib.sha256("\n".join(ids).encode()).hexdigest(),
        pairs=pairs_of(first.names, second.names),
        classes=classes,
        labels=_labels_of(sample, labels, classes=classes),
    )


def source_of(network: Any, layers: Sequence[str] | None) -> Source:
    """Return what runs a network of torch, or an encoder file."""
    if isinstance(network, str | os.PathLike):
        return Tap(network, layers)
    from histofast.networks import Recorder

    return Recorder(network, layers)


def random_twins(network: Any, *, seed: int, n: int) -> list[Any]:
    """Return the same architecture with random weights n times, where the network says what it is."""
    if isinstance(network, str | os.PathLike):
        return []
    from histofast.networks import twin

    twins: list[Any] = []
    for i in range(n):
        other = twin(network, seed=seed + i)
        if other is None:
            return []
        twins.append(other)
    return twins


def _label(network: Any, otherwise: str) -> str:
    if isinstance(network, str | os.PathLike):
        return Path(network).stem
    return f"{network.architecture} {otherwise}"


def images_of(
    images: Any,
    network: Any,
    *,
    n: int,
    patch_px: int | None,
    mpp: float | None,
    tissue: TissueOptions | None,
    seed: int,
) -> PatchSample:
    """Return the images given, or drawn from slides or a table."""
    if isinstance(images, np.ndarray):
        check("images", images, "uint8", ("n", "h", "w", 3))
        return PatchSample(pixels=images, sources=tuple(f"image {i}" for i in range(len(images))))
    if isinstance(images, PatchSample):
        return images
    given: list[Any] = [images] if isinstance(images, str | Path | PatchImages) else list(images)
    if patch_px is None:
        own = getattr(network, "input_px", None) or Tap(network).spec.patch_px
        patch_px = int(own)
    table = given[0] if len(given) == 1 and _is_patch_table(given[0]) else None
    return sample_patches(
        None if table else given,
        patches=table,
        n=n,
        patch_px=patch_px,
        mpp=mpp or 0.5,
        tissue=tissue,
        seed=seed,
    )


def _groups_of(sample: PatchSample, groups: Sequence[Any] | None) -> NDArray[np.int64]:
    """Return the number of the group that each image belongs to."""
    if groups is not None and len(groups) != len(sample):
        raise ValueError(f"groups must be {len(sample)}, one per image, got {len(groups)}")
    named = np.asarray(sample.groups if groups is None else groups).astype(str)
    numbers: NDArray[np.int64] = np.unique(named, return_inverse=True)[1]
    return numbers


def pairs_of(names_a: Sequence[str], names_b: Sequence[str]) -> NDArray[np.int64]:
    """Return (k, 2) places of the layers of the same name."""
    found = [(i, names_b.index(name)) for i, name in enumerate(names_a) if name in names_b]
    return np.array(found, np.int64).reshape(-1, 2)


def batches_of(order: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Cut into batches; a last one of fewer than 8 images goes into the one before."""
    cuts = list(range(size, len(order), size))
    if cuts and len(order) - cuts[-1] < 8:
        cuts.pop()
    return np.split(order, cuts)


def _is_patch_table(path: str | Path | PatchImages) -> bool:
    if isinstance(path, PatchImages):
        return True
    if not is_table(Path(path)):
        return False
    table = read_table(Path(path))
    file = table.column("file")
    if file is None or table.column("slide") or table.column("patient"):
        return file is not None
    names = [row[file] for _, row in table.lines()]
    return all(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in names)


def _classes_of(a: Any, b: Any) -> int:
    """Return how many classes both networks tell apart, 0 if they have no heads of one size."""
    classes = int(getattr(a, "classes", 0))
    if not classes or classes != getattr(b, "classes", 0):
        return 0
    for name, network in (("a", a), ("b", b)):
        loaded = getattr(network, "loaded", None)
        if loaded is not None and loaded.head == "new":
            raise ValueError(
                f"weights of network {name} must hold a head of {classes} classes to compare "
                "predictions, got none: leave out the classes"
            )
    return classes


def _labels_of(
    sample: PatchSample, labels: NDArray[np.integer[Any]] | None, *, classes: int
) -> NDArray[np.integer[Any]] | None:
    """Return the labels given, or those of a table of patches as classes of the networks' heads."""
    if labels is not None:
        if len(labels) != len(sample):
            raise ValueError(f"labels must be {len(sample)}, one per image, got {len(labels)}")
        return labels
    if not classes or not any(sample.labels):
        return None
    for label in sample.labels:
        if not (label.isdecimal() and int(label) < classes):
            raise ValueError(
                f"labels of images must be class numbers 0..{classes - 1} to compare predictions, "
                f"got {label!r}"
            )
    return np.array([int(label) for label in sample.labels], np.int64)
