"""Workers on the machines of a Ray cluster; here several of its nodes on one machine."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

import histofast
import small_jobs
from extras import need
from histofast import jobs, pipeline
from histofast.errors import JobError, ModelError, WriteError
from histofast.jobs import Cluster, Ended, Job, Lost, OnCluster, Worker, engine_for
from labelled_pictures import write_pictures
from small_slides import write_slide
from toy_bags import write_toy

cluster, shared = jobs.cluster, jobs.shared

KILLS = int(os.environ.get("HISTOFAST_NODE_KILLS", "3"))
NODES = 2
PROGRAM = [sys.executable, "-c", "from histofast.cli import main; main()"]
OPTIONS = {"mpp": 1.0, "patch_px": 32, "min_tissue": 0.1}

# Ray leaves sockets and files to be collected.
ray_warns = pytest.mark.filterwarnings("ignore::ResourceWarning", "default::DeprecationWarning")


def files_in(out):
    """The bytes of each feature file."""
    return {str(f.relative_to(out)): f.read_bytes() for f in sorted(out.rglob("*.h5"))}


def leftovers(out):
    """What a run leaves that is neither a feature file, nor a report, nor a folder's options."""
    return [
        f
        for f in out.rglob("*")
        if f.is_file() and f.suffix not in (".h5", ".json") and f.parent.name != ".locks"
    ]


# --- without a cluster ----------------------------------------------------------------------------


def test_ray_is_not_part_of_the_package(slides, encoder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModelError, match=r"^a cluster needs ray: pip install 'histofast\[ray\]'$"):
        histofast.extract(slides, out=tmp_path / "out", encoder=encoder, cluster="auto", **OPTIONS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cluster": "localhost"}, "cluster must be auto, local:WORKERS, HOST:PORT or ray://HOST"),
        ({"cluster": "local:0"}, "cluster must be auto"),
        (
            {"cluster": "auto", "threads": 2},
            "threads must not be given with cluster, whose workers",
        ),
        ({"cluster": "auto", "workers": 2}, "workers must not be given with cluster"),
        ({"cluster": "auto", "gpus": [0]}, "gpus must not be given with cluster"),
    ],
)
def test_what_does_not_go_together(options, words, slides, encoder, tmp_path):
    with pytest.raises(ValueError, match=words):
        histofast.extract(slides, out=tmp_path / "out", encoder=encoder, **OPTIONS, **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("told", "kind", "words"),
    [
        ({"address": "localhost"}, ValueError, "cluster must be auto, local:WORKERS, HOST:PORT"),
        ({"address": 3}, ValueError, "cluster must be auto, .*, got 3"),
        ({"cpus_per_worker": 0}, ValueError, "cpus_per_worker must be at least 1, got 0"),
        ({"cpus_per_worker": "2"}, TypeError, "cpus_per_worker must be a whole number, got '2'"),
        ({"gpus_per_worker": -1}, ValueError, "gpus_per_worker must be at least 0, got -1"),
        ({"gpus_per_worker": 1.5}, ValueError, "gpus_per_worker must be a whole number or a share"),
        ({"gpus_per_worker": True}, TypeError, "gpus_per_worker must be a number, got True"),
    ],
)
def test_clusters_that_cannot_be_meant(told, kind, words):
    with pytest.raises(kind, match=words):
        Cluster(**{"address": "auto", **told})


