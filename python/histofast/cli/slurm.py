"""Scripts for Slurm, as text."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from histofast._words import one_line, without_secrets

# Of a command whose jobs are done in parts: run by hand, the script submits itself.
_SUBMITS = """
if [ -z "${{HISTOFAST_TASK-}}" ]; then
    submit() {{ sbatch --parsable --export=ALL,HISTOFAST_TASK=1 --kill-on-invalid-dep=yes "$@" "$0"; }}
    after=
    for step in {steps}; do
        job=$(submit --array={array} --output=%x-%A_%a.log $after) || exit
        after=--dependency=afterok:${{job%%;*}}
        echo "array $step of {levels}: $job"
    done
    job=$(submit $after) || exit
    echo "what is left, and the results: $job"
    exit
fi
part=${{SLURM_ARRAY_TASK_ID:+{flag} $SLURM_ARRAY_TASK_ID/{tasks}}}
"""
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


def script_of(
    command: Sequence[str], task: Task, *, flag: str, levels: int, made_by: Sequence[str]
) -> str:
    """Return the script that runs a command of histofast.

    Args:
        command: with its options.
        task: what it asks its scheduler for.
        flag: of the command, for what each task of an array does.
        levels: arrays one after the other, and a last job, that it submits itself; 0: it is submitted.
        made_by: the arguments that it came of.
    """
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
        ("output", "%x-%A_%a.log" if task.array and not levels else "%x-%j.log"),
    ]
    array = f"1-{task.array}{f'%{task.at_most}' if task.at_most else ''}"
    if task.array and not levels:
        asked.insert(1, ("array", array))
    lines = [
        "#!/bin/bash",
        *(["# To be run by bash, not by sbatch: it submits itself."] if levels else []),
        f"# Made by: histofast {one_line(without_secrets(shlex.join(made_by)))}",
    ]
    words = [
        name if value == "" else f"{name}={value}" for name, value in asked if value is not None
    ]
    wanted = [f"--{word}" for word in words]
    lines += [f"#SBATCH {option}" for option in (*wanted, *task.sbatch)]
    part = f' {flag} "$SLURM_ARRAY_TASK_ID/{task.array}"' if task.array else ""
    if levels:
        steps = " ".join(str(step + 1) for step in range(levels))
        told = {"steps": steps, "levels": levels, "array": array, "flag": flag, "tasks": task.array}
        lines += _SUBMITS.format(**told).rstrip().split("\n")
        part = " $part"
    lines += ["", *task.setup, f"histofast {shlex.join(command)}{part} &"]
    return "\n".join(lines) + _TAIL
