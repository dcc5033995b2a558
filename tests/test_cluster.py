"""Workers on the machines of a Ray cluster; here several of its nodes on one machine."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

import histofast
import small_jobs
from extras import need
from histofast import jobs, pipeline
from histofast.errors import JobError, ModelError, SlideError, WriteError
from histofast.jobs import Ended, Job, Lost, Worker
from small_slides import write_slide

cluster, elsewhere = jobs.cluster, pipeline.elsewhere

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
        ({"cpus_per_worker": 2}, "cpus_per_worker must be given with cluster only, got 2"),
        ({"gpus_per_worker": 1}, "gpus_per_worker must be given with cluster only, got 1"),
        ({"cluster": "auto", "cpus_per_worker": 0}, "cpus_per_worker must be"),
        ({"cluster": "auto", "gpus_per_worker": -1}, "gpus_per_worker must"),
        ({"cluster": "auto", "gpus_per_worker": 1.5}, "gpus_per_worker must be a whole number or"),
    ],
)
def test_what_does_not_go_together(options, words, slides, encoder, tmp_path):
    with pytest.raises(ValueError, match=words):
        histofast.extract(slides, out=tmp_path / "out", encoder=encoder, **OPTIONS, **options)
    assert not (tmp_path / "out").exists()


def test_an_inbox_hands_on_each_message_once():
    inbox = cluster._Inbox()
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
    monkeypatch.setattr(elsewhere, "SEEN_S", 0.1)
    with elsewhere._token(tmp_path / "out") as token:
        elsewhere.look(token=str(token), slides=[str(tmp_path)])
        with pytest.raises(SlideError, match=r"gone\.tif cannot be seen on .* share$"):
            elsewhere.look(token=str(token), slides=[str(tmp_path / "gone.tif")])
    assert not (tmp_path / "out").exists()
    with pytest.raises(WriteError, match=r"is not the same on .*: give out= on a file system"):
        elsewhere.look(token=str(token), slides=[])


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
    options = ["--mpp", "1", "--patch-px", "32", "--min-tissue", "0.1", "--encoder", encoder]
    options += ["--out", out, "--cluster", nodes.address]
    driver = subprocess.Popen(
        [*PROGRAM, "extract", folder / "slides", *options], stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 60
    while not files_in(out) and driver.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    driver.kill()
    driver.wait()
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
    monkeypatch.setattr(cluster, "_version", lambda: "0.0.9")
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


def test_the_command_knows_clusters(slides, encoder, tmp_path):
    out = tmp_path / "out"
    options = ["--out", out, "--encoder", encoder, "--cluster", "nowhere"]
    done = subprocess.run(
        [*PROGRAM, "extract", slides, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--cluster must be auto, local:WORKERS, HOST:PORT or ray://HOST:PORT" in done.stderr
    assert not out.exists()
