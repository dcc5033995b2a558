"""What a comparison gives back."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from histofast import report
from histofast._files import replacing
from histofast.comparison.answers import answer_of
from histofast.similarity import Comparison


@dataclass(frozen=True, kw_only=True, slots=True)
class SimilarityResult:
    """What `compare` found, and its report; the numbers are in `comparison`."""

    comparison: Comparison

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the matrix and the diagonal into a PNG, PDF or SVG file."""
        report.save_figure(answer_of(self.comparison).figures[0], Path(path))

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write the report: one page that needs nothing else."""
        with replacing(Path(path), overwrite=True) as pending:
            pending.write_text(report.page(answer_of(self.comparison)), encoding="utf-8")

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write index.html, comparison.json, .csv, .png, .pdf and the tables of the page as CSV.

        The folder is made if missing. The page comes last: where it is, all is.
        """
        report.save(answer_of(self.comparison), folder)