def test_one_place_says_which_engine(tmp_path):
    local = engine_for(folder=tmp_path, jobs=2, threads=3)
    assert (local.processes, local.threads, local.side_by_side) == (2, 3, 2)
    away = engine_for(folder=tmp_path, threads=3, cluster="local:4", sees=[tmp_path])
    wanted = OnCluster(
        cluster=Cluster(address="local:4"), folder=tmp_path, sees=(tmp_path,), threads=3
    )
    assert away == wanted
    assert away.side_by_side == 4  # of as many CPUs as threads
    for told, words in (
        ({"jobs": 2}, "jobs must not be given with cluster, whose workers have cpus_per_worker"),
        ({"workers": [Worker(function=jobs.work)]}, "gpus must not be given with cluster"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=words):
            engine_for(folder=tmp_path, cluster="auto", **told)


def test_an_inbox_hands_on_each_message_once():
    inbox = jobs.actor.Inbox()
    inbox.send_bytes(b"a")
    inbox.send_bytes(b"b")
    assert inbox.messages(0) == ([b"a", b"b"], False)
    assert inbox.messages(0) == ([b"a", b"b"], False)  # what got lost on its way is asked for again
    inbox.send_bytes(b"c")
    assert inbox.messages(2) == ([b"c"], False)
    threading.Timer(0.05, inbox.close).start()
    assert inbox.messages(3) == ([], True)
    inbox.put(b"x")
    assert inbox.recv_bytes() == b"x"


class Nodes:
    """What Ray says of the machines of a cluster."""

    def __init__(self, *machines):
        self.machines = machines

    def nodes(self):
        return [
            {"Alive": alive, "Resources": {"CPU": float(cpus)} | ({"GPU": gpus} if gpus else {})}
            for cpus, gpus, alive in self.machines
        ]


@pytest.mark.parametrize(
    ("machines", "asked", "found"),
    [
        ([(0, 0, True), (8, 0, True), (8, 0, True)], (None, None), (2, 8, 0.0)),
        ([(16, 0, True), (4, 0, True)], (None, None), (5, 4, 0.0)),  # of the smallest
        ([(16, 0, True), (4, 0, False)], (None, None), (1, 16, 0.0)),
        ([(16, 4, True), (4, 0, True)], (None, None), (4, 4, 1.0)),  # its share for each GPU
        ([(16, 4, True)], (2, None), (4, 2, 1.0)),
        ([(16, 4, True)], (2, 0), (8, 2, 0.0)),
        ([(16, 1, True)], (2, 0.25), (4, 2, 0.25)),
        ([(3, 0, True), (7, 0, True)], (2, None), (4, 2, 0.0)),
    ],
)
def test_how_many_workers_have_place(machines, asked, found):
    assert cluster._places(Nodes(*machines), *asked) == found


def test_a_cluster_without_place_says_what_it_has():
    words = r"no machine .* place for a worker of 4 CPUs and 1 GPU \(machines: 2 CPU, 1 GPU; 0 CPU, 0 GPU\)"
    with pytest.raises(JobError, match=words):
        cluster._places(Nodes((2, 1, True), (0, 0, True)), 4, None)


def test_what_a_worker_does_not_see(tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "SEEN_S", 0.1)
    told = {"paths": [], "packages": {}}
    with shared.shown(tmp_path / "out") as token:
        here = {"token": str(token), **told}
        shared.look(**here | {"paths": [str(tmp_path)]})
        with pytest.raises(FileNotFoundError, match=r"gone\.tif cannot be seen on .* share$"):
            shared.look(**here | {"paths": [str(tmp_path / "gone.tif")]})
        shared.look(**here | {"packages": shared.versions_of(["numpy", "no-such-package"])})
        with pytest.raises(
            JobError, match=r" has numpy .*, and this machine 0\.1: install the same"
        ):
            shared.look(**here | {"packages": {"numpy": "0.1"}})
        with pytest.raises(JobError, match=r" has no no-such-package, and this machine 1\.0"):
            shared.look(**here | {"packages": {"no-such-package": "1.0"}})
    assert not (tmp_path / "out").exists()
    with pytest.raises(WriteError, match=r"^the output folder .* is not the same on .*: give out="):
        shared.look(token=str(token), **told)
    (tmp_path / "there").mkdir()
    with pytest.raises(WriteError, match=r"^of the body"), shared.shown(tmp_path / "there"):
        raise WriteError("of the body")
    assert not list((tmp_path / "there").iterdir())


def test_what_the_environment_of_a_worker_says():
    assert cluster._variables(None, hides_gpus=False) == {}
    assert cluster._variables(None, hides_gpus=True) == {"CUDA_VISIBLE_DEVICES": ""}
    assert cluster._variables(2, hides_gpus=False)["OMP_NUM_THREADS"] == "2"


# --- with one -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nodes():
    """A cluster of a head and two nodes of one CPU, to which this process is connected."""
    ray = need("ray")
    from ray.cluster_utils import Cluster

    # Nodes, later ones too, find the functions of tests by the environment they start in.
    known = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = f"{Path(small_jobs.__file__).parent}{os.pathsep}{known}"
    store = {"object_store_memory": 100 * 2**20}
    together = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **store}
    )
    for _ in range(NODES):
        together.add_node(num_cpus=1, **store)
    ray.init(address=together.address, log_to_driver=False, logging_level="ERROR")
    yield together
    ray.shutdown()
    together.shutdown()
    os.environ["PYTHONPATH"] = known


