"""Labels of patients from labels of patches: 1 where at least a share of them is positive.

    python examples/idc_labels.py patches.csv --share 0.4 --out patients.csv

patches.csv as for `histofast extract --patches`, with labels 0 and 1; patients.csv as for `histofast train`.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from histofast.patches import read_patch_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patches", type=Path)
    parser.add_argument("--share", type=float, default=0.4)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    positive = 0
    bags = read_patch_table(options.patches)
    with options.out.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["slide", "patient", "label"])
        for bag in bags:
            label = int(sum(map(float, bag.labels)) / len(bag) >= options.share)
            positive += label
            table.writerow([bag.name, bag.name, label])  # all patches of a patient are one bag
    print(f"{len(bags)} patients, {positive} positive: {options.out}")


if __name__ == "__main__":
    main()
