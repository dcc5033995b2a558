"""What every study needs: models of bags trained on each candidate's features, held against the best.

All candidates are trained on the same folds, and compared on the same resamples of patients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast.errors import HistofastError
from histofast.mil import (
    Bags,
    Metric,
    TrainConfig,
    differences,
    folds,
    mean_pooling,
    metrics,
    open_bags,
    open_labels,
    train,
)
from histofast.pipeline import extract, list_bags, list_jobs
from histofast.report import Difference, StudyRow

METRIC_OF = {"classification": "auroc", "regression": "spearman", "survival": "c_index"}
TITLE_OF = {"auroc": "AUROC", "spearman": "Spearman's rho", "c_index": "C-index"}
CHANCE_OF = {"auroc": 0.5, "spearman": 0.0, "c_index": 0.5}


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyProgress:
    """What a study is doing, in words, and how far it is: `done` of `total` such things."""

    doing: str
    done: int
    total: int


OnProgress = Callable[[StudyProgress], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Features that models of bags are trained on.

    Attributes:
        row: what is known of it beforehand; value and interval are filled in.
        features: folder of its feature files.
        encoder: its file, for its speed; None: not measured.
        key: name of its folder among the runs.
    """

    row: StudyRow
    features: Path
    encoder: Path | None
    key: str


def check_labels(
    slides: Any,
    patches: str | Path | None,
    *,
    labels: str | Path,
    task: str,
    missing: str,
    config: TrainConfig,
) -> None:
    """Find out before the work whether labels, slides and folds agree.

    Raises:
        ValueError, FileNotFoundError: as `open_bags` and `folds`, and what is wrong with the slides.
    """
    if (slides is None) == (patches is None):
        raise ValueError("either slides or patches must be given")
    if patches is not None:
        jobs = list_bags(patches)
    else:
        jobs = list_jobs([slides] if isinstance(slides, str | Path) else list(slides))
    options: dict[str, Any] = {"task": task, "missing": missing}
    known = open_labels(labels, [job.name for job in jobs], **options)
    folds(known, n=config.folds, seed=config.seed)


