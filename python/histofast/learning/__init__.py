"""What every training shares: folds, metrics with intervals, epochs, logs, the folder of a run."""

from __future__ import annotations

from histofast.learning.association import LEAST_GROUPS, Correlation, correlate
from histofast.learning.epochs import EpochReport, best_of, has_ended, is_better, rank, write_log
from histofast.learning.files import read_json, write_bytes, write_csv, write_json
from histofast.learning.intervals import (
    TOLERANCE,
    Difference,
    Knee,
    Ranking,
    Standing,
    against_highest,
    corrected_difference,
    corrected_differences,
    corrected_interval,
    holm,
    knee,
    wider,
)
from histofast.learning.labels import NAMED, Labels, Missing, read_labels
from histofast.learning.logs import Log, loggers
from histofast.learning.rankings import (
    Agreement,
    agreement_of_rankings,
    difference_of_agreements,
    kendall_tau,
    merit_elsewhere,
)
from histofast.learning.record import (
    METRICS,
    PREDICTIONS,
    RUN,
    RunRecord,
    aside,
    difference,
    fold_folder,
    is_finished,
    open_recorded,
    or_none,
    parts_of_config,
    plain,
    read_record,
    refuse_folder,
    refuse_out_of_range,
    run_folder,
    sha256_of,
    unchanged,
)
from histofast.learning.scores import (
    LOWER_IS_BETTER,
    METRICS_OF,
    Metric,
    check_metric,
    differences,
    metrics,
    metrics_of_models,
)
from histofast.learning.side_by_side import OnNote, refuse_jobs, work_on_folds
from histofast.learning.splits import Fold, Labelled, folds
from histofast.learning.states import take_state, write_state
from histofast.learning.steps import (
    KaplanMeier,
    Reached,
    kaplan_meier,
    median_steps,
    speed_up,
    steps_to,
)
from histofast.learning.weighted import Task

__all__ = [
    "LEAST_GROUPS",
    "LOWER_IS_BETTER",
    "METRICS",
    "METRICS_OF",
    "NAMED",
    "PREDICTIONS",
    "RUN",
    "TOLERANCE",
    "Agreement",
    "Correlation",
    "Difference",
    "EpochReport",
    "Fold",
    "KaplanMeier",
    "Knee",
    "Labelled",
    "Labels",
    "Log",
    "Metric",
    "Missing",
    "OnNote",
    "Ranking",
    "Reached",
    "RunRecord",
    "Standing",
    "Task",
    "against_highest",
    "agreement_of_rankings",
    "aside",
    "best_of",
    "check_metric",
    "corrected_difference",
    "corrected_differences",
    "corrected_interval",
    "correlate",
    "difference",
    "difference_of_agreements",
    "differences",
    "fold_folder",
    "folds",
    "has_ended",
    "holm",
    "is_better",
    "is_finished",
    "kaplan_meier",
    "kendall_tau",
    "knee",
    "loggers",
    "median_steps",
    "merit_elsewhere",
    "metrics",
    "metrics_of_models",
    "open_recorded",
    "or_none",
    "parts_of_config",
    "plain",
    "rank",
    "read_json",
    "read_labels",
    "read_record",
    "refuse_folder",
    "refuse_jobs",
    "refuse_out_of_range",
    "run_folder",
    "sha256_of",
    "speed_up",
    "steps_to",
    "take_state",
    "unchanged",
    "wider",
    "work_on_folds",
    "write_bytes",
    "write_csv",
    "write_json",
    "write_log",
    "write_state",
]


def __dir__() -> list[str]:
    return __all__
