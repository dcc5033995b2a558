"""Two networks, layer by layer, on the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from histofast._progress import shows
from histofast.comparison.gram_sums import KERNELS, GramSums
from histofast.comparison.options import CompareOptions
from histofast.comparison.other_measures import by_pooled_features, by_protocol
from histofast.comparison.result import SimilarityResult
from histofast.comparison.source import Array, Mode, Source
from histofast.comparison.spatial import SpatialSums
from histofast.comparison.subjects import (
    FAR,
    Subjects,
    batches_of,
    images_of,
    random_twins,
    source_of,
    subjects_of,
)
from histofast.comparison.sums import turns_of
from histofast.patches import PatchSample, TissueOptions
from histofast.similarity import MEASURES, Comparison, names_of

RANDOM_SEEDS = 5  # the fewest whose range means something
_BATCH = 64  # n_b: its Gram costs little beside the forward pass, and is debiased


@shows("comparing images")
def compare(
    a: Any,
    b: Any,
    images: NDArray[np.uint8] | PatchSample | str | Path | Sequence[str | Path],
    *,
    layers_a: Sequence[str] | None = None,
    layers_b: Sequence[str] | None = None,
    mode: Mode = "flatten",
    measure: str = "cka",
    preset: Literal["published"] | None = None,
    n: int = 512,
    patch_px: int | None = None,
    mpp: float | None = None,
    tissue: TissueOptions | None = None,
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
    progress: bool | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> SimilarityResult:
    """Compare the layers of two networks on the same images.

    Args:
        a, b: networks of `histofast.networks.create`, torch modules of your own through
            `histofast.networks.adopt`, or encoders by name or path. Networks run where they are
            (`.cuda()`), and their Grams are computed there; encoder files run on the CPU.
        images: (n, h, w, 3) uint8, a sample of patches, or slides, a CSV table of patch images
            or `PatchImages` to draw `n` from.
        layers_a, layers_b: names of layers; None: the blocks (of an encoder file: its cuts).
        mode: "flatten" compares whole maps, "pool" their means over the picture, "spatial" their
            channels: a row is one place of one image, the finer of two maps averaged to the
            coarser. Places of one image are not independent, so it gives no interval.
        measure: of similarity, by its name in `histofast.similarity.MEASURES`. "cka", debiased, and
            "cka-rbf", with the median distance of each batch for its width (not in mode "spatial"),
            are for layers of any width; "cca", "svcca" and "pwcca" need mode "pool" and n well
            above the widths of two layers.
        preset: "published" repeats the protocol of Raghu 2019 and Juodelyte 2023 on layers of the
            same name instead: mean CCA of 64 channels at 10,000 places, 5 repeats.
        n: images to draw from slides or a table.
        patch_px: their side; None: what network a was designed for.
        mpp: um per pixel of patches from slides; None: 0.5.
        tissue: how tissue of slides is found.
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
        progress: show it as a line of text: True, False; None: in a notebook, unless `on_progress` hears it.
        on_progress: called with the images compared and those in all.

    Raises:
        ModelError: no such layer, or a network that fails.
        TypeError, ValueError: fewer than 32 images, arguments out of range, NaN or infinity in a
            layer (it is named).
    """
    options = CompareOptions(
        mode=mode,
        measure=measure,
        preset=preset,
        batch_size=batch_size,
        resamples=resamples,
        permutations=permutations,
        random_seeds=random_seeds,
        confidence=confidence,
        seed=seed,
    )
    sources = source_of(a, layers_a), source_of(b, layers_b)  # wrong names cost no reading
    subjects = subjects_of(
        a,
        b,
        images_of(images, a, n=n, patch_px=patch_px, mpp=mpp, tissue=tissue, seed=seed),
        sources=sources,
        groups=groups,
        labels=labels,
        names=(label_a, label_b),
        seed=seed,
    )
    if options.is_summed:
        twins = random_twins(a, seed=seed + FAR, n=options.random_seeds)
        random = [source_of(twin, layers_a) for twin in twins]
        return _result(subjects, options, _summed(subjects, options, random, on_progress))
    return _result(subjects, options, _by_pixels(subjects, options))


def _summed(
    subjects: Subjects,
    options: CompareOptions,
    random: Sequence[Source],
    on_progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """Add up over batches what a `Comparison` is made of; random networks share the batches."""
    batches = batches_of(subjects.order, options.batch_size)
    shared: dict[str, Any] = {
        "a": subjects.a,
        "b": subjects.b,
        "random": random,
        "turns": turns_of(len(batches), len(random)),
        "pairs": subjects.pairs,
        "permutations": options.permutations,
        "seed": options.seed,
        "keep_outputs": subjects.classes > 0,
    }
    sums: GramSums | SpatialSums
    if options.mode == "spatial":
        sums = SpatialSums(**shared)
    else:
        sums = GramSums(
            **shared,
            mode=options.mode,
            kernel=KERNELS[options.entry.name],
            group_of=subjects.group_of,
            resamples=options.resamples,
        )
    done = 0
    for batch in batches:
        sums.add(subjects.pixels[batch], batch)
        done += len(batch)
        if on_progress is not None:
            on_progress(done, len(subjects.order))
    found = sums.result(options.confidence, options.batch_size)
    if subjects.classes:
        outputs = [np.concatenate(given) for given in sums.outputs]
        found["predictions"] = _predictions(outputs, subjects.labels, subjects.order)
    return found


def _by_pixels(subjects: Subjects, options: CompareOptions) -> dict[str, Any]:
    """Compute a measure of all images at once."""
    pixels = subjects.pixels[subjects.order]
    if options.preset:
        return by_protocol(subjects.a, subjects.b, pixels, subjects.pairs, seed=options.seed)
    return by_pooled_features(
        subjects.a, subjects.b, pixels, measure=options.entry, batch_size=options.batch_size
    )


def _result(subjects: Subjects, options: CompareOptions, found: dict[str, Any]) -> SimilarityResult:
    measure = options.entry
    told = {"formula": measure.formula, "reference": measure.reference, **found.pop("convention")}
    told["loader"] = "the same images for both networks, in one order"
    if subjects.n_groups < len(subjects.pixels):
        told["pairs"] = (
            "pairs of images of one slide count as others do: what such images share (stain, "
            "scanner) raises similarity"
        )
    return SimilarityResult(
        comparison=Comparison(
            label_a=subjects.label_a,
            label_b=subjects.label_b,
            names_a=subjects.a.names,
            names_b=subjects.b.names,
            measure=measure.title,
            convention=told,
            n=len(subjects.pixels),
            groups=subjects.n_groups,
            images_sha256=subjects.images_sha256,
            pairs=subjects.pairs,
            confidence=options.confidence,
            **found,
        )
    )


def _predictions(
    outputs: Sequence[NDArray[np.float32]],
    labels: NDArray[np.integer[Any]] | None,
    order: NDArray[np.int64],
) -> Mapping[str, float]:
    """Return how alike two classifiers answer."""
    first, second = (_softmax(logits) for logits in outputs)
    found = {
        MEASURES[name].title: MEASURES[name].function(first, second)
        for name in names_of("probabilities")
    }
    if labels is not None:
        found |= {
            MEASURES[name].title: MEASURES[name].function(first, second, labels[order])
            for name in names_of("labels")
        }
    return found


def _softmax(logits: NDArray[np.float32]) -> Array:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: Array = powers / powers.sum(axis=1, keepdims=True)
    return probabilities
