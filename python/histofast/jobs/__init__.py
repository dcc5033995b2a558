"""Units of work, and the engines that do those that are not done yet.

A job is a folder, an identity and a function. `run` does each once: its folder then holds
`done.json`, written whole and last, and the next run finds it there. A failure stays with its job;
all that happens comes as one stream of events; Ctrl-C, and whatever else ends a run, leaves what is
done and nothing running.

A job may need others: it begins when they are done, and fails where one of them does. Or it comes after
them, whatever became of them. A `Plan` knows
jobs by what they make, so that the same asked for twice, or by two studies, is one job.

An engine is one method (`Engine.run`) that calls `execute` on each job somewhere; `Local` does so
here or in processes, `OnCluster` on other machines, and `engine_for` says which. The function of a job is called with its arguments and may `tell` how far it
is, and ask `should_stop` (or call `stop_if_asked`) between batches.
"""

from histofast._stopping import (
    Interrupted,
    deferred_interrupts,
    should_stop,
    stop_if_asked,
)
from histofast.jobs.choosing import OnCluster, engine_for, hired, refuse_with_cluster
from histofast.jobs.cluster import Cluster, Crew, on_cluster
from histofast.jobs.engine import Engine, run, values_of
from histofast.jobs.feed import Feed, Worker, work
from histofast.jobs.job import (
    MARKER,
    Ended,
    Event,
    Job,
    Lost,
    Outcome,
    Retried,
    Started,
    Status,
    Told,
    canonical,
    differences,
    execute,
    is_there,
    tell,
)
from histofast.jobs.local import Local
from histofast.jobs.parting import Part, levels_of
from histofast.jobs.plan import Plan, key_of, seconds_side_by_side

__all__ = [
    "MARKER",
    "Cluster",
    "Crew",
    "Ended",
    "Engine",
    "Event",
    "Feed",
    "Interrupted",
    "Job",
    "Local",
    "Lost",
    "OnCluster",
    "Outcome",
    "Part",
    "Plan",
    "Retried",
    "Started",
    "Status",
    "Told",
    "Worker",
    "canonical",
    "deferred_interrupts",
    "differences",
    "engine_for",
    "execute",
    "hired",
    "is_there",
    "key_of",
    "levels_of",
    "on_cluster",
    "refuse_with_cluster",
    "run",
    "seconds_side_by_side",
    "should_stop",
    "stop_if_asked",
    "tell",
    "values_of",
    "work",
]


def __dir__() -> list[str]:
    return __all__
