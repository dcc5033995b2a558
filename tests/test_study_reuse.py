"""The study of reuse: its parts as jobs, what joins them, its words, what fails, what goes on after a kill."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest

import reference
from extras import need
from labelled_pictures import write_pictures

torch = need("torch", "safetensors", "matplotlib", "jinja2")

from safetensors.torch import save_file

from histofast import classify
from histofast.comparison import Alike, compare_pairs
from histofast.datasets import decode, open_images
from histofast.errors import ModelError
from histofast.explain import cam
from histofast.learning import Difference, Metric
from histofast.networks import Recorder, create
from histofast.report import Grid, Picture, Tile
from histofast.studies import Conditions, Reuse, conduct, look_ahead_of
from histofast.studies.reuse import (
    Changed,
    Kept,
    MapWorth,
    ReuseFound,
    Told,
    describe_reuse,
    keep,
    last_of_scales,
    limits_of,
    read_kept,
    worths_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK = "resnet18"
LAYERS = ("conv1", "layer2")
CONCEPTS = ("contrast", "brightness")
FEW = {
    "layers": LAYERS,
    "channels": 1,
    "steps": 2,
    "concepts": CONCEPTS,
    "folds": 3,
    "permutations": 2,
    "random_seeds": 2,
    "shown": 1,
    "sample": 4,
}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with pictures, weights and a run that began with them."""
    folder = tmp_path_factory.mktemp("reuse")
    write_pictures(folder / "stripes", n=96)
    save_file(create(NETWORK, seed=41).state_dict(), folder / "a.safetensors")
    recipe = classify.Recipe(epochs=2, batch_size=32, px=32, ema=0.0, lr=1e-3)
    classify.train(
        open_images(folder / "stripes" / "labels.csv"),
        network=NETWORK,
        start=folder / "a.safetensors",
        recipe=recipe,
        folds=2,
        out=folder / "run",
    )
    return folder


def study(given, out, **changes):
    told = {
        "network": NETWORK,
        "weights": given / "a.safetensors",
        "tuned": given / "run",
        "images": given / "stripes" / "labels.csv",
    }
    return Reuse(setting=Conditions(out=out), **{**told, **FEW, **changes})


@pytest.fixture(scope="module")
def conducted(given, tmp_path_factory):
    """The study, done: itself, its page's folder, what its JSON holds."""
    asked = study(given, tmp_path_factory.mktemp("study"))
    done = conduct(asked)
    return asked, done.path, json.loads((done.path / "reuse.json").read_text("utf-8"))


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- The plan ------------------------------------------------------------------------------------


def test_every_part_is_a_job_that_is_done_once(conducted):
    asked, path, _ = conducted
    planned, seconds = look_ahead_of(asked)
    assert [one.name for one in planned] == [
        "how much changed",
        "concepts",
        *(f"channels of {layer}" for layer in LAYERS),
        *(f"maps of {layer}" for layer in LAYERS),
    ]
    assert all(one.is_done for one in planned)
    assert seconds == 0
    seen = {p: p.stat().st_mtime_ns for p in path.rglob("done.json")}
    conduct(asked)
    assert {p: p.stat().st_mtime_ns for p in path.rglob("done.json")} == seen


def test_what_is_left_is_told_before_the_work(given, conducted, tmp_path):
    planned, seconds = look_ahead_of(study(given, tmp_path))
    assert not any(one.is_done for one in planned)
    assert seconds > 0
    assert not (tmp_path / "runs").exists()
    other = replace(conducted[0], steps=3)
    left = [one.name for one in look_ahead_of(other)[0] if not one.is_done]
    assert left == [f"channels of {layer}" for layer in LAYERS]


