"""`extract --select`: which patches are chosen, what the files say of it, and that nothing else changes."""

from __future__ import annotations

import json
import pickle
import shutil
import time
from functools import partial

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import histofast
import reference
from extras import need
from histofast.errors import FeatureError, ModelError
from histofast.features import options_of, read_features, verify
from histofast.pipeline import (
    RunReport,
    Selection,
    SlideReport,
    attention_on,
    selected_rows,
    selected_sizes,
)
from small_slides import content, no_leftovers, run, write_slide
from tiny_encoder import write_encoder

need("torch", "histofast.mil")

from histofast.mil import TrainConfig, open_run, selection, train

# --- The definition ---------------------------------------------------------------------------------

SHARES = st.floats(0.01, 1)


@given(
    attention=st.lists(st.integers(0, 5), min_size=1, max_size=40),
    keep=SHARES,
    keep_random=st.floats(0, 1),
    seed=st.integers(0, 9),
)
@settings(max_examples=60)
def test_rows_are_as_defined(attention, keep, keep_random, seed):
    values = np.array(attention, np.float64)
    rows, highest = selected_rows(values, keep=keep, keep_random=keep_random, seed=seed)
    wanted, why = reference.selected_rows(values, keep, keep_random, seed)
    assert rows.tolist() == wanted
    assert highest.tolist() == why
    sizes = selected_sizes(len(values), keep=keep, keep_random=keep_random)
    assert sizes == (sum(why), len(why) - sum(why))
    assert set(values[rows[highest]]) >= {values.max()}


@pytest.mark.parametrize(
    ("n", "keep", "keep_random", "sizes"),
    [
        (1, 0.01, 0.1, (1, 0)),  # at least one
        (3, 0.01, 0.0, (1, 0)),
        (25, 0.1, 0.1, (3, 2)),  # 2.5 and 2.2
        (50, 0.29, 0.0, (15, 0)),  # 14.5 is a little less in the machine
        (30, 0.1, 1.0, (3, 27)),
        (7, 1.0, 0.1, (7, 0)),
        (100, 0.2, 0.1, (20, 8)),
    ],
)
def test_sizes_known_by_hand(n, keep, keep_random, sizes):
    assert selected_sizes(n, keep=keep, keep_random=keep_random) == sizes


def test_equal_attention_takes_the_earlier_rows_and_a_seed_the_same_others():
    rows, highest = selected_rows(np.zeros(10), keep=0.3, keep_random=0.3, seed=4)
    assert rows[highest].tolist() == [0, 1, 2]
    again, _ = selected_rows(np.zeros(10), keep=0.3, keep_random=0.3, seed=4)
    assert rows.tolist() == again.tolist()
    draws = {
        tuple(selected_rows(np.zeros(10), keep=0.3, keep_random=0.3, seed=s)[0]) for s in range(9)
    }
    assert len(draws) > 1
    assert len(selected_rows(np.zeros(0), keep=0.3)[0]) == 0


@given(
    seed=st.integers(0, 99),
    side=st.integers(1, 40),
    onto_side=st.integers(1, 40),
    m=st.integers(1, 8),
    n=st.integers(1, 8),
)
@settings(max_examples=40)
def test_attention_on_other_squares_is_as_defined(seed, side, onto_side, m, n):
    rng = np.random.default_rng(seed)
    corners, onto = (rng.integers(0, 60, (k, 2)) for k in (m, n))
    attention = rng.random(m)
    wanted = reference.attention_on(attention, corners, side, onto, onto_side)
    found = attention_on(attention, corners, side, onto_l0=onto, onto_side_l0=onto_side)
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_half_of_two_squares_is_their_mean():
    found = attention_on(
        np.array([1.0, 0.0]),
        np.array([[0, 0], [10, 0]]),
        10,
        onto_l0=np.array([[5, 0], [0, 0], [100, 100]]),
        onto_side_l0=10,
    )
    assert found.tolist() == [0.5, 1.0, 0.0]


# --- Whole runs -------------------------------------------------------------------------------------

NAMES = tuple(f"s{i}" for i in range(8))


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """Eight slides, a cheap and an expensive encoder, and a run on the features of the cheap one."""
    folder = tmp_path_factory.mktemp("selection")
    (folder / "slides").mkdir()
    for i, name in enumerate(NAMES):
        write_slide(folder / "slides" / f"{name}.tif", seed=i, size=(384, 320 + 64 * (i % 2)))
    cheap = write_encoder(folder / "cheap.onnx", name="cheap", d=4)
    costly = write_encoder(folder / "costly.onnx", name="costly", d=8)
    run(folder / "slides", folder / "cheap", cheap)
    run(folder / "slides", folder / "whole", costly)
    lines = ["slide,label", *(f"{name},{'no' if i % 2 else 'yes'}" for i, name in enumerate(NAMES))]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    for model in ("gated", "mean"):
        train(
            folder / "cheap",
            folder / "labels.csv",
            out=folder / model,
            model=model,
            config=TrainConfig(folds=2, epochs=2),
        )
    return folder


