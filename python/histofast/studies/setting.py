"""What every study is told, and the looks at it that need no work."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from histofast._notes import log_of
from histofast._numbers import real_number, whole_number
from histofast._progress import listening
from histofast.jobs import Cluster, Engine, engine_for
from histofast.learning import TOLERANCE, LabelsOfPatients, Missing, Task, folds
from histofast.mil import TrainConfig, open_labels
from histofast.patches import Job, PatchImages, StainOptions, TissueOptions, list_bags, list_jobs
from histofast.report import check_installed
from histofast.robustness import check_column
from histofast.slides import Icc

_log = log_of(__name__)

CONFIDENCE = 0.95  # of all intervals
SAY_S = 10.0  # between words on work that goes on

METRIC_OF = {"classification": "auroc", "regression": "spearman", "survival": "c_index"}
TITLE_OF = {"auroc": "AUROC", "spearman": "Spearman's rho", "c_index": "C-index"}
CHANCE_OF = {"auroc": 0.5, "spearman": 0.0, "c_index": 0.5}


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyProgress:
    """What a study is doing, in words, and how far it is: `done` of `total` such things."""

    doing: str
    done: int
    total: int

    def __str__(self) -> str:
        """As a line: `training b5 (3 of 20)`."""
        return f"{self.doing} ({self.done + 1} of {self.total})" if self.total > 1 else self.doing

    @property
    def line(self) -> str:
        """What stays to be said."""
        return str(self)


OnProgress = Callable[[StudyProgress], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What every study is told, once.

    Attributes:
        labels: table of slides' labels, as `histofast.mil.open_bags` reads it.
        out: folder of the study: its page, encoders, features and runs.
        slides: to cut into patches.
        patches: instead, patch images, as `extract` takes them; they are enlarged to `patch_px` if smaller.
        patch_px: side of the patches; None: what the encoders say.
        mpp: um per pixel of patches from slides; None: likewise.
        min_tissue: least share of tissue in a patch of a slide.
        tissue: how the tissue of slides is found.
        stain, icc: colours that patches are brought to, see `extract`.
        model: of bags.
        task: what the labels are.
        config: how to train; its seed is that of the first repeat.
        missing: see `open_bags`.
        repeats: of the cross-validation, each with folds and seeds of its own, >= 1.
        tolerance: how much less than the highest counts as about as good, in units of the metric, > 0.
        robustness: column of the table of labels, a centre or scanner, on which dependence of the features
            is measured too; None: it is not.
        measure_speed: time every candidate's encoder on patches of this study.
        jobs: runs at a time, in processes side by side, >= 1; the numbers are the same. None: 1.
        threads: of torch in each; None: as many as torch likes.
        cluster: encode slides and do the runs on the machines of a Ray cluster, see `extract`.
        command: how a user would repeat it, for the page.
        progress: show it as lines of text: True, False; None: in a notebook, unless `on_progress` hears it.
        on_progress: called before each part.

    Raises:
        ValueError: neither or both of slides and patches, numbers out of range.
        TypeError: repeats or jobs that are no whole numbers.
    """

    labels: str | Path | LabelsOfPatients
    out: Path
    slides: str | Path | Sequence[str | Path] | None = None
    patches: str | Path | PatchImages | None = None
    patch_px: int | None = None
    mpp: float | None = None
    min_tissue: float = 0.25
    tissue: TissueOptions = field(default_factory=TissueOptions)
    stain: StainOptions | None = None
    icc: Icc | None = None
    model: str = "attention"
    task: Task = "classification"
    config: TrainConfig = field(default_factory=TrainConfig)
    missing: Missing = "error"
    repeats: int = 3
    tolerance: float = TOLERANCE
    robustness: str | None = None
    measure_speed: bool = True
    jobs: int | None = None
    threads: int | None = 1
    cluster: Cluster | str | None = None
    command: str | None = None
    progress: bool | None = None
    on_progress: OnProgress | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out))
        object.__setattr__(self, "on_progress", listening(self.progress, self.on_progress))
        object.__setattr__(self, "progress", False)  # a copy does not show it twice
        object.__setattr__(self, "cluster", Cluster.of(self.cluster))
        _ = self.engine  # refused now, what does not go together
        for name in ("repeats", "jobs", "threads"):
            value = whole_number(name, getattr(self, name), at_least=1)
            object.__setattr__(self, name, value)
        object.__setattr__(self, "tolerance", real_number("tolerance", self.tolerance))
        if not 0 < self.tolerance < math.inf:
            raise ValueError(f"tolerance must be above 0, got {self.tolerance}")
        if (self.slides is None) == (self.patches is None):
            raise ValueError("slides or patches must be given, and not both")
        if self.robustness is not None and self.task != "classification":
            raise ValueError(f"robustness must be asked with task classification, got {self.task}")

    @property
    def engine(self) -> Engine:
        """What does the runs."""
        return engine_for(
            folder=self.out, jobs=self.jobs, threads=self.threads, cluster=self.cluster
        )

    @property
    def metric(self) -> str:
        """Name of the metric that candidates are judged by."""
        return METRIC_OF[self.task]

    @property
    def metric_title(self) -> str:
        """The metric, as pages call it."""
        return TITLE_OF[self.metric]

    @property
    def chance(self) -> float:
        """The metric's value where nothing was learnt."""
        return CHANCE_OF[self.metric]

    @property
    def slide_jobs(self) -> list[Job]:
        """The slides, or bags of patches, as they lie there now.

        Raises:
            ValueError, FileNotFoundError, SlideError: there are none, or they cannot be told apart.
        """
        if self.patches is not None:
            return list_bags(self.patches)
        assert self.slides is not None
        paths = [self.slides] if isinstance(self.slides, str | Path) else list(self.slides)
        return list_jobs(paths)

    def tell(self, doing: str, *, done: int = 0, total: int = 1, level: int = logging.INFO) -> None:
        """Say what is done next; `level` is that of the log, lower where others log it too."""
        progress = StudyProgress(doing=doing, done=done, total=total)
        _log.log(level, "%s", progress)
        if self.on_progress is not None:
            self.on_progress(progress)

    def counting(self, doing: str) -> Callable[[int, int], None]:
        """Return what says now and then how many are done of how many."""
        said = time.monotonic()

        def count(done: int, total: int) -> None:
            nonlocal said
            if done < total and time.monotonic() - said > SAY_S:
                said = time.monotonic()
                self.tell(doing, done=done, total=total)

        return count

    def check(self) -> None:
        """Find out before the work whether labels, slides and folds agree.

        Raises:
            ValueError, FileNotFoundError: as `open_bags` and `folds`, and what is wrong with the
                slides.
            ModuleNotFoundError: what draws the page is not installed.
        """
        check_installed()
        if self.robustness is not None:
            check_column(self.labels, self.robustness)
        names = [job.name for job in self.slide_jobs if not job.problem]
        known = open_labels(self.labels, names, task=self.task, missing=self.missing)
        for repeat in range(self.repeats):
            folds(known, n=self.config.folds, seed=self.config.seed + repeat)
