"""`forecast` and `histofast bench`: what a cohort would take."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from histofast import errors, patches, pipeline

forecast_module = sys.modules[pipeline.forecast.__module__]

LIKE = {
    "cohort": 100,
    "looked_at": 4,
    "failed": 0,
    "patches": (3600, 7200, 3600, 7200),
    "plan_s": (3600.0,) * 4,
    "patches_per_s": 1.0,
    "measured": 50,
    "bytes_per_patch": 1000.0,
    "overlaps": False,
    "seed": 0,
}


def test_hours_are_those_of_the_mean_slide():
    # 1 or 2 hours of encoding and one of tissue: 2.5 on average.
    assert pipeline.Forecast(**LIKE).hours == pytest.approx(250)


def test_where_tissue_is_found_beside_the_encoding_the_longer_counts():
    assert pipeline.Forecast(**LIKE | {"overlaps": True}).hours == pytest.approx(150)
    slow = LIKE | {"overlaps": True, "plan_s": (3 * 3600.0,) * 4}
    assert pipeline.Forecast(**slow).hours == pytest.approx(300)


def test_slides_that_cannot_be_read_take_nothing():
    assert pipeline.Forecast(**LIKE | {"looked_at": 8, "failed": 4}).hours == pytest.approx(125)


def test_gigabytes():
    assert pipeline.Forecast(**LIKE).gigabytes == pytest.approx(100 * 5400 * 1000 / 1e9)


def test_no_interval_of_few_slides():
    few = pipeline.Forecast(**LIKE)
    assert few.interval is None
    assert "no interval" in str(few)


def test_the_interval_holds_the_mean_of_equal_slides_alone():
    equal = LIKE | {"looked_at": 6, "patches": (3600,) * 6, "plan_s": (0.0,) * 6}
    assert pipeline.Forecast(**equal).interval == pytest.approx((100, 100))


def test_the_interval_is_that_of_the_mean_over_slides():
    rng = np.random.default_rng(1)
    counts = rng.integers(100, 10_000, 40)
    many = LIKE | {
        "looked_at": 40,
        "patches": tuple(int(n) for n in counts),
        "plan_s": (0.0,) * 40,
    }
    low, high = pipeline.Forecast(**many).interval
    error = 1.96 * counts.std() / np.sqrt(40) * 100 / 3600  # of a mean, by the normal law
    assert (low, high) == pytest.approx(
        (counts.mean() / 36 - error, counts.mean() / 36 + error), rel=0.05
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    for i in range(6):
        options = {"width_px": 1024, "height_px": 1024, "mpp": 0.5, "levels": 2, "seed": i}
        patches.make_slide(folder / f"s{i}.svs", tissue_fraction=0.5, **options)
    return folder


def test_slides_are_planned_and_encoded(folder):
    found = pipeline.forecast(folder, cohort=100, look=5, seconds=1, threads=1)
    plan = pipeline.extract(folder, out=folder / "f", dry_run=True)
    known = {slide.patches for slide in plan.slides}
    assert found.looked_at == 5
    assert set(found.patches) <= known
    assert found.measured >= 1
    assert found.bytes_per_patch == 512 * 4 + 20
    assert found.hours > 0
    low, high = found.interval
    assert low <= found.hours <= high
    assert not (folder / "f").exists()


def test_a_broken_slide_is_counted(folder, tmp_path):
    (tmp_path / "broken.svs").write_bytes(b"no slide")
    (tmp_path / "s0.svs").symlink_to(folder / "s0.svs")
    found = pipeline.forecast(tmp_path, cohort=10, seconds=1)
    assert (found.looked_at, found.failed) == (2, 1)
    assert "1 cannot be read" in str(found)


def test_slides_without_tissue_are_refused(tmp_path):
    patches.make_slide(tmp_path / "s.svs", width_px=512, height_px=512, tissue_fraction=0.0)
    with pytest.raises(errors.HistofastError, match="none of 1 slide has a patch"):
        pipeline.forecast(tmp_path)


def test_slides_that_cannot_be_encoded_are_refused(folder, monkeypatch):
    monkeypatch.setattr(forecast_module, "encode_found", lambda *_: None)
    with pytest.raises(errors.HistofastError, match="none of 2 slides could be encoded"):
        pipeline.forecast(folder, look=2, seconds=1)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"cohort": 0}, "cohort must be at least 1, got 0"),
        ({"look": 0}, "look must be at least 1, got 0"),
        ({"seconds": 0.5}, "seconds must be at least 1, got 0.5"),
    ],
)
def test_numbers_out_of_range(folder, asked, message):
    with pytest.raises(ValueError, match=message):
        pipeline.forecast(folder, **asked)


def test_at_the_command_line(folder, cli):
    answer = cli("bench", folder, "--cohort", "50", "--look", "3", "--seconds", "1")
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert len(lines) == 5
    assert lines[-1].startswith("50 slides like these")


def test_as_json(folder, cli):
    answer = cli("bench", folder, "--look", "2", "--seconds", "1", "--json")
    assert answer.code == 0
    told = json.loads(answer.out)
    assert told["cohort"] == 1000
    assert len(told["patches"]) == 2


def test_a_number_of_slides_that_is_none(folder, cli):
    answer = cli("bench", folder, "--cohort", "0")
    assert answer.code == 2
    assert answer.err[-1].endswith("--cohort must be at least 1, got 0")
