"""Small labelled pictures that a small network can tell apart."""

from __future__ import annotations

import numpy as np

from histofast.slides import write_png


def write_pictures(folder, *, n=48, px=32, groups=16, several=False, seed=0):
    """Write n pictures of two kinds of stripes and a table of them; return the table's path."""
    rng = np.random.default_rng(seed)
    (folder / "img").mkdir(parents=True)
    lines = ["file,label,patient" if not several else "file,light,stripes,patient"]
    for i in range(n):
        group, kind = i % groups, i % groups % 2
        wave = 40 * np.sin(np.arange(px) * 1.3)
        image = 150 + rng.normal(0, 25, (px, px, 3)) + (wave[:, None, None] if kind else 0)
        light = int(rng.integers(2))
        image += 40 * light if several else 0
        write_png(folder / "img" / f"{i:03}.png", image.clip(0, 255).astype(np.uint8))
        told = f"{light},{kind if i % 7 else 'NA'}" if several else "ab"[kind]
        lines.append(f"img/{i:03}.png,{told},p{group:02}")
    path = folder / "labels.csv"
    path.write_text("\n".join(lines) + "\n")
    return path
