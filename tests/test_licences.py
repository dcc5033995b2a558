"""Licences of weights: said once in a run of `extract`, and recorded in the feature files."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import histofast
from histofast import encoders, features
from small_slides import content, run
from tiny_encoder import write_encoder

TERMS = "CC-BY-NC-ND-4.0, gated"


@pytest.fixture
def licensed(tmp_path):
    return write_encoder(tmp_path / "owned.onnx", name="owned", licence=TERMS)


def said_of(notes):
    """Of a licence; what speaks against an encoder depends on the machine."""
    return [note for note in notes if ": licence " in note]


@pytest.mark.parametrize("layout", ["trident", "clam", "stamp"])
def test_a_feature_file_says_its_encoders_licence(slides, licensed, encoder, tmp_path, layout):
    report = run(slides / "s0.tif", tmp_path / "f", [licensed, encoder], layout=layout)
    owned, free = (histofast.read_features(path) for path in report.slides[0].outputs)
    assert owned.attributes["encoder_licence"] == TERMS
    assert "encoder_licence" not in free.attributes
    assert features.verify([tmp_path / "f"]).is_whole


def test_a_run_says_each_licence_once(slides, licensed, encoder, tmp_path, cli):
    arguments = ["extract", slides, "-o", tmp_path / "f", "--min-tissue", "0.1"]
    arguments += ["-e", licensed, "-e", encoder]
    said = f"note: owned: licence {TERMS}"
    for more in ([], ["--dry-run"]):
        answer = cli(*arguments, *more)
        assert answer.code == 0
        lines = [*answer.out.splitlines(), *answer.err]
        assert said_of(lines) == [said]
    saved = json.loads((tmp_path / "f" / "run.json").read_text())
    assert said_of(saved["notes"]) == [said.removeprefix("note: ")]


@pytest.mark.parametrize("licence", ["not stated", "random weights", "", " "])
def test_without_a_licence_nothing_is_recorded(slides, tmp_path, licence):
    silent = write_encoder(tmp_path / "silent.onnx", licence=licence)
    assert encoders.read_spec(silent).terms is None
    report = run(slides / "s0.tif", tmp_path / "f", silent)
    assert said_of(report.notes) == []
    assert "encoder_licence" not in histofast.read_features(report.slides[0].outputs[0]).attributes


def test_a_licence_of_any_kind_is_one_line_that_can_be_shown(slides, tmp_path):
    text = "MIT\nsee \x1b[31mhere\0" + 70_000 * "x"
    path = write_encoder(tmp_path / "odd.onnx", name="odd", licence=text)
    terms = encoders.read_spec(path).terms
    assert terms.startswith("MIT see \\u001b[31mhere\\u0000xxx")
    assert terms.endswith("...")
    assert len(terms) < 300
    report = run(slides / "s0.tif", tmp_path / "f", path)
    assert said_of(report.notes) == [f"odd: licence {terms}"]
    (made,) = report.slides[0].outputs
    assert histofast.read_features(made).attributes["encoder_licence"] == terms
    assert list(content(tmp_path / "f"))


def test_a_made_encoder_keeps_the_licence(licensed):
    spec = encoders.read_spec(licensed)
    assert spec.derived(precision="float16").terms == TERMS
    assert replace(spec, licence="not stated").derived(layer="x").terms is None