def test_the_last_block_of_each_scale_unless_layers_are_named(given, tmp_path):
    asked = study(given, tmp_path, layers=())
    assert asked.chosen == ("layer1", "layer2", "layer3", "layer4")
    network, sides = create("densenet121"), {}
    Recorder(network).run(
        np.zeros((1, 64, 64, 3), np.uint8), lambda name, maps: sides.update({name: maps.shape[-1]})
    )
    blocks = tuple(f"denseblock{k}" for k in (1, 2, 3, 4))
    assert last_of_scales(sides) == ("conv0", *blocks)
    assert last_of_scales({"a": 8, "b": 8}) == ("b",)


def test_pictures_that_trained_are_left_out_whatever_they_are_called(given, tmp_path):
    run = classify.open_run(given / "run")
    trained = {run.names[row] for row in run.fold.train}
    asked = study(given, tmp_path)
    assert asked.trained == len(trained)
    assert set(asked.given.images.names).isdisjoint(trained)
    assert len(asked.given.images) == 96 - len(trained)

    (tmp_path / "moved").mkdir()
    for file in (given / "stripes" / "img").iterdir():
        (tmp_path / "moved" / f"copy-{file.name}").write_bytes(file.read_bytes())
    moved = study(given, tmp_path, images=tmp_path / "moved")
    assert {name.removeprefix("copy-") for name in moved.given.images.names} == {
        name.removeprefix("img/") for name in asked.given.images.names
    }

    everything = study(given, tmp_path, with_trained=True)
    assert set(everything.given.images.names) == set(run.names)
    few = study(given, tmp_path, pictures=32)
    assert len(few.given.images) == 32


# --- What is joined ------------------------------------------------------------------------------


def test_how_much_changed_is_what_comparing_the_two_networks_gives(given, conducted, tmp_path):
    asked, path, found = conducted
    images = asked.given.images
    pixels = decode(images, cache=tmp_path, px=32).pixels
    networks = {
        "a": create(NETWORK, weights=given / "a.safetensors").eval(),
        "b": classify.open_run(given / "run").network(),
    }
    (alike,) = compare_pairs(
        [("a", "b")], networks.get, np.array(pixels), groups=images.groups, layers=LAYERS
    )
    assert [row["layer"] for row in found["layers"]] == list(LAYERS)
    np.testing.assert_allclose([row["cka"] for row in found["layers"]], alike.cka, rtol=1e-5)
    assert found["layers"]
    assert rows_of(path / "layers.csv")


def part_of(path, kind):
    return sorted((path / "runs").glob(f"{kind}-*"))


def test_concepts_are_those_that_explain_tells(conducted):
    _, path, found = conducted
    (folder,) = part_of(path, "concepts")
    theirs = json.loads((folder / "concepts.json").read_text("utf-8"))["r2"]
    names = {"pretrained": "start", "trained": "tuned"}
    assert [
        (row["concept"], row["layer"], names[row["network"]], row["r2"], row["above"])
        for row in theirs
    ] == [
        tuple(row[name] for name in ("concept", "layer", "network", "r2", "above"))
        for row in found["told"]
    ]
    for theirs_row, ours in zip(theirs, found["told"], strict=True):
        assert ours["null"] == max(theirs_row["random_high"], theirs_row["shuffled_high"])
    changed = json.loads((folder / "concepts.json").read_text("utf-8"))["changed"]
    assert [(row["concept"], row["layer"], row["r2"], row["r2_finding"]) for row in changed] == [
        (row["concept"], row["layer"], row["r2"], row["finding"]) for row in found["changed"]
    ]
    for row in found["layers"]:
        for network in ("start", "tuned"):
            above = [
                one
                for one in found["told"]
                if (one["layer"], one["network"], one["above"]) == (row["layer"], network, "yes")
            ]
            assert row[f"concepts_{network}"] == len(above)


