"""What every study needs: models of bags trained on each candidate's features, held against the best.

All candidates are trained on the same folds, and compared on the same resamples of patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histofast.learning import Metric, differences, metrics
from histofast.mil import Bags, mean_pooling, open_bags, train
from histofast.studies.rows import Difference, StudyRow
from histofast.studies.setting import Setting

_NAN = float("nan")


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An encoder whose features models of bags are trained on.

    Attributes:
        row: what is known of it beforehand; value and interval are filled in.
        encoder: its file, for its speed; None: not measured.
        key: name of its features, and of its folder among the runs.
        commands: titles and commands of what to do with it if it is chosen.
    """

    row: StudyRow
    encoder: Path | None
    key: str
    commands: tuple[tuple[str, str], ...] = ()


def known_row(
    *,
    name: str,
    network: str,
    layer: str,
    depth: float | None,
    size_bytes: int,
    notes: str = "",
    baseline: bool = False,
) -> StudyRow:
    """Return a candidate's row before its features are there."""
    return StudyRow(
        name=name,
        network=network,
        layer=layer,
        depth=depth,
        d=1,
        value=_NAN,
        low=_NAN,
        high=_NAN,
        patches_per_s=None,
        size_bytes=size_bytes,
        notes=notes,
        baseline=baseline,
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
        models: (t,) number of the fold whose model predicted each.
    """

    bags: Bags
    judged: tuple[Judged, ...]
    pooled: Mapping[str, Judged]
    metric: str
    folds: int
    tested: NDArray[np.int64]
    models: tuple[int, ...]


def judge(candidates: Sequence[Candidate], features: Sequence[Path], setting: Setting) -> Verdict:
    """Train and measure each candidate; runs that are finished are taken as they are.

    Args:
        candidates: at least one.
        features: folder of the feature files of each.
        setting: the study's.

    Raises:
        ValueError, FeatureError, FileNotFoundError, ModelError: as `open_bags` and `train`;
            candidates of other bags.
    """
    judged: list[Judged] = []
    pooled: dict[str, Judged] = {}
    first: Bags | None = None
    tested = np.zeros(0, np.int64)
    models: list[int] = []
    n_folds = 0
    for i, (candidate, folder) in enumerate(zip(candidates, features, strict=True)):
        row = candidate.row
        setting.tell(f"training on {row.name}", done=i, total=len(candidates))
        bags = open_bags(folder, setting.labels, task=setting.task, missing=setting.missing)
        if first is None:
            first = bags
        elif bags.names != first.names:
            raise ValueError(
                f"features of {row.name} must be of the same slides as those of "
                f"{candidates[0].row.name}, got {len(bags)} and {len(first)}"
            )
        run = train(
            bags,
            out=setting.out / "runs" / candidate.key,
            model=setting.model,
            config=setting.config,
        )
        n_folds = len(run.folds)
        predicted = run.predictions()
        tested = np.array([k for k, name in enumerate(bags.names) if name in predicted], np.int64)
        outputs = np.stack([predicted[bags.names[k]] for k in tested])
        models = [run.fold_of(bags.names[k]) or 0 for k in tested]
        judged.append(_judged(row, bags.part(tested), outputs, models, setting))
        if setting.task == "classification" and not row.baseline:
            values = mean_pooling(bags, run.folds)[tested]
            of_means = replace(row, name=f"mean pooling, {row.name}", baseline=True)
            pooled[row.name] = _judged(of_means, bags.part(tested), values, models, setting)
    assert first is not None
    return Verdict(
        bags=first,
        judged=tuple(judged),
        pooled=pooled,
        metric=setting.metric,
        folds=n_folds,
        tested=tested,
        models=tuple(models),
    )


def _judged(
    row: StudyRow,
    bags: Bags,
    outputs: NDArray[np.float64],
    models: Sequence[int],
    setting: Setting,
) -> Judged:
    found = metrics(
        bags.task,
        bags.targets,
        outputs,
        groups=bags.groups,
        models=models,
        classes=bags.classes,
        seed=setting.config.seed,
    )[setting.metric]
    row = replace(row, value=found.value, low=found.low, high=found.high, d=bags.d)
    return Judged(row=row, outputs=outputs)


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
            models=verdict.models,
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