def chosen(stage, out, *, slides=None, encoder="costly.onnx", **options):
    how = {"keep": 0.3, "select_encoder": stage / "cheap.onnx"}
    names = ("keep", "keep_random", "seed", "select_encoder")
    how |= {name: options.pop(name) for name in names if name in options}
    select = selection(options.pop("run", stage / "gated"), **how)
    return run(
        stage / "slides" if slides is None else slides,
        out,
        stage / encoder,
        select=select,
        **options,
    )


def files(folder):
    return {path.stem: read_features(path) for path in folder.rglob("*.h5")}


def wanted_rows(stage, name, *, keep=0.3, keep_random=0.1, seed=0):
    from histofast.mil import attention_of

    learnt = open_run(stage / "gated")
    (cheap,) = (stage / "cheap").rglob(f"{name}.h5")
    attention = attention_of(learnt, read_features(cheap).features, folds=[learnt.fold_of(name)])
    rows, why = reference.selected_rows(attention, keep, keep_random, seed)
    return attention, np.array(rows), np.array(why)


def test_kept_rows_are_those_of_a_whole_extraction_bit_for_bit(stage, tmp_path):
    report = chosen(stage, tmp_path)
    whole, found = files(stage / "whole"), files(tmp_path)
    assert report.exit_code == 0
    assert sorted(found) == sorted(NAMES)
    for name, file in found.items():
        attention, rows, why = wanted_rows(stage, name)
        told = file.selection
        assert told.rows.tolist() == rows.tolist()
        assert told.by_attention.tolist() == why.tolist()
        assert 0 < why.sum() < len(why) < told.patches == len(whole[name].coords)
        np.testing.assert_allclose(told.attention, attention[rows], rtol=1e-6)
        np.testing.assert_array_equal(file.features, whole[name].features[rows])
        np.testing.assert_array_equal(file.coords, whole[name].coords[rows])
        np.testing.assert_array_equal(file.tissue_fraction, whole[name].tissue_fraction[rows])
        assert told.told["keep"] == 0.3
        assert told.told["keep_random"] == 0.1
        assert told.told["seed"] == 0
        assert told.told["encoder"] == "cheap"
        assert told.told["folds"] in ("0", "1")  # the one that has not seen the slide
        assert file.identity["select"]["run"] == told.told["run"]
    slide = report.slides[0]
    assert slide.tissue_patches == found[slide.name].selection.patches
    assert f"{slide.patches} patches of {slide.tissue_patches}" in slide.in_words()
    assert verify(tmp_path).is_whole
    assert not [note for note in report.notes if "read twice" in note]


def test_attention_is_on_colours_as_the_run_has_learnt_them(tmp_path):
    """Slides with a profile, a run on features by it; what is encoded keeps the colours as they are."""
    (tmp_path / "slides").mkdir()
    swapped = [0.15, 0.06, 1.0, 0.30, 0.60, 1.0, 0.64, 0.33, 1.0]
    icc = bytes(
        imagecodecs.cms_profile("rgb", whitepoint=[0.3127, 0.329, 1], primaries=swapped, gamma=2.2)
    )
    for i, name in enumerate(NAMES):
        size = (384, 320 + 64 * (i % 2))
        write_slide(tmp_path / "slides" / f"{name}.tif", seed=i, size=size, iccprofile=icc)
    for name, d in (("cheap", 4), ("costly", 8)):
        write_encoder(tmp_path / f"{name}.onnx", name=name, d=d)
    run(tmp_path / "slides", tmp_path / "cheap", tmp_path / "cheap.onnx", icc="srgb")
    run(tmp_path / "slides", tmp_path / "whole", tmp_path / "costly.onnx")
    lines = ["slide,label", *(f"{name},{'no' if i % 2 else 'yes'}" for i, name in enumerate(NAMES))]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    config = TrainConfig(folds=2, epochs=2)
    train(
        *(tmp_path / "cheap", tmp_path / "labels.csv"),
        out=tmp_path / "gated",
        model="gated",
        config=config,
    )
    report = chosen(tmp_path, tmp_path / "chosen")
    assert report.exit_code == 0
    whole = files(tmp_path / "whole")
    for name, file in files(tmp_path / "chosen").items():
        _, rows, _ = wanted_rows(tmp_path, name)
        assert file.selection.rows.tolist() == rows.tolist()
        np.testing.assert_array_equal(file.features, whole[name].features[rows])
        assert "icc" not in file.identity
        assert "icc srgb" in file.identity["select"]["patches_shown"]


