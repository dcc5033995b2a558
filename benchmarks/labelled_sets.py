"""Three real sets of labelled pictures, three networks: what they are worth, and how long they take.

    python benchmarks/labelled_sets.py --out FOLDER [--epochs 5] [--set idc ...]

Commands as a user types them, one after the other; each is printed. IDC and oral SCC are read as they lie in
HISTOFAST_DATA (default ../shared/data), osteosarcoma is standardised first, by slide. A run that is there is
not made again; its minutes are those it took.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

from real_data import DATA

WEIGHTS = "weights/densenet121_imagenet.safetensors"
# CBR networks take no less than 121 px; the others see pictures of about their own size.
NETWORKS = {
    "ResNet18, random": ("resnet18", "random", None),
    "DenseNet121, ImageNet": ("densenet121", WEIGHTS, None),
    "CBR-Small, random": ("cbr-small", "random", 128),
}
SETS = {
    "idc": ("idc_patches/labels.csv", 64),
    "osteosarcoma": (None, 96),
    "oral_scc": ("oral_scc/labels.csv", 96),
}
STANDARDISE = "--mpp 2 --patch-px 128 --overlap 0.25 --group-column slide --folds 3"


def run(*words: object) -> None:
    command = [str(word) for word in words]
    print("$ " + shlex.join(command).replace(str(DATA), "$HISTOFAST_DATA"), flush=True)
    subprocess.run(
        [sys.executable, "-c", "from histofast.cli import main; main()", *command[1:]], check=True
    )


def cell(value: dict[str, float | None]) -> str:
    if value["value"] is None:
        return "not defined"
    if value["low"] is None:
        return f"{value['value']:.3f}"
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--set", nargs="+", choices=SETS, default=list(SETS))
    asked = parser.parse_args()
    rows = []
    for name in asked.set:
        table, px = SETS[name]
        data = DATA / table if table else asked.out / f"{name}-std"
        if table is None and not (data / "dataset.json").exists():
            raw = DATA / name / "labels.csv"
            run("histofast", "dataset", "standardise", raw, "--out", data, *STANDARDISE.split())
        for title, (network, start, least_px) in NETWORKS.items():
            out = asked.out / f"{name}-{network}"
            run(
                *("histofast", "classify", data, "--network", network),
                *("--start", start if start == "random" else DATA / start),
                *("--px", least_px or px, "--epochs", asked.epochs, "--out", out),
            )
            told = json.loads((out / "metrics.json").read_text())
            test = told["test"]
            rows.append(
                f"| {name} | {title} | {least_px or px} px | {cell(test['auroc'])} "
                f"| {cell(test['balanced_accuracy'])} | {test['images']:,} of {test['groups']} "
                f"{told['group_kind']}s | {told['seconds'] / 60:.1f} |"
            )
    print(
        "\n| set | network, start | at | AUROC (95 %) | balanced accuracy (95 %) | tested | minutes |"
    )
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
