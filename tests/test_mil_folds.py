"""Folds: every bag is tested once, no patient is on two sides, every class is everywhere."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from histofast.learning import folds


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """What `folds` asks of bags."""

    names: tuple[str, ...]
    task: str
    targets: np.ndarray
    classes: tuple[str, ...]
    patients: tuple[str, ...]
    splits: tuple[str, ...]

    def __len__(self):
        return len(self.names)

    @property
    def has_targets(self):
        return len(self.targets) == len(self)

    @property
    def groups(self):
        return tuple(p or name for p, name in zip(self.patients, self.names, strict=True))

    def part(self, rows):
        of_bags = {
            n: tuple(getattr(self, n)[i] for i in rows) for n in ("names", "patients", "splits")
        }
        return replace(self, targets=self.targets[rows], **of_bags)


def make(targets, *, patients=None, splits=None, task="classification", names=None):
    targets = np.asarray(targets)
    b = len(targets)
    return Cohort(
        names=tuple(names or (f"s{i:03}" for i in range(b))),
        task=task,
        targets=targets,
        classes=tuple(f"c{k}" for k in range(targets.max() + 1))
        if task == "classification"
        else (),
        patients=tuple(patients) if patients else ("",) * b,
        splits=tuple(splits) if splits else ("",) * b,
    )


@st.composite
def cohorts(draw):
    """Bags of 2 to 4 classes, with at least n (and 4) patients of each and 1 to 4 bags a patient."""
    n = draw(st.integers(2, 6))
    targets, patients = [], []
    for k in range(draw(st.integers(2, 4))):
        for i in range(draw(st.integers(max(n, 4), 3 * n))):
            bags = draw(st.integers(1, 4))
            targets += [k] * bags
            patients += [f"p{k}-{i}"] * bags
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(len(targets))
    return make(np.array(targets)[order], patients=[patients[i] for i in order]), n


def assert_lawful(found, bags):
    """Disjoint, whole, by patient, sorted; every bag tested once."""
    groups = np.array(bags.groups)
    for fold in found:
        parts = (fold.train, fold.validation, fold.test)
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(bags)))
        of_parts = [set(groups[part]) for part in parts]
        assert sum(map(len, of_parts)) == len(set.union(*of_parts))
        for part in parts:
            assert len(part)
            assert part.dtype == np.int64
            assert (np.diff(part) > 0).all()
    if len(found) > 1:
        tested = np.concatenate([fold.test for fold in found])
        np.testing.assert_array_equal(np.sort(tested), np.arange(len(bags)))


@given(cohort=cohorts(), seed=st.integers(0, 9))
@settings(max_examples=60)
def test_laws_of_classification(cohort, seed):
    bags, n = cohort
    found = folds(bags, n=n, seed=seed)
    assert len(found) == n
    assert_lawful(found, bags)
    groups = np.array(bags.groups)
    for k in range(len(bags.classes)):
        counts = [len(set(groups[f.test[bags.targets[f.test] == k]])) for f in found]
        assert min(counts) >= 1
        assert max(counts) - min(counts) <= 1
        for fold in found:
            assert (bags.targets[fold.train] == k).any()
            if sum(counts) - max(counts) >= 2:
                assert (bags.targets[fold.validation] == k).any()


@given(
    values=st.lists(st.floats(-9, 9, width=16), min_size=12, max_size=60),
    n=st.integers(2, 5),
    seed=st.integers(0, 9),
)
@settings(max_examples=40)
def test_laws_of_regression(values, n, seed):
    bags = make(values, task="regression")
    found = folds(bags, n=n, seed=seed)
    assert_lawful(found, bags)
    sizes = [len(fold.test) for fold in found]
    assert max(sizes) - min(sizes) <= 1


def test_values_are_spread():
    bags = make(np.arange(100.0), task="regression")
    for fold in folds(bags, n=5, seed=0):
        for part in (fold.train, fold.validation, fold.test):
            assert abs(bags.targets[part].mean() - 49.5) < 4


@given(seed=st.integers(0, 9), n=st.integers(2, 5))
@settings(max_examples=20)
def test_laws_of_survival(seed, n):
    rng = np.random.default_rng(seed)
    event = np.append(np.ones(5), rng.random(30) < 0.2)
    bags = make(np.stack([rng.random(35) + 0.1, event], axis=1), task="survival")
    found = folds(bags, n=n, seed=seed)
    assert_lawful(found, bags)
    counts = [bags.targets[fold.test, 1].sum() for fold in found]
    assert max(counts) - min(counts) <= 1


def test_one_in_n_of_the_others_validates():
    bags = make(np.arange(100) % 2)
    for fold in folds(bags, n=5, seed=0):
        assert [len(p) for p in (fold.train, fold.validation, fold.test)] == [64, 16, 20]
        assert bags.targets[fold.validation].mean() == 0.5


def test_two_folds_of_few_patients():
    """A single patient of class 1 is left over for each training part, and stays there."""
    bags = make([0, 0, 0, 0, 1, 1])
    found = folds(bags, n=2, seed=0)
    assert_lawful(found, bags)
    for fold in found:
        assert sorted(bags.targets[fold.train]) == [0, 1]
        assert bags.targets[fold.validation].tolist() == [0]
        assert sorted(bags.targets[fold.test]) == [0, 0, 1]


def test_patients_of_several_classes():
    """Each patient has slides of both classes: one to a fold serves both."""
    bags = make([0, 1] * 8, patients=[f"p{i // 2}" for i in range(16)])
    found = folds(bags, n=4, seed=1)
    assert_lawful(found, bags)
    for fold in found:
        assert [len(p) for p in (fold.train, fold.validation, fold.test)] == [8, 4, 4]


@given(data=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 15)), min_size=20, max_size=60))
@settings(max_examples=60)
def test_whatever_classes_a_patient_has_it_is_on_one_side(data):
    classes, patients = zip(*data, strict=True)
    bags = make(classes, patients=[f"p{i}" for i in patients])
    counts = [len({p for k, p in data if k == c}) for c in range(max(classes) + 1)]
    assume(min(counts) >= 6)
    assert_lawful(folds(bags, n=3, seed=0), bags)


def as_names(bags, found):
    return [
        [{bags.names[i] for i in part} for part in (fold.train, fold.validation, fold.test)]
        for fold in found
    ]


def test_the_seed_decides_and_the_order_of_bags_does_not():
    targets = np.arange(40) % 3
    names = [f"s{i:02}" for i in range(40)]
    bags = make(targets, names=names)
    first = as_names(bags, folds(bags, n=4, seed=7))
    assert first == as_names(bags, folds(bags, n=4, seed=7))
    assert first != as_names(bags, folds(bags, n=4, seed=8))
    back = make(targets[::-1], names=names[::-1])
    assert first == as_names(back, folds(back, n=4, seed=7))


class TestSplits:
    def test_as_told(self):
        splits = ["train", "test", "validation", "train", "test", "train"]
        (fold,) = folds(make([0, 1, 0, 1, 0, 1], splits=splits), n=5, seed=0)
        assert fold.train.tolist() == [0, 3, 5]
        assert fold.validation.tolist() == [2]
        assert fold.test.tolist() == [1, 4]

    def test_validation_is_taken_from_training(self):
        bags = make(np.arange(30) % 2, splits=["train"] * 20 + ["test"] * 10)
        (fold,) = folds(bags, n=5, seed=0)
        assert_lawful([fold], bags)
        assert fold.test.tolist() == list(range(20, 30))
        assert len(fold.validation) == 4
        assert set(bags.targets[fold.validation]) == {0, 1}

    @pytest.mark.parametrize(
        ("splits", "patients", "message"),
        [
            (["train"] * 4, None, "splits must have bags for test, got none"),
            (["test"] * 4, None, "splits must have bags for train, got none"),
            (
                ["train", "", "", "test"],
                None,
                "splits must be given for all bags, got none for 2",
            ),
            (
                ["train", "test", "train", "validation"],
                ["p", "p", "q", "q"],
                "splits must keep a patient's bags together, got 2 patients in several, first p",
            ),
        ],
    )
    def test_refused(self, splits, patients, message):
        with pytest.raises(ValueError, match=message):
            folds(make([0, 1, 0, 1], splits=splits, patients=patients), n=2, seed=0)


class TestRefused:
    def test_too_few_folds(self):
        with pytest.raises(ValueError, match="n must be at least 2, got 1"):
            folds(make([0, 1, 0, 1]), n=1, seed=0)

    def test_too_few_patients(self):
        bags = make([0, 1] * 6, patients=[f"p{i // 3}" for i in range(12)])
        with pytest.raises(ValueError, match="n must be at most the number of patients, 4, got 5"):
            folds(bags, n=5, seed=0)

    def test_a_rare_class(self):
        bags = make([0] * 8 + [1] * 3 + [2] * 8)
        with pytest.raises(
            ValueError,
            match="n must be at most the number of patients of every class, got 5 for 3 with "
            "class c1",
        ):
            folds(bags, n=5, seed=0)

    def test_few_events(self):
        targets = np.stack([np.ones(9), np.arange(9) < 2], axis=1).astype(float)
        with pytest.raises(ValueError, match="got 3 for 2 with event 1"):
            folds(make(targets, task="survival"), n=3, seed=0)

    def test_no_targets(self):
        bare = replace(make([0, 1, 0, 1]), targets=np.zeros(0))
        with pytest.raises(ValueError, match="bags must have targets to be stratified, got none"):
            folds(bare, n=2, seed=0)

    def test_nobody_left_to_validate(self):
        with pytest.raises(
            ValueError,
            match="bags must leave two patients of a class for training and validation, "
            "got 1 in all for them",
        ):
            folds(make([0.1, 0.2], task="regression"), n=2, seed=0)
        with pytest.raises(ValueError, match="got 2 in all for them"):
            folds(make([0, 0, 1, 1]), n=2, seed=0)