def mend(nodes):
    """Have as many nodes as before, once Ray knows which are dead."""
    while len(nodes.worker_nodes) < NODES:
        nodes.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    until = time.monotonic() + 60
    while sum(node["Alive"] for node in need("ray").nodes()) != 1 + NODES:
        assert time.monotonic() < until
        time.sleep(0.2)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, encoder):
    """Twelve slides of several sizes, and the bytes of their features from one process."""
    folder = tmp_path_factory.mktemp("cohort")
    (folder / "slides").mkdir()
    for i in range(12):
        write_slide(folder / f"slides/s{i}.tif", seed=i, size=(640 + 256 * (i % 4), 768))
    histofast.extract(folder / "slides", out=folder / "here", encoder=encoder, **OPTIONS)
    return folder, files_in(folder / "here")


def start_driver(folder, out, encoder, address):
    """Start the command, and wait until it has made a file."""
    options = ["--mpp", "1", "--patch-px", "32", "--min-tissue", "0.1", "--encoder", encoder]
    driver = subprocess.Popen(
        [*PROGRAM, "extract", folder / "slides", *options, "--out", out, "--cluster", address],
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    while not files_in(out) and driver.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    return driver


def elsewhere_too(folder, out, encoder, **options):
    options = {"cluster": "auto", **OPTIONS, **options}
    return histofast.extract(folder / "slides", out=out, encoder=encoder, **options)


@pytest.mark.cluster
@pytest.mark.slow
@ray_warns
def test_the_same_bytes_from_a_cluster(nodes, cohort, encoder, tmp_path):
    folder, expected = cohort
    seen = []
    report = elsewhere_too(folder, tmp_path / "out", encoder, on_progress=seen.append)
    assert report.exit_code == 0
    assert len(expected) == 12
    assert files_in(tmp_path / "out") == expected
    assert not leftovers(tmp_path / "out")
    assert len(report.devices) == NODES
    assert sum(device.slides for device in report.devices) == 12
    assert all(device.slides for device in report.devices)
    assert seen[-1].slides_done == 12
    again = elsewhere_too(folder, tmp_path / "out", encoder)
    assert len(again.of("skipped")) == 12


@pytest.mark.cluster
@pytest.mark.slow
@ray_warns
@pytest.mark.parametrize("seed", range(KILLS))
def test_a_lost_node_changes_no_byte(seed, nodes, cohort, encoder, tmp_path):
    folder, expected = cohort
    mend(nodes)
    draw = random.Random(seed)
    victim = draw.choice(list(nodes.worker_nodes))
    seen = threading.Event()

    def strike():
        seen.wait(60)
        time.sleep(draw.uniform(0, 1.0))
        nodes.remove_node(victim, allow_graceful=False)

    striking = threading.Thread(target=strike)
    striking.start()
    report = elsewhere_too(folder, tmp_path / "out", encoder, on_progress=lambda _: seen.set())
    seen.set()
    striking.join()
    assert report.exit_code == 0, report.error
    assert files_in(tmp_path / "out") == expected
    assert not leftovers(tmp_path / "out")


@pytest.mark.cluster
@pytest.mark.slow
@ray_warns
def test_a_raylet_that_is_killed_alone(nodes, cohort, encoder, tmp_path):
    """Its worker may live on for a while, and end what others do as well."""
    folder, expected = cohort
    mend(nodes)
    victim = next(iter(nodes.worker_nodes))
    seen = threading.Event()

    def strike():
        seen.wait(60)
        (raylet,) = victim.all_processes["raylet"]
        os.kill(raylet.process.pid, signal.SIGKILL)

    striking = threading.Thread(target=strike)
    striking.start()
    report = elsewhere_too(folder, tmp_path / "out", encoder, on_progress=lambda _: seen.set())
    striking.join()
    nodes.remove_node(victim)
    assert report.exit_code == 0, report.error
    assert files_in(tmp_path / "out") == expected


@pytest.mark.cluster
@pytest.mark.slow
@ray_warns
def test_a_driver_that_is_killed_and_started_again(nodes, cohort, encoder, tmp_path):
    folder, expected = cohort
    mend(nodes)
    out = tmp_path / "out"
    driver = start_driver(folder, out, encoder, nodes.address)
    driver.kill()
    driver.communicate()
    done = len(files_in(out))
    report = elsewhere_too(folder, out, encoder)
    assert report.exit_code == 0
    assert done >= 1
    assert len(report.of("skipped")) >= done
    assert files_in(out) == expected
    assert not leftovers(out)


@pytest.mark.cluster
@pytest.mark.slow
@ray_warns
def test_a_driver_that_is_told_to_end_drops_what_is_at_work(nodes, cohort, encoder, tmp_path):
    """As Slurm does before it preempts the job that the driver is in."""
    folder, expected = cohort
    mend(nodes)
    out = tmp_path / "out"
    driver = start_driver(folder, out, encoder, nodes.address)
    driver.terminate()
    _, said = driver.communicate(timeout=120)
    assert driver.returncode == 130, said
    assert "interrupted: the same command goes on from here" in said
    assert "Traceback" not in said
    done = files_in(out)
    assert 1 <= len(done) < 12
    assert {name: expected[name] for name in done} == done
    assert not leftovers(out)
    assert not list(out.rglob("*.lease"))
    report = elsewhere_too(folder, out, encoder)
    assert (report.exit_code, len(report.of("skipped"))) == (0, len(done))
    assert files_in(out) == expected


@pytest.mark.cluster
@pytest.mark.slow
@ray_warns
def test_a_worker_that_is_told_to_end_is_replaced(nodes, cohort, encoder, tmp_path):
    folder, expected = cohort
    mend(nodes)
    out, told = tmp_path / "out", []

    def strike(progress):
        at_work = [] if told else pipeline.status_of(out).at_work if any(out.glob("*")) else []
        for each in at_work[:1]:
            told.append(int(re.match(r"process ([0-9]+) on ", each.holder)[1]))
            os.kill(told[0], signal.SIGTERM)

    report = elsewhere_too(folder, out, encoder, on_progress=strike, batch_size=8)
    assert told
    assert report.exit_code == 0, report.error
    assert any("its process " in note for note in report.notes)
    assert files_in(out) == expected
    assert not leftovers(out)
    assert not list(out.rglob("*.lease"))


@pytest.mark.cluster
@pytest.mark.slow
@ray_warns
def test_as_many_workers_on_this_machine_as_asked_for(cohort, encoder, tmp_path):
    need("ray")
    folder, expected = cohort
    driver = start_driver(folder, tmp_path / "out", encoder, "local:2")
    _, said = driver.communicate(timeout=120)
    assert driver.returncode == 0, said
    report = json.loads((tmp_path / "out/run.json").read_text())
    assert len(report["devices"]) == 2
    assert files_in(tmp_path / "out") == expected


@pytest.mark.cluster
@pytest.mark.slow
@ray_warns
def test_a_job_that_kills_its_worker_fails_alone(nodes):
    mend(nodes)
    todo = [Job(name="bad", function=small_jobs.exit_hard, arguments={"code": 7})]
    todo += [Job(name=f"j{i}", function=small_jobs.add, arguments={"a": i}) for i in range(4)]
    seen = []
    with jobs.on_cluster("auto") as crew:
        engine = crew.doing(Worker(function=jobs.work))
        outcomes = jobs.run(todo, engine=engine, on_event=seen.append)
    assert [outcome.status for outcome in outcomes] == ["failed", *["done"] * 4]
    assert [outcome.value for outcome in outcomes[1:]] == [0, 1, 2, 3]
    assert "died: the logs of Ray on its machine say more" in str(outcomes[0].error)
    assert len([event for event in seen if isinstance(event, Lost)]) == 2
    assert len([event for event in seen if isinstance(event, Ended)]) == 5


@pytest.mark.cluster
@pytest.mark.slow
@ray_warns
def test_what_a_worker_raises_comes_here(nodes):
    mend(nodes)
    with jobs.on_cluster("auto") as crew:
        assert crew.ask(small_jobs.add, a=2, b=3) == [5, 5]
        with pytest.raises(ValueError, match="of the job"):
            crew.ask(small_jobs.fail)
        (outcome,) = jobs.run(
            [Job(name="a", function=small_jobs.fail)], engine=crew.doing(Worker(function=jobs.work))
        )
    assert str(outcome.error) == "of the job"


@pytest.mark.cluster
@pytest.mark.slow
@ray_warns
def test_workers_of_another_version_are_refused(nodes, monkeypatch):
    mend(nodes)
    monkeypatch.setattr(cluster, "version", lambda: "0.0.9")
    words = r"has histofast .*, and this machine 0\.0\.9: install the same version on all machines"
    with pytest.raises(JobError, match=words), jobs.on_cluster("auto"):
        pass


@pytest.mark.cluster
@pytest.mark.slow
@ray_warns
def test_encoders_must_be_the_same_everywhere(nodes, cohort, encoder, tmp_path, monkeypatch):
    folder, _ = cohort
    mend(nodes)
    ready = []
    monkeypatch.setattr(
        "histofast.pipeline.gathering._refuse_others", lambda found: ready.append(list(found))
    )
    elsewhere_too(folder, tmp_path / "out", encoder)
    (found,) = ready
    monkeypatch.undo()
    pipeline.gathering._refuse_others(found)
    other = [{**each, "sha256": "0" * 64} for each in found[1].about["encoders"]]
    found[1] = replace(found[1], about={**found[1].about, "encoders": other})
    with pytest.raises(ModelError, match=r"is another file on .* than on .*: sha256 0000"):
        pipeline.gathering._refuse_others(found)


@pytest.mark.cluster
@pytest.mark.slow
@ray_warns
def test_a_cluster_that_is_full_says_so(nodes, monkeypatch):
    mend(nodes)
    with jobs.on_cluster("auto"):
        monkeypatch.setattr(cluster, "PLACE_S", 1.0)
        words = r"gave 0 of 2 workers a place within 1 s: each asks for 1 CPU and 0 GPU, of 2 CPU .* 0 and"
        with pytest.raises(JobError, match=words), jobs.on_cluster("auto"):
            pass
    with (
        pytest.raises(JobError, match=r"no machine of the cluster .* \(machines: "),
        jobs.on_cluster("auto", cpus=64),
    ):
        pass


@pytest.mark.cluster
@pytest.mark.slow
@ray_warns
def test_ctrl_c_ends_all(nodes, cohort, encoder, tmp_path):
    folder, expected = cohort
    mend(nodes)

    def interrupt(progress):
        raise KeyboardInterrupt

    report = elsewhere_too(folder, tmp_path / "out", encoder, on_progress=interrupt)
    assert report.interrupted
    assert not leftovers(tmp_path / "out")
    assert elsewhere_too(folder, tmp_path / "out", encoder).exit_code == 0
    assert files_in(tmp_path / "out") == expected


# --- folds and studies ----------------------------------------------------------------------------


@pytest.fixture
def hired(monkeypatch):
    """The crews that engines of folds and studies have hired."""
    crews, hire = [], jobs.choosing.hired

    @contextmanager
    def watched(*told, **more):
        with hire(*told, **more) as crew:
            crews.append(crew)
            yield crew

    monkeypatch.setattr(jobs.choosing, "hired", watched)
    return crews


def actors(nodes):
    """The processes of workers, as Ray calls them, that nodes of ours have started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cmdline").read_bytes().startswith(b"ray::Actor"):
                parent = re.search(r"PPid:\s+(\d+)", (process / "status").read_text())[1]
                if nodes.address.encode() in Path(f"/proc/{parent}/cmdline").read_bytes():
                    found.append(int(process.name))
    return found


@contextmanager
def striking(nodes, when, *, again=False):
    """Kill workers in a thread once `when` says so: one of them, or all that come until the end."""
    over, killed = threading.Event(), []

    def strike():
        while not over.wait(0.1):
            if when():
                for pid in actors(nodes)[: None if again else 1]:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
                if not again:
                    return

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def made_in(run, *, but=()):
    """The bytes of each file of a run, without the times that logs and states tell."""
    return {
        str(f.relative_to(run)): _timeless(f)
        for f in sorted(run.rglob("*"))
        if f.is_file() and not f.name.startswith(".") and f.name not in but
    }


def _timeless(file):
    if file.suffix == ".csv":
        rows = list(csv.DictReader(io.StringIO(file.read_text())))
        return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
    return file.read_bytes()


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    """Bags, how to train on them, and the files of a run that was trained here."""
    need("torch", "sklearn")
    from histofast.mil import TrainConfig, train

    folder = tmp_path_factory.mktemp("folds")
    toy = write_toy(folder)
    config = TrainConfig(folds=3, epochs=3, lr=3e-3, max_patches=5)
    run = train(*toy, out=folder / "here", model="gated", config=config)
    told = {"features": toy[0], "labels": toy[1], "model": "gated", "config": config}
    return told, made_in(run.path)


@pytest.mark.cluster
@pytest.mark.slow
@ray_warns
def test_folds_on_a_cluster_are_those_of_here(nodes, folds, hired, tmp_path):
    from histofast.mil import train

    mend(nodes)
    told, expected = folds
    said = []
    run = train(**told, out=tmp_path / "run", cluster="auto", on_progress=said.append)
    assert made_in(run.path) == expected
    assert [len(crew.hosts) for crew in hired] == [NODES]
    assert {p.fold for p in said if p.finished} == {0, 1, 2}
    assert "predictions.csv" in expected
    assert sum(name.endswith("model.safetensors") for name in expected) == 3
    again = train(**told, out=tmp_path / "run", cluster="auto")
    assert again.path == run.path
    assert len(hired) == 1  # nothing was left


@pytest.mark.cluster
@pytest.mark.slow
@ray_warns
def test_a_worker_that_is_killed_amid_a_fold_is_replaced(nodes, folds, tmp_path):
    from histofast.mil import train

    mend(nodes)
    told, expected = dict(folds[0]), folds[1]
    begun = threading.Event()
    told["on_progress"] = lambda _: begun.set()
    with striking(nodes, begun.is_set) as killed:
        run = train(**told, out=tmp_path / "run", cluster="auto")
    assert killed
    assert made_in(run.path) == expected


@pytest.mark.cluster
@pytest.mark.slow
@ray_warns
def test_workers_that_are_killed_again_and_again_and_then_let_be(nodes, folds, tmp_path):
    from histofast.mil import train

    mend(nodes)
    told, expected = folds

    def is_begun():
        return any((tmp_path / "run").glob("fold-*/*"))

    with (
        striking(nodes, is_begun, again=True),
        pytest.raises(JobError, match=r"the worker of .* died: the logs of Ray"),
    ):
        train(**told, out=tmp_path / "run", cluster="auto")
    assert not (tmp_path / "run" / "metrics.json").exists()
    run = train(**told, out=tmp_path / "run", cluster="auto")
    assert made_in(run.path) == expected


@pytest.mark.cluster
@pytest.mark.slow
@ray_warns
def test_a_fold_that_fails_says_why(nodes, folds, tmp_path):
    from histofast.mil import train

    mend(nodes)
    told = {**folds[0], "config": replace(folds[0]["config"], lr=1e30)}
    with pytest.raises(ModelError, match=r"^loss of fold \d must be finite, got NaN or infinity"):
        train(**told, out=tmp_path / "run", cluster="auto")


@pytest.mark.cluster
@pytest.mark.slow
@ray_warns
def test_a_plan_on_a_cluster_has_its_own_failures(nodes, tmp_path):
    mend(nodes)
    plan = jobs.Plan(tmp_path / "plan")

    def add(function, name, **more):
        told = {"message": "no good"} if function is small_jobs.fail_in else {"text": name}
        return plan.add(
            function, name=name, kind="job", arguments=told, identity={"name": name}, **more
        )

    first = add(small_jobs.write_out, "first")
    bad = add(small_jobs.fail_in, "bad")
    add(small_jobs.write_out, "of first", needs=[first])
    add(small_jobs.write_out, "of bad", needs=[bad])
    engine = engine_for(folder=plan.folder, threads=1, cluster="auto")
    assert engine.side_by_side == NODES
    outcomes = {o.job.name: o for o in jobs.run(plan.jobs, engine=engine)}
    assert {name: o.status for name, o in outcomes.items()} == {
        "first": "done",
        "bad": "failed",
        "of first": "done",
        "of bad": "failed",
    }
    assert str(outcomes["bad"].error) == "no good"
    assert {job.name for job in plan.left()} == {"bad", "of bad"}


@pytest.mark.cluster
@pytest.mark.slow
@ray_warns
def test_workers_compute_with_the_threads_and_gpus_that_they_have(nodes):
    mend(nodes)
    with jobs.on_cluster("auto", threads=1) as crew:
        assert crew.ask(small_jobs.threads) == [["1", "1"]] * NODES
        assert (crew.cpus, crew.gpus) == (1, 0)
    with_gpus = nodes.add_node(
        num_cpus=2, num_gpus=2, object_store_memory=100 * 2**20
    )  # as it says
    try:
        with jobs.on_cluster("auto") as crew:  # where there are GPUs, each worker has one
            assert sorted(crew.ask(small_jobs.gpus)) == ["0", "1"]
            assert (crew.cpus, crew.gpus) == (1, 1)
        with jobs.on_cluster(Cluster(address="auto", gpus_per_worker=0, cpus_per_worker=1)) as crew:
            assert crew.ask(small_jobs.gpus) == [""] * (NODES + 2)
        with jobs.on_cluster("auto", at_most=1) as crew:
            assert len(crew.hosts) == 1
    finally:
        nodes.remove_node(with_gpus)
        mend(nodes)


@pytest.mark.cluster
@pytest.mark.slow
@ray_warns
def test_a_study_of_slides_on_a_cluster(nodes, encoder, hired, tmp_path):
    need("torch", "sklearn", "matplotlib", "jinja2")
    from histofast.mil import TrainConfig
    from histofast.studies import NetworkStudy, Setting, conduct
    from tiny_encoder import write_encoder

    mend(nodes)
    (tmp_path / "slides").mkdir()
    lines = ["slide,label"]
    for i in range(12):
        write_slide(tmp_path / f"slides/s{i:02}.tif", seed=i, size=(512, 512))
        lines.append(f"s{i:02},{'yes' if i % 2 else 'no'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    other = write_encoder(tmp_path / "other.onnx", name="other", d=6)
    for name, where in (("here", None), ("there", "auto")):
        setting = Setting(
            labels=tmp_path / "labels.csv",
            out=tmp_path / name,
            slides=tmp_path / "slides",
            patch_px=32,
            mpp=1.0,
            config=TrainConfig(folds=2, epochs=2),
            repeats=1,
            measure_speed=False,
            cluster=where,
        )
        conduct(NetworkStudy(encoders=[encoder, other], setting=setting))
    assert len(hired) == 2  # for runs, and for mean pooling
    for part in ("features", "runs"):
        found = made_in(tmp_path / "there" / part, but=["run.json"])
        assert found == made_in(tmp_path / "here" / part, but=["run.json"])
        assert len(found) > 8
    study = json.loads((tmp_path / "there" / "study.json").read_text())
    assert study["rows"] == json.loads((tmp_path / "here" / "study.json").read_text())["rows"]


@pytest.mark.cluster
@pytest.mark.slow
@ray_warns
def test_runs_on_pictures_and_those_that_start_from_them(nodes, hired, tmp_path):
    need("torch", "safetensors")
    from histofast.classify import Asked, Recipe, Runs
    from histofast.datasets import open_images

    mend(nodes)
    images = open_images(write_pictures(tmp_path / "set"))
    recipe = Recipe(epochs=1, batch_size=16, px=24, freeze="all", ema=0.0)
    found = {}
    for name, where in (("here", None), ("there", "auto")):
        runs = Runs(tmp_path / name, threads=1)
        for seed in range(2):
            told = {"network": "resnet18", "recipe": recipe, "seed": seed, "fold": 0, "folds": 3}
            first = runs.add(Asked.of(images, start="random", **told), name=f"first {seed}")
        asked = Asked.of(images, start=f"run:{first.folder}", **told)
        runs.add(asked, name="second")
        engine = engine_for(folder=runs.plan.folder, threads=1, cluster=where)
        jobs.values_of(jobs.run(runs.plan.jobs, engine=engine))
        found[name] = {
            job.folder.name: made_in(job.folder, but=["run.json", "metrics.json", "recipe.toml"])
            for job in runs.plan
        }
    assert found["there"] == found["here"]
    assert [len(files) > 2 for files in found["here"].values()] == [True] * 3
    assert [len(crew.hosts) for crew in hired] == [NODES]


def test_the_command_knows_clusters(slides, encoder, tmp_path):
    out = tmp_path / "out"
    options = ["--out", out, "--encoder", encoder, "--cluster", "nowhere"]
    done = subprocess.run(
        [*PROGRAM, "extract", slides, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--cluster must be auto, local:WORKERS, HOST:PORT or ray://HOST:PORT" in done.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("command", "told", "words"),
    [
        ("train features", "--cluster auto --jobs 2", "--jobs must not be given with cluster, "),
        ("train features", "--cluster nowhere", "--cluster must be auto, local:WORKERS"),
        ("train features", "--cpus-per-worker 2", "--cpus-per-worker must be given with cluster"),
        ("extract s", "--gpus-per-worker 1", "--gpus-per-worker must be given with cluster only"),
        ("study networks --encoder e --slides s", "--cluster auto --jobs 2", "--jobs must not be"),
        ("study transfer --data d", "--cluster auto --cpus-per-worker 0", "must be at least 1"),
        ("study transfer --data d", "--cluster auto --jobs 3", "--jobs must not be given with"),
    ],
)
def test_commands_refuse_what_does_not_go_together(
    cli, tmp_path, monkeypatch, command, told, words
):
    need("torch", "sklearn", "matplotlib", "jinja2")
    write_toy(tmp_path)
    monkeypatch.chdir(tmp_path)
    labels = [] if command.startswith(("extract", "study transfer")) else ["--labels", "labels.csv"]
    network = ["--network", "resnet18"] if command.startswith("study transfer") else []
    answer = cli(*command.split(), *labels, *network, "--out", "o", *told.split())
    assert answer.code == 2
    (line,) = answer.err
    assert words in line
    assert not Path("o").exists()
