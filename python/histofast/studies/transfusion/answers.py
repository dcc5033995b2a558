"""A study of transfusion as an answer: tables, commands, method."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from histofast.learning import Metric, Reached
from histofast.report import Answer, Cell, Column, Table
from histofast.studies.pictures import RECIPE, Done, failed_tables
from histofast.studies.transfusion.charts import figures_of
from histofast.studies.transfusion.claims import ALIKE, Claim
from histofast.studies.transfusion.measures import SHARE, Measured, WayRow
from histofast.studies.transfusion.plan import KINDS, TransfusionPlan, Trial, Way
from histofast.studies.transfusion.words import (
    basis_of,
    describe,
    features_or_scale,
    finding_of,
    steps_told,
    times,
)

_LIMITS = (
    "That nothing is shown is no proof that nothing is there: intervals of few splits are wide.",
    "All starts have one recipe and one rate, tuned for none; another rate may favour another start.",
    "Splits are of one set of pictures each, and say nothing of other hospitals.",
    "Intervals of speed-ups are of single comparisons, and take splits as independent.",
    "A high CKA tells that a layer is much as it began, not that it was of use.",
)


def answer_of(
    study: TransfusionPlan, measured: Measured, claims: Sequence[Claim], done: Done
) -> Answer:
    """Return all of a study for a page and a folder."""
    tables = (
        _rows(study, measured, claims),
        _claims(claims),
        _runs(study, done, measured),
        _likeness(measured),
        _filters(measured),
        *failed_tables(done.failed),
    )
    return Answer(
        name=study.name,
        title="What pretrained weights bring",
        question="Where is the gain of pretrained weights, and is it features or scale?",
        basis=basis_of(study),
        findings=describe(study, measured, claims, done),
        limits=_LIMITS,
        figures=figures_of(study, measured),
        tables=tables,
        commands=_commands(study),
        method=_method(study, measured),
        files={RECIPE: study.recipe.to_toml()},
    )


# --- Tables ----------------------------------------------------------------------------------------


def _rows(study: TransfusionPlan, measured: Measured, claims: Sequence[Claim]) -> Table:
    second = measured.second
    return Table(
        name="starts",
        title="Start by start",
        caption=f"{measured.metric} and {second} of test pictures, means over splits with the 95 % interval of "
        "this way of training. Gains are split by split over random weights on the same pictures and seeds; "
        "their intervals are adjusted for the number of rows of each metric, after Holm. Steps are those to "
        "the threshold of validation pictures; the median takes runs that never got there as censored "
        "(Kaplan-Meier).",
        columns=(
            Column(title="data set", names=("data",)),
            Column(title="network", names=("network",)),
            Column(title="training pictures", names=("pictures",), form="whole", missing="all"),
            Column(title="start", names=("start",)),
            Column(title=measured.metric, names=("value",), form="number"),
            Column(title="95 % interval", names=("low", "high"), form="interval", missing="— none"),
            Column(
                title="gain over random",
                names=("gain", "gain_low_adjusted", "gain_high_adjusted"),
                form="difference",
                missing="— is random",
            ),
            Column(title="", names=("gain_low", "gain_high"), form="interval"),
            Column(title="", names=("gain_p_adjusted",), form="number"),
            Column(title="finding", names=("finding",)),
            Column(title=second, names=(f"{second}_value",), form="number"),
            Column(title="", names=(f"{second}_low", f"{second}_high"), form="interval"),
            Column(
                title=f"gain of {second}",
                names=(
                    f"{second}_gain",
                    f"{second}_gain_low_adjusted",
                    f"{second}_gain_high_adjusted",
                ),
                form="difference",
                missing="— is random",
            ),
            Column(title="", names=("threshold",), form="number"),
            Column(title="steps to threshold"),
            Column(title="", names=("steps", "steps_low", "steps_high"), form="interval"),
            Column(title="", names=("runs", "runs_there"), form="interval"),
            Column(title="times faster than random"),
            Column(title="", names=("speed_up", "speed_up_low", "speed_up_high"), form="interval"),
            Column(title="", names=("features_or_scale",)),
            Column(title="", names=("command",)),
        ),
        rows=tuple(_cells(study, measured, claims, row) for row in measured.rows),
    )


def _cells(
    study: TransfusionPlan, measured: Measured, claims: Sequence[Claim], row: WayRow
) -> tuple[Cell, ...]:
    gain, second = row.gain, row.second_gain
    known = [one for one in row.reached if one is not None]
    is_pretrained = row.way.kind == "pretrained"
    return (
        row.trial.data,
        row.trial.network,
        row.trial.size,
        str(row.way),
        row.metric.value,
        _bounds(row.metric),
        None if gain is None else (gain.value, gain.low_adjusted, gain.high_adjusted),
        None if gain is None else (gain.low, gain.high),
        None if gain is None else gain.p_adjusted,
        finding_of(row),
        row.second.value,
        _bounds(row.second),
        None if second is None else (second.value, second.low_adjusted, second.high_adjusted),
        measured.thresholds[row.trial],
        steps_told(row),
        _finite(row.steps),
        (len(known), sum(one.is_reached for one in known)),
        "" if row.speed is None and row.gain is None else times(row.speed),
        _finite(row.speed),
        features_or_scale(measured, claims, row.trial) if is_pretrained else "",
        _command(study, row.trial, row.way),
    )


def _claims(claims: Sequence[Claim]) -> Table:
    return Table(
        name="claims",
        title="What was published, held against this",
        caption="Differences have no effect at 0, and intervals adjusted for their number after Holm; ratios "
        "have none at 1, and intervals of single comparisons.",
        columns=(
            Column(title="published", names=("claim",)),
            Column(title="where", names=("where",)),
            Column(title="measured", names=("measured",)),
            Column(title="", names=("form",)),
            Column(title="", names=("expected",)),
            Column(title="value", names=("value",), form="number", missing="— not finite"),
            Column(title="95 % interval", names=("low", "high"), form="interval", missing="— none"),
            Column(title="verdict", names=("verdict",)),
            Column(title="note", names=("note",), under=True),
        ),
        rows=tuple(
            (
                claim.said,
                claim.where,
                claim.measured,
                claim.form,
                claim.expected,
                _plain(claim.value),
                None
                if math.isnan(claim.low + claim.high)
                else (_plain(claim.low), _plain(claim.high)),
                claim.verdict,
                claim.note,
            )
            for claim in claims
        ),
    )


def _runs(study: TransfusionPlan, done: Done, measured: Measured) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for row in measured.rows:
        jobs = study.work[row.trial, row.way]
        for split, job, value, reached in zip(
            study.setting.splits, jobs, row.values, row.reached, strict=True
        ):
            steps: Reached | None = reached
            rows.append(
                (
                    str(row.trial),
                    str(row.way),
                    split.seed,
                    split.fold,
                    float(value),
                    None if steps is None else steps.steps,
                    None if steps is None else int(steps.is_reached),
                    "" if job.folder is None else job.folder.name,
                    done.failed.get(job.name, ""),
                )
            )
    return Table(
        name="runs",
        shown=0,
        columns=(
            Column(title="trial", names=("trial",)),
            Column(title="start", names=("start",)),
            Column(title="seed", names=("seed",), form="whole"),
            Column(title="fold", names=("fold",), form="whole"),
            Column(title="value", names=("value",), form="number"),
            Column(title="steps", names=("steps",), form="number"),
            Column(title="reached", names=("is_reached",), form="whole"),
            Column(title="run", names=("run",)),
            Column(title="failed", names=("failed",)),
        ),
        rows=tuple(rows),
    )


def _likeness(measured: Measured) -> Table:
    return Table(
        name="likeness",
        shown=0,
        columns=(
            Column(title="data set", names=("data",)),
            Column(title="network", names=("network",)),
            Column(title="compared", names=("compared",)),
            Column(title="layer", names=("layer",)),
            Column(title="depth", names=("depth",), form="number"),
            Column(title="CKA", names=("cka", "cka_low", "cka_high"), form="interval"),
            Column(title="CCA", names=("cca", "cca_low", "cca_high"), form="interval"),
            Column(title="pictures", names=("pictures", "splits"), form="interval"),
        ),
        rows=tuple(
            (
                row.data,
                row.network,
                row.what,
                layer,
                float(depth),
                (cka.value, cka.low, cka.high),
                (cca.value, cca.low, cca.high),
                (row.pictures, row.n),
            )
            for row in measured.likenesses
            for layer, depth, cka, cca in zip(row.layers, row.depths, row.cka, row.cca, strict=True)
        ),
    )


def _filters(measured: Measured) -> Table:
    return Table(
        name="filters",
        shown=0,
        columns=(
            Column(title="trial", names=("trial",)),
            Column(title="start", names=("start",)),
            Column(title="split", names=("split",), form="whole"),
            Column(title="filter", names=("filter",), form="whole"),
            Column(title="cosine", names=("cosine",), form="number"),
            Column(title="distance", names=("distance",), form="number"),
        ),
        rows=tuple(
            (str(row.trial), str(row.way), split, i, float(cosine), float(distance))
            for row in measured.filters
            for split, one in enumerate(row.moved)
            for i, (cosine, distance) in enumerate(zip(one.cosine, one.distance, strict=True))
        ),
    )


# --- Commands and method ---------------------------------------------------------------------------


def _commands(study: TransfusionPlan) -> tuple[tuple[str, str], ...]:
    whole = study.setting.command
    first = study.trials[0]
    return (
        *([("Do the study again, or go on with it", whole)] if whole else []),
        (
            "Repeat one row (each has its own in starts.csv; runs that are there are not trained again)",
            _command(study, first, study.ways_of(first.network)[-1]),
        ),
    )


def _command(study: TransfusionPlan, trial: Trial, way: Way) -> str:
    """Return the command of one row: the same splits and seeds, random weights beside it."""
    setting, weights = study.setting, study.weights.get(trial.network)
    text = f"{way.kind}:{way.layer}" if way.layer else way.kind
    out, quote = Path(setting.out), shlex.quote
    own = {
        "weights": None if weights is None else f"{trial.network}={weights}",
        "sizes": trial.size,
        "folds": setting.folds,
        "group-column": setting.group_column,
        "threshold": None if study.threshold is None else "{}={:g}".format(*study.threshold),
    }
    more = [f"--{name} {quote(str(value))}" for name, value in own.items() if value is not None]
    runs = setting.folder
    return (
        f"histofast study transfusion --network {trial.network} --data "
        f"{quote(str(setting.sets[trial.data].path))} --ways {text} {' '.join(more)} --steps "
        f"{study.least_steps} --every {study.every} --recipe {quote(str(out / RECIPE))} --repeats "
        f"{setting.repeats} --seed {setting.seed} --metric {setting.metric} --runs {quote(str(runs))} "
        f"--out {quote(str(out / 'row'))}"
    )


def _method(study: TransfusionPlan, measured: Measured) -> dict[str, str]:
    setting = study.setting
    rule = (
        f"{study.threshold[0]} {study.threshold[1]:g}, as asked"
        if study.threshold is not None
        else f"in each trial {100 * SHARE:g} % of the median final {measured.curve} of random and pretrained "
        "runs together, on validation pictures; test pictures play no part"
    )
    return {
        "metric": f"{measured.metric}, and {measured.second}; more is better",
        "starts": ", ".join(KINDS),
        "training sets": "nested in each other, whole groups but for the last, stratified; the same for all "
        "starts of a split; validation and test pictures do not change",
        "steps": f"{study.least_steps:,} in every run, or up to an epoch more, whatever the training set: "
        "starts are compared step by step",
        "looks": f"at validation pictures every {study.every:,} steps; read between two on a straight line",
        "threshold": rule,
        "speed": "random's median steps over the other's, medians by Kaplan-Meier, interval by a bootstrap "
        "over splits, which are drawn together, of five runs and more",
        "intervals": "corrected resampled ones over splits (Nadeau and Bengio), test share "
        f"{setting.test_share:.2f}; differences after Holm over all rows of a metric",
        "verdicts": "more: the interval lies above no effect; alike: it lies within 0.05 of it, of steps within "
        f"{ALIKE:g} times; without an interval nothing is told",
        "networks compared": "CKA and CCA on test pictures, on the largest training set",
        "slim, mean-var, Gabor": "our reading: the authors published no code",
        "splits": f"{setting.repeats} repeats, seeds from {setting.seed}",
    }


def _bounds(metric: Metric) -> Cell:
    return None if math.isnan(metric.low + metric.high) else (metric.low, metric.high)


def _finite(metric: Metric | None) -> Cell:
    """Return value and bounds; what is infinite or not known has no number."""
    if metric is None:
        return None
    return tuple(_plain(value) for value in (metric.value, metric.low, metric.high))


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) or math.isnan(value) else None
