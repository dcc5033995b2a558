"""The engine of many machines: workers that are actors of a Ray cluster. The door to ray.

Pixels and features never cross it: a worker reads slides and writes files where it is, and what comes
here are messages. Ray places the workers and says that one is dead; who gets which job, and how often a
job is tried, is the business of `dealing`, as with processes. So nothing of Ray's retries, restarts
or object store is used.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from histofast._machine import available_cpus
from histofast._notes import LOG, log_of, note
from histofast._numbers import real_number, whole_number
from histofast._stopping import deferred_interrupts, interruptions
from histofast._words import count, one_line
from histofast.errors import JobError
from histofast.jobs.actor import LOOK_S, Actor, Where, version
from histofast.jobs.feed import Worker
from histofast.jobs.job import Job
from histofast.jobs.messages import STOP, Gone, answer, order, read
from histofast.jobs.processes import THREAD_VARIABLES
from histofast.jobs.team import Emit, IsLast, Messages, Team, Wake, check_portable

_log = log_of(__name__)

PLACE_S = 60.0  # for a worker to be given a place
SILENT_S = 30.0  # without an answer, until a worker is given up
STORE_BYTES = 100 * 2**20  # of Ray's shared memory where the cluster is ours: messages are small
_THREADS = 4  # of an actor: each call that may wait has one
_LOCAL = re.compile(r"local:([1-9][0-9]*)")
_HOST = re.compile(r"(?!local:)(ray://)?[\w.\-\[\]:]+:[0-9]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """A Ray cluster that is asked for, and what each of its workers has; wherever `cluster` is an argument.

    Attributes:
        address: "auto": the cluster that this machine is part of; "HOST:PORT": one by its address;
            "ray://HOST:10001": one that is reached through its head; "local:3": one of three workers
            on this machine, made here and ended at the end.
        cpus_per_worker: None: as many as what is done uses threads, if that is known; else all of a machine
            without GPUs, and its share for each GPU; of the smallest machine, where they differ.
        gpus_per_worker: such as 1 or 0.5. None: 1 where the cluster has any.

    Raises:
        TypeError, ValueError: an address or a number out of range.
    """

    address: str
    cpus_per_worker: int | None = None
    gpus_per_worker: float | None = None

    def __post_init__(self) -> None:
        known = isinstance(self.address, str) and (
            self.address == "auto"
            or _LOCAL.fullmatch(self.address)
            or _HOST.fullmatch(self.address)
        )
        if not known:
            raise ValueError(
                f"cluster must be auto, local:WORKERS, HOST:PORT or ray://HOST:PORT, got {self.address!r}"
            )
        cpus = whole_number("cpus_per_worker", self.cpus_per_worker, at_least=1)
        gpus = real_number("gpus_per_worker", self.gpus_per_worker, at_least=0)
        if gpus is not None and not (gpus < 1 or gpus.is_integer()):
            raise ValueError(
                f"gpus_per_worker must be a whole number or a share below 1, got {gpus:g}"
            )
        object.__setattr__(self, "cpus_per_worker", cpus)
        object.__setattr__(self, "gpus_per_worker", gpus)

    @classmethod
    def of(cls, told: Cluster | str | None) -> Cluster | None:
        """Return the cluster that an argument means, by its address or as it is; None: none."""
        return told if told is None or isinstance(told, Cluster) else cls(address=told)

    @property
    def workers_here(self) -> int | None:
        """Of how many workers on this machine it is made; None: it is there."""
        local = _LOCAL.fullmatch(self.address)
        return int(local[1]) if local else None


class Member:
    """A worker in the cluster, as its team sees it."""

    def __init__(
        self, number: int, worker: Worker, actor: Any, *, messages: Messages, patience_s: float
    ) -> None:
        self.number, self.worker = number, worker
        self.has_asked = self.is_over = False
        self._actor, self._messages, self._patience_s = actor, messages, patience_s
        self._reader = threading.Thread(target=self._read, name="histofast-link", daemon=True)

    @property
    def title(self) -> str:
        """How to call it in a sentence."""
        return f"the worker of {self.worker.name}"

    def begin(self) -> None:
        """Send what it is to do; Ray keeps it until the worker has a place."""
        data = order(self.worker, LOG.getEffectiveLevel())
        self._actor.begin.remote(data, self._patience_s, str(Path.cwd()))
        self._reader.start()

    def answer(self, job: Job | None) -> None:
        """Give it a job, or none, as it asked."""
        self._actor.put.remote(answer(job))

    def stop(self) -> None:
        """Tell it to end where it can; it ends itself when it has not in time."""
        self._actor.put.remote(STOP)

    def kill(self) -> None:
        """Have it end now."""
        import ray

        ray.kill(self._actor)

    def end(self) -> None:
        """Let its place go."""
        with suppress(Exception):  # of a cluster that is gone there is nothing to let go
            self.kill()
        if self._reader.is_alive():
            self._reader.join(LOOK_S)

    def _read(self) -> None:
        how = "ended"
        try:
            for data in self._said():
                self._messages.put((self, read(data)))
        except Exception as error:  # noqa: BLE001  # whatever Ray meets: the worker is lost to us
            how = how_lost(error)
        self._messages.put((self, Gone(how)))

    def _said(self) -> Iterator[bytes]:
        import ray

        # One that takes the place of another must be given one first.
        _refuse_others([ray.get(self._actor.where.remote(), timeout=PLACE_S)])
        n, heard_s = 0, time.monotonic()
        while True:
            try:
                said, is_over = ray.get(self._actor.messages.remote(n), timeout=SILENT_S)
            except ray.exceptions.ActorUnavailableError:
                if time.monotonic() - heard_s > SILENT_S:
                    raise
                time.sleep(1.0)
                continue
            n, heard_s = n + len(said), time.monotonic()
            yield from said
            if is_over and not said:
                return


def how_lost(error: BaseException) -> str:
    """Say how a worker was lost, as the end of a sentence, from what Ray says at length."""
    text = one_line(error)
    if isinstance(error, JobError):
        return f"was let go: {text}"
    if type(error).__name__ == "GetTimeoutError":
        return f"has given no answer for {SILENT_S:.0f} s"
    if "node" in text and re.search(r"node .{0,80}(died|dead|terminated|removed)", text):
        return "was lost with its machine"
    if "OutOfMemory" in type(error).__name__ or "memory monitor" in text:
        return "was ended by Ray for want of memory"
    return "died: the logs of Ray on its machine say more"


@dataclass(frozen=True, kw_only=True, slots=True)
class Crew:
    """Workers that have a place in a cluster. Made by `on_cluster`; an engine of jobs by `doing`.

    Attributes:
        hosts: name of the machine of each worker.
        cpus: of each worker.
        gpus: of each worker.
    """

    hosts: tuple[str, ...]
    cpus: int
    gpus: float
    _actors: tuple[Any, ...] = field(repr=False)
    _hire: Callable[[], Any] = field(repr=False)

    @property
    def names(self) -> list[str]:
        """A name for each worker: that of its machine, numbered where it has several."""
        several = {host for host in self.hosts if self.hosts.count(host) > 1}
        seen: dict[str, int] = {}
        names = []
        for host in self.hosts:
            seen[host] = seen.get(host, 0) + 1
            names.append(f"{host} ({seen[host]})" if host in several else host)
        return names

    def ask(self, function: Callable[..., Any], **arguments: Any) -> list[Any]:
        """Return what a function says on each worker, before they begin.

        Raises:
            What it raises there; JobError: a worker is lost.
        """
        import ray

        calls = [actor.call.remote(function, arguments) for actor in self._actors]
        said = []
        for name, call in zip(self.names, calls, strict=True):
            try:
                said.append(ray.get(call, timeout=PLACE_S))
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                raise JobError(f"the worker of {name} {how_lost(error)}") from error
        return said

    def doing(self, worker: Worker, *, patience_s: float = 10.0, poll_s: float = 0.5) -> OnCrew:
        """Return the engine in which each worker of the crew does what `worker` says."""
        return OnCrew(crew=self, worker=worker, patience_s=patience_s, poll_s=poll_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class OnCrew:
    """An engine: jobs are done by a crew. A lost worker's jobs go to others, and it is replaced.

    Attributes:
        crew: who does them.
        worker: what each of them runs; it is named by its machine.
        tries: how many workers may be lost with a job before it has failed.
        replace, patience_s, poll_s: as of `Local`.
    """

    crew: Crew
    worker: Worker
    tries: int = 2
    replace: bool = True
    patience_s: float = 10.0
    poll_s: float = 0.5

    @property
    def side_by_side(self) -> int:
        """How many jobs are done at a time."""
        return len(self.crew.hosts)

    def run(self, jobs: Sequence[Job], emit: Emit, is_last: IsLast) -> None:
        """Do the jobs; see `Engine.run`."""
        check_portable(jobs)
        workers = [
            Worker(function=self.worker.function, arguments=self.worker.arguments, name=name)
            for name in self.crew.names
        ]
        waiting = list(self.crew._actors)

        def start(number: int, worker: Worker, messages: Messages) -> Member:
            actor = waiting.pop(0) if waiting else self.crew._hire()
            return Member(number, worker, actor, messages=messages, patience_s=self.patience_s)

        with deferred_interrupts(wake := Wake()):
            Team(self, workers, start, jobs, emit, is_last, wake).run()


@contextmanager
def on_cluster(
    cluster: Cluster | str,
    *,
    cpus: int | None = None,
    threads: int | None = None,
    at_most: int | None = None,
) -> Iterator[Crew]:
    """Give a crew that fills a cluster, and let it go at the end.

    Args:
        cluster: its address, or what is asked of it.
        cpus: of each worker, where the cluster does not say.
        threads: of the libraries of numbers in each worker; as they like when None.
        at_most: so many workers.

    Raises:
        ValueError: an address or a number out of range.
        JobError: ray is not installed, no cluster is there, it does not give the workers within a
            minute, or one of them runs another version.
    """
    asked = _asked(cluster, cpus)
    with _connected(asked) as ray:
        n, cpus_each, gpus_each = _places(ray, asked.cpus_per_worker, asked.gpus_per_worker)
        n = n if at_most is None else min(n, at_most)
        variables = _variables(threads, hides_gpus=not gpus_each and _has_gpus(ray))
        hire = _hiring(ray, cpus_each, gpus_each, variables)
        actors = tuple(hire() for _ in range(n))
        try:
            wheres = _wait_for_places(ray, actors, cpus_each, gpus_each)
            there = [(w, a) for w, a in zip(wheres, actors, strict=True) if w is not None]
            if not there:
                raise JobError("the cluster lost all its workers while they started: see its logs")
            _refuse_others([where for where, _ in there])
            yield Crew(
                hosts=tuple(where.host for where, _ in there),
                cpus=cpus_each,
                gpus=gpus_each,
                _actors=tuple(actor for _, actor in there),
                _hire=hire,
            )
        finally:
            for actor in actors:
                with suppress(Exception):
                    ray.kill(actor)


def places_on(cluster: Cluster | str, *, cpus: int | None = None) -> int:
    """Return how many workers a cluster has place for when nothing else is on it.

    Args, Raises: as of `on_cluster`.
    """
    asked = _asked(cluster, cpus)
    if asked.workers_here is not None:
        return asked.workers_here
    with _connected(asked) as ray:
        return _places(ray, asked.cpus_per_worker, asked.gpus_per_worker)[0]


def _asked(cluster: Cluster | str, cpus: int | None) -> Cluster:
    asked = Cluster.of(cluster)
    assert asked is not None
    if cpus is None and asked.workers_here is not None:  # they share what is here
        cpus = max(1, available_cpus() // asked.workers_here)
    return asked if asked.cpus_per_worker is not None else replace(asked, cpus_per_worker=cpus)


@contextmanager
def _connected(cluster: Cluster) -> Iterator[Any]:
    """Give ray, connected; a connection that was there before stays."""
    try:
        import ray
    except ImportError as error:
        raise JobError("a cluster needs ray: pip install 'histofast[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"address": cluster.address}
    if cluster.workers_here is not None:
        cpus = cluster.workers_here * (cluster.cpus_per_worker or 1)
        options = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
        options |= {"object_store_memory": STORE_BYTES, "num_gpus": 0}
    with _signals_kept():
        try:
            ray.init(**options, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # RuntimeError, ConnectionError, ValueError, grpc's ...
            raise JobError(
                f"no Ray cluster answers at {cluster.address}: start it, or give local:2 for two workers on "
                f"this machine ({one_line(error)[:200]})"
            ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep our answers to signals, of which Ray takes one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in interruptions()}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _places(ray: Any, cpus: int | None, gpus: float | None) -> tuple[int, int, float]:
    """How many workers the machines have place for, and the CPUs and GPUs of each."""
    machines = [
        (node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]
    has_gpus = any(g > 0 for _, g in machines)
    each_gpus = (1.0 if has_gpus else 0.0) if gpus is None else float(gpus)
    able = [(c, g) for c, g in machines if c >= 1 and g >= each_gpus]
    if cpus is None:
        shares = [c / (g // each_gpus) if each_gpus else c for c, g in able]
        cpus = max(1, int(min(shares, default=1)))
    n = sum(int(min(c // cpus, g // each_gpus if each_gpus else c)) for c, g in able)
    if n < 1:
        asked = f"{count(cpus, 'CPU')}{f' and {each_gpus:g} GPU' * bool(each_gpus)}"
        found = "; ".join(f"{c:g} CPU, {g:g} GPU" for c, g in machines) or "none"
        raise JobError(
            f"no machine of the cluster has place for a worker of {asked} (machines: {found}): ask for "
            "less with cpus_per_worker or gpus_per_worker"
        )
    return n, cpus, each_gpus


def _has_gpus(ray: Any) -> bool:
    return any(node["Resources"].get("GPU", 0) > 0 for node in ray.nodes() if node["Alive"])


def _variables(threads: int | None, *, hides_gpus: bool) -> dict[str, str]:
    """Return what the environment of a worker must say: Ray shows all GPUs to one that asks for none."""
    found = {} if threads is None else dict.fromkeys(THREAD_VARIABLES, str(threads))
    return found | ({"CUDA_VISIBLE_DEVICES": ""} if hides_gpus else {})


def _hiring(ray: Any, cpus: int, gpus: float, variables: Mapping[str, str]) -> Callable[[], Any]:
    """Return what asks for another worker; it may have to wait for a place."""
    remote = ray.remote(Actor).options(
        num_cpus=cpus,
        num_gpus=gpus,
        max_restarts=0,
        max_task_retries=0,
        max_concurrency=_THREADS,
        scheduling_strategy="SPREAD",
        runtime_env={"env_vars": dict(variables)} if variables else None,
    )
    return lambda: remote.remote()


def _wait_for_places(ray: Any, actors: Sequence[Any], cpus: int, gpus: float) -> list[Where | None]:
    calls = [actor.where.remote() for actor in actors]
    ready, _ = ray.wait(calls, num_returns=len(calls), timeout=PLACE_S)
    if len(ready) < len(calls):
        free, have = ray.available_resources(), ray.cluster_resources()
        raise JobError(
            f"the cluster gave {len(ready)} of {count(len(calls), 'worker')} a place within "
            f"{PLACE_S:.0f} s: each asks for {count(cpus, 'CPU')} and {gpus:g} GPU, of "
            f"{have.get('CPU', 0):g} CPU and {have.get('GPU', 0):g} GPU {free.get('CPU', 0):g} and "
            f"{free.get('GPU', 0):g} are free: end what holds them, or ask for less with cpus_per_worker"
        )
    return [_where(ray, call) for call in calls]


def _where(ray: Any, call: Any) -> Where | None:
    """Return what a worker says of itself; None of one that was lost on its way."""
    try:
        where: Where = ray.get(call)
    except ray.exceptions.RayError as error:
        text = one_line(error)
        if "No module named" in text or "ModuleNotFoundError" in text:
            raise JobError(
                "histofast cannot be imported on a machine of the cluster: install it on all of them, in the "
                "environment in which Ray was started"
            ) from error
        note(_log, f"a worker {how_lost(error)}, before it had begun")
        return None
    return where


def _refuse_others(wheres: Sequence[Where]) -> None:
    """Refuse workers that would not do what this process would do."""
    for where in wheres:
        if where.histofast != version():
            raise JobError(
                f"{where.host} has histofast {where.histofast}, and this machine {version()}: install the "
                "same version on all machines of the cluster"
            )
