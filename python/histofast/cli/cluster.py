"""`histofast cluster`: scripts for schedulers, printed and never submitted."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from histofast._words import one_line, without_secrets
from histofast.cli import flags, options
from histofast.cli.output import say_document

app = typer.Typer(
    cls=flags.Group,
    help="Write what schedulers of clusters run.",
    rich_markup_mode=None,
)

_NOTICE_S = 120  # before the end of its time a job is told
# After its child is told to end, a task is put back, but for one that somebody cancels.
_TAIL = """
child=$!
put_back() {
    trap '' TERM
    kill -TERM "$child" 2>/dev/null
    wait "$child"
    case $(squeue -h -j "$SLURM_JOB_ID" -o %T) in
    RUNNING) scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}" ;;
    esac
    exit 130
}
trap put_back TERM
wait "$child"
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What a job asks its scheduler for; None: what the scheduler gives."""

    array: int | None = None
    at_most: int | None = None
    cpus_per_task: int | None = None
    gpus_per_task: int | None = None
    mem: str | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    job_name: str | None = None
    setup: Sequence[str] = ()
    sbatch: Sequence[str] = ()


@app.command(
    name="sbatch",
    context_settings={"ignore_unknown_options": True},
    short_help="Print a script for Slurm that runs a command.",
)
def sbatch(
    context: typer.Context,
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND...", help="of histofast, with its options")
    ],
    array: Annotated[
        int | None,
        typer.Option(
            "--array",
            parser=options.whole_number,
            metavar="N",
            help="so many tasks, each with its shard of the slides",
        ),
    ] = None,
    at_most: Annotated[
        int | None,
        typer.Option(
            "--at-most", parser=options.whole_number, metavar="N", help="tasks of it at a time"
        ),
    ] = None,
    cpus_per_task: Annotated[
        int | None,
        typer.Option("--cpus-per-task", parser=options.whole_number, metavar="N", help="[8]"),
    ] = 8,
    gpus_per_task: Annotated[
        int | None,
        typer.Option("--gpus-per-task", parser=options.whole_number, metavar="N", help="[none]"),
    ] = None,
    mem: Annotated[str | None, typer.Option("--mem", metavar="SIZE", help="such as 32G")] = None,
    time: Annotated[
        str | None, typer.Option("--time", metavar="TIME", help="such as 08:00:00")
    ] = None,
    partition: Annotated[str | None, typer.Option("--partition", metavar="NAME")] = None,
    account: Annotated[str | None, typer.Option("--account", metavar="NAME")] = None,
    job_name: Annotated[
        str | None, typer.Option("--job-name", metavar="NAME", help="[histofast-COMMAND]")
    ] = None,
    setup: Annotated[
        list[str] | None,
        typer.Option("--setup", metavar="LINE", help="of the shell, before; repeatable"),
    ] = None,
    sbatch_option: Annotated[
        list[str] | None,
        typer.Option("--sbatch", metavar="OPTION", help="any other option of Slurm; repeatable"),
    ] = None,
) -> None:
    """Print a script for Slurm's `sbatch`; nothing is submitted.

    A task that comes near the end of its time, or is preempted, drops the slide in work and is put back
    into the queue; started again it does what is left. A task with a slide that failed has failed.
    """
    inner = _inner(context, command)
    task = Task(
        array=array,
        at_most=at_most,
        cpus_per_task=cpus_per_task,
        gpus_per_task=gpus_per_task,
        mem=mem,
        time=time,
        partition=partition,
        account=account,
        job_name=job_name,
        setup=tuple(setup or ()),
        sbatch=tuple(sbatch_option or ()),
    )
    shard = flags.flags_of(inner).get("shard", "")
    if array is not None:
        _check_array(inner, command, shard)
    elif at_most is not None:
        raise ValueError(f"at_most must be given with array only, got {at_most}")
    say_document(script_of(command, task, shard=shard, made_by=sys.argv[1:]).rstrip("\n"))


def _inner(context: typer.Context, command: Sequence[str]) -> Any:
    """Return the command that is to run, whose options have been looked at.

    Raises:
        ValueError: no such command; click's error of usage: no such option.
    """
    found: Any = context.find_root().command
    names, left = list[str](), list(command)
    while hasattr(found, "commands"):
        name = left.pop(0) if left else ""
        if name not in found.commands or name == "cluster":
            known = ", ".join(sorted(set(found.commands) - {"cluster"}))
            raise ValueError(f"command must be one of {known}, got {name!r}")
        found = found.commands[name]
        names.append(name)
    found.make_context(" ".join(names), left, parent=context.find_root())
    return found


def _check_array(inner: Any, command: Sequence[str], shard: str) -> None:
    if not shard:
        raise ValueError(f"array must be of a command that has shards, got {inner.name}")
    if any(word.partition("=")[0] == shard for word in command):
        raise ValueError("array must not be given with shard: each task has one of its own")


def script_of(command: Sequence[str], task: Task, *, shard: str, made_by: Sequence[str]) -> str:
    """Return the script that runs a command of histofast; `shard` is its flag for the part of a task."""
    asked: list[tuple[str, object]] = [
        ("job-name", task.job_name or f"histofast-{command[0]}"),
        ("cpus-per-task", task.cpus_per_task),
        ("gpus-per-task", task.gpus_per_task),
        ("mem", task.mem),
        ("time", task.time),
        ("partition", task.partition),
        ("account", task.account),
        ("requeue", ""),
        ("signal", f"B:TERM@{_NOTICE_S}"),
        ("open-mode", "append"),  # of a task that is put back
        ("output", "%x-%A_%a.log" if task.array else "%x-%j.log"),
    ]
    if task.array:
        at_most = f"%{task.at_most}" if task.at_most else ""
        asked.insert(1, ("array", f"1-{task.array}{at_most}"))
    lines = [
        "#!/bin/bash",
        f"# Made by: histofast {one_line(without_secrets(shlex.join(made_by)))}",
    ]
    words = [
        name if value == "" else f"{name}={value}" for name, value in asked if value is not None
    ]
    wanted = [f"--{word}" for word in words]
    lines += [f"#SBATCH {option}" for option in (*wanted, *task.sbatch)]
    part = f' {shard} "$SLURM_ARRAY_TASK_ID/{task.array}"' if task.array else ""
    lines += ["", *task.setup, f"histofast {shlex.join(command)}{part} &"]
    return "\n".join(lines) + _TAIL
