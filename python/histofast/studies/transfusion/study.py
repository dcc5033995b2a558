"""The study: what it plans, and what follows from that."""

from __future__ import annotations

from dataclasses import dataclass

from histofast.report import Answer
from histofast.studies.pictures import Done
from histofast.studies.transfusion.answers import answer_of
from histofast.studies.transfusion.claims import claims_of
from histofast.studies.transfusion.measures import measure
from histofast.studies.transfusion.plan import TransfusionPlan


@dataclass(frozen=True, kw_only=True)
class Transfusion(TransfusionPlan):
    """A study of where the gain of pretrained weights is; see `TransfusionPlan` for what it is told."""

    def answer(self, done: Done) -> Answer:
        """Measure what was done, and say what it means."""
        measured = measure(self, done)
        return answer_of(self, measured, claims_of(self, measured), done)
