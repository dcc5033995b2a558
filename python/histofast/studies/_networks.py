"""Which network: models of bags trained on the features of several encoders, and their likeness."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from histofast.comparison import compare_features
from histofast.encoders import find, read_spec
from histofast.mil import TrainConfig
from histofast.report import Study, StudyRow
from histofast.studies._judge import (
    CHANCE_OF,
    TITLE_OF,
    Candidate,
    OnProgress,
    StudyProgress,
    against_best,
    check_labels,
    compute_features,
    judge,
)
from histofast.studies._truncation import (
    NAN,
    StudyResult,
    convention,
    folder_of,
    pooled_baselines,
    save,
    timed,
    with_pooled,
)


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
    config = config or TrainConfig()
    check_labels(slides, patches, labels=labels, task=task, missing=missing, config=config)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    tell = on_progress or (lambda progress: None)
    tell(StudyProgress(doing="computing features of all encoders", done=0, total=1))
    px, um = patch_px or specs[0].patch_px, mpp or specs[0].mpp
    compute_features(
        encoders,
        slides=slides,
        patches=patches,
        out=out / "features",
        patch_px=px,
        mpp=um if slides is not None else mpp,
        min_tissue=min_tissue,
    )
    candidates = []
    for spec in specs:
        wants = f"made for {spec.patch_px} px at {spec.mpp:g} um/px"
        row = StudyRow(
            name=spec.name,
            network=spec.network,
            layer=spec.layer,
            depth=None,
            d=spec.d,
            value=NAN,
            low=NAN,
            high=NAN,
            patches_per_s=None,
            size_bytes=spec.size_bytes,
            notes="" if (spec.patch_px, spec.mpp) == (px, um) else wants,
        )
        candidates.append(
            Candidate(
                row=row,
                features=folder_of(out / "features", spec.name),
                encoder=spec.path,
                key=spec.name,
            )
        )
    if measure_speed:
        tell(StudyProgress(doing="timing encoders", done=0, total=1))
        candidates = timed(candidates, slides=slides, patches=patches, patch_px=px)
    verdict = judge(
        candidates,
        labels=labels,
        out=out / "runs",
        model=model,
        task=task,
        config=config,
        missing=missing,
        on_progress=on_progress,
    )
    judged = [with_pooled(j, verdict) for j in verdict.judged] + pooled_baselines(verdict)
    rows = against_best(verdict, judged, seed=config.seed)
    tell(StudyProgress(doing="comparing features", done=0, total=1))
    compare_features([c.features for c in candidates], intersect=True).save(out / "similarity")
    chosen = next((row for row in rows if row.chosen), None)
    commands = [] if command is None else [("Repeat the study", command)]
    if chosen is not None:
        path = str(encoders[names.index(chosen.name)])
        commands.append(
            (
                "Encode slides with the chosen encoder",
                f"histofast extract slides/ --encoder {shlex.quote(path)} --out features/",
            )
        )
    tested = verdict.bags.part(verdict.tested)
    study = Study(
        kind="networks",
        title=f"Which of {len(specs)} encoders",
        question="Which encoder's features tell a model of slides most, and at what cost?",
        metric=TITLE_OF[verdict.metric],
        higher_is_better=True,
        confidence=0.95,
        rows=rows,
        n_slides=len(tested),
        n_patients=len(set(tested.groups)),
        folds=verdict.folds,
        convention=convention(verdict, model, config, patches is not None, px),
        commands=tuple(commands),
        chance=CHANCE_OF[verdict.metric],
        remarks=tuple(verdict.bags.notes),
    )
    save(study, out, links={"How alike the features are": "similarity/index.html"})
    return StudyResult(study=study, path=out)
