"""How much of a network is needed: models of bags trained on the features of every cut."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from histofast._numbers import whole_number
from histofast.encoders import read_spec, read_specs, sha256_of
from histofast.errors import ModelError
from histofast.networks import (
    Network,
    TimmNetwork,
    block_cut,
    block_of,
    create,
    export_cuts_made,
    export_made,
    layers,
    never_trained,
    pooled_layer,
    stem_of,
)
from histofast.studies.cut_files import cuts_of_file, refuse_strange_cuts
from histofast.studies.dependence import with_robustness
from histofast.studies.plan import Candidate
from histofast.studies.rows import StudyRow
from histofast.studies.running import (
    StudyResult,
    answer,
    extract_command,
    predict_command,
    save,
)
from histofast.studies.setting import Setting


def truncation(
    networks: Mapping[str, str | Path],
    setting: Setting,
    *,
    cuts: Sequence[str] | None = None,
    random_seeds: int = 5,
    pool: str | Sequence[str] = "auto",
) -> StudyResult:
    """Cut networks at every block, train models of bags on each cut, and name the knee.

    The knee is the cheapest cut that is shown to lose less than `setting.tolerance` to the highest.
    Everything is kept in `setting.out` and taken from there when called again: encoders, features,
    runs.

    Args:
        networks: weights file by the name of the network, one or several; or an encoder file (.onnx)
            by whatever it is to be called, which is cut in its graph.
        setting: labels, slides, folder, training.
        cuts: layers, of all networks; of an encoder file what `graphs.cuts` lists, or any tensor or
            module. None: the blocks of each, and its end.
        random_seeds: also train on the features of each whole network with random weights, of so
            many seeds, which are shown as their range; 0: none. Encoder files cannot be drawn anew.
        pool: of the tensors of encoder files, see `graphs.truncate`; of the blocks of vision transformers
            `cls`, `mean`, `cls+mean`, or several of them, which are then held against each other block by
            block; `auto`: mean.

    Returns:
        The study; the folder has index.html, study.json, study.csv, study.png and .pdf, and folders
        encoders, features and runs.

    Raises:
        ValueError: no network, options out of range; labels that do not fit (see `open_bags`).
        FileNotFoundError, ModelError, SlideError, FeatureError: what cannot be read or used. A slide
            that fails in extraction stops the study: its cuts would be of other slides.

    Reference: Sharma, Ehsan, Syed, Brown, 2021, HistoTransfer, for the question.
    """
    if not networks:
        raise ValueError("networks must name at least one network with its weights, got none")
    random_seeds = whole_number("random_seeds", random_seeds)
    if random_seeds < 0:
        raise ValueError(f"random_seeds must be at least 0, got {random_seeds}")
    pools = (pool,) if isinstance(pool, str) else tuple(pool)
    for what, told in (("cuts", cuts), ("pool", pools)):
        if told is not None and not told:
            raise ValueError(f"{what} must name at least one, got none: leave it out")
    files = {name: Path(file) for name, file in networks.items() if _is_file(file)}
    if files and len(pools) != 1:
        raise ValueError(f"pool must be one for encoder files, got {', '.join(pools)}")
    for file in files.values():
        refuse_strange_cuts(file, cuts)
    # A typing mistake is refused before anything is written.
    wanted = {name: _wanted(name, cuts, pools) for name in networks if name not in files}
    setting.check()
    (setting.out / "encoders").mkdir(parents=True, exist_ok=True)
    candidates: list[Candidate] = []
    encoders: list[Path] = []
    for name, weights in networks.items():
        setting.tell(f"exporting {name}")
        made, found = (
            cuts_of_file(name, files[name], cuts, setting, pool=pools[0])
            if name in files
            else _cuts_of_network(name, weights, wanted[name], setting, random_seeds=random_seeds)
        )
        encoders += made
        candidates += found
    study = answer(
        candidates,
        encoders,
        setting,
        kind="truncation",
        things="cuts",
        title=f"How much of {' and '.join(networks)} is needed",
        question=(
            f"From which block on do {setting.metric_title} and cost of a model of slides no "
            "longer rise together?"
        ),
        remarks=[
            f"{name} is an encoder file, of which there is none with random weights."
            for name in files
            if random_seeds
        ],
    )
    study, links = with_robustness(study, candidates, setting)
    return save(study, setting.out, links=links)


def _is_file(weights: str | Path) -> bool:
    """Whether what stands for the weights of a network is the whole of it."""
    return Path(weights).suffix.lower() == ".onnx"


def _wanted(name: str, cuts: Sequence[str] | None, pools: Sequence[str]) -> list[str]:
    """Return the cuts of a network that are asked for, in its order.

    Raises:
        ModelError: no such network, or cut of it.
        ValueError: ways of pooling for one that has no tokens.
    """
    known = [cut.name for cut in layers(name)]
    for layer in cuts or ():
        if layer not in known:
            plain = [each for each in known if block_of(each) == each]
            raise ModelError(f"cuts of {name} must be of {', '.join(plain)}, got {layer!r}")
    if tuple(pools) == ("auto",):
        wanted = list(cuts) if cuts is not None else blocks_of(name)
    else:
        blocks = [each for each in known if block_cut(each) and block_of(each) == each]
        named = blocks if cuts is None else list(cuts)
        # One that has no blocks is refused with its first cut.
        wanted = [
            layer if blocks and layer not in blocks else pooled_layer(name, pool=pool, layer=layer)
            for layer in named or known[:1]
            for pool in pools
        ]
    return sorted(set(wanted), key=known.index)


def _cuts_of_network(
    name: str,
    weights: str | Path,
    wanted: Sequence[str],
    setting: Setting,
    *,
    random_seeds: int,
) -> tuple[list[Path], list[Candidate]]:
    """Export what is not there yet; one network is in memory at a time.

    Returns:
        Files that compute the features, one of all cuts and those of random networks; a candidate for
        each cut, with a file of its own for later use, and for each random network.
    """
    depths = {cut.name: min(1.0, cut.flops_share) for cut in layers(name)}
    folder, stem, last = setting.out / "encoders", stem_of(name), wanted[-1]
    size: dict[str, Any] = {"patch_px": setting.patch_px, "mpp": setting.mpp, "overwrite": True}
    sha256 = _sha256_of(name, weights, last)

    def make(layer: str) -> Network | TimmNetwork:
        return create(name, weights=weights, layer=layer)

    found = []
    for layer in wanted:
        alone = folder / f"{stem}-{layer}.onnx"
        if not _is_of(alone, sha256):
            export_made(partial(make, layer), alone, **size)
        row = _row(name, layer, name=f"{name} {layer}", file=alone, depth=depths[layer])
        commands = _commands(name, layer, weights, alone, setting.out)
        found.append(Candidate(row=row, encoder=alone, key=alone.stem, commands=commands))
    together = folder / f"{stem}-cuts.onnx"
    if not _is_of(together, sha256, cuts=wanted):
        export_cuts_made(partial(make, last), together, layers=wanted, name=stem, **size)
    files, like = [together], read_specs(together)[0]
    for seed in range(random_seeds):
        never = folder / f"{stem}-{last}-random-{seed}.onnx"
        if not never.exists():
            random = partial(never_trained, name, layer=last, seed=seed)
            export_made(random, never, patch_px=like.patch_px, mpp=like.mpp, overwrite=True)
        files.append(never)
        row = _row(
            *(name, last),
            name=f"{name}, random weights {seed}",
            file=never,
            depth=depths[last],
            baseline=True,
        )
        of_all = f"{name}, random weights"
        found.append(Candidate(row=row, encoder=None, key=never.stem, null=of_all))
    return files, found


def _row(network: str, layer: str, *, file: Path, **more: Any) -> StudyRow:
    """Return what is known of a cut before it is measured."""
    cut = block_cut(layer)
    more |= {"network": network, "layer": layer, "size_bytes": read_spec(file).size_bytes}
    if cut is not None:
        more |= {"block": cut.block + ("" if cut.norm else " no-norm"), "pool": cut.pool}
    return StudyRow(**more)


def _sha256_of(name: str, weights: str | Path, layer: str) -> str | None:
    """Return what encoders of these weights are known by."""
    if Path(weights).is_file():
        return sha256_of(weights)
    return create(name, weights=weights, layer=layer).weights_sha256


def _is_of(path: Path, weights_sha256: str | None, cuts: Sequence[str] | None = None) -> bool:
    """Whether a file is there already, of these weights and these cuts."""
    if not path.exists():
        return False
    specs = read_specs(path)
    return {spec.weights_sha256 for spec in specs} == {weights_sha256} and (
        cuts is None or [spec.layer for spec in specs] == list(cuts)
    )


def blocks_of(name: str) -> list[str]:
    """Return the cuts worth a model: those that are wider or deeper by a block of layers."""
    known = layers(name)
    kept = []
    before = -1.0
    for i, cut in enumerate(known):
        following = known[i + 1].flops_share if i + 1 < len(known) else 2.0
        # Of stages that cost nothing (norms, ReLUs, pooling) the last one stands for all.
        if following - cut.flops_share > 0.001 and cut.flops_share - before > 0.001:
            kept.append(cut.name)
            before = cut.flops_share
    return kept


def _commands(
    network: str, layer: str, weights: str | Path, file: Path, out: Path
) -> tuple[tuple[str, str], ...]:
    """Return what to do with a cut that is chosen."""
    export_it = (
        f"histofast models export {shlex.quote(network)} --layer {layer} "
        f"--weights {shlex.quote(str(weights))} --out {file.name}"
    )
    return (
        ("Encode slides with the chosen cut", extract_command(file)),
        ("Predict them with the models of the first repeat", predict_command(file, out)),
        ("Export the chosen cut anew", export_it),
    )
