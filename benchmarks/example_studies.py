"""The three studies of labelled pictures on real sets: their commands, what was foreseen, what they took.

    python benchmarks/example_studies.py --out FOLDER [--only drift ...] [--jobs 2]

Commands as a user types them, in FOLDER, where `data` leads to HISTOFAST_DATA (default ../shared/data). Each is
asked with --plan-only first; the hours it foresees are held against the clock where nothing was done before.
Pages lie in FOLDER/<study>/index.html; those in docs/ are copies of them.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from real_data import DATA

IDC, ORAL = "data/idc_patches/labels.csv", "data/oral_scc/labels.csv"
DENSENET = "data/weights/densenet121_imagenet.safetensors"
STANDARDISE = (
    "histofast dataset standardise data/osteosarcoma/labels.csv --out osteosarcoma --mpp 2 --patch-px 128 "
    "--overlap 0.25 --group-column slide --no-split"
)
STUDIES = {
    "drift": (
        "histofast study drift --source imagenet=data/weights/resnet50_keras_imagenet_notop_fp16.h5 "
        f"--network resnet50-keras --data {IDC} {ORAL} --folds 5 --px 48 --epochs 3"
    ),
    "transfusion": (
        f"histofast study transfusion --network densenet121 resnet18 --weights densenet121={DENSENET} "
        f"--data {IDC} --sizes 100 300 1000 --ways random pretrained mean-var transfuse:denseblock2 slim gabor "
        "--repeats 3 --px 48 --steps 40 --every 8"
    ),
    "transfer": (
        f"histofast study transfer --data {IDC} osteosarcoma/images.csv {ORAL} --network densenet121 "
        f"--start random {DENSENET} --repeats 3 --px 48 --epochs 2"
    ),
}


def called(command: str, folder: Path, **options: object) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command)
    program = [sys.executable, "-c", "from histofast.cli import main; main()", *words[1:]]
    return subprocess.run(program, cwd=folder, check=True, text=True, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    if not (asked.out / "data").exists():
        (asked.out / "data").symlink_to(DATA.resolve())
    rows = []
    for name in asked.only:
        command = f"{STUDIES[name]} --jobs {asked.jobs} --out {name}"
        if "osteosarcoma" in command and not (asked.out / "osteosarcoma/dataset.json").exists():
            print(f"$ {STANDARDISE}", flush=True)
            called(STANDARDISE, asked.out)
        print(f"$ {command}", flush=True)
        plan = called(f"{command} --plan-only --json", asked.out, stdout=subprocess.PIPE)
        told = json.loads(plan.stdout)
        done = sum(run["is_done"] for run in told["runs"])
        begin = time.perf_counter()
        called(f"{command} --quiet", asked.out)
        took_h = (time.perf_counter() - begin) / 3600
        against = f"{took_h / told['hours']:.2f}" if told["hours"] and not done else "went on"
        rows.append(
            f"| {name} | {len(told['runs'])} | {done} | {told['hours']:.2f} | {took_h:.2f} | {against} |"
        )
        print(rows[-1], flush=True)
    print(
        "\n| study | runs and comparisons | there before | hours foreseen | hours taken | ratio |"
    )
    print("|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