def test_pixels_that_are_not_held_are_read_again_to_the_same_bytes(stage, tmp_path, monkeypatch):
    chosen(stage, tmp_path / "held")
    monkeypatch.setattr("histofast.pipeline.ranking.HELD_BYTES", 0)
    report = chosen(stage, tmp_path / "again")
    assert content(tmp_path / "held") == content(tmp_path / "again")
    assert [note for note in report.notes if "are read twice" in note]


def test_a_slide_that_the_run_does_not_know_is_asked_of_all_folds(stage, tmp_path):
    slide = write_slide(tmp_path / "new.tif", seed=99)
    chosen(stage, tmp_path / "out", slides=slide)
    (file,) = files(tmp_path / "out").values()
    assert file.selection.told["folds"] == "0,1"


def test_all_patches_are_kept_at_1(stage, tmp_path):
    chosen(stage, tmp_path, keep=1.0)
    for name, file in files(tmp_path).items():
        np.testing.assert_array_equal(file.features, files(stage / "whole")[name].features)
        assert file.selection.by_attention.all()


def test_a_resumed_run_equals_an_uninterrupted_one(stage, tmp_path):
    chosen(stage, tmp_path / "whole")
    some = [stage / "slides" / f"{name}.tif" for name in NAMES[:3]]
    chosen(stage, tmp_path / "parts", slides=some)
    report = chosen(stage, tmp_path / "parts", threads=1)
    assert len(report.of("skipped")) == 3
    assert content(tmp_path / "whole") == content(tmp_path / "parts")
    assert no_leftovers(tmp_path)


@pytest.mark.parametrize("other", [{"keep": 0.4}, {"keep_random": 0.2}, {"seed": 1}, None], ids=str)
def test_features_of_other_choices_do_not_mix(stage, tmp_path, other):
    chosen(stage, tmp_path)
    before = content(tmp_path)
    encode = partial(run, stage / "slides", tmp_path, stage / "costly.onnx")
    if other is not None:
        encode = partial(chosen, stage, tmp_path, **other)
    with pytest.raises(FeatureError, match=r"0\.3 by attention of run [0-9a-f]{12}, 0\.1 of the"):
        encode()
    assert content(tmp_path) == before


def test_chosen_features_do_not_go_into_a_folder_of_all(stage, tmp_path):
    run(stage / "slides" / "s0.tif", tmp_path, stage / "costly.onnx")
    with pytest.raises(FeatureError, match=r"select all patches, asked for is select 0\.3 by"):
        chosen(stage, tmp_path)


def test_options_tell_what_was_chosen(stage, tmp_path):
    chosen(stage, tmp_path, slides=stage / "slides" / "s0.tif")
    (file,) = files(tmp_path).values()
    assert options_of(file)["select"].startswith("0.3 by attention of run ")
    assert options_of(files(stage / "whole")["s0"])["select"] == "all patches"


def test_another_grid_is_read_a_second_time_and_shares_attention_by_area(stage, tmp_path):
    report = chosen(stage, tmp_path, patch_px=48, keep_random=0.0)
    said = "slides are read twice, for the encoder that chooses takes other patches"
    assert said in report.notes
    run(stage / "slides", tmp_path / "whole", stage / "costly.onnx", patch_px=48)
    whole, cheap = files(tmp_path / "whole"), files(stage / "cheap")
    (tmp_path / "whole").rename(tmp_path.parent / "moved")
    for name, file in files(tmp_path).items():
        attention, _, _ = wanted_rows(stage, name)
        onto = reference.attention_on(
            attention, cheap[name].coords, cheap[name].patch_l0, whole[name].coords, file.patch_l0
        )
        rows, _ = reference.selected_rows(onto, 0.3, 0.0, 0)
        assert file.selection.rows.tolist() == rows
        np.testing.assert_array_equal(file.features, whole[name].features[rows])


