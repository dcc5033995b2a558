"""Means of whole maps and labels of pictures in; how well the one finds the other, within groups, out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._words import count
from histofast.datasets import Images
from histofast.explain.cam.definitions import NAMES, Method
from histofast.explain.cam.worth import DARKNESS, null_of
from histofast.explain.scoring import Score, score, score_differences
from histofast.learning import LEAST_GROUPS, Difference

OUTPUT = "output of the network"

Means = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ByLabels:
    """How well the mean of each source finds the pictures of a class among those of their group.

    Attributes:
        class_: name of the class, of the labels and of the maps.
        scores: of what is not drawn: the network's output, methods, darkness.
        anew: AUROC of the maps of each network with weights drawn anew, by method.
        differences: AUROC of each method less that of something else, adjusted for their number after Holm; of its
            null (`null_of`) less that of the draw with the highest.
        why_not: why there is none of these, in words; "": there are.
    """

    class_: str
    scores: Mapping[str, Score]
    anew: Mapping[str, tuple[float, ...]]
    differences: Mapping[tuple[str, str], Difference]
    why_not: str = ""


def by_labels(
    images: Images,
    class_: str,
    *,
    output: Means,
    maps: Mapping[Method, Means],
    nulls: Sequence[Mapping[Method, Means]],
    dark: Means,
    seed: int,
) -> ByLabels:
    """Hold means of maps against labels; pictures are compared within their group.

    Args:
        images: n, with one label each.
        class_: one of theirs.
        output: (n,) what the network says of it.
        maps: (n,) means, by method.
        nulls: the same of each network with weights drawn anew.
        dark: (n,) how dark pictures are.
        seed: of the intervals.
    """
    labels = images.targets == images.classes.index(class_)
    groups = np.array(images.groups)
    both = sum(len(np.unique(labels[groups == group])) > 1 for group in np.unique(groups))
    if both < LEAST_GROUPS:
        kind = count(both, images.group_kind)
        return ByLabels(
            class_=class_,
            scores={},
            anew={},
            differences={},
            why_not=f"pictures labelled {class_} and others are both in {kind}, {LEAST_GROUPS} are needed",
        )
    single = {OUTPUT: output, **{NAMES[m]: each for m, each in maps.items()}, DARKNESS: dark}
    drawn = {null_of(NAMES[m]): np.array([null[m] for null in nulls], np.float64) for m in maps}
    values = {name: np.asarray(each, np.float64) for name, each in (single | drawn).items()}
    names = [NAMES[m] for m in maps]
    pairs = [
        (one, other)
        for k, one in enumerate(names)
        for other in (null_of(one), OUTPUT, DARKNESS, *names[k + 1 :])
    ]
    return ByLabels(
        class_=class_,
        scores={name: score(values[name], labels, slides=groups, seed=seed) for name in single},
        anew={
            name: tuple(
                score(one, labels, slides=groups, resamples=1).auroc
                for one in values[null_of(name)]
            )
            for name in names
        },
        differences=score_differences(values, labels, pairs=pairs, slides=groups, seed=seed),
    )
