"""Smaller training sets: nested, of whole groups, of every class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference_classify as reference
from extras import need

need("torch", "safetensors")

from histofast.datasets import Images
from histofast.learning import Fold
from histofast.studies import train_on_fewer, training_order


def images_of(groups, labels, *, task="classification"):
    n = len(groups)
    return Images(
        path=Path("pictures"),
        names=tuple(f"{i}.png" for i in range(n)),
        files=tuple(Path(f"{i}.png") for i in range(n)),
        task=task,
        classes=("a", "b"),
        targets=np.array(labels, np.int64 if task == "classification" else np.float64),
        groups=tuple(groups),
        group_kind="patient",
        splits=("",) * n,
        mpp=(None,) * n,
    )


def fold_of(train, *, n):
    rest = np.setdiff1d(np.arange(n), train)
    return Fold(train=np.array(train, np.int64), validation=rest[::2], test=rest[1::2])


@st.composite
def pictures(draw):
    n = draw(st.integers(2, 40))
    groups = draw(st.lists(st.integers(0, 8), min_size=n, max_size=n))
    labels = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
    train = sorted(draw(st.sets(st.integers(0, n - 1), min_size=1)))
    return [f"p{g}" for g in groups], labels, train


@given(found=pictures(), seed=st.integers(0, 99))
def test_the_order_is_that_of_the_definition(found, seed):
    groups, labels, train = found
    names = sorted({groups[i] for i in train})
    permuted = [names[i] for i in np.random.default_rng([5, seed]).permutation(len(names))]
    order = training_order(images_of(groups, labels), np.array(train), seed=seed)
    assert order.tolist() == reference.training_order(train, groups, labels, permuted)


@given(found=pictures(), seed=st.integers(0, 99))
def test_subsets_are_nested_and_all_groups_but_one_are_whole(found, seed):
    groups, labels, train = found
    images, fold = images_of(groups, labels), fold_of(train, n=len(groups))
    of = {g: {i for i in train if groups[i] == g} for g in set(groups)}
    before: set[int] = set()
    for size in range(1, len(train) + 1):
        if len({labels[i] for i in training_order(images, fold.train, seed=seed)[:size]}) < 2:
            with pytest.raises(
                ValueError, match=r"of every class, \d+ pictures? have none of [ab]"
            ):
                train_on_fewer(images, fold, size=size, seed=seed)
            continue
        smaller = train_on_fewer(images, fold, size=size, seed=seed)
        chosen = set(smaller.train.tolist())
        assert len(chosen) == size
        assert before <= chosen <= set(train)
        assert sum(0 < len(of[g] & chosen) < len(of[g]) for g in of) <= 1
        assert smaller.validation is fold.validation
        assert smaller.test is fold.test
        before = chosen


def test_classes_keep_their_shares():
    groups = [f"p{i // 10:02}" for i in range(400)]
    labels = [int(i % 10 < (7 if i // 10 % 4 else 0)) for i in range(400)]  # a fourth have a only
    images, fold = images_of(groups, labels), fold_of(range(400), n=400)
    whole = np.mean(labels)
    for size in (80, 120, 200):
        chosen = train_on_fewer(images, fold, size=size, seed=3).train
        assert images.targets[chosen].mean() == pytest.approx(whole, abs=0.06)


def test_pictures_of_several_labels_keep_their_shares():
    labels = [[i % 2, np.nan if i % 3 else 1] for i in range(60)]
    images = images_of([f"p{i}" for i in range(60)], labels, task="multilabel")
    chosen = train_on_fewer(images, fold_of(range(60), n=60), size=30, seed=0).train
    assert images.targets[chosen, 0].mean() == pytest.approx(0.5, abs=0.05)
    assert (images.targets[chosen, 1] == 1).mean() == pytest.approx(1 / 3, abs=0.05)


def test_another_seed_draws_other_groups():
    groups = [f"p{i // 2}" for i in range(80)]
    images, fold = images_of(groups, [i % 2 for i in range(80)]), fold_of(range(80), n=80)
    one, same, other = (
        train_on_fewer(images, fold, size=20, seed=s).train.tolist() for s in (0, 0, 1)
    )
    assert one == same
    assert one != other


@pytest.mark.parametrize("size", [0, 5])
def test_sizes_that_cannot_be(size):
    images = images_of(["p"] * 4, [0, 1, 0, 1])
    message = rf"sizes must be in 1\.\.4, the training pictures of a split, got {size}"
    with pytest.raises(ValueError, match=message):
        train_on_fewer(images, fold_of(range(4), n=4), size=size, seed=0)
