"""A transfer study as an answer: its matrices, its charts, its tables."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from histofast._words import duration
from histofast.learning import Difference
from histofast.report import (
    Answer,
    Cell,
    Column,
    Table,
)
from histofast.studies.pictures import RECIPE, PictureSetting
from histofast.studies.transfer_charts import cka_figures, line_figures, matrices
from histofast.studies.transfer_found import TransferFound, Way
from histofast.studies.transfer_words import basis_of, describe_transfer, finding_of, limits_of
from histofast.transferability import SCORES

_ON_PAGE = 6  # rows of the table of runs
_NONE = "— none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A run for the table of runs: its way, the place of its split, and the command that repeats it."""

    way: Way
    place: int
    seed: int
    fold: int
    folder: str
    command: str


def answer_of_transfer(
    found: TransferFound, *, setting: PictureSetting, runs: Sequence[Made]
) -> Answer:
    """Return all of a study for a page and a folder.

    Args:
        found: the numbers.
        setting: what the study was told.
        runs: of all ways, for the table that repeats each.
    """
    sets = [
        f"{name} ({len(images):,} pictures of {len(set(images.groups)):,} {images.group_kind}s)"
        for name, images in setting.sets.items()
    ]
    tables = (
        _cells(found),
        *_pretrained(found),
        *_heads(found),
        *_merges(found),
        *_lines(found),
        *_scores(found),
        *_likeness(found),
        _runs(found, runs),
    )
    again = () if setting.command is None else (("The whole study", setting.command),)
    return Answer(
        name="transfer",
        title="What one data set teaches another",
        question=f"Does a {found.network} that was trained on one set of pictures learn another better?",
        basis=basis_of(found, sets),
        findings=describe_transfer(found),
        limits=limits_of(found),
        figures=(matrices(found), *line_figures(found), *cka_figures(found)),
        tables=tables,
        commands=(*again, *((f"{made.way}, seed {made.seed}", made.command) for made in runs[:1])),
        method=_method(found, setting),
        files={RECIPE: setting.recipe.to_toml()},  # type: ignore[union-attr]
    )


def _method(found: TransferFound, setting: PictureSetting) -> dict[str, str]:
    more = "more" if found.sign > 0 else "less"
    repeats = f"{setting.repeats} x {setting.folds} folds" if setting.folds else str(found.splits)
    return {
        "metric": f"{found.metric}, {more} is better; of test pictures, which chose nothing",
        "starts": ", ".join(found.starts),
        "splits": f"{repeats}, by group; a split of the source and one of the target share a seed",
        "recipe": f"one for sources, baselines, diagonal and transfers: {RECIPE}",
        "intervals": "95 %, corrected resampled (Nadeau and Bengio), over splits and seeds",
        "adjustment": "after Holm, over the cells of one matrix, or the rows that one sentence tells of; "
        "shown: the adjusted interval excludes 0",
        "time": f"{duration(found.seconds)} of this machine, of what was not there before",
    }


# --- Tables --------------------------------------------------------------------------------------


def _columns(*titles: str) -> list[Column]:
    """Return columns of words, the first of which names the rows."""
    return [Column(title=title, names=(title,)) for title in titles]


def _compared(title: str, name: str) -> list[Column]:
    """Return the columns of a comparison."""
    return [
        Column(
            title=title,
            names=(name, f"{name}_low", f"{name}_high"),
            form="difference",
            missing="—",
        ),
        Column(title="", names=(f"{name}_low_adjusted", f"{name}_high_adjusted"), form="interval"),
        Column(title="", names=(f"{name}_p_adjusted",), form="number"),
        Column(title="finding", names=(f"{name}_finding",)),
    ]


def _comparison(found: TransferFound, one: Difference | None) -> tuple[Cell, ...]:
    if one is None:
        return (None, None, None, "")
    return (
        (one.value, one.low, one.high),
        (one.low_adjusted, one.high_adjusted),
        one.p_adjusted,
        finding_of(found, one),
    )


def _value_columns(metric: str) -> list[Column]:
    return [
        Column(title=metric, names=("value",), form="number"),
        Column(title="95 % interval", names=("low", "high"), form="interval", missing=_NONE),
    ]


