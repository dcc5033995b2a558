"""What a comparison gives back."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from histofast._files import replacing
from histofast.similarity import Comparison


@dataclass(frozen=True, kw_only=True, slots=True)
class SimilarityResult:
    """What `compare` found, and its report; the numbers are in `comparison`."""

    comparison: Comparison

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the matrix and the diagonal into a PNG, PDF or SVG file."""
        from histofast import report

        report.plot_comparison(self.comparison, Path(path))

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write the report: one page that needs nothing else."""
        from histofast import report

        with replacing(Path(path), overwrite=True) as pending:
            pending.write_text(report.comparison_page(self.comparison), encoding="utf-8")

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write index.html, comparison.json, .csv, .png and .pdf into a folder, made if missing.

        The page comes last: where it is, all is.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (
            ("comparison.json", self.comparison.to_json()),
            ("comparison.csv", self.comparison.to_csv()),
        ):
            with replacing(folder / name, overwrite=True) as pending:
                pending.write_text(text, encoding="utf-8", newline="")
        for suffix in (".png", ".pdf"):
            self.plot(folder / f"comparison{suffix}")
        self.to_html(folder / "index.html")
