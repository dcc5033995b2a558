"""Studies done, whole or in parts, whatever they are of."""

from __future__ import annotations

from typing import overload

from histofast.jobs import Outcome, Part
from histofast.studies import pictures, slides
from histofast.studies.pictures import Conducted, PictureStudy
from histofast.studies.slides import SlideStudy, StudyResult


@overload
def conduct(study: SlideStudy) -> StudyResult: ...
@overload
def conduct(study: PictureStudy) -> Conducted: ...
def conduct(study: SlideStudy | PictureStudy) -> StudyResult | Conducted:
    """Do what a study needs and is not there, measure it, and write its page.

    Raises:
        What asking for its runs, and of slides encoding them, raises; HistofastError: every run failed, or of
            slides one of them; KeyboardInterrupt: what is done is kept, and gone on from.
        OSError: a folder cannot be written.
    """
    return slides.conduct(study) if isinstance(study, SlideStudy) else pictures.conduct(study)


def levels_of(study: SlideStudy | PictureStudy) -> int:
    """Return how many steps a study takes in which some jobs wait for others: so many arrays do it in parts.

    Raises:
        What asking for its runs raises.
    """
    return slides.levels_of(study) if isinstance(study, SlideStudy) else pictures.levels_of(study)


def conduct_part(study: SlideStudy | PictureStudy, part: str) -> list[Outcome]:
    """Do the jobs of a part of a study whose needs are there; nothing is measured, and there is no page.

    Several processes, on several machines, do parts of one study, step by step: of slides they make encoder files, then
    features, then runs; of pictures the runs that need no others, then those that do. `conduct` then does what is left.

    Args:
        study: which.
        part: "i/n": of n parts the ith.

    Returns:
        What became of each.

    Raises:
        ValueError: it says no part; what asking for its runs raises; KeyboardInterrupt: as of `conduct`.
    """
    told = Part.told(part)
    assert told is not None
    if isinstance(study, SlideStudy):
        return slides.conduct_part(study, told)
    return pictures.conduct_part(study, told)
