"""The engine of many machines: workers that are actors of a Ray cluster. The door to ray.

Pixels and features never cross it: a worker reads slides and writes files where it is, and what comes
here are messages. Ray places the workers and says that one is dead; who gets which job, and how often a
job is tried, is the business of `dealing`, as with processes. So nothing of Ray's retries, restarts
or object store is used.
"""

from __future__ import annotations

import os
import platform
import queue
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from histofast._notes import LOG, log_of, note
from histofast._numbers import whole_number
from histofast._stopping import deferred_interrupts, interruptions
from histofast._words import count, one_line
from histofast.errors import JobError
from histofast.jobs.feed import Worker
from histofast.jobs.job import Job
from histofast.jobs.link import Link, attend
from histofast.jobs.messages import STOP, Gone, answer, order, read
from histofast.jobs.team import Emit, IsLast, Messages, Team, Wake, check_portable

_log = log_of(__name__)

PLACE_S = 60.0  # for a worker to be given a place
SILENT_S = 30.0  # without an answer, until a worker is given up
LOOK_S = 5.0  # how long a worker waits before it answers that it has nothing to say
STORE_BYTES = 100 * 2**20  # of Ray's shared memory where the cluster is ours: messages are small
_THREADS = 4  # of an actor: each call that may wait has one
_LOCAL = re.compile(r"local:([1-9][0-9]*)")
_HOST = re.compile(r"(?!local:)(ray://)?[\w.\-\[\]:]+:[0-9]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Where:
    """Where a worker is, and what it runs.

    Attributes:
        host: name of the machine.
        pid: of its process there.
        histofast: version.
        python: version.
    """

    host: str
    pid: int
    histofast: str
    python: str


# --- in the cluster -----------------------------------------------------------------------------


class _Inbox:
    """A `Channel` between the threads of an actor: its worker's end."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._said: list[bytes] = []
        self._first = 0  # the number of the first that is kept
        self._news = threading.Condition()
        self.is_over = False

    def put(self, data: bytes) -> None:
        self._orders.put(data)

    def recv_bytes(self) -> bytes:
        return self._orders.get()

    def send_bytes(self, data: bytes, /) -> None:
        with self._news:
            self._said.append(data)
            self._news.notify_all()

    def close(self) -> None:
        with self._news:
            self.is_over = True
            self._news.notify_all()

    def messages(self, after: int) -> tuple[list[bytes], bool]:
        """Return what was said after so many messages, which are let go, and whether that is all."""
        with self._news:
            del self._said[: after - self._first]
            self._first = after
            self._news.wait_for(lambda: self._said or self.is_over, LOOK_S)
            return list(self._said), self.is_over


class _Actor:
    """A worker, as Ray runs it."""

    def __init__(self) -> None:
        self._inbox = _Inbox()

    def where(self) -> Where:
        return Where(
            host=socket.gethostname(),
            pid=os.getpid(),
            histofast=_version(),
            python=platform.python_version(),
        )

    def call(self, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        return function(**arguments)

    def begin(self, data: bytes, patience_s: float, folder: str) -> None:
        with suppress(OSError):  # one that is not here: whoever looks for a file in it will say
            os.chdir(folder)
        self._inbox.put(data)
        threading.Thread(target=self._work, args=(patience_s,), daemon=True).start()

    def _work(self, patience_s: float) -> None:
        try:
            attend(Link(self._inbox, patience_s=patience_s))
        finally:
            self._inbox.close()

    def put(self, data: bytes) -> None:
        self._inbox.put(data)

    def messages(self, after: int) -> tuple[list[bytes], bool]:
        return self._inbox.messages(after)


# --- here ---------------------------------------------------------------------------------------


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
    address: str, *, cpus: int | None = None, gpus: float | None = None
) -> Iterator[Crew]:
    """Give a crew that fills a Ray cluster, and let it go at the end.

    Args:
        address: "auto": the cluster that this machine is part of; "HOST:PORT": one by its address;
            "ray://HOST:10001": one that is reached through its head; "local:3": one of three workers
            on this machine, made here and ended at the end.
        cpus: of each worker, >= 1. When None, all of a machine without GPUs, and else its share for each
            GPU; of the smallest machine, where they differ.
        gpus: of each worker, such as 1 or 0.5. When None, 1 where the cluster has any.

    Raises:
        ValueError: an address or a number out of range.
        JobError: ray is not installed, no cluster is there, it does not give the workers within a
            minute, or one of them runs another version.
    """
    wanted = whole_number("cpus_per_worker", cpus, at_least=1)
    if gpus is not None and not (0 <= gpus < 1 or float(gpus).is_integer()):
        raise ValueError(f"gpus_per_worker must be a whole number or a share below 1, got {gpus}")
    with _connected(address) as ray:
        n, cpus_each, gpus_each = _places(ray, wanted, gpus)
        hire = _hiring(ray, cpus_each, gpus_each)
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


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Give ray, connected; a connection that was there before stays."""
    local = _LOCAL.fullmatch(address)
    if not (local or address == "auto" or _HOST.fullmatch(address)):
        raise ValueError(
            f"cluster must be auto, local:WORKERS, HOST:PORT or ray://HOST:PORT, got {address!r}"
        )
    try:
        import ray
    except ImportError as error:
        raise JobError("a cluster needs ray: pip install 'histofast[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"address": address}
    if local:
        options = {"address": "local", "num_cpus": int(local[1]), "include_dashboard": False}
        options |= {"object_store_memory": STORE_BYTES, "num_gpus": 0}
    with _signals_kept():
        try:
            ray.init(**options, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # RuntimeError, ConnectionError, ValueError, grpc's ...
            raise JobError(
                f"no Ray cluster answers at {address}: start it, or give local:2 for two workers on this "
                f"machine ({one_line(error)[:200]})"
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


def _hiring(ray: Any, cpus: int, gpus: float) -> Callable[[], Any]:
    """Return what asks for another worker; it may have to wait for a place."""
    remote = ray.remote(_Actor).options(
        num_cpus=cpus,
        num_gpus=gpus,
        max_restarts=0,
        max_task_retries=0,
        max_concurrency=_THREADS,
        scheduling_strategy="SPREAD",
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
        if where.histofast != _version():
            raise JobError(
                f"{where.host} has histofast {where.histofast}, and this machine {_version()}: install the "
                "same version on all machines of the cluster"
            )


def _version() -> str:
    from histofast import _core

    return _core.version
