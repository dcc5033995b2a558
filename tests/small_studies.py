"""Studies of a few rows: cuts, networks, and what a page must bear."""

from __future__ import annotations

from histofast.learning import Difference, Knee, Metric
from histofast.studies import Study, StudyRow, describe_study

NAN = float("nan")
NONE = Metric(value=NAN, low=NAN, high=NAN)


def row(name, value=0.8, *, half=0.05, **more) -> StudyRow:
    rest = {
        "network": "net",
        "layer": name,
        "depth": None,
        "d": 64,
        "method": Metric(value=value, low=value - half, high=value + half),
        "patients": Metric(value=value, low=value - half / 2, high=value + half / 2),
        "patches_per_s": 100.0,
        "size_bytes": 5_000_000,
    }
    return StudyRow(name=name, **(rest | more))


def less(value, half=0.02, *, adjusted=None) -> Difference:
    wide = half if adjusted is None else adjusted
    return Difference(
        value=value,
        low=value - half,
        high=value + half,
        p=0.01,
        p_adjusted=0.02,
        low_adjusted=value - wide,
        high_adjusted=value + wide,
        confidence=0.95,
        n=15,
    )


def knee(name, *, closest=None, needed=None) -> Knee:
    return Knee(name=name, closest=closest, patients_needed=needed, tolerance=0.05)


def made(*rows, **more) -> Study:
    chosen = next((one.name for one in rows if one.chosen), None)
    rest = {
        "kind": "truncation",
        "title": "Where to cut",
        "question": "How much of a network is needed?",
        "metric": "AUROC",
        "higher_is_better": True,
        "confidence": 0.95,
        "n_slides": 120,
        "n_patients": 110,
        "folds": 5,
        "knee": knee(chosen),
        "convention": {"patch_size": "224 px"},
        "commands": (("Run it", "histofast study truncation --out 'a b'"),),
    }
    return Study(rows=rows, **(rest | more))


def spread_of(low, high, name="random weights", **more) -> StudyRow:
    """Networks with random weights: a mean and a range, no interval."""
    mean = Metric(value=(low + high) / 2, low=NAN, high=NAN)
    rest = {"baseline": True, "patches_per_s": None, "patients": NONE, "method": mean}
    return row(name, spread=(low, high), **({"seeds": 5} | rest | more))


BASE = row(
    "mean pooling",
    0.7,
    baseline=True,
    layer="c",
    versus=less(-0.2),
    notes="logistic regression",
)
CUTS = made(
    row("a", 0.712, depth=0.1, versus=less(-0.188), patches_per_s=1234.5, size_bytes=40_000),
    row(
        "b",
        0.884,
        depth=0.42,
        versus=less(-0.016),
        chosen=True,
        patches_per_s=250.25,
        extra={"AUROC after fine-tuning": 0.901, "attention AUROC": NAN},
    ),
    row("c", 0.9, depth=0.8),
    row("d", NAN, depth=1.0, patches_per_s=None, size_bytes=None, notes="diverged"),
    BASE,
    chance=0.5,
    repeats=3,
)
NETWORKS = made(
    row("resnet", 0.8, network="resnet", versus=less(-0.1), size_bytes=None),
    row("uni", 0.9, network="uni", patches_per_s=12.0),
    row("vit", 0.89, network="vit", versus=less(-0.01), chosen=True, patches_per_s=480.0),
    BASE,
    spread_of(0.44, 0.56),
    kind="networks",
)
ALL = {
    "cuts": CUTS,
    "networks": NETWORKS,
    "nothing but NaN": made(row("a", NAN, depth=0.5), row("b", NAN)),
    "NaN networks": made(row("a", NAN), kind="networks"),
    "one cut": made(row("a", 0.5, depth=0.5)),
    "one network": made(row("a", 1.0, half=0.0), kind="networks", metric="accuracy"),
    "no depth, no speed": made(row("a", 0.6, patches_per_s=None), row("b", 0.6)),
    "no interval": made(row("a", 0.9, depth=0.0, half=NAN), row("b", 0.8, depth=1.0)),
    "only baselines": made(BASE),
    "errors": made(
        row("a", 123.4, depth=0.1, versus=less(11.1)),
        row("b", 112.3, depth=0.2, network="other"),
        metric="MAE",
        higher_is_better=False,
    ),
    "many": made(
        *(
            row(f"n{k}-b{i}", 0.5 + i / 100, depth=(i + 1) / 6, network=f"n{k}")
            for k in range(8)
            for i in range(6)
        )
    ),
}


def said(study) -> str:
    return " ".join(describe_study(study))
