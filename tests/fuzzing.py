"""Broken copies of small files, each read under a limit of memory and time.

A test names a function that reads one file; `attack` has it read mutants of good files in processes
of their own. Right is what a user may meet: the file is read all the same, or refused in one line
by an error of histofast. All else strays: a traceback of another kind, a crash, too much memory or
time. A mutant follows from its number and the original alone, so a stray is found again by both.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import select
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

MUTANTS = int(os.environ.get("HISTOFAST_MUTANTS", "2000"))
SECONDS = 5.0
MEMORY_BYTES = 1 << 30

_HERE = Path(__file__).resolve().parent
# Numbers at which the arithmetic of readers breaks.
_NUMBERS = [0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1]
_NUMBERS += [2**32, 2**63 - 1, 2**63, 2**64 - 1]
_WORDS = ["", " ", "0", "-1", "1e309", "nan", "inf", "[", "{", '"', ",", "\n", "\0", "\x1b[2J"]
_WORDS += [
    "null",
    "true",
    "99999999999999999999",
    "-0",
    "é",
    "\u202e",
    "../..",
    "=cmd|' /C calc'!A0",
]


@dataclass(frozen=True)
class Stray:
    """A mutant that was neither read nor refused in one line."""

    number: int
    original: str
    what: str

    def __str__(self) -> str:
        return f"mutant {self.number} of {self.original}: {self.what}"


def mutant(original: bytes, number: int, *, text: bool = False) -> bytes:
    """Return the broken copy of that number: one to four changes, most of them small."""
    draw = random.Random(number)
    data = bytearray(original)
    for _ in range(draw.choice([1, 1, 1, 2, 2, 4])):
        _change(data, draw, text=text and draw.random() < 0.7)
    return bytes(data)


def _change(data: bytearray, draw: random.Random, *, text: bool) -> None:
    # The front of a file is its header: half of the changes go there.
    reach = len(data) if draw.random() < 0.5 else min(len(data), 1024)
    at = draw.randrange(reach + 1)
    if text:
        data[at : at + draw.choice([0, 0, 1, 4, 16])] = draw.choice(_WORDS).encode()
        return
    kind = draw.choice(["bit", "byte", "number", "number", "cut", "zeros", "copy", "remove"])
    length = draw.choice([1, 2, 4, 8, 64, 512, 4096])
    if kind == "bit" and at < len(data):
        data[at] ^= 1 << draw.randrange(8)
    elif kind == "byte" and at < len(data):
        data[at] = draw.randrange(256)
    elif kind == "number":
        size = draw.choice([1, 2, 4, 8])
        value = draw.choice(_NUMBERS) & (2 ** (8 * size) - 1)
        end = min(len(data), at + size)
        data[at:end] = value.to_bytes(size, draw.choice(["little", "big"]))[: end - at]
    elif kind == "cut":
        del data[at:]
    elif kind == "zeros":
        end = min(len(data), at + length)
        data[at:end] = bytes(end - at)
    elif kind == "copy":
        begin = draw.randrange(len(data) + 1)
        piece = data[begin : begin + length]
        data[at : at + len(piece)] = piece
    elif kind == "remove":
        del data[at : at + length]


def attack(
    read: Callable[[Path], object],
    originals: Sequence[Path],
    folder: Path,
    *,
    mutants: int = MUTANTS,
    text: bool = False,
    workers: int = 2,
) -> list[Stray]:
    """Have `read` read `mutants` broken copies of the files, in turn; return those that strayed.

    Args:
        read: a function at the top of a test module; gets the path of one broken copy.
        originals: good files, small ones; each must be readable by `read` as it is.
        folder: an empty folder; keeps the mutants that strayed as `<number><suffix>`.
        text: most changes are words in the middle of text instead of bytes.
    """
    strays: list[Stray] = []
    numbers = iter(range(mutants))
    lock = threading.Lock()

    def take() -> int | None:
        with lock:
            return next(numbers, None)

    def work(place: Path) -> None:
        with contextlib.closing(_Reader(read, originals, place, text=text)) as reader:
            while (number := take()) is not None:
                what = reader.try_one(number)
                if what is not None and "took more than" in what:
                    what = reader.try_one(number)  # the machine may have been busy
                if what is not None:
                    original = originals[number % len(originals)]
                    broken = mutant(original.read_bytes(), number, text=text)
                    (folder / f"{number}{original.suffix}").write_bytes(broken)
                    strays.append(Stray(number, original.name, what))

    places = [folder / f"worker-{i}" for i in range(workers)]
    for place in places:
        place.mkdir()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, places))  # asked for, so that what went wrong is raised
    return sorted(strays, key=lambda stray: stray.number)


def told(strays: Sequence[Stray]) -> str:
    """Return the strays as a failed test shows them, one of each kind first."""
    kinds = {stray.what[:60]: stray for stray in reversed(strays)}
    return f"{len(strays)} strayed:\n" + "\n".join(str(stray) for stray in kinds.values())


class _Reader:
    """One process that reads mutants one after another; begun anew when it died or was too slow."""

    def __init__(
        self, read: Callable[[Path], object], originals: Sequence[Path], place: Path, *, text: bool
    ) -> None:
        paths = [str(path) for path in originals]
        self._order = json.dumps([read.__module__, read.__qualname__, paths, str(place), text])
        self._noise = place / "noise.txt"
        self._process: subprocess.Popen[bytes] | None = None

    def try_one(self, number: int) -> str | None:
        """Return how mutant `number` strayed, or None."""
        process = self._process or self._begin()
        assert process.stdin
        assert process.stdout
        process.stdin.write(f"{number}\n".encode())
        process.stdin.flush()
        if not select.select([process.stdout], [], [], SECONDS)[0]:
            self.close()
            return f"took more than {SECONDS:g} s"
        line = process.stdout.readline()
        if not line:
            code = process.wait()
            self.close()
            return f"the process died ({code}): {self._noise.read_text(errors='replace')[-300:]}"
        what: str | None = json.loads(line)
        return what

    def _begin(self) -> subprocess.Popen[bytes]:
        with self._noise.open("wb") as noise:
            process = subprocess.Popen(
                [sys.executable, "-c", "import fuzzing; fuzzing.serve()", self._order],
                cwd=_HERE,
                env={**os.environ, "MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=noise,
            )
        self._process = process
        assert process.stdout
        if process.stdout.readline() != b"ready\n":
            raise AssertionError(f"an original is not read: {self._noise.read_text()[-2000:]}")
        return process

    def close(self) -> None:
        """Kill the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None


