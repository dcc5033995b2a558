"""A study of slides, whole or in parts.

    encoder files, by network -> features, by slide -> runs, by candidate and repeat -> measures and the page

Each step needs the whole of the one before. `conduct` does what is left of all; `conduct_part` does a part of the first
that is not done yet, as other processes or machines do the others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from histofast import report
from histofast.errors import HistofastError
from histofast.jobs import Job, Outcome, Part, Status, values_of
from histofast.pipeline import SlideReport
from histofast.studies.answers import answer_of
from histofast.studies.dependence import with_robustness
from histofast.studies.plan import Candidate, train_part, work_on
from histofast.studies.rows import Study
from histofast.studies.running import (
    Question,
    answer,
    compute_features,
    features_of,
    lack_features,
)
from histofast.studies.setting import Setting


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyResult:
    """A study's answer, and the folder that holds all of it (index.html is the page)."""

    study: Study
    path: Path


class SlideStudy(ABC):
    """Which candidates there are, and what is told of them."""

    setting: Setting

    @property
    @abstractmethod
    def words(self) -> Question:
        """How it is told."""

    @property
    def exported(self) -> Sequence[str]:
        """The networks whose encoder files it makes."""
        return ()

    def lacking(self, name: str) -> Sequence[Callable[[], object]]:
        """Return what makes the encoder files of a network that are not there, one after the other.

        Raises:
            FileNotFoundError, ModelError: weights that cannot be read or used.
        """
        raise NotImplementedError(name)

    @abstractmethod
    def candidates(self) -> tuple[list[Candidate], list[str | Path]]:
        """Return the candidates, and names or files that compute the features of all; their files are there."""

    def looks_besides(self, candidates: Sequence[Candidate]) -> dict[str, str]:
        """Look at the features otherwise, and return titles and pages of that, in the study's folder."""
        return {}


def conduct(study: SlideStudy) -> StudyResult:
    """Do what a study needs and is not there, measure it, and write its page.

    Raises:
        What `extract`, `bench`, `train_all` and the export of networks raise.
        HistofastError: a slide failed; features of other patch sizes are there.
        KeyboardInterrupt: what is done is kept, and gone on from.
    """
    setting = study.setting
    setting.check()
    values_of(_export(study, range(len(study.exported))))
    candidates, encoders = study.candidates()
    found = answer(candidates, encoders, setting, words=study.words)
    found, links = with_robustness(found, candidates, setting)
    links = {**study.looks_besides(candidates), **links}
    report.save(answer_of(found, links=links), setting.out)
    return StudyResult(study=found, path=setting.out)


def levels_of(study: SlideStudy) -> int:
    """Return how many steps of a study are done in parts, each after the one before."""
    return 3 if study.exported else 2


def conduct_part(study: SlideStudy, part: Part) -> list[Outcome]:
    """Do a part of the first step of a study of which something lacks.

    Returns:
        What became of its jobs.

    Raises:
        What `conduct` raises before its first slide; KeyboardInterrupt: as of `conduct`.
    """
    setting = study.setting
    setting.check()
    if any(study.lacking(name) for name in study.exported):
        return _export(study, [k for k in range(len(study.exported)) if part.has(k)])
    candidates, encoders = study.candidates()
    if lack_features(candidates, setting):
        made = compute_features(encoders, setting, words=study.words, part=part)
        return [_outcome_of(slide) for slide in made.slides if slide.status != "interrupted"]
    features = [features_of(candidate.key, setting) for candidate in candidates]
    return train_part(candidates, features, setting, part=part)


def _export(study: SlideStudy, places: Sequence[int]) -> list[Outcome]:
    """Make the encoder files that are not there yet; one network is in memory at a time."""
    names = [study.exported[place] for place in places]
    if names:
        (study.setting.out / "encoders").mkdir(parents=True, exist_ok=True)
    work = [
        Job(name=name, function=_make_encoders, arguments={"study": study, "name": name})
        for name in names
    ]
    return work_on(work, study.setting, "exporting")


def _make_encoders(*, study: SlideStudy, name: str) -> None:
    for make in study.lacking(name):
        make()


def _outcome_of(slide: SlideReport) -> Outcome:
    if slide.status == "failed":
        return Outcome(job=Job(name=slide.name), status="failed", error=HistofastError(slide.error))
    status: Status = "there" if slide.status == "skipped" else "done"
    return Outcome(job=Job(name=slide.name), status=status)