def compute_features(
    encoders: Sequence[str | Path],
    *,
    slides: Any,
    patches: str | Path | None,
    out: Path,
    patch_px: int | None,
    mpp: float | None,
    min_tissue: float,
) -> None:
    """Run `extract`, in which no slide may fail.

    Raises:
        HistofastError: a slide failed; what `extract` raises.
    """
    found = extract(
        slides,
        patches=patches,
        out=out,
        encoder=list(encoders),
        patch_px=patch_px,
        mpp=mpp,
        min_tissue=min_tissue,
        allow_upsampling=patches is not None,
    )
    failed = [slide for slide in found.slides if slide.status == "failed"]
    if failed:
        raise HistofastError(
            f"{len(failed)} of {len(found.slides)} slides failed, the first, {failed[0].name}: "
            f"{failed[0].error}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A candidate's row, and what its models predict for each test bag."""

    row: StudyRow
    outputs: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """All candidates on the same bags.

    Attributes:
        bags: those of the first candidate, for names, patients and targets.
        judged: in the order of the candidates.
        pooled: AUROC of logistic regression on mean features, by the candidates' names; empty for
            other tasks.
        metric: the study's.
        folds: number of folds.
        tested: (t,) bags that were tested.
    """

    bags: Bags
    judged: tuple[Judged, ...]
    pooled: Mapping[str, Judged]
    metric: str
    folds: int
    tested: NDArray[np.int64]


def judge(
    candidates: Sequence[Candidate],
    *,
    labels: str | Path,
    out: Path,
    model: str,
    task: str,
    config: TrainConfig,
    missing: str,
    on_progress: OnProgress | None,
) -> Verdict:
    """Train and measure each candidate; runs that are finished in `out` are taken as they are.

    Raises:
        ValueError, FeatureError, FileNotFoundError, ModelError: as `open_bags` and `train`;
            candidates of other bags.
    """
    metric = METRIC_OF[task]
    judged: list[Judged] = []
    pooled: dict[str, Judged] = {}
    first: Bags | None = None
    tested = np.zeros(0, np.int64)
    n_folds = 0
    for i, candidate in enumerate(candidates):
        if on_progress is not None:
            on_progress(
                StudyProgress(
                    doing=f"training on {candidate.row.name}", done=i, total=len(candidates)
                )
            )
        options: dict[str, Any] = {"task": task, "missing": missing}
        bags = open_bags(candidate.features, labels, **options)
        if first is None:
            first = bags
        elif bags.names != first.names:
            raise ValueError(
                f"features of {candidate.row.name} must be of the same slides as those of "
                f"{candidates[0].row.name}, got {len(bags)} and {len(first)}"
            )
        run = train(bags, out=out / candidate.key, model=model, config=config)
        n_folds = len(run.folds)
        predicted = run.predictions()
        tested = np.array([k for k, name in enumerate(bags.names) if name in predicted], np.int64)
        outputs = np.stack([predicted[bags.names[k]] for k in tested])
        judged.append(_judged(candidate.row, bags, tested, outputs, metric, config, d=bags.d))
        if task == "classification" and not candidate.row.baseline:
            values = mean_pooling(bags, run.folds)[tested]
            row = replace(candidate.row, name=f"mean pooling, {candidate.row.name}", baseline=True)
            pooled[candidate.row.name] = _judged(
                row, bags, tested, values, metric, config, d=bags.d
            )
    assert first is not None
    return Verdict(
        bags=first,
        judged=tuple(judged),
        pooled=pooled,
        metric=metric,
        folds=n_folds,
        tested=tested,
    )


def _judged(
    row: StudyRow,
    bags: Bags,
    tested: NDArray[np.int64],
    outputs: NDArray[np.float64],
    metric: str,
    config: TrainConfig,
    *,
    d: int,
) -> Judged:
    chosen = bags.part(tested)
    found = metrics(
        bags.task,
        chosen.targets,
        outputs,
        groups=chosen.groups,
        classes=bags.classes,
        seed=config.seed,
    )[metric]
    return Judged(
        row=replace(row, value=found.value, low=found.low, high=found.high, d=d), outputs=outputs
    )


def against_best(verdict: Verdict, judged: Sequence[Judged], *, seed: int) -> tuple[StudyRow, ...]:
    """Return the rows with their differences to the best candidate, and the cheapest one chosen.

    Cheapest: most patches per second where all were measured, else least depth. Chosen is the
    cheapest candidate whose difference to the best has an interval that holds 0.
    """
    candidates = [j for j in judged if not j.row.baseline and j.row.is_defined]
    if not candidates:
        return tuple(j.row for j in judged)
    best = max(candidates, key=lambda j: j.row.value)
    chosen_bags = verdict.bags.part(verdict.tested)
    rows = []
    for j in judged:
        if j is best:
            rows.append(j.row)
            continue
        found: Metric = differences(
            verdict.bags.task,
            chosen_bags.targets,
            j.outputs,
            best.outputs,
            groups=chosen_bags.groups,
            classes=verdict.bags.classes,
            seed=seed,
        )[verdict.metric]
        rows.append(
            replace(
                j.row,
                versus_best=Difference(difference=found.value, low=found.low, high=found.high),
            )
        )
    level = [
        row
        for row in rows
        if not row.baseline
        and row.is_defined
        and (row.versus_best is None or row.versus_best.reaches_zero)
    ]
    if all(row.patches_per_s is not None for row in level):
        cheapest = max(level, key=lambda row: row.patches_per_s or 0.0)
    else:
        cheapest = min(level, key=lambda row: 1.0 if row.depth is None else row.depth)
    return tuple(replace(row, chosen=row is cheapest) for row in rows)
