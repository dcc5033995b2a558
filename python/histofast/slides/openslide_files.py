"""Which files the index of a slide in several names; OpenSlide itself is not loaded."""

from __future__ import annotations

INDEX_CHARACTERS = 1 << 20  # of a .vms or .vmu, which have a few hundred


def named_in_index(text: str) -> set[str]:
    """Names of files in a .vms or .vmu, a text of lines `ImageFile=name`."""
    return {line.partition("=")[2].strip() for line in text.splitlines()}
