"""The same slide through histofast and its peers, in turns, each in its own environment (README.md here).

python benchmarks/peers/race.py ENVIRONMENTS [--slide SLIDE] [--rounds 3] [--out RESULTS]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from compare import machine

Key = tuple[str, bool | str]  # of a runner: whose, and as it comes, made faster, or which cut

import histofast
from histofast import graphs, networks, patches

PATCH_PX, MPP, SEED = 224, 0.5, 0
GRID_UM = 8.0  # of the masks that are held against each other
DRAW = """
import sys, timm, torch
name, seed, given, out = sys.argv[1:]
torch.manual_seed(int(seed))
network = timm.create_model(name, num_classes=0)
if given:
    from safetensors.torch import load_file
    known, loaded = network.state_dict(), load_file(given)
    network.load_state_dict({key: value for key, value in loaded.items() if key in known})
torch.save(network.state_dict(), out)
"""
NOTES: dict[Key, str] = {
    ("histofast", False): "float32",
    ("histofast", True): "int8, gate passed",
    ("lazyslide", False): "as it comes",
    ("lazyslide", True): "channels last",
    ("slide2vec", False): "as it comes, float32",
    ("slide2vec", True): "channels last",
    ("trident", False): "its Otsu, float32",
    ("trident", True): "its Otsu, channels last, no pictures",
}
CUT_NOTES: dict[Key, str] = {
    ("histofast", "cut"): "cut at {cut}, float32",
    ("histofast", "cut in int8"): "cut at {cut}, int8, gate passed",
}
FOOTNOTES = {
    "trident": "TRIDENT's tissue is its Otsu at 1.25 x, the one of its segmenters that wants no weights from a hub; "
    "its scale is a magnification, 20 x for 0.5 um/px; it keeps each patch that touches tissue, as it comes.",
}


def interpreter(environments: Path, peer: str) -> list[str]:
    own = environments.resolve() / peer / "bin" / "python"
    return [sys.executable] if peer == "histofast" else [str(own), "-I"]  # without our PYTHONPATH


def there(environments: Path) -> list[str]:
    """Return the peers that have an environment, and say who has none."""
    peers = list(dict.fromkeys(peer for peer, _ in NOTES if peer != "histofast"))
    found = [peer for peer in peers if (environments / peer / "made").exists()]
    if not found:
        sys.exit(f"no peer to race: benchmarks/peers/environments.sh {environments}")
    for peer in peers:
        if peer not in found:
            print(f"{environments} has no environment of {peer}: left out", file=sys.stderr)
    return found


def run(environments: Path, peer: str, job: dict[str, Any]) -> dict[str, Any]:
    """Start one process for one slide; what it tells is its last line."""
    command = [*interpreter(environments, peer), str(HERE / f"run_{peer}.py"), json.dumps(job)]
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(job["threads"])}
    ran = subprocess.run(
        command,
        env=offline,
        cwd=job["out"],  # peers leave logs where they are
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        sys.exit(f"{peer} failed:\n{ran.stderr[-2000:]}")
    return json.loads(ran.stdout.strip().splitlines()[-1])


def area(boxes: np.ndarray, *, width: int, height: int, step: float) -> np.ndarray:
    """Draw boxes (n, 4; x0 y0 x1 y1, level 0) as a mask with pixels of `step` level-0 pixels."""
    mask = np.zeros((int(np.ceil(height / step)), int(np.ceil(width / step))), bool)
    for x0, y0, x1, y1 in np.rint(boxes / step).astype(int):
        mask[max(y0, 0) : y1, max(x0, 0) : x1] = True
    return mask


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def encoders(
    lender: list[str], slide: Path, folder: Path, network: str, given: Path | None, cut: str | None
) -> dict[bool | str, Path]:
    """Draw or take the weights once, as weights.pth, and make encoders of them: whole, cut, and both in int8."""
    weights, whole = folder / "weights.pth", folder / "whole.onnx"
    drawn = [network, str(SEED), "" if given is None else str(given.resolve()), str(weights)]
    subprocess.run([*lender, "-c", DRAW, *drawn], check=True)
    histofast.export(networks.create(network, weights=weights), whole, patch_px=PATCH_PX, mpp=MPP)
    made: dict[bool | str, Path] = {False: whole}
    if cut is not None:
        made["cut"] = folder / "cut.onnx"
        graphs.truncate(whole, at=cut, out=made["cut"])
    for key, encoder in list(made.items()):
        int8 = encoder.with_name(f"{encoder.stem}-int8.onnx")
        graphs.quantize(encoder, out=int8, slides=slide)
        made["cut in int8" if key else True] = int8
    return made


def race(
    environments: Path,
    slide: Path,
    *,
    network: str,
    weights: Path | None,
    cut: str | None,
    rounds: int,
    threads: int,
) -> list[dict[str, Any]]:
    peers = there(environments)
    notes = NOTES if cut is None else NOTES | {k: v.format(cut=cut) for k, v in CUT_NOTES.items()}
    runners = [key for key in notes if key[0] in ("histofast", *peers)]
    told: dict[Key, list[dict[str, Any]]] = {key: [] for key in runners}
    boxes: dict[Key, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, lender = Path(name), interpreter(environments, peers[0])  # each has timm
        made = encoders(lender, slide, folder, network, weights, cut)
        shared = {
            "slide": str(slide),
            "network": network,
            "weights": str(folder / "weights.pth"),
            "threads": threads,
            "patch_px": PATCH_PX,
            "mpp": MPP,
        }
        for turn in range(rounds):
            for key in runners:
                peer, fast = key
                out = folder / f"{peer}-{fast}-{turn}"
                (out / "out").mkdir(parents=True)
                result = out / "result.npz"
                job = shared | {"fast": fast, "out": str(out / "out"), "result": str(result)}
                if peer == "histofast":
                    job["encoder"] = str(made[fast])
                told[key].append(run(environments, peer, job))
                boxes[key] = np.load(result)["boxes"]
                print(f"round {turn + 1}: {peer}, {notes[key]}: {told[key][-1]}", file=sys.stderr)
    with histofast.open_slide(slide) as opened:
        level0 = opened.levels[0]
        size = {"width": level0.width, "height": level0.height, "step": GRID_UM / opened.mpp}
    masks = {key: area(found, **size) for key, found in boxes.items()}
    ours = masks["histofast", False]
    return [
        {
            "peer": key[0],
            "version": told[key][0]["version"],
            "how": notes[key],
            "patches": told[key][0]["patches"],
            "side_l0": float(np.median(boxes[key][:, 2] - boxes[key][:, 0])),
            "mask_shared": jaccard(masks[key], ours),
            "patches_per_s": [t["patches"] / t["seconds"] for t in told[key]],
            "loading_s": statistics.median(t["loading_s"] for t in told[key]),
        }
        for key in runners
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Return Markdown: medians, ours over each, and what is to be known of them."""
    median = {(r["peer"], r["how"]): statistics.median(r["patches_per_s"]) for r in rows}
    ours = median["histofast", "float32"]
    head = "| | patches/s | ours in float32 over it | patches | side, level-0 px | shared with our mask | s to load |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for r in rows:
        speed = median[r["peer"], r["how"]]
        lines.append(
            f"| {r['peer']} {r['version']}, {r['how']} | {speed:.1f} ({min(r['patches_per_s']):.1f} to "
            f"{max(r['patches_per_s']):.1f}) | {ours / speed:.2f} | {r['patches']:,} | {r['side_l0']:.1f} | "
            f"{r['mask_shared']:.2f} | {r['loading_s']:.1f} |"
        )
    peers = dict.fromkeys(r["peer"] for r in rows)
    return "\n\n".join(["\n".join(lines), *(FOOTNOTES[p] for p in peers if p in FOOTNOTES)])


