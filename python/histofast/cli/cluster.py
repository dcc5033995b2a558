"""`histofast cluster`: scripts for schedulers, printed and never submitted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from histofast.cli import flags, options
from histofast.cli.output import say_document
from histofast.cli.slurm import Task, script_of

app = typer.Typer(
    cls=flags.Group,
    help="Write what schedulers of clusters run.",
    rich_markup_mode=None,
)


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
            help="so many tasks, each with its shard of the slides, or part of the folds or runs",
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

    The script of extract is for sbatch. With --array that of train, finetune, classify --folds and studies is for
    bash: it submits itself, an array for each step of what needs something else, and a last job that does what
    is left and writes the results.
    """
    inner, arguments = _inner(context, command)
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
    known = flags.flags_of(inner)
    flag = known.get("shard") or known.get("part", "")
    levels = 0
    if array is not None:
        _check_array(inner, command, flag)
        if "shard" not in known:
            levels = _levels(context, inner, arguments)
            _refuse_one_job(inner, is_one=levels == 0)
    elif at_most is not None:
        raise ValueError(f"at_most must be given with array only, got {at_most}")
    script = script_of(command, task, flag=flag, levels=levels, made_by=sys.argv[1:])
    say_document(script.rstrip("\n"))


def _inner(context: typer.Context, command: Sequence[str]) -> tuple[Any, list[str]]:
    """Return the command that is to run, whose options have been looked at, and these.

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
    given = list(left)  # what reads them takes them out
    found.make_context(" ".join(names), left, parent=context.find_root())
    return found, given


def _levels(context: typer.Context, inner: Any, arguments: Sequence[str]) -> int:
    """Return how many arrays a command takes one after the other: a study says, by its plan; 0: it is one job."""
    counts = flags.flags_of(inner).get("count_levels")
    if counts is None:
        return 1
    asked = inner.make_context(inner.name, [*arguments, counts], parent=context.find_root())
    with asked:
        return int(inner.invoke(asked))


def _check_array(inner: Any, command: Sequence[str], flag: str) -> None:
    _refuse_one_job(inner, is_one=not flag)
    if any(word.partition("=")[0] == flag for word in command):
        name = flag.removeprefix("--")
        raise ValueError(f"array must not be given with {name}: each task has one of its own")


def _refuse_one_job(inner: Any, *, is_one: bool) -> None:
    if is_one:
        raise ValueError(
            f"array must be of a command that has shards or parts, got one job of {inner.name}: leave it out"
        )
