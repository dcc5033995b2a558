"""Images in, rows to train on, to choose by and to test out: by group, stratified by class."""

from __future__ import annotations

from histofast._numbers import whole_number
from histofast.datasets.images import Images
from histofast.learning import Fold
from histofast.learning import folds as deal


def split(images: Images, *, fold: int = 0, folds: int = 5, seed: int = 0) -> Fold:
    """Divide images into those that train, validate and test; no group is in two of them.

    Where splits are told they are kept; validation that they do not name is taken from train.

    Args:
        images: with targets.
        fold: which of the folds tests, 0..folds - 1; 0 where splits are told.
        folds: in how many the groups are dealt: one in so many tests, one in so many of the others
            validates.
        seed: of the draw.

    Raises:
        TypeError: no whole number.
        ValueError: a fold that is not there; as `learning.folds`.

    Determinism: by the seed.
    """
    folds = whole_number("folds", folds, at_least=2)
    if any(images.splits):
        if fold != 0:
            raise ValueError(f"fold must be 0 where the splits are told, got {fold}")
    else:
        fold = whole_number("fold", fold, at_least=0, at_most=folds - 1)
    try:
        return deal(images, n=folds, seed=seed)[fold]
    except ValueError as error:
        said = str(error)
        if not said.startswith("n must"):
            raise
        # What it calls n is `folds` here, and groups can be told otherwise.
        raise ValueError(
            f"folds{said[1:]}: ask for fewer, or tell smaller groups with group_column"
        ) from None
