"""A column of a study: how much the features of each candidate depend on a centre or scanner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from histofast.robustness import compare_robustness, describe_robustness
from histofast.studies.plan import Candidate
from histofast.studies.rows import Study, StudyRow
from histofast.studies.running import features_of
from histofast.studies.setting import CONFIDENCE, Setting

FOLDER = "robustness"


def with_robustness(
    study: Study, candidates: Sequence[Candidate], setting: Setting
) -> tuple[Study, dict[str, str]]:
    """Measure the candidates that are no random networks, where it was asked for.

    Returns:
        The study with what was found of each row and in words, and where its own page is.

    Raises:
        FeatureError, FileNotFoundError, ValueError: as `compare_robustness`.
    """
    column = setting.robustness
    if column is None:
        return study, {}
    folders = {c.row.name: features_of(c.key, setting) for c in candidates if not c.null}
    setting.tell(f"dependence of features on {column}")
    found = compare_robustness(
        folders,
        setting.labels,
        column=column,
        missing=setting.missing,
        confidence=CONFIDENCE,
        seed=setting.config.seed,
        on_progress=setting.counting(f"dependence of features on {column}"),
    )
    found.save(setting.out / FOLDER)

    def told(row: StudyRow) -> StudyRow:
        of_row = found.encoders.get(row.name)
        if of_row is None:
            return row
        more = {
            f"robustness index, {column}": of_row.index.value,
            f"shuffled, {column}": of_row.index.shuffled,
            f"robustness margin, {column}": of_row.margin.value,
            f"share of variance, {column}": of_row.share.value,
        }
        return replace(row, extra={**row.extra, **more})

    said = [line for line in describe_robustness(found) if line not in study.remarks]
    study = replace(
        study,
        rows=tuple(map(told, study.rows)),
        remarks=(*study.remarks, *said),
        convention={
            **study.convention,
            f"robustness to {column}": f"its own page has formulas, intervals and nulls ({FOLDER}/)",
        },
    )
    return study, {f"How much features depend on {column}": f"{FOLDER}/index.html"}