def _value(found: TransferFound, way: Way) -> tuple[Cell, ...]:
    metric = found.mean(found.test[way])
    missing = math.isnan(metric.low + metric.high)
    return metric.value, None if missing else (metric.low, metric.high)


def _cells(found: TransferFound) -> Table:
    rows: list[tuple[Cell, ...]] = []
    shown: list[int] = []
    for start in found.starts:
        direct, own = found.against_direct(start), found.against_own(start)
        for target, source in itertools.product(found.sets, ["", *found.sets]):
            way = Way(start=start, source=source, target=target)
            shown += [len(rows)] * (way in direct and direct[way].is_shown)
            rows.append(
                (
                    f"{source or '(no source)'} to {target}",
                    start,
                    source,
                    target,
                    *_value(found, way),
                    *_comparison(found, direct.get(way)),
                    *_comparison(found, own.get(way)),
                )
            )
    return Table(
        name="cells",
        title="Cell by cell",
        caption="Differences are split by split, with their own 95 % intervals; findings are adjusted after Holm over "
        "the cells of one matrix. Trained twice on its own pictures, a target has as many epochs as by a source.",
        columns=(
            Column(title="source to target"),
            *_columns("start"),
            Column(title="", names=("source",)),
            Column(title="", names=("target",)),
            *_value_columns(found.metric),
            *_compared("less trained directly", "direct"),
            *_compared("less own pictures twice", "own"),
        ),
        rows=tuple(rows),
        highlighted=frozenset(shown),
    )


def _simple(
    found: TransferFound,
    name: str,
    title: str,
    caption: str,
    less: Mapping[str, Mapping[Way, Difference]],
) -> list[Table]:
    """Return a table of ways, each less something, or several things; none where there are no ways."""
    ways = list(dict.fromkeys(way for told in less.values() for way in told))
    if not ways:
        return []
    rows = tuple(
        (
            str(way),
            way.start,
            way.source,
            way.merge,
            way.target,
            *_value(found, way),
            *(cell for told in less.values() for cell in _comparison(found, told.get(way))),
        )
        for way in ways
    )
    return [
        Table(
            name=name,
            title=title,
            caption=caption,
            columns=(
                Column(title="trained on, in turn", names=("way",)),
                *(
                    Column(title="", names=(part,))
                    for part in ("start", "source", "merge", "target")
                ),
                *_value_columns(found.metric),
                *(
                    column
                    for what in less
                    for column in _compared(f"less {what}", what.replace(" ", "_"))
                ),
            ),
            rows=rows,
        )
    ]


def _of_starts(found: TransferFound, told: list[dict[Way, Difference]]) -> dict[Way, Difference]:
    return {way: one for part in told for way, one in part.items()}


def _pretrained(found: TransferFound) -> list[Table]:
    gains = _of_starts(found, [found.against_random(start) for start in found.starts])
    direct = _of_starts(found, [found.against_direct(start) for start in found.starts])
    return _simple(
        found,
        "two_stage",
        "Pretrained, and in two stages",
        "Less the same way from random weights, and less the target trained directly from the same start.",
        {"random": gains, "direct": {way: direct[way] for way in gains if way in direct}}
        if gains
        else {},
    )


def _heads(found: TransferFound) -> list[Table]:
    told = _of_starts(found, [found.head_against_all(start) for start in found.starts])
    caption = "The target trains the head alone; less all layers trained by the recipe."
    return _simple(found, "head_only", "The head alone", caption, {"all layers": told})


def _merges(found: TransferFound) -> list[Table]:
    less = {
        title: _of_starts(found, [found.merged_against(start, what) for start in found.starts])
        for title, what in (
            ("highest single source", "single"),
            ("plain mean", "mean"),
            ("trained directly", "direct"),
        )
    }
    k = len(found.sets) - 1
    return _simple(
        found,
        "merges",
        "Merged networks",
        f"The networks of all {k} other sets as one start, tuned on the target. The single source is the highest of {k} on "
        "the validation pictures of each split; test pictures chose nothing.",
        less if found.merges else {},
    )


