"""Commands struck down at random moments, and run again until they end by themselves.

Right is: what is there in the end is what an undisturbed run leaves, in every file and in no other; who
was asked to stop (SIGINT, SIGTERM) leaves no temporary and says no traceback. The command runs in
forks of a process that has its libraries loaded: a strike costs milliseconds, not an import.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

KILLS = int(os.environ.get("HISTOFAST_KILLS", "20"))
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
LONGEST_S = 300.0  # that a run may take until it ends by itself

_HERE = Path(__file__).resolve().parent

Contents = Mapping[str, bytes]


@dataclass(frozen=True)
class Struck:
    """How often a command was struck down, by which signals, and how often it came to its end."""

    by: Mapping[str, int]
    ended: int


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, by its path in it; locks without their content."""
    return {
        path.relative_to(folder).as_posix(): b"" if ".locks" in path.parts else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() or path.is_symlink()
    }


def strike(
    command: Sequence[object],
    out: Path,
    *,
    preload: Sequence[str],
    kills: int = KILLS,
    signals: Sequence[signal.Signals] = SIGNALS,
    seed: int = 0,
    told: Callable[[Path], Contents] = contents,
) -> Struck:
    """Run `histofast <command>`, which makes `out`, and strike it down `kills` times in all.

    Args:
        command: arguments; a run that goes on where it was when given again.
        out: what it makes. It is removed, and made anew, whenever it was finished.
        preload: modules that the command would import, for the process that is forked.
        kills: strikes that hit a process at work.
        signals: to choose from.
        seed: of moments and signals.
        told: what of the folder must be the same; every difference fails.
    """
    draw = random.Random(seed)
    count = {each.name: 0 for each in signals}
    ended = 0
    with _Forks([str(word) for word in command], preload, out.with_name("strike.log")) as forks:
        began = time.monotonic()
        forks.start()
        assert forks.wait(LONGEST_S) == 0, forks.said()
        takes_s, whole = time.monotonic() - began, told(out)
        shutil.rmtree(out)
        while sum(count.values()) < kills or out.exists():
            forks.start()
            is_last = sum(count.values()) >= kills
            # A run that goes on takes less: half of the strikes come early in it.
            latest_s = takes_s * draw.choice([0.3, 1.1])
            code = forks.wait(LONGEST_S if is_last else draw.uniform(0, latest_s))
            if code is None:
                by = draw.choice(signals)
                code = forks.strike(by)
                count[by.name] += code != 0
                assert code in (-by, 130, 0), f"{by.name} gave {code}: {forks.said()}"
                if by != signal.SIGKILL:
                    assert "Traceback" not in forks.said(), forks.said()
                    # Those of one that was killed before are swept by the next that works.
                    own = [p for p in _temporaries(out) if f".{forks.pid}." in p.name]
                    assert code == -by or not own, f"{by.name} left {own}"
                continue
            assert code == 0, f"resumed run gave {code}: {forks.said()}"
            _compare(told(out), whole)
            shutil.rmtree(out)
            ended += 1
    return Struck(by=count, ended=ended)


def _temporaries(out: Path) -> list[Path]:
    return sorted(out.rglob("*.tmp")) if out.exists() else []


def _compare(found: Contents, whole: Contents) -> None:
    assert sorted(found) == sorted(whole), "other files are there"
    differ = [name for name in whole if found[name] != whole[name]]
    assert not differ, f"other content in {differ}"


class _Forks:
    """A process with its libraries loaded; its forks run the command one after the other."""

    def __init__(self, command: Sequence[str], preload: Sequence[str], log: Path) -> None:
        self._log = log
        order = json.dumps([list(command), list(preload), str(log)])
        self._process = subprocess.Popen(
            [sys.executable, "-c", "import strikes; strikes.serve()", order],
            cwd=_HERE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # a line that waits in a buffer would not be selected
        )
        self.pid = 0

    def start(self) -> None:
        """Begin with the command; the one before is over."""
        self._ask("start")
        self.pid = int(self._answer(LONGEST_S) or 0)

    def wait(self, seconds: float) -> int | None:
        """Return its exit code, negative for a signal; None if it is still at work."""
        answer = self._answer(seconds)
        return None if answer is None else int(answer)

    def strike(self, by: signal.Signals) -> int:
        """Send a signal, and return the exit code."""
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(self.pid, by)
        code = self.wait(LONGEST_S)
        assert code is not None, f"{by.name} did not end it: {self.said()}"
        return code

    def said(self) -> str:
        """What the last one said."""
        return self._log.read_text(errors="replace")[-3000:]

    def _ask(self, what: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{what}\n".encode())
        self._process.stdin.flush()

    def _answer(self, seconds: float) -> str | None:
        assert self._process.stdout
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            return None
        line = self._process.stdout.readline().decode()
        assert line, "the process that is forked has died"
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def serve() -> None:
    """What the process does that is forked: `start` comes in, process numbers and exit codes go out."""
    command, preload, log = json.loads(sys.argv[1])
    for name in preload:
        __import__(name)
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _run(command, log)
        os.write(1, f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        os.write(1, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _run(command: Sequence[str], log: str) -> None:
    """Run the command as the command line does, and never return."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # as before Python has begun
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["histofast", *command]
    code = 1
    try:
        from histofast.cli import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(code)