def described(slide: Path) -> str:
    with histofast.open_slide(slide) as opened:
        level0 = opened.levels[0]
        size = f"{level0.width:,} x {level0.height:,} px at {opened.mpp:g} um/px"
    return f"{slide.name}, {size}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("environments", type=Path)
    parser.add_argument("--slide", type=Path, help="else a synthetic one at 0.5 um/px is made")
    parser.add_argument("--side-px", type=int, default=8192, help="of the synthetic slide")
    parser.add_argument("--network", default="resnet18", help="of timm and of histofast")
    parser.add_argument("--weights", type=Path, help="safetensors of it; else they are drawn")
    parser.add_argument("--cut", help="a layer where histofast cuts it, beside the whole")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md as well")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        slide = asked.slide or Path(folder) / "slide.svs"
        if asked.slide is None:
            side = {"width_px": asked.side_px, "height_px": asked.side_px}
            patches.make_slide(slide, **side, mpp=MPP, tissue_fraction=0.4)
        what = described(slide) if asked.slide else f"synthetic: {described(slide)}"
        rows = race(
            asked.environments,
            slide.resolve(),
            network=asked.network,
            weights=asked.weights,
            cut=asked.cut,
            rounds=asked.rounds,
            threads=asked.threads,
        )
    about = machine() | {
        "slide": what,
        "network": asked.network,
        "threads": asked.threads,
        "rounds": asked.rounds,
    }
    page = f"{table(rows)}\n\n{json.dumps(about)}\n"
    print(page)
    if asked.out:
        asked.out.with_suffix(".json").write_text(
            json.dumps({"about": about, "rows": rows}, indent=1) + "\n"
        )
        asked.out.with_suffix(".md").write_text(page)


if __name__ == "__main__":
    main()
