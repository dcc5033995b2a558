"""`histofast cluster sbatch`: what it prints, and a real Slurm of one machine that runs it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time

import pytest

import histofast
from extras import need
from labelled_pictures import write_pictures
from small_slides import write_slide
from test_cli_flags import COMMANDS
from toy_bags import write_toy
from tuning_stage import PX, write_stage

LAUNCHER = '#!/bin/sh\nexec "{python}" -c "from histofast.cli import main; main()" "$@"\n'


def script_of(cli, *arguments):
    answer = cli("cluster", "sbatch", *arguments)
    assert (answer.code, answer.err) == (0, [])
    return answer.out


def test_a_script_of_an_array(cli):
    script = script_of(
        cli,
        *("extract", "my slides", "--out", "f", "--array", "64", "--at-most", "8", "--mpp", "0.5"),
        *(
            "--gpus-per-task",
            "1",
            "--time",
            "08:00:00",
            "--sbatch=--qos=long",
            "--setup",
            "ml cuda",
        ),
    )
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    asked = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert asked == {
        "job-name=histofast-extract",
        "array=1-64%8",
        "cpus-per-task=8",
        "gpus-per-task=1",
        "time=08:00:00",
        "signal=B:TERM@120",
        "open-mode=append",
        "output=%x-%A_%a.log",
        "requeue",
        "qos=long",
    }
    run = "histofast extract 'my slides' --out f --mpp 0.5 --shard \"$SLURM_ARRAY_TASK_ID/64\" &"
    assert lines.index("ml cuda") == lines.index(run) - 1
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_a_script_of_one_job(cli):
    script = script_of(cli, "train", "features", "--labels", "l.csv", "--out", "run")
    assert "\nhistofast train features --labels l.csv --out run &\n" in script
    assert "array" not in "".join(line for line in script.splitlines() if "SBATCH" in line)


@pytest.mark.parametrize(
    "command",
    [
        "train f --labels l.csv --out run",
        "finetune run --slides s --out t --top-k 4",
        "classify d --network resnet18 --folds 5 --out runs",
    ],
)
def test_a_script_that_submits_itself(cli, tmp_path, command):
    script = script_of(cli, *command.split(), "--array", "5", "--at-most", "2")
    lines = script.splitlines()
    assert lines[1] == "# To be run by bash, not by sbatch: it submits itself."
    assert not [line for line in lines if line.startswith("#SBATCH --array")]
    assert "#SBATCH --output=%x-%j.log" in lines
    assert f"histofast {command} $part &" in lines
    asked = submitted_by(script, tmp_path)
    common = ["--parsable", "--export=ALL,HISTOFAST_TASK=1", "--kill-on-invalid-dep=yes"]
    assert asked == [
        [*common, "--array=1-5%2", "--output=%x-%A_%a.log", "job.sh"],
        [*common, "--dependency=afterok:1", "job.sh"],
    ]


def submitted_by(script, folder):
    """What a script says to an sbatch that numbers its jobs."""
    (folder / "job.sh").write_text(script)
    sbatch = folder / "sbatch"
    sbatch.write_text('#!/bin/sh\necho "$*" >> asked\nwc -l < asked | tr -d " "\n')
    sbatch.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "job.sh"], check=True, cwd=folder, env={**os.environ, "PATH": path})
    return [line.split() for line in (folder / "asked").read_text().splitlines()]


def test_a_study_has_an_array_for_each_step_of_its_plan(cli, tmp_path):
    need("torch", "safetensors", "matplotlib", "jinja2")
    sets = [write_pictures(tmp_path / name, seed=k) for k, name in enumerate("ab")]
    told = ["study", "transfer", "--data", *sets, "--network", "resnet18", "--out", tmp_path / "o"]
    script = script_of(cli, *told, "--px", "24", "--array", "3")
    asked = submitted_by(script, tmp_path)
    arrays = [line for line in asked if "--array=1-3" in line]
    assert len(arrays) == len(asked) - 1 >= 2  # what starts from runs, and compares them, is later
    after = [word for line in asked for word in line if "dependency" in word]
    assert after == [f"--dependency=afterok:{k}" for k in range(1, len(asked))]
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("command", "steps"),
    [
        ("truncation --network resnet18=w.safetensors", 3),
        ("networks --encoder densenet121-t2 --encoder densenet121-t2-int8 --no-speed", 2),
    ],
)
def test_a_study_of_slides_has_an_array_for_encoders_features_and_runs(
    cli, tmp_path, monkeypatch, command, steps
):
    need("torch", "sklearn", "matplotlib", "jinja2")
    monkeypatch.chdir(tmp_path)
    for name in ("w.safetensors", "l.csv"):  # that they are there is all that is looked at
        (tmp_path / name).write_bytes(b"")
    told = ["study", *command.split(), "--slides", "s", "--labels", "l.csv", "--out", "o"]
    script = script_of(cli, *told, "--array", "7")
    assert f"\nhistofast {' '.join(told)} $part &\n" in script
    asked = submitted_by(script, tmp_path)
    assert ["--array=1-7" in line for line in asked] == [True] * steps + [False]
    after = [word for line in asked for word in line if "dependency" in word]
    assert after == [f"--dependency=afterok:{k + 1}" for k in range(steps)]
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("exract s --out o", "command must be one of .*, classify, .*, got 'exract'"),
        ("cluster sbatch extract s", "command must be one of .*, got 'cluster'"),
        ("extract s --ot o", "no such option: --ot .*see histofast extract --help"),
        (
            "predict r f --out o --array 3",
            "--array must be of a command that has shards or parts, got one job of predict: leave it out",
        ),
        ("train f --labels l --out o --array 3 --part 1/3", "--array must not be given with part:"),
        ("extract s --out o --array 3 --shard 1/3", "--array must not be given with shard: each"),
        (
            "classify d --network resnet18 --out o --array 3",
            "got one job of classify: leave it out",
        ),
        ("classify d --predict r --out o --array 3", "got one job of classify: leave it out"),
        ("classify d --network n --folds 3 --fold 1 --out o --array 3", "got one job of classify"),
        ("extract s --out o --at-most 3", "--at-most must be given with array only, got 3"),
        ("extract s --out o --array x", "must be a whole number, got 'x'"),
    ],
)
def test_what_it_refuses(cli, arguments, words):
    answer = cli("cluster", "sbatch", *arguments.split())
    assert answer.code == 2
    assert not answer.out
    (line,) = answer.err

    assert re.search(words, line), line


def test_its_options_are_no_options_of_what_it_runs():
    def options(command):
        return {o for parameter in command.params for o in parameter.opts if o != "--help"}

    own = options(COMMANDS["cluster", "sbatch"])
    assert len(own) > 8
    for name, command in COMMANDS.items():
        if name[0] != "cluster":
            assert not own & options(command), name


# --- Slurm itself ---------------------------------------------------------------------------------

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000
PartitionName=main Nodes=ALL Default=YES State=UP
"""