def test_maps_and_channels_are_those_that_explain_shows(conducted):
    _, path, found = conducted
    worths = {}
    for folder in part_of(path, "maps"):
        told = json.loads((folder / "kept.json").read_text("utf-8"))["numbers"]
        page = json.loads((folder / "cam.json").read_text("utf-8"))
        worths[told["layer"]] = {row["source"]: row["deletion"] for row in page["worth"]}
    shown = {
        layer: {row["source"]: row["deletion"] for row in found["maps"] if row["layer"] == layer}
        for layer in LAYERS
    }
    assert shown == worths
    for row in found["layers"]:
        of_layer, own = worths[row["layer"]], worths[row["layer"]][cam.NAMES["hirescam"]]
        assert row["maps"] == pytest.approx(of_layer["random"] - own, abs=1e-12)
        assert row["darkness"] == pytest.approx(of_layer["darkness"] - own, abs=1e-12)
        null = of_layer["random"] - of_layer[cam.null_of(cam.NAMES["hirescam"])]
        assert row["null_lowest"] <= null <= row["null_highest"]
        assert row["maps"] - row["anew"] == pytest.approx(row["null_highest"], abs=1e-12)
    for folder in part_of(path, "channels"):
        told = json.loads((folder / "kept.json").read_text("utf-8"))["numbers"]
        page = json.loads((folder / "channels.json").read_text("utf-8"))
        ours = [row for row in found["channels"] if row["layer"] == told["layer"]]
        assert [row["strongest"] for row in ours] == [row["strongest"] for row in page["channels"]]
        assert [row["network"] for row in ours] == ["start", "tuned"]


def test_one_page_holds_all_and_leads_to_the_pages_of_the_parts(conducted):
    _, path, _ = conducted
    page = (path / "index.html").read_text("utf-8")
    for layer in LAYERS:
        assert f"{layer}: channel 0, start" in page
        assert f"{layer}: channel 0, tuned" in page
        assert f"{layer}: img/" in page
    assert "What this does not show" in page
    folders = [*part_of(path, "maps"), *part_of(path, "channels"), *part_of(path, "concepts")]
    for folder in folders:
        assert f'href="runs/{folder.name}/index.html"' in page
        assert (folder / "index.html").exists()


# --- What fails, and what goes on ----------------------------------------------------------------


def test_a_part_that_fails_is_named_and_the_rest_is_shown(given, conducted):
    asked = replace(conducted[0], folds=60)  # with the parts that are there already
    done = conduct(asked)
    found = done.answer
    assert [
        sentence
        for sentence in found.findings
        if "Not here, for they failed: concepts." in sentence
    ]
    failed = next(table for table in found.tables if table.name == "failed")
    (row,) = failed.rows
    assert row[0] == "concepts"
    assert "folds must be at most the number of groups" in row[1]
    assert {table.name for table in found.tables} == {"layers", "channels", "maps", "failed"}
    assert found.tables[0].records()[0]["concepts_start"] is None


