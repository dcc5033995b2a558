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
    difference_cells,
    difference_columns,
)
from histofast.studies.pictures import RECIPE, PictureSetting, failed_tables
from histofast.studies.transfer_charts import (
    cka_figures,
    line_figures,
    matrices,
    rank_figures,
)
from histofast.studies.transfer_found import TransferFound, Way
from histofast.studies.transfer_maps import map_figures, map_tables
from histofast.studies.transfer_tables import (
    NONE,
    columns_of,
    likeness_tables,
    line_tables,
    rank_tables,
    score_tables,
)
from histofast.studies.transfer_words import basis_of, describe_transfer, limits_of

_ON_PAGE = 6  # rows of the table of runs


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
        *line_tables(found),
        *score_tables(found),
        *likeness_tables(found),
        *rank_tables(found),
        *map_tables(found),
        _runs(found, runs),
        *failed_tables(found.failed),
    )
    again = () if setting.command is None else (("The whole study", setting.command),)
    return Answer(
        name="transfer",
        title="What one data set teaches another",
        question=f"Does a {found.network} that was trained on one set of pictures learn another better?",
        basis=basis_of(found, sets),
        findings=describe_transfer(found),
        limits=limits_of(found),
        figures=(
            matrices(found),
            *line_figures(found),
            *cka_figures(found),
            *rank_figures(found),
            *map_figures(found),
        ),
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


def _value_columns_of(metric: str) -> list[Column]:
    return [
        Column(title=metric, names=("value",), form="number"),
        Column(title="95 % interval", names=("low", "high"), form="interval", missing=NONE),
    ]


def _value(found: TransferFound, way: Way) -> tuple[Cell, ...]:
    metric = found.mean(found.test[way], of=found.metric)
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
                    *difference_cells(direct.get(way), sign=found.sign),
                    *difference_cells(own.get(way), sign=found.sign),
                )
            )
    return Table(
        name="cells",
        title="Cell by cell",
        caption="Differences are split by split, with their own 95 % intervals; findings are adjusted after Holm over "
        "the cells of one matrix. Trained twice on its own pictures, a target has as many epochs as by a source.",
        columns=(
            Column(title="source to target"),
            *columns_of("start"),
            Column(title="", names=("source",)),
            Column(title="", names=("target",)),
            *_value_columns_of(found.metric),
            *difference_columns("less trained directly", "direct"),
            *difference_columns("less own pictures twice", "own"),
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
            *(
                cell
                for told in less.values()
                for cell in difference_cells(told.get(way), sign=found.sign)
            ),
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
                *_value_columns_of(found.metric),
                *(
                    column
                    for what in less
                    for column in difference_columns(f"less {what}", what.replace(" ", "_"))
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