def serve() -> None:
    """What a reader's process does: numbers come in, how each mutant strayed (or null) goes out."""
    import resource

    module, name, originals, place, text = json.loads(sys.argv[1])
    # Libraries print to standard output as well: answers have a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    read = getattr(importlib.import_module(module), name)
    for original in originals:
        read(Path(original))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    contents = [Path(original).read_bytes() for original in originals]
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        number = int(line)
        which = number % len(contents)
        path = Path(place) / f"{number}{Path(originals[which]).suffix}"
        path.write_bytes(mutant(contents[which], number, text=text))
        print(json.dumps(how_it_strayed(read, path)), file=answers, flush=True)
        path.unlink(missing_ok=True)


def how_it_strayed(read: Callable[[Path], object], path: Path) -> str | None:
    from histofast.errors import HistofastError

    try:
        read(path)
    except (HistofastError, ValueError) as error:
        said = str(error)
        if "\n" in said or len(said) > 600:
            return f"not one line: {said[:600]!r}"
        if any(word in said.lower() for word in ("memoryerror", "unable to allocate", "bad_alloc")):
            return f"took more than 1 GB: {said}"
        # A ValueError is ours when our code raised it, not some library underneath.
        if not isinstance(error, HistofastError) and not _is_ours(error):
            return _last_lines(error)
    except MemoryError as error:
        return f"memory over 1 GB: {_last_lines(error)}"
    except BaseException as error:  # noqa: BLE001
        return _last_lines(error)
    return None


def _is_ours(error: BaseException) -> bool:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{os.sep}histofast{os.sep}" in last.filename


def _last_lines(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
    return f"{type(error).__name__}: {str(error)[:200]} at {where}"
