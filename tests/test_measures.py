"""The table of measures: each is its definition, keeps its claims, and can be asked for by its name."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import typer

import reference
from extras import need
from histofast.cli import app
from histofast.similarity import MEASURES, Change, Measure, Need, names_of

OF_FEATURES = names_of("rows", "pooled rows", "maps")


def matrices(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(60, 5)), rng.normal(size=(60, 7))
    x *= 1 + np.arange(5)
    y[:, :5] += 0.2 * x
    return x, y


def maps(seed):
    """10,000 places of four images, and more channels than are drawn."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4, 66, 50, 50))
    return x, x + rng.normal(size=x.shape)


def answers(seed):
    """Probabilities of two classifiers that are right more often than not, and the true classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=80)
    scores = 2 * np.eye(3)[labels] + rng.normal(size=(2, 80, 3))
    powers = np.exp(scores)
    x, y = powers / powers.sum(axis=2, keepdims=True)
    return x, y, labels


GIVEN = {
    "rows": matrices,
    "pooled rows": matrices,
    "maps": maps,
    "probabilities": lambda seed: answers(seed)[:2],
    "labels": answers,
}


def given(name, seed):
    return GIVEN[MEASURES[name].needs](seed)


# --- Each is what it says -------------------------------------------------------------------------


def test_every_measure_has_a_definition_and_every_need_an_input():
    assert set(MEASURES) == set(reference.MEASURES)
    assert set(GIVEN) == set(get_args(Need))
    assert [measure.name for measure in MEASURES.values()] == list(MEASURES)


# One seed of maps is enough: it is 10,000 places five times.
SEEDS = [(name, seed) for name in MEASURES for seed in range(1 if name == "published" else 3)]


@pytest.mark.parametrize(("name", "seed"), SEEDS)
def test_is_its_definition(name, seed):
    arrays = given(name, seed)
    value = MEASURES[name].function(*arrays)
    assert isinstance(value, float)
    assert value == pytest.approx(reference.MEASURES[name](*arrays), abs=1e-9)


@pytest.mark.parametrize("name", MEASURES)
def test_is_within_its_bounds_and_equals_give_what_it_says(name):
    measure = MEASURES[name]
    low, high = measure.bounds
    x, y, *labels = given(name, 0)
    assert low <= measure.function(x, y, *labels) <= high
    assert measure.function(x, x, *labels) == pytest.approx(measure.of_equals) or (
        measure.of_equals is None
    )
    if name in names_of("rows", "pooled rows"):
        rng = np.random.default_rng(1)
        unlike = [measure.function(*rng.normal(size=(2, 60, 5))) for _ in range(20)]
        assert low <= min(unlike) < max(unlike) < measure.of_equals


def changed(change, arrays, seed=5):
    """Two arrays with columns (the last axis) changed, each in its own way."""
    rng = np.random.default_rng(seed)
    if change == "exchange":
        return arrays[::-1]
    found = []
    for array in arrays:
        d = array.shape[-1]
        turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
        found.append(
            {
                "rotation": lambda a=array, q=turn: a @ q,
                "scale": lambda a=array: a * rng.uniform(2, 9),
                "shift": lambda a=array, d=d: a + rng.uniform(2, 9, size=d),
                "linear map": lambda a=array, q=turn, d=d: (a @ q) * rng.uniform(0.2, 5, size=d),
            }[change]()
        )
    return tuple(found)


@pytest.mark.parametrize("change", get_args(Change))
@pytest.mark.parametrize("name", MEASURES)
def test_is_unchanged_by_what_it_claims_and_by_nothing_else(name, change):
    measure = MEASURES[name]
    if name not in OF_FEATURES and change != "exchange":
        assert change not in measure.unchanged_by
        return
    x, y, *labels = given(name, 0)
    if measure.needs == "maps":  # channels are the columns
        moved = changed(change, tuple(np.moveaxis(a, 1, -1) for a in (x, y)))
        moved = tuple(np.moveaxis(a, -1, 1) for a in moved)
    else:
        moved = changed(change, (x, y))
    before, after = measure.function(x, y, *labels), measure.function(*moved, *labels)
    if change in measure.unchanged_by:
        assert after == pytest.approx(before, abs=1e-9)
    else:
        assert abs(after - before) > 1e-4


def test_titles_and_names_are_told_apart():
    for field in ("title", "formula"):
        assert len({getattr(measure, field) for measure in MEASURES.values()}) == len(MEASURES)
    assert all(measure.reference for measure in MEASURES.values())


# --- Who asks by name -----------------------------------------------------------------------------


def test_the_command_takes_these_names_and_shows_their_titles(cli):
    command = typer.main.get_command(app).commands["similarity"]
    options = {option.name: option for option in command.params}
    measure, preset = options["measure"], options["preset"]
    features = names_of("rows", "pooled rows")
    assert measure.metavar.split("|") == list(features)
    assert preset.metavar.split("|") == list(names_of("maps"))
    assert MEASURES["published"].formula in preset.help
    for name in features:
        assert f"{name} = {MEASURES[name].title}" in measure.help
        assert cli("similarity", "--measure", name).err[0].startswith("histofast: --a FILE --b FI")
    (line,) = cli("similarity", "--measure", "nccs").err
    assert line.startswith(
        f"histofast: invalid value for '--measure': must be one of {features[0]}"
    )
    assert f"{', '.join(features)}, got 'nccs'" in line


def test_names_cost_no_import_of_numpy():
    code = (
        "import sys\nfrom histofast.similarity import MEASURES\nimport histofast.cli\n"
        "assert MEASURES\nprint(*sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"numpy", "scipy"} & set(found.stdout.split())


@pytest.fixture(scope="module")
def two():
    """Two networks of one layer with a head, and pictures with labels."""
    need("torch")
    from histofast import graphs, networks

    pair = [networks.create("resnet18", layer="layer1", classes=2, seed=seed) for seed in (0, 1)]
    return pair, graphs.stained_noise(140, 32), np.arange(140) % 2


@pytest.mark.parametrize("name", OF_FEATURES)
def test_compare_takes_every_name_and_tells_its_title_and_formula(two, name):
    pair, images, labels = two
    from histofast import compare
    from histofast.comparison import answer_of

    measure = MEASURES[name]
    asked = {"preset": name} if name in names_of("maps") else {"measure": name, "mode": "pool"}
    quick = {"resamples": 0, "permutations": 0, "random_seeds": 0}
    layers = {"layers_a": ["layer1"], "layers_b": ["layer1"]}
    if name in names_of("maps"):
        images = np.repeat(images, 2, axis=0)
        labels = np.repeat(labels, 2)
    found = compare(*pair, images, labels=labels, **asked, **layers, **quick).comparison
    assert found.measure == measure.title
    assert found.convention["formula"] == measure.formula
    assert answer_of(found).method["formula"] == measure.formula
    assert measure.bounds[0] <= found.matrix[0, 0] <= measure.bounds[1]
    if found.predictions:
        predicted = names_of("probabilities", "labels")
        assert list(found.predictions) == [MEASURES[name].title for name in predicted]
        table = next(t for t in answer_of(found).tables if t.name == "predictions")
        assert [row[2] for row in table.rows] == [MEASURES[name].formula for name in predicted]
    else:
        assert name not in ("cka", "cka-rbf")


def test_compare_takes_no_other_name(two):
    pair, images, _ = two
    from histofast import compare

    for name in (*names_of("maps", "probabilities", "labels"), "nccs"):
        with pytest.raises(
            ValueError, match=f"measure must be cka, .* or knn-jaccard, got '{name}'"
        ):
            compare(*pair, images, measure=name, mode="pool")


def test_an_entry_is_all_that_compare_needs_of_a_new_measure(two, monkeypatch):
    pair, images, _ = two
    from histofast import compare

    own = Measure(
        name="mean-cosine",
        title="mean cosine",
        formula="mean of x_i y_i / (|x_i| |y_i|) over the rows",
        needs="rows",
        function=lambda x, y: float(
            ((x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)).mean()
        ),
        bounds=(-1, 1),
        of_equals=1,
        unchanged_by=frozenset({"scale", "exchange"}),
        reference="this test",
    )
    monkeypatch.setitem(MEASURES, own.name, own)
    layers = {"layers_a": ["layer1"], "layers_b": ["layer1"]}
    found = compare(pair[0], pair[0], images, measure=own.name, mode="pool", **layers).comparison
    assert found.matrix[0, 0] == pytest.approx(1, abs=1e-6)
    assert (found.measure, found.convention["formula"]) == (own.title, own.formula)
    with pytest.raises(ValueError, match=r"mode must be pool for mean-cosine, got 'flatten'$"):
        compare(*pair, images, measure=own.name)
