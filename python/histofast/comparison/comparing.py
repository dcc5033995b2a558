"""Two networks, layer by layer, on the same images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import check
from histofast._tables import read_table
from histofast.comparison.gram_sums import GramSums
from histofast.comparison.other_measures import by_pooled_features, by_protocol
from histofast.comparison.result import SimilarityResult
from histofast.comparison.source import Array, Measure, Mode, Source
from histofast.comparison.spatial import SpatialSums
from histofast.comparison.sums import turns_of
from histofast.graphs import Tap
from histofast.patches import PatchSample, sample_patches
from histofast.similarity import (
    Comparison,
    Kernel,
    error_consistency,
    js_divergence,
    prediction_agreement,
    top1_disagreement,
)

MIN_IMAGES = 32
RANDOM_SEEDS = 5  # the fewest whose range means something
_BATCH = 64  # n_b: its Gram costs little beside the forward pass, and is debiased
_FAR = 1_000_003  # from the seeds that people give the networks they compare


def compare(
    a: Any,
    b: Any,
    images: NDArray[np.uint8] | PatchSample | str | Path | Sequence[str | Path],
    *,
    layers_a: Sequence[str] | None = None,
    layers_b: Sequence[str] | None = None,
    mode: Mode = "flatten",
    measure: Measure = "cka",
    kernel: Kernel = "linear",
    preset: Literal["published"] | None = None,
    n: int = 512,
    patch_px: int | None = None,
    mpp: float | None = None,
    groups: Sequence[Any] | None = None,
    labels: NDArray[np.integer[Any]] | None = None,
    batch_size: int = _BATCH,
    resamples: int = 1000,
    permutations: int | None = None,
    random_seeds: int = RANDOM_SEEDS,
    confidence: float = 0.95,
    seed: int = 0,
    label_a: str | None = None,
    label_b: str | None = None,
) -> SimilarityResult:
    """Compare the layers of two networks on the same images.

    Args:
        a, b: networks of `histofast.networks.create`, torch modules of your own through
            `histofast.networks.adopt`, or encoders by name or path. Networks run where they are
            (`.cuda()`), and their Grams are computed there; encoder files run on the CPU.
        images: (n, h, w, 3) uint8, a sample of patches, or slides or a CSV table of patch images to
            draw `n` from.
        layers_a, layers_b: names of layers; None: the blocks (of an encoder file: its cuts).
        mode: "flatten" compares whole maps, "pool" their means over the picture, "spatial" their
            channels: a row is one place of one image, the finer of two maps averaged to the
            coarser. Places of one image are not independent, so it gives no interval.
        measure: "cka" is debiased; the others need mode "pool" and n well above the widths of two
            layers.
        kernel: of cka: "linear", or "rbf" with the median distance of each batch for its width (not
            in mode "spatial").
        preset: "published" repeats the protocol of Raghu 2019 and Juodelyte 2023 on layers of the
            same name instead: mean CCA of 64 channels at 10,000 places, 5 repeats.
        n: images to draw from slides or a table.
        patch_px: their side; None: what network a was designed for.
        mpp: um per pixel of patches from slides; None: 0.5.
        groups: (n,) what images belong together; None: their patients where known, else
            their slides or bags, else each by itself.
        labels: (n,) true classes as whole numbers, for networks with a head; None: what a table
            of patches has as labels.
        batch_size: images whose Grams are taken together.
        resamples: of the groups, for the interval of layers of the same name; 0: none. Fewer than
            5 groups give none.
        permutations: of network b's images, for the null; 0: none; None: 99, in mode "spatial" 9.
        random_seeds: randomly initialised networks of a's architecture that it is compared with
            too, where that is known (not for ONNX files); 0: none. They share the batches, so that
            more cost no more; fewer than 5 say nothing about above or below.
        confidence: of interval and null.
        seed: of everything random.
        label_a, label_b: what to call the two.

    Raises:
        ModelError: no such layer, or a network that fails.
        TypeError, ValueError: fewer than 32 images, arguments out of range, NaN or infinity in a
            layer (it is named).
    """
    if permutations is None:
        permutations = 9 if mode == "spatial" else 99
    _check_options(
        mode,
        measure,
        kernel,
        preset,
        confidence,
        batch_size=(batch_size, 8),
        resamples=(resamples, 0),
        permutations=(permutations, 0),
        random_seeds=(random_seeds, 0),
    )
    first, second = _source(a, layers_a), _source(b, layers_b)
    sample, ids = _images(images, a, n=n, patch_px=patch_px, mpp=mpp, seed=seed)
    group_of = _groups_of(sample, groups)
    classes = _classes_of(a, b)
    labels = _labels_of(sample, labels, classes=classes)
    pairs = _pairs_of(first.names, second.names)
    order = np.random.default_rng(seed).permutation(len(sample))  # batches mix the groups
    if preset == "published":
        found = by_protocol(first, second, sample.pixels[order], pairs, seed=seed)
    elif measure == "cka":
        random = _random_twins(a, layers_a, seed=seed + _FAR, n=random_seeds)
        batches = _batches(order, batch_size)
        shared: dict[str, Any] = {
            "a": first,
            "b": second,
            "random": random,
            "turns": turns_of(len(batches), len(random)),
            "pairs": pairs,
            "permutations": permutations,
            "seed": seed,
            "keep_outputs": classes > 0,
        }
        sums: GramSums | SpatialSums
        if mode == "spatial":
            sums = SpatialSums(**shared)
        else:
            sums = GramSums(
                **shared, mode=mode, kernel=kernel, group_of=group_of, resamples=resamples
            )
        for batch in batches:
            sums.add(sample.pixels[batch], batch)
        found = sums.result(confidence, batch_size)
        if classes:
            outputs = [np.concatenate(given) for given in sums.outputs]
            found["predictions"] = _predictions(outputs, labels, order)
    else:
        found = by_pooled_features(first, second, sample.pixels[order], measure, batch_size)
    n_groups = int(group_of.max()) + 1
    found["convention"] |= _common(n_groups < len(sample))
    return SimilarityResult(
        comparison=Comparison(
            label_a=label_a or _label(a, "a"),
            label_b=label_b or _label(b, "b"),
            names_a=first.names,
            names_b=second.names,
            n=len(sample),
            groups=n_groups,
            images_sha256=hashlib.sha256("\n".join(ids[i] for i in order).encode()).hexdigest(),
            pairs=pairs,
            confidence=confidence,
            **found,
        )
    )


# --- What is compared --------------------------------------------------------------------------


def _source(network: Any, layers: Sequence[str] | None) -> Source:
    if isinstance(network, str | os.PathLike):
        return Tap(network, layers)
    from histofast.networks import Recorder

    return Recorder(network, layers)


def _random_twins(network: Any, layers: Sequence[str] | None, *, seed: int, n: int) -> list[Source]:
    """Return the same architecture with random weights n times, where the network says what it is."""
    if isinstance(network, str | os.PathLike):
        return []
    from histofast.networks import AdoptedNetwork, create

    twins: list[Source] = []
    for i in range(n):
        if isinstance(network, AdoptedNetwork):
            twin = network.twin(seed=seed + i)
            if twin is None:
                return []
        else:
            twin = create(
                network.architecture, layer=network.layer, classes=network.classes, seed=seed + i
            )
            twin.mean, twin.std = network.mean, network.std
        twins.append(_source(twin.to(next(network.parameters()).device), layers))
    return twins


def _label(network: Any, otherwise: str) -> str:
    if isinstance(network, str | os.PathLike):
        return Path(network).stem
    return f"{network.architecture} {otherwise}"


def _images(
    images: Any, network: Any, *, n: int, patch_px: int | None, mpp: float | None, seed: int
) -> tuple[PatchSample, list[str]]:
    if isinstance(images, np.ndarray):
        check("images", images, "uint8", ("n", "h", "w", 3))
        images = PatchSample(pixels=images, sources=tuple(f"image {i}" for i in range(len(images))))
    elif not isinstance(images, PatchSample):
        given = [images] if isinstance(images, str | Path) else list(images)
        if patch_px is None:
            own = getattr(network, "input_px", None) or Tap(network).spec.patch_px
            patch_px = int(own)
        table = given[0] if len(given) == 1 and _is_patch_table(given[0]) else None
        images = sample_patches(
            None if table else given,
            patches=table,
            n=n,
            patch_px=patch_px,
            mpp=mpp or 0.5,
            seed=seed,
        )
    if len(images) < MIN_IMAGES:
        raise ValueError(f"images must be at least {MIN_IMAGES}, got {len(images)}")
    digests = [hashlib.sha256(patch.tobytes()).hexdigest() for patch in images.pixels]
    return images, [f"{s}:{d}" for s, d in zip(images.sources, digests, strict=True)]


def _groups_of(sample: PatchSample, groups: Sequence[Any] | None) -> NDArray[np.int64]:
    """Return the number of the group that each image belongs to."""
    if groups is not None and len(groups) != len(sample):
        raise ValueError(f"groups must be {len(sample)}, one per image, got {len(groups)}")
    named = np.asarray(sample.groups if groups is None else groups).astype(str)
    numbers: NDArray[np.int64] = np.unique(named, return_inverse=True)[1]
    return numbers


def _pairs_of(names_a: Sequence[str], names_b: Sequence[str]) -> NDArray[np.int64]:
    """Return (k, 2) places of the layers of the same name."""
    found = [(i, names_b.index(name)) for i, name in enumerate(names_a) if name in names_b]
    return np.array(found, np.int64).reshape(-1, 2)


def _common(has_groups: bool) -> dict[str, str]:
    """Return the conventions of all measures."""
    told = {"loader": "the same images for both networks, in one order"}
    if has_groups:
        told["pairs"] = (
            "pairs of images of one slide count as others do: what such images share (stain, "
            "scanner) raises similarity"
        )
    return told


def _is_patch_table(path: str | Path) -> bool:
    if Path(path).suffix.lower() != ".csv":
        return False
    table = read_table(Path(path))
    has_bags = table.column("slide") or table.column("patient")
    return table.column("file") is not None and has_bags is not None


def _check_options(
    mode: str,
    measure: str,
    kernel: str,
    preset: str | None,
    confidence: float,
    **counts: tuple[int, int],
) -> None:
    """Refuse what does not exist; counts come with the least that each must be."""
    if mode not in ("flatten", "spatial", "pool"):
        raise ValueError(f"mode must be flatten, spatial or pool, got {mode!r}")
    if measure not in ("cka", "cca", "svcca", "pwcca"):
        raise ValueError(f"measure must be cka, cca, svcca or pwcca, got {measure!r}")
    if kernel not in ("linear", "rbf"):
        raise ValueError(f"kernel must be linear or rbf, got {kernel!r}")
    if kernel == "rbf" and (mode == "spatial" or measure != "cka" or preset):
        raise ValueError("kernel rbf is for cka of mode flatten or pool")
    if preset not in (None, "published"):
        raise ValueError(f"preset must be 'published' or None, got {preset!r}")
    if measure != "cka" and mode != "pool" and preset is None:
        raise ValueError(
            f"mode must be pool for {measure}, got {mode!r}: CCA of whole maps would need more "
            "images than numbers in a map"
        )
    for name, (value, least) in counts.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in 0..1, got {confidence}")


def _batches(order: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Cut into batches; a last one of fewer than 8 images goes into the one before."""
    cuts = list(range(size, len(order), size))
    if cuts and len(order) - cuts[-1] < 8:
        cuts.pop()
    return np.split(order, cuts)


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


def _predictions(
    outputs: Sequence[NDArray[np.float32]],
    labels: NDArray[np.integer[Any]] | None,
    order: NDArray[np.int64],
) -> Mapping[str, float]:
    """Return how alike two classifiers answer."""
    first, second = (_softmax(found) for found in outputs)
    found = {
        "Jensen-Shannon divergence (bits)": js_divergence(first, second),
        "share with another class": top1_disagreement(first, second),
    }
    if labels is not None:
        agreement = prediction_agreement(first, second, labels[order])
        found |= {
            "both right or both wrong": agreement.observed,
            "the same by chance": agreement.chance,
            "error consistency (kappa)": error_consistency(first, second, labels[order]),
        }
    return found


def _softmax(logits: NDArray[np.float32]) -> Array:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: Array = powers / powers.sum(axis=1, keepdims=True)
    return probabilities
