"""ONNX Runtime for one kind of GPU, in pieces: what a machine without a network is given of its wheel.

    python benchmarks/gpu_wheels.py pack WHEEL FOLDER --sm 90 --most-bytes 40000000
    python benchmarks/gpu_wheels.py join FOLDER SITE          the pieces so far; unpacked once all are there

The wheel of onnxruntime-gpu is mostly machine code for kinds of GPU that one machine does not have, and what
TensorRT and C++ want. Code for other kinds is taken out of the containers that it lies in, which stay where they
are and say how long they now are; the rest is packed by xz. Nothing that runs on the kind asked for is changed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import lzma
import struct
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

# Not needed to run a session of ours: TensorRT, the library for C and C++, examples, other networks' scripts.
LEFT_OUT = (
    "*/libonnxruntime_providers_tensorrt.so",
    "*/libonnxruntime.so.*",
    "*/transformers/models/*",
    "*/datasets/*",
    "*/tools/*",
    "*.h",
    "*/ThirdPartyNotices.txt",
)
LIST = "pieces.json"
_CODE, _CONTAINER, _ENTRY = (
    ".nv_fatbin",
    "<IHHQ",
    "<HHIQ",
)  # of an ELF file; of NVIDIA's fat binaries
_MAGIC, _SM_AT = 0xBA55ED50, 28


# --- Machine code -------------------------------------------------------------------------------


def section_of(library: bytes, name: str) -> tuple[int, int]:
    """Return where a section of a 64-bit ELF file begins and ends; (0, 0) where it has none."""
    (headers_at,) = struct.unpack_from("<Q", library, 40)
    size, count, names_index = struct.unpack_from("<HHH", library, 58)
    headers = [struct.unpack_from("<IIQQQQ", library, headers_at + i * size) for i in range(count)]
    names_at = headers[names_index][4]
    for name_at, _, _, _, begin, length in headers:
        if library.startswith(name.encode() + b"\0", names_at + name_at):
            return begin, begin + length
    return 0, 0


def containers_of(library: bytes | bytearray, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield where the entries of each container of a section begin and end.

    Raises:
        ValueError: it holds something else.
    """
    at = begin
    while at < end:
        if library[at : at + 8] == bytes(8):  # between containers
            at += 8
            continue
        magic, _, header_bytes, entries_bytes = struct.unpack_from(_CONTAINER, library, at)
        if magic != _MAGIC:
            raise ValueError(f"{_CODE} must hold fat binaries, got {magic:#x} at {at:#x}")
        yield at, at + header_bytes + entries_bytes
        at += header_bytes + entries_bytes


def entries_of(library: bytes | bytearray, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield kind of GPU and bytes of each entry of a container, header included."""
    (header_bytes,) = struct.unpack_from("<H", library, begin + 6)
    at = begin + header_bytes
    while at < end:
        _, _, entry_header_bytes, payload_bytes = struct.unpack_from(_ENTRY, library, at)
        (sm,) = struct.unpack_from("<I", library, at + _SM_AT)
        after = at + entry_header_bytes + payload_bytes
        yield sm, bytes(library[at:after])
        at = after


def thinned(library: bytes, *, sm: int) -> bytes:
    """Return a library without the machine code for other kinds of GPU, of the same length.

    A container without code for this kind stays as it is: nothing of it is loaded there.

    Args:
        library: an ELF file.
        sm: the kind that stays, such as 90.

    Raises:
        ValueError: no code for that kind in it at all, or a form that is not known.
    """
    begin, end = section_of(library, _CODE)
    thin, kinds = bytearray(library), set()
    for first, after in containers_of(library, begin, end):
        entries = list(entries_of(library, first, after))
        kinds |= {kind for kind, _ in entries}
        kept = b"".join(entry for kind, entry in entries if kind == sm)
        if not kept:
            continue
        (header_bytes,) = struct.unpack_from("<H", library, first + 6)
        thin[first + header_bytes : after] = kept.ljust(after - first - header_bytes, b"\0")
        struct.pack_into("<Q", thin, first + 8, len(kept))
    if sm not in kinds:
        raise ValueError(f"sm must be one of {sorted(kinds)}, got {sm}")
    return bytes(thin)


# --- Pieces -------------------------------------------------------------------------------------


def packed(wheel: Path, *, sm: int | None) -> bytes:
    """Return what is needed of a wheel as one .tar.xz; `sm` None: for all kinds of GPU."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(wheel) as source,
        tarfile.open(fileobj=out, mode="w:xz", preset=6) as target,
    ):
        for name in sorted(source.namelist()):
            if any(fnmatch(name, pattern) for pattern in LEFT_OUT) or name.endswith("/"):
                continue
            content = source.read(name)
            if sm is not None and name.endswith("providers_cuda.so"):
                content = thinned(content, sm=sm)
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            target.addfile(member, io.BytesIO(content))
    return out.getvalue()


def pack(wheel: Path, folder: Path, *, sm: int | None, most_bytes: int) -> int:
    """Write folder/1, folder/2 ..., a piece in each, and return how many those are."""
    whole = packed(wheel, sm=sm)
    count = -(-len(whole) // most_bytes)
    size = -(-len(whole) // count)
    told = {"wheel": wheel.name, "sm": sm or "all", "pieces": count, "bytes": len(whole)}
    told["sha256"] = hashlib.sha256(whole).hexdigest()
    for i in range(count):
        place = folder / str(i + 1)
        place.mkdir(parents=True)
        (place / f"piece-{i + 1}").write_bytes(whole[i * size : (i + 1) * size])
        (place / LIST).write_text(json.dumps(told) + "\n")
    print(f"{wheel.name}, sm {told['sm']}: {len(whole) / 1e6:.1f} MB in {count} pieces")
    return count


def join(folder: Path, site: Path) -> bool:
    """Unpack what pieces in a folder make up, and remove them; return whether all were there.

    Raises:
        ValueError: they are not of one wheel, or damaged.
    """
    told = json.loads((folder / LIST).read_text())
    paths = [folder / f"piece-{i + 1}" for i in range(told["pieces"])]
    here = [path for path in paths if path.exists()]
    print(f"{told['wheel']}: {len(here)} of {len(paths)} pieces are here")
    if len(here) < len(paths):
        return False
    whole = b"".join(path.read_bytes() for path in paths)
    if hashlib.sha256(whole).hexdigest() != told["sha256"]:
        raise ValueError(f"pieces in {folder} must make up {told['wheel']}: carry them anew")
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(whole))) as archive:
        archive.extractall(site, filter="data")
    for path in paths:
        path.unlink()
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="make pieces of a wheel")
    packing.add_argument("wheel", type=Path)
    packing.add_argument("folder", type=Path)
    packing.add_argument("--sm", help="kind of GPU, such as 90, or all", required=True)
    packing.add_argument("--most-bytes", type=int, help="of a piece", required=True)
    joining = commands.add_parser("join", help="unpack the pieces once all are there")
    joining.add_argument("folder", type=Path)
    joining.add_argument("site", type=Path)
    given = parser.parse_args()
    if given.command == "pack":
        sm = None if given.sm == "all" else int(given.sm)
        pack(given.wheel, given.folder, sm=sm, most_bytes=given.most_bytes)
    elif not join(given.folder, given.site):
        sys.exit(3)


if __name__ == "__main__":
    main()
