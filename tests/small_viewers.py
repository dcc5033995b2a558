"""A catalogue of small slides with features, for tests of what the viewer says of patches."""

from __future__ import annotations

from pathlib import Path

from histofast.viewer import Catalogue, list_catalogue
from small_slides import run, write_slide


def write_cohort(folder: Path, encoder: Path, *, slides: int = 2, **options: object) -> None:
    """Write slides/s0.tif ... and their features/ of patches of 64 level-0 px."""
    (folder / "slides").mkdir()
    for i in range(slides):
        write_slide(folder / "slides" / f"s{i}.tif", seed=i)
    report = run(folder / "slides", folder / "features", encoder, **options)
    assert not any(slide.error for slide in report.slides), report


def catalogue_of(folder: Path, **options: object) -> Catalogue:
    """What `histofast view slides/ --features features/` would show."""
    return list_catalogue(folder / "slides", features=folder / "features", **options).catalogue