def test_ready_made_patches_are_chosen_too(stage, tmp_path):
    from histofast.slides import write_png

    rng = np.random.default_rng(0)
    (tmp_path / "p").mkdir()
    lines = ["file,slide"]
    for i in range(20):
        write_png(tmp_path / "p" / f"{i}.png", rng.integers(0, 256, (40, 40, 3), np.uint8))
        lines.append(f"p/{i}.png,b{i % 2}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")

    def encode(out, **more):
        return histofast.extract(
            patches=tmp_path / "t.csv", out=out, encoder=stage / "costly.onnx", patch_px=32, **more
        )

    encode(tmp_path / "whole")
    select = selection(stage / "gated", keep=0.4, select_encoder=stage / "cheap.onnx")
    report = encode(tmp_path / "some", select=select)
    assert report.exit_code == 0
    whole = files(tmp_path / "whole")
    for name, file in files(tmp_path / "some").items():
        assert (len(file.features), file.selection.patches) == (5, 10)  # 4 and 0.6 -> 1
        np.testing.assert_array_equal(file.features, whole[name].features[file.selection.rows])
        assert file.files == tuple(whole[name].files[row] for row in file.selection.rows)


def test_a_dry_run_counts_what_would_be_encoded(stage, tmp_path):
    report = chosen(stage, tmp_path, dry_run=True)
    done = chosen(stage, tmp_path / "out")
    told = {s.name: (s.patches, s.tissue_patches) for s in done.slides}
    assert {s.name: (s.patches, s.tissue_patches) for s in report.slides} == told
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_a_run_that_stops_does_not_wait_for_what_is_being_ranked(stage, tmp_path, monkeypatch):
    """The second slide is ranked for ever, as far as it goes, while the first one fails."""
    from histofast.encoders import EncoderSet

    (tmp_path / "a.tif").write_bytes(b"no slide")
    second = write_slide(tmp_path / "b.tif")
    encode, stopped = EncoderSet.encode, []

    def again_and_again(self, pixels):
        until = time.monotonic() + 1
        while self.specs[0].name == "cheap" and time.monotonic() < until:
            time.sleep(0.01)
        stopped.append(self.specs[0].name)
        return encode(self, pixels)

    monkeypatch.setattr(EncoderSet, "encode", again_and_again)
    slides = [tmp_path / "a.tif", second]
    report = chosen(stage, tmp_path / "out", slides=slides, fail_fast=True, batch_size=1)
    assert [slide.status for slide in report.slides] == ["failed", "interrupted"]
    assert len(stopped) < 10  # of 70 patches
    assert no_leftovers(tmp_path)
    monkeypatch.undo()
    assert chosen(stage, tmp_path / "out", slides=second).exit_code == 0  # no lock was left