def free_ports(n):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def tell(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A Slurm of this machine, ended with the tests."""
    needed = ["sbatch", "squeue", "scontrol", "slurmctld", "slurmd"]
    if os.geteuid() != 0 or any(shutil.which(name) is None for name in needed):
        pytest.skip("needs root and Slurm: apt-get install slurm-wlm")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    text = CONFIGURATION.format(host=host, folder=folder, ports=free_ports(2))
    (folder / "slurm.conf").write_text(text)
    launcher = folder / "bin" / "histofast"
    launcher.write_text(LAUNCHER.format(python=sys.executable))
    launcher.chmod(0o755)
    former = dict(os.environ)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    os.environ["PATH"] = f"{folder / 'bin'}{os.pathsep}{former['PATH']}"
    daemons = [subprocess.Popen([name, "-D"]) for name in ("slurmctld", "slurmd")]
    try:
        until = time.monotonic() + 60
        while (
            "idle"
            not in subprocess.run(
                ["sinfo", "--noheader"], check=False, capture_output=True, text=True
            ).stdout
        ):
            assert time.monotonic() < until, "Slurm does not start"
            time.sleep(0.5)
        yield folder
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)
        os.environ.clear()
        os.environ.update(former)


def state_of(job):
    told = tell("scontrol", "show", "job", job)
    return dict(word.split("=", 1) for word in told.split() if "=" in word)


def wait_for(job, *states):
    until = time.monotonic() + 120
    while (state := state_of(job)["JobState"]) not in states:
        assert time.monotonic() < until, f"{job} is {state}"
        time.sleep(0.3)
    return state


def submit(cli, folder, *arguments):
    (folder / "job.sh").write_text(script_of(cli, *arguments))
    return tell("sbatch", "--parsable", f"--chdir={folder}", str(folder / "job.sh"))


def files_in(out):
    return {str(f.relative_to(out)): f.read_bytes() for f in sorted(out.rglob("*.h5"))}


@pytest.mark.cluster
@pytest.mark.slow
def test_an_array_makes_what_one_process_makes(slurm, cli, slides, encoder, tmp_path):
    options = {"mpp": 1.0, "patch_px": 32, "min_tissue": 0.1}
    histofast.extract(slides, out=tmp_path / "here", encoder=encoder, **options)
    job = submit(
        cli,
        tmp_path,
        *("extract", slides, "--out", "there", "--encoder", encoder, "--mpp", "1"),
        *("--patch-px", "32", "--min-tissue", "0.1", "--array", "2", "--cpus-per-task", "1"),
    )
    for task in (1, 2):
        assert wait_for(f"{job}_{task}", "COMPLETED", "FAILED", "CANCELLED") == "COMPLETED"
    assert len(files_in(tmp_path / "here")) == 3
    assert files_in(tmp_path / "there") == files_in(tmp_path / "here")
    assert {f.name for f in (tmp_path / "there").glob("run*.json")} == {
        "run-1of2.json",
        "run-2of2.json",
    }


def start_a_long_one(slurm, cli, encoder, tmp_path):
    (tmp_path / "slides").mkdir()
    for i in range(8):
        write_slide(tmp_path / f"slides/s{i}.tif", seed=i, size=(1536, 1536))
    options = ["--out", "there", "--encoder", encoder, "--mpp", "1", "--patch-px", "16"]
    job = submit(cli, tmp_path, "extract", "slides", *options, "--cpus-per-task", "1")
    out = tmp_path / "there"
    until = time.monotonic() + 60
    while not files_in(out):
        assert time.monotonic() < until, (tmp_path / f"histofast-extract-{job}.log").read_text()
        time.sleep(0.02)
    return job, out


@pytest.mark.cluster
@pytest.mark.slow
def test_a_task_that_is_told_to_end_is_put_back(slurm, cli, encoder, tmp_path):
    job, out = start_a_long_one(slurm, cli, encoder, tmp_path)
    tell("scancel", "--signal=TERM", "--batch", job)
    assert wait_for(job, "PENDING", "COMPLETED", "FAILED") == "PENDING"
    assert state_of(job)["Restarts"] == "1"
    done = files_in(out)
    assert 1 <= len(done) < 8
    assert not [f for f in out.rglob(".*") if f.is_file()]
    tell("scancel", job)  # Slurm starts it again in two minutes: what it will do is done here
    subprocess.run(["bash", "job.sh"], check=True, cwd=tmp_path, capture_output=True)
    found = files_in(out)
    assert len(found) == 8
    assert {name: found[name] for name in done} == done


@pytest.mark.cluster
@pytest.mark.slow
def test_a_task_that_is_cancelled_stays_so(slurm, cli, encoder, tmp_path):
    job, out = start_a_long_one(slurm, cli, encoder, tmp_path)
    tell("scancel", job)
    wait_for(job, "CANCELLED")
    time.sleep(3.0)
    assert state_of(job)["JobState"] == "CANCELLED"
    assert not tell("squeue", "--noheader", "--jobs", job, "--states", "PENDING,RUNNING")
    assert len(files_in(out)) < 8


def run_by_bash(cli, folder, *arguments):
    """Submit what submits itself, and wait for its last job; return its arrays, and what all say."""
    (folder / "job.sh").write_text(script_of(cli, *arguments))
    told = subprocess.run(
        ["bash", "job.sh"], cwd=folder, check=True, capture_output=True, text=True
    ).stdout
    *arrays, last = [line.rpartition(": ")[2] for line in told.splitlines()]
    until = time.monotonic() + 300
    while (state := state_of(last)["JobState"]) not in ("COMPLETED", "FAILED", "CANCELLED"):
        assert time.monotonic() < until, f"{last} is {state}"
        time.sleep(0.5)
    logs = "".join(f.read_text() for f in sorted(folder.glob("*.log")))
    assert state == "COMPLETED", logs
    return arrays, logs


@pytest.mark.cluster
@pytest.mark.slow
def test_folds_as_an_array_are_those_of_one_process(slurm, cli, tmp_path):
    need("torch", "sklearn", "matplotlib")
    from histofast.mil import TrainConfig, train

    toy = write_toy(tmp_path)
    here = train(*toy, out=tmp_path / "here", config=TrainConfig(folds=3, epochs=2))
    options = ["--folds", "3", "--epochs", "2", "--quiet", "--array", "3", "--cpus-per-task", "1"]
    told = ["train", "features", "--labels", "labels.csv", "--out", "there", *options]
    arrays, logs = run_by_bash(cli, tmp_path, *told)
    assert len(arrays) == 1
    names = [f"fold-{k}/model.safetensors" for k in range(3)]
    for k in range(3):
        assert f"part {k + 1}/3, fold {k}: trained" in logs
    for name in ("predictions.csv", "metrics.json", *names):
        assert (tmp_path / "there" / name).read_bytes() == (here.path / name).read_bytes()


@pytest.mark.cluster
@pytest.mark.slow
def test_a_study_as_arrays_is_that_of_one_process(slurm, cli, tmp_path, monkeypatch):
    need("torch", "safetensors", "matplotlib", "jinja2")
    monkeypatch.chdir(tmp_path)  # where the scheduler is told of paths, and where they are
    for k, name in enumerate("ab"):
        write_pictures(tmp_path / name, seed=k)
    told = ["study", "transfer", "--data", "a/labels.csv", "b/labels.csv", "--network", "resnet18"]
    told += ["--px", "24", "--epochs", "2", "--repeats", "1", "--quiet"]
    assert cli(*told, "--out", "here").code == 0
    options = ["--array", "2", "--cpus-per-task", "1"]
    arrays, logs = run_by_bash(cli, tmp_path, *told, "--out", "there", *options)
    assert len(arrays) >= 2
    assert "report: there/index.html" in logs
    here, there = (
        {f.parent.name: f.read_bytes() for f in (tmp_path / out / "runs").glob("*/predictions.csv")}
        for out in ("here", "there")
    )
    assert len(here) >= 4
    assert there == here


@pytest.mark.cluster
@pytest.mark.slow
def test_a_study_of_slides_as_arrays_is_that_of_one_process(slurm, cli, tmp_path, monkeypatch):
    need("torch", "sklearn", "matplotlib", "jinja2")
    monkeypatch.chdir(write_stage(tmp_path))
    told = ["study", "truncation", "--network", "resnet18=w.safetensors", "--labels", "labels.csv"]
    told += ["--cuts", "maxpool,layer1", "--random-seeds", "0", "--no-speed", "--quiet"]
    told += ["--patches", "patches.csv", "--patch-px", str(PX)]
    told += ["--folds", "2", "--repeats", "1", "--epochs", "2"]
    assert cli(*told, "--out", "here").code == 0
    options = ["--array", "2", "--cpus-per-task", "1"]
    arrays, logs = run_by_bash(cli, tmp_path, *told, "--out", "there", *options)
    assert len(arrays) == 3, logs
    kinds = ("*.onnx", "*.h5", "*.safetensors", "metrics.json", "predictions.csv")
    here, there = (
        {
            str(path.relative_to(tmp_path / out)): path.read_bytes()
            for kind in kinds
            for path in (tmp_path / out).rglob(kind)
        }
        for out in ("here", "there")
    )
    assert len(here) > 40
    assert there == here
