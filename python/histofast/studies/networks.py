"""Which network: models of bags trained on the features of several encoders, and their likeness."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from histofast.comparison import compare_features
from histofast.encoders import find, read_spec
from histofast.mil import TrainConfig
from histofast.studies.judging import Candidate, known_row
from histofast.studies.running import StudyResult, answer, extract_command, features_of, save
from histofast.studies.setting import OnProgress, Setting


def compare_networks(
    encoders: Sequence[str | Path],
    *,
    labels: str | Path,
    out: str | Path,
    slides: str | Path | Sequence[str | Path] | None = None,
    patches: str | Path | None = None,
    patch_px: int | None = None,
    mpp: float | None = None,
    model: str = "attention",
    task: Literal["classification", "regression", "survival"] = "classification",
    config: TrainConfig | None = None,
    missing: Literal["error", "skip"] = "error",
    measure_speed: bool = True,
    min_tissue: float = 0.25,
    command: str | None = None,
    on_progress: OnProgress | None = None,
) -> StudyResult:
    """Train a model of bags on the features of each encoder, and compare.

    Everything is kept in `out` and taken from there when called again. All encoders see the same
    pixels; one that was made for another patch size or resolution is used at this one, and the page
    says so.

    Args:
        encoders: names or files, at least two.
        labels, slides, patches, patch_px, mpp, model, task, config, missing, measure_speed,
            min_tissue, command, on_progress: as `truncation`; patch_px and mpp are those of the first
            encoder when None.
        out: folder of the study; its `similarity` has the report on how alike the features are.

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
    px, um = patch_px or specs[0].patch_px, mpp or specs[0].mpp
    setting = Setting(
        labels=labels,
        out=Path(out),
        slides=slides,
        patches=patches,
        patch_px=px,
        mpp=um if slides is not None else mpp,
        model=model,
        task=task,
        config=config or TrainConfig(),
        missing=missing,
        measure_speed=measure_speed,
        min_tissue=min_tissue,
        command=command,
        on_progress=on_progress,
    )
    setting.check()
    setting.out.mkdir(parents=True, exist_ok=True)
    candidates = [
        Candidate(
            row=known_row(
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
    setting.tell("comparing features")
    folders = [features_of(name, setting) for name in names]
    compare_features(folders, intersect=True).save(setting.out / "similarity")
    links = {"How alike the features are": "similarity/index.html"}
    return save(study, setting.out, links=links)