def test_a_selection_goes_to_other_machines_without_its_folder(stage, tmp_path):
    shutil.copytree(stage / "gated", tmp_path / "run")
    made = selection(tmp_path / "run", select_encoder=stage / "cheap.onnx")
    shutil.rmtree(tmp_path / "run")
    there = pickle.loads(pickle.dumps(made))
    assert there.identity == made.identity
    features = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    found = [each.ranking.attention(features, folds=(0, 1)) for each in (made, there)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(("supply", "limit"), [(1.0, "choosing"), (3.0, "decoding")])
def test_waiting_for_the_cheap_encoder_is_not_told_as_decoding(supply, limit):
    seconds = {"rank": 2.0, "supply": supply, "wait": 3.0, "encode": 1.0}
    slide = SlideReport(name="s", path="s.tif", status="done", patches=1, seconds=seconds)
    report = RunReport(slides=[slide])
    report.find_limit()
    assert report.limit == limit


def test_a_slide_without_tissue_is_empty(stage, tmp_path):
    from slide_files import write_tiff

    blank = write_tiff(tmp_path / "b.tif", [np.full((256, 256, 3), 245, np.uint8)], mpp=1.0)
    report = chosen(stage, tmp_path / "out", slides=blank)
    assert [slide.status for slide in report.slides] == ["empty"]


# --- What is refused --------------------------------------------------------------------------------


def test_models_without_attention_are_refused(stage, tmp_path):
    with pytest.raises(
        ValueError, match=r"must attend to patches \(attention, gated, .*\), got mean"
    ):
        chosen(stage, tmp_path, run=stage / "mean")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep": 0}, "keep must be above 0 and at most 1, got 0"),
        ({"keep": 1.5}, "keep must be above 0 and at most 1, got 1.5"),
        ({"keep_random": -0.1}, "keep_random must be within 0..1, got -0.1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_numbers_out_of_range(stage, options, said):
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        selection(stage / "gated", **options)


def test_another_encoder_than_the_runs_is_refused(stage, tmp_path):
    other = write_encoder(tmp_path / "cheap.onnx", name="cheap", d=4, scale=1 / 254)
    with pytest.raises(ModelError, match="select_encoder must be cheap"):
        chosen(stage, tmp_path / "out", select_encoder=other)
    with pytest.raises(ModelError, match="give its file with select_encoder=FILE"):
        chosen(stage, tmp_path / "out", select_encoder=None)


def test_a_run_that_is_not_finished_is_refused(stage, tmp_path):
    shutil.copytree(stage / "gated", tmp_path / "run")
    (tmp_path / "run" / "fold-1" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="got no model of fold 1"):
        selection(tmp_path / "run")


def test_a_run_on_features_of_others_is_refused(stage, tmp_path):
    from toy_bags import write_toy

    features, labels = write_toy(tmp_path)
    for path in features.iterdir():
        np.save(path.with_suffix(".npy"), read_features(path).features)
        path.unlink()
    train(features, labels, out=tmp_path / "run", config=TrainConfig(folds=2, epochs=1))
    with pytest.raises(ValueError, match="must tell which encoder made its features, got none"):
        selection(tmp_path / "run")


def test_select_must_be_a_selection(stage, tmp_path):
    with pytest.raises(TypeError, match="select must be a Selection or None"):
        run(stage / "slides", tmp_path, stage / "costly.onnx", select="runs/abmil")


def test_broken_attention_is_refused():
    with pytest.raises(ValueError, match=r"attention must be \(n,\) and finite"):
        selected_rows(np.array([0.1, np.nan]), keep=0.5)


def test_a_heatmap_of_a_run_on_chosen_patches_asks_for_features(stage, tmp_path):
    from histofast.explain import attention_of_run

    chosen(stage, tmp_path / "some")
    config = TrainConfig(folds=2, epochs=1)
    train(tmp_path / "some", stage / "labels.csv", out=tmp_path / "run", config=config)
    slide = stage / "slides" / "s0.tif"
    with pytest.raises(ValueError, match="trained on patches that another run chose"):
        attention_of_run(tmp_path / "run", slide, encoder=stage / "costly.onnx")
    (features,) = (tmp_path / "some").rglob("s0.h5")
    found = attention_of_run(tmp_path / "run", slide, features=features)
    assert len(found.folds) == 1


def test_whole_features_are_not_predicted_by_a_run_on_chosen_ones(stage, tmp_path):
    from histofast.mil import predict

    chosen(stage, tmp_path / "some")
    config = TrainConfig(folds=2, epochs=1)
    learnt = train(tmp_path / "some", stage / "labels.csv", out=tmp_path / "run", config=config)
    with pytest.raises(FeatureError, match=r"got select all patches: .*other_options=True"):
        predict(learnt, stage / "whole")


# --- The command ------------------------------------------------------------------------------------


def test_the_command_says_what_it_did(cli, stage, tmp_path):
    answer = cli(
        *("extract", stage / "slides" / "s0.tif", "-o", tmp_path, "-e", stage / "costly.onnx"),
        *("--min-tissue", 0.1, "--select", stage / "gated", "--keep", 0.3),
        *("--select-encoder", stage / "cheap.onnx"),
    )
    assert answer.code == 0
    (file,) = files(tmp_path).values()
    assert f"{len(file.features)} patches of {file.selection.patches}" in answer.err[0]
    told = json.loads((tmp_path / "run.json").read_text())["about"]["options"]["select"]
    assert (told["keep"], told["encoder"]["name"]) == (0.3, "cheap")


@pytest.mark.parametrize("flag", ["--keep", "--keep-random", "--seed", "--select-encoder"])
def test_what_belongs_to_a_choice_is_not_given_alone(cli, stage, tmp_path, flag):
    answer = cli("extract", stage / "slides", "-o", tmp_path, flag, 1)
    assert answer.code != 0
    assert f"{flag} must be given with --select" in answer.err[-1]


def test_the_command_refuses_with_its_flags(cli, stage, tmp_path):
    argv = ("extract", stage / "slides", "-o", tmp_path, "-e", stage / "costly.onnx")
    argv += ("--select", stage / "gated")
    assert "--keep must be above 0" in cli(*argv, "--keep", 2).err[-1]
    assert "give its file with --select-encoder" in cli(*argv).err[-1]


def test_a_selection_is_what_it_is_told():
    class Any:
        identity = {"run": "r"}  # noqa: RUF012

    told = Selection(ranking=Any(), keep=0.5).identity
    assert told == {"run": "r", "revision": 1, "keep": 0.5, "keep_random": 0.1, "seed": 0}
