"""What every study is told, and the looks at it that need no work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from histofast.learning import Missing, Task, folds
from histofast.mil import TrainConfig, open_labels
from histofast.patches import list_bags, list_jobs
from histofast.report import check_installed

_METRIC_OF = {"classification": "auroc", "regression": "spearman", "survival": "c_index"}
_TITLE_OF = {"auroc": "AUROC", "spearman": "Spearman's rho", "c_index": "C-index"}
_CHANCE_OF = {"auroc": 0.5, "spearman": 0.0, "c_index": 0.5}


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyProgress:
    """What a study is doing, in words, and how far it is: `done` of `total` such things."""

    doing: str
    done: int
    total: int


OnProgress = Callable[[StudyProgress], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Arguments of a study; see `truncation`."""

    labels: str | Path
    out: Path
    slides: str | Path | Sequence[str | Path] | None
    patches: str | Path | None
    patch_px: int | None
    mpp: float | None
    model: str
    task: Task
    config: TrainConfig
    missing: Missing
    measure_speed: bool
    min_tissue: float
    command: str | None
    on_progress: OnProgress | None

    @property
    def metric(self) -> str:
        """Name of the metric that candidates are judged by."""
        return _METRIC_OF[self.task]

    @property
    def metric_title(self) -> str:
        """The metric, as pages call it."""
        return _TITLE_OF[self.metric]

    @property
    def chance(self) -> float:
        """The metric's value where nothing was learnt."""
        return _CHANCE_OF[self.metric]

    def tell(self, doing: str, *, done: int = 0, total: int = 1) -> None:
        """Say what is done next."""
        if self.on_progress is not None:
            self.on_progress(StudyProgress(doing=doing, done=done, total=total))

    def check(self) -> None:
        """Find out before the work whether labels, slides and folds agree.

        Raises:
            ValueError, FileNotFoundError: as `open_bags` and `folds`, and what is wrong with the
                slides.
            ModuleNotFoundError: what draws the page is not installed.
        """
        check_installed()
        if (self.slides is None) == (self.patches is None):
            raise ValueError("either slides or patches must be given")
        if self.patches is not None:
            jobs = list_bags(self.patches)
        else:
            assert self.slides is not None
            paths = [self.slides] if isinstance(self.slides, str | Path) else list(self.slides)
            jobs = list_jobs(paths)
        names = [job.name for job in jobs]
        known = open_labels(self.labels, names, task=self.task, missing=self.missing)
        folds(known, n=self.config.folds, seed=self.config.seed)
