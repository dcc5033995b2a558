"""Which network: models of bags trained on the features of several encoders, and their likeness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from histofast.comparison import compare_features
from histofast.encoders import find, read_spec
from histofast.studies.dependence import with_robustness
from histofast.studies.plan import Candidate
from histofast.studies.rows import StudyRow
from histofast.studies.running import StudyResult, answer, extract_command, features_of, save
from histofast.studies.setting import Setting


def compare_networks(encoders: Sequence[str | Path], setting: Setting) -> StudyResult:
    """Train models of bags on the features of each encoder, and compare.

    Everything is kept in `setting.out` and taken from there when called again. All encoders see the
    same pixels; one that was made for another patch size or resolution is used at this one, and the
    page says so.

    Args:
        encoders: names or files, at least two.
        setting: labels, slides, folder, training; `patch_px` and `mpp` are those of the first encoder
            when None. The folder `similarity` in its folder has the report on how alike the features
            are.

    Raises:
        ValueError: fewer than two encoders, two of one name; else as `truncation`.
        FileNotFoundError, ModelError, SlideError, FeatureError: what cannot be read or used.
    """
    if len(encoders) < 2:
        raise ValueError(f"encoders must be at least 2, got {len(encoders)}")
    specs = [read_spec(find(encoder)) for encoder in encoders]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"encoders must have different names, got {name!r} twice")
    px, um = setting.patch_px or specs[0].patch_px, setting.mpp or specs[0].mpp
    of_slides = setting.slides is not None
    setting = replace(setting, patch_px=px, mpp=um if of_slides else setting.mpp)
    setting.check()
    setting.out.mkdir(parents=True, exist_ok=True)
    candidates = [
        Candidate(
            row=StudyRow(
                name=spec.name,
                network=spec.network,
                layer=spec.layer,
                depth=None,
                size_bytes=spec.size_bytes,
                notes=""
                if (spec.patch_px, spec.mpp) == (px, um)
                else f"made for {spec.patch_px} px at {spec.mpp:g} um/px",
            ),
            encoder=spec.path,
            key=spec.name,
            commands=(("Encode slides with the chosen encoder", extract_command(encoder)),),
        )
        for encoder, spec in zip(encoders, specs, strict=True)
    ]
    study = answer(
        candidates,
        encoders,
        setting,
        kind="networks",
        things="encoders",
        title=f"Which of {len(specs)} encoders",
        question="Which encoder's features tell a model of slides most, and at what cost?",
    )
    study, more = with_robustness(study, candidates, setting)
    setting.tell("comparing features")
    folders = [features_of(name, setting) for name in names]
    on_progress = setting.counting("comparing features")
    alike = compare_features(folders, intersect=True, progress=False, on_progress=on_progress)
    alike.save(setting.out / "similarity")
    links = {"How alike the features are": "similarity/index.html", **more}
    return save(study, setting.out, links=links)