def _lines(found: TransferFound) -> list[Table]:
    if not found.lines:
        return []
    rows = []
    for pair in found.lines:
        rise = found.mean(found.barriers(pair))
        bounds = None if math.isnan(rise.low + rise.high) else (rise.low, rise.high)
        rows.append((" to ".join(pair.sources), pair.start, pair.target, rise.value, bounds))
    return [
        Table(
            name="barriers",
            title="Between two sources",
            caption="How far the loss of test pictures rises above the line between its two ends, at the highest of 11 "
            "points; never below 0.",
            columns=(
                *_columns("sources", "start", "target"),
                Column(title="barrier", names=("barrier",), form="number"),
                Column(
                    title="95 % interval", names=("low", "high"), form="interval", missing=_NONE
                ),
            ),
            rows=tuple(rows),
        )
    ]


def _scores(found: TransferFound) -> list[Table]:
    """Return how well scores rank networks, and the scores themselves as a CSV."""
    agreements = found.agreements()
    if not agreements:
        return []
    rows = [
        (
            title,
            one.tau.value,
            None if math.isnan(one.tau.low + one.tau.high) else (one.tau.low, one.tau.high),
            one.p,
            float(one.n_defined),
            *(float(tau) for tau in one.of_targets),
        )
        for title, one in agreements.items()
    ]
    values: list[tuple[Cell, ...]] = [
        (
            str(way),
            way.start,
            way.source,
            way.target,
            found.mean(found.test[way]).value,
            *(found.score(way, name) for name in SCORES),
        )
        for way in found.scores
    ]
    columns = [Column(title="", names=(n,)) for n in ("way", "start", "source", "target")]
    columns += [Column(title="", names=(n,), form="number") for n in (found.metric, *SCORES)]
    return [
        Table(
            name="scores",
            title="What was promised, and what came of it",
            caption="Scores of networks on a target's training pictures before they are trained on it, against "
            f"{found.metric} of test pictures after: Kendall's tau-b of the two orders, mean over targets. p: of no "
            "better than chance, not adjusted for the number of scores. The last row looks at no target.",
            columns=(
                *_columns("score"),
                Column(title="tau", names=("tau",), form="number"),
                Column(
                    title="95 % interval", names=("low", "high"), form="interval", missing=_NONE
                ),
                Column(title="p", names=("p",), form="number"),
                Column(title="targets", names=("targets",), form="whole"),
                *(
                    Column(title=f"on {name}", names=(f"tau_{name}",), form="number")
                    for name in found.sets
                ),
            ),
            rows=tuple(rows),
        ),
        _beside("scores_of_networks", columns, values),
    ]


def _likeness(found: TransferFound) -> list[Table]:
    """Return CKA of start and end as a CSV; the page has the charts."""
    rows = [
        (
            str(way),
            way.start,
            way.source,
            way.target,
            layer,
            metric.value,
            (metric.low, metric.high),
        )
        for way in found.likenesses
        for layer, metric in found.cka(way).items()
    ]
    columns = [Column(title="", names=(n,)) for n in ("way", "start", "source", "target", "layer")]
    columns.append(Column(title="", names=("cka",), form="number"))
    columns.append(Column(title="", names=("low", "high"), form="interval"))
    return [_beside("likeness", columns, rows)] if rows else []


def _beside(name: str, columns: list[Column], rows: Sequence[tuple[Cell, ...]]) -> Table:
    """Return a table that is a CSV only."""
    return Table(name=name, columns=tuple(columns), rows=tuple(rows), shown=0)


def _runs(found: TransferFound, runs: Sequence[Made]) -> Table:
    rows = []
    for made in runs:
        value = found.test[made.way][made.place]
        rows.append(
            (
                str(made.way),
                float(made.seed),
                float(made.fold),
                float(value),
                float(found.validation[made.way][made.place]),
                made.folder,
                made.command,
            )
        )
    return Table(
        name="runs",
        title="Run by run",
        caption=f"runs.csv has the command that does each again; the recipe is {RECIPE} beside it.",
        columns=(
            Column(title="trained on, in turn", names=("way",)),
            Column(title="seed", names=("seed",), form="whole"),
            Column(title="fold", names=("fold",), form="whole"),
            Column(title=f"{found.metric}, test", names=("test",), form="number"),
            Column(title="validation", names=("validation",), form="number"),
            Column(title="", names=("folder",)),
            Column(title="", names=("command",)),
        ),
        rows=tuple(rows),
        shown=_ON_PAGE,
    )