def test_it_goes_on_where_it_was_interrupted(given, conducted, tmp_path, monkeypatch):
    def struck(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cam, "explain_pictures", struck)
    asked = study(given, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        conduct(asked)
    assert not (tmp_path / "index.html").exists()
    seen = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/done.json")}
    assert len(seen) == 4
    monkeypatch.undo()
    conduct(study(given, tmp_path))
    after = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/done.json")}
    assert seen.items() < after.items()
    found = json.loads((tmp_path / "reuse.json").read_text("utf-8"))
    assert found == conducted[2]


def test_what_a_part_leaves_comes_back(tmp_path, rng):
    pixels = rng.integers(0, 256, (3, 8, 8, 3), np.uint8)
    picture = Picture(pixels=pixels[0], alt="a", title="b", caption="c", heads=("d", "e"))
    grid = Grid(
        tiles=(
            Tile(pixels=pixels[1], row=0, column=0, side=2, tip="f"),
            Tile(pixels=pixels[2], row=0, column=2),
        ),
        alt="g",
        title="h",
    )
    keep({"x": 1.5, "y": None}, [picture, grid], out=tmp_path)
    job = parts_job(tmp_path)
    found = read_kept(job)
    assert found.numbers == {"x": 1.5, "y": None}
    one, other = found.panels
    assert (one.alt, one.title, one.caption, one.heads) == ("a", "b", "c", ("d", "e"))
    np.testing.assert_array_equal(one.pixels, pixels[0])
    assert (other.alt, other.title) == ("g", "h")
    assert [(t.row, t.column, t.side, t.tip) for t in other.tiles] == [
        (0, 0, 2, "f"),
        (0, 2, 1, ""),
    ]
    np.testing.assert_array_equal(other.tiles[1].pixels, pixels[2])

    kept = tmp_path / "kept.json"
    kept.write_text(kept.read_text("utf-8").replace("1.5", "2.5"))
    with pytest.raises(ModelError, match=r"kept.json .*: remove .* to make it anew"):
        read_kept(job)


def parts_job(folder):
    from histofast.jobs import Job

    return Job(name="part", folder=folder, identity={})


# --- Words, of planted numbers -------------------------------------------------------------------


def metric(value, half=0.01):
    return Metric(value=value, low=value - half, high=value + half)


def told(concept, layer, network, value, *, null=0.1):
    return Told(
        concept=concept,
        layer=layer,
        network=network,
        r2=metric(value),
        null=null,
        is_above=value - 0.01 > max(0.0, null),
    )


def apart(value, half=0.01):
    """A difference, told after Holm with twice its own interval."""
    return Difference(
        value=value,
        low=value - half,
        high=value + half,
        p=0.5,
        p_adjusted=0.5,
        low_adjusted=value - 2 * half,
        high_adjusted=value + 2 * half,
        confidence=0.95,
        n=6,
    )


def worth(random, anew, *, darkness=0.0, is_unchanged=False):
    return MapWorth(
        random=apart(random),
        anew=apart(anew),
        darkness=apart(darkness),
        draws=(random - anew - 0.01, random - anew),
        left=metric(0.7 if is_unchanged else 0.1),
        is_unchanged=is_unchanged,
        pictures=8,
        groups=6,
        rows=(),
    )


def planted(**changes):
    """Layer a hardly changed, b did; contrast is lost and brightness found in b."""
    values = {
        ("contrast", "a", "start"): 0.8,
        ("contrast", "a", "tuned"): 0.8,
        ("contrast", "b", "start"): 0.6,
        ("contrast", "b", "tuned"): 0.05,
        ("light_low", "a", "start"): 0.02,
        ("light_low", "a", "tuned"): 0.02,
        ("light_low", "b", "start"): 0.02,
        ("light_low", "b", "tuned"): 0.4,
    }
    findings = {("contrast", "b"): "worse", ("light_low", "b"): "better"}
    channels = {"channels": 64, "rows": []}
    found = {
        "layers": ("a", "b"),
        "alike": Alike(
            layers=("a", "b"),
            cka=np.array([0.97, 0.5]),
            low=np.array([0.96, 0.45]),
            high=np.array([0.98, 0.55]),
            cca=np.full(2, np.nan),
            n=64,
            groups=8,
        ),
        "told": tuple(told(*key, value) for key, value in values.items()),
        "changed": tuple(
            Changed(
                concept=concept,
                layer=layer,
                r2=metric(values[concept, layer, "tuned"] - values[concept, layer, "start"]),
                finding=findings.get((concept, layer), "not shown"),
            )
            for concept in ("contrast", "light_low")
            for layer in ("a", "b")
        ),
        "concepts": ("contrast", "light_low"),
        "constant": (),
        "channels": {
            "a": Kept(numbers={**channels, "dead": [0, 1], "together": {"value": 0.9}}, panels=()),
            "b": Kept(numbers={**channels, "dead": [2, 4], "together": {"value": 0.3}}, panels=()),
        },
        "maps": {},
        "worths": {"a": worth(0.01, -0.01), "b": worth(0.2, 0.17, darkness=0.1)},
        "links": {},
        "failed": {},
    }
    return ReuseFound(**{**found, **changes})


def test_words_follow_from_the_numbers():
    said = "\n".join(describe_reuse(planted()))
    assert (
        "CKA of start and tuned, 1 where fine-tuning changed nothing, is 0.970 (0.960 to 0.980) in a and 0.500 (0.450 to "
        "0.550) in b." in said
    )
    assert "It is the lowest in b. Each interval is of its own layer" in said
    assert "At the start: of 2 concepts, 1 in a and 1 in b are told above both nulls." in said
    assert "At the start: light low in no layer." in said
    assert "After tuning: of 2 concepts, 1 in a and 1 in b are told above both nulls." in said
    assert (
        "The tuned network is shown to tell better than the start, of 4 comparisons after Holm: light low in b "
        "(R2 +0.380, +0.370 to +0.390)." in said
    )
    assert (
        "to tell worse than the start, of 4 comparisons after Holm: contrast in b (R2 -0.550"
        in said
    )
    assert "is contrast in a of the start network: held-out R2 0.800 (0.790 to 0.810)" in said
    assert (
        "Maps of b find what the tuned network goes by: as their highest places are blanked first the probability falls "
        "further, by +0.200, +0.180 to +0.220 after Holm, than in random order, and by +0.170, +0.150 to +0.190 after "
        "Holm, than by the nearest of 2 networks with weights drawn anew." in said
    )
    assert (
        "blanked first: maps of a (+0.010, -0.010 to +0.030 after Holm less random order; " in said
    )
    assert (
        "Maps better than the plain darkness of places, by the same score: those of b (+0.1" in said
    )
    assert (
        "Maps not told from the plain darkness of places, by the same score: those of a (0." in said
    )
    assert "hardly depend on what was learnt" not in said
    assert "a median r of 0.900 in a and 0.300 in b." in said
    assert "Of 128 channels 2 are dead at the start, and 5 after tuning." in said
    assert "failed" not in said


def test_words_say_what_is_not_shown():
    alike = planted().alike
    unknown = replace(alike, low=np.full(2, np.nan), high=np.full(2, np.nan))
    same = tuple(replace(one, finding="not shown") for one in planted().changed)
    nothing = tuple(replace(one, r2=metric(0.05), is_above=False) for one in planted().told)
    said = "\n".join(
        describe_reuse(
            planted(
                alike=unknown,
                told=nothing,
                changed=same,
                constant=("nuclei_count",),
                worths={"a": worth(0.2, 0.1, is_unchanged=True)},
                failed={"maps of b": "no memory"},
            )
        )
    )
    assert "is 0.970 in a and 0.500 in b." in said
    assert "At the start: no layer tells any of 2 concepts above both nulls." in said
    assert "any concept better or worse than the start is not shown in 4 comparisons." in said
    assert "Furthest above" not in said
    assert "for all pictures have one value: nuclei count." in said
    assert "Maps of a hardly depend on what was learnt" in said
    assert "Not here, for they failed: maps of b." in said
    nothing_at_all = {
        "told": (),
        "changed": (),
        "channels": {},
        "worths": {},
        "alike": None,
        "concepts": (),
    }
    assert describe_reuse(planted(**nothing_at_all)) == ()


def test_maps_are_better_only_if_shown_against_random_order_and_against_the_null():
    assert worth(0.2, 0.1).is_above
    assert not worth(0.2, 0.019).is_above
    assert not worth(0.019, 0.2).is_above
    lost = replace(worth(0.2, 0.1), random=apart(math.nan))
    assert not lost.is_above


def test_maps_of_all_layers_are_told_together_picture_by_picture(rng):
    """Pictures differ by far more than sources do; layer a finds what the network goes by, b what is dark."""
    groups = [f"slide {k // 2}" for k in range(24)]
    level = np.repeat(rng.uniform(0.3, 0.9, 12), 2)

    def numbers(own, anew, darkness):
        def near(value):
            return (level + value + rng.normal(scale=0.01, size=24)).tolist()

        return {
            "groups": groups,
            "left": {"value": 0.1, "low": None, "high": None},
            "is_unchanged": False,
            "deletion": {
                "HiRes-CAM": [near(own)],
                cam.null_of("HiRes-CAM"): list(map(near, anew)),
                "darkness": [near(darkness)],
                "random": [near(-0.1), near(0.1)],
            },
            "rows": [],
        }

    found = worths_of(
        {"a": numbers(-0.2, (0.0, -0.1), 0.0), "b": numbers(-0.2, (0.1, -0.2), -0.2)}, seed=0
    )
    assert found["a"].is_above
    assert not found["b"].is_above
    assert found["b"].random.is_shown
    told = {layer: (one.random, one.anew, one.darkness) for layer, one in found.items()}
    assert [round(one.value, 1) for one in told["a"]] == [0.2, 0.1, 0.2]
    assert [round(abs(one.value), 1) for one in told["b"]] == [0.2, 0.0, 0.0]
    np.testing.assert_allclose(found["a"].draws, (0.0, 0.1), atol=0.01)
    p = np.array([one.p for of_layer in told.values() for one in of_layer])
    adjusted = [one.p_adjusted for of_layer in told.values() for one in of_layer]
    assert adjusted == pytest.approx(reference.holm(p))
    assert worths_of({}, seed=0) == {}


def test_what_must_not_be_concluded(given, conducted, tmp_path):
    asked = conducted[0]
    said = "\n".join(limits_of(asked, planted()))
    assert "one start and one run" in said
    assert "Each of 8 values of R2" in said
    assert "trained the tuned network" not in said
    everything = "\n".join(limits_of(replace(asked, with_trained=True), planted()))
    assert f"{asked.trained} of the 96 pictures there are to draw from trained" in everything
    alone = study(given, tmp_path, images=given / "stripes" / "img", with_trained=True)
    assert "Neither patients nor slides are told" in "\n".join(limits_of(alone, planted()))


# --- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"channels": 0}, ValueError, "channels must be at least 1, got 0"),
        ({"steps": "many"}, TypeError, "steps must be a whole number, got 'many'"),
        ({"pictures": 31}, ValueError, "pictures must be at least 32, got 31"),
        ({"folds": 2}, ValueError, "folds must be at least 3, got 2"),
        ({"sample": 0}, ValueError, "sample must be at least 1, got 0"),
        ({"concepts": ("contrst",)}, ValueError, "did you mean contrast"),
        ({"layers": ("layer9",)}, ModelError, "layer9"),
        (
            {"network": "resnet34"},
            ModelError,
            "tuned must be a run of resnet34, the network of the weights, got one of resnet18",
        ),
        ({"weights": "nowhere.safetensors"}, FileNotFoundError, "nowhere.safetensors"),
        ({"tuned": "nowhere"}, FileNotFoundError, "nowhere"),
    ],
)
def test_refuses(given, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        study(given, tmp_path, **changes)


def test_refuses_pictures_that_all_trained(given, tmp_path):
    run = classify.open_run(given / "run")
    images = open_images(given / "stripes" / "labels.csv")
    trained = images.part(run.fold.train)
    with pytest.raises(
        ValueError,
        match=r"images must be at least 32 that run was not trained on, got 0: have with_trained=True",
    ):
        study(given, tmp_path, images=trained)


def test_the_command_plans_and_names_its_flags(cli, given, conducted, tmp_path):
    base = [
        *("study", "reuse", "--network", NETWORK, "--weights", given / "a.safetensors"),
        *("--tuned", given / "run", "--images", given / "stripes" / "labels.csv"),
        *("--out", tmp_path),
    ]
    told = cli(*base, "--layers", *LAYERS, "--plan-only", "--json")
    assert told.code == 0, told.err
    assert [run["name"] for run in json.loads(told.out)["runs"]][:2] == [
        "how much changed",
        "concepts",
    ]
    bad = cli(*base, "--random-seeds", "0")
    assert bad.code != 0
    assert "--random-seeds must be at least 1, got 0" in "\n".join(bad.err)
