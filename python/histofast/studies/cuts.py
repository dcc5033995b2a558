"""How much of a network is needed: models of bags trained on the features of every cut."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from histofast.studies.cut_files import CutFile, refuse_strange_cuts
from histofast.studies.plan import Candidate
from histofast.studies.rows import StudyRow
from histofast.studies.running import Question, extract_command, predict_command
from histofast.studies.setting import Setting
from histofast.studies.slides import SlideStudy


@dataclass(frozen=True, kw_only=True)
class Truncation(SlideStudy):
    """Cut networks at every block, train models of bags on each cut, and name the knee.

    The knee is the cheapest cut that is shown to lose less than `setting.tolerance` to the highest.
    Everything is kept in `setting.out` and taken from there when done again: encoders, features,
    runs. The folder has index.html, study.json, study.csv, study.png and .pdf, too.

    Attributes:
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

    Raises:
        ValueError: no network, options out of range.
        FileNotFoundError, ModelError: a network or cut that is not known; an encoder file that cannot be used.

    Reference: Sharma, Ehsan, Syed, Brown, 2021, HistoTransfer, for the question.
    """

    networks: Mapping[str, str | Path]
    setting: Setting
    cuts: Sequence[str] | None = None
    random_seeds: int = 5
    pool: str | Sequence[str] = "auto"

    def __post_init__(self) -> None:
        if not self.networks:
            raise ValueError("networks must name at least one network with its weights, got none")
        random_seeds = whole_number("random_seeds", self.random_seeds)
        if random_seeds < 0:
            raise ValueError(f"random_seeds must be at least 0, got {random_seeds}")
        object.__setattr__(self, "random_seeds", random_seeds)
        for what, told in (("cuts", self.cuts), ("pool", self._pools)):
            if told is not None and not told:
                raise ValueError(f"{what} must name at least one, got none: leave it out")
        if self._files and len(self._pools) != 1:
            raise ValueError(f"pool must be one for encoder files, got {', '.join(self._pools)}")
        for file in self._files.values():
            refuse_strange_cuts(file, self.cuts)
        # A typing mistake is refused before anything is written.
        for name in self.networks:
            if name not in self._files:
                _wanted(name, self.cuts, self._pools)

    @property
    def _pools(self) -> tuple[str, ...]:
        return (self.pool,) if isinstance(self.pool, str) else tuple(self.pool)

    @property
    def _files(self) -> dict[str, Path]:
        return {name: Path(file) for name, file in self.networks.items() if _is_file(file)}

    def _cut(self, name: str) -> CutFile | CutNetwork:
        """Return the cuts of one of the networks."""
        if name in self._files:
            file = self._files[name]
            return CutFile.of(name, file, self.cuts, self.setting, pool=self._pools[0])
        return CutNetwork(
            name=name,
            weights=self.networks[name],
            wanted=_wanted(name, self.cuts, self._pools),
            setting=self.setting,
            random_seeds=self.random_seeds,
        )

    @property
    def words(self) -> Question:
        """How it is told."""
        return Question(
            kind="truncation",
            things="cuts",
            title=f"How much of {' and '.join(self.networks)} is needed",
            question=(
                f"From which block on do {self.setting.metric_title} and cost of a model of slides no "
                "longer rise together?"
            ),
            remarks=tuple(
                f"{name} is an encoder file, of which there is none with random weights."
                for name in self._files
                if self.random_seeds
            ),
        )

    @property
    def exported(self) -> Sequence[str]:
        """All networks."""
        return list(self.networks)

    def lacking(self, name: str) -> Sequence[Callable[[], object]]:
        """Return what makes the files of a network that are not there: each cut's, and one of all of them."""
        return self._cut(name).lacking()

    def candidates(self) -> tuple[list[Candidate], list[str | Path]]:
        """Return the cuts of all networks, and random networks."""
        encoders: list[str | Path] = []
        found: list[Candidate] = []
        for name in self.networks:
            files, of_network = self._cut(name).candidates()
            encoders += files
            found += of_network
        return found, encoders


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


@dataclass(frozen=True, kw_only=True, slots=True)
class CutNetwork:
    """The cuts of a network that histofast knows, in files of a study.

    Attributes:
        name: of the network.
        weights: file of them, or their name.
        wanted: the cuts, in the network's order.
        setting: of the study.
        random_seeds: so many times the whole with random weights.
    """

    name: str
    weights: str | Path
    wanted: Sequence[str]
    setting: Setting
    random_seeds: int

    def _file(self, what: str) -> Path:
        return self.setting.out / "encoders" / f"{stem_of(self.name)}-{what}.onnx"

    def _random(self, seed: int) -> Path:
        return self._file(f"{self.wanted[-1]}-random-{seed}")

    def _made(self, layer: str) -> Network | TimmNetwork:
        return create(self.name, weights=self.weights, layer=layer)

    def lacking(self) -> list[Callable[[], object]]:
        """Return what makes the files that are not there yet: of each cut, of all together, of random networks."""
        last = self.wanted[-1]
        sha256 = _sha256_of(self.name, self.weights, last)
        setting, makers = self.setting, list[Callable[[], object]]()
        size: dict[str, Any] = {"patch_px": setting.patch_px, "mpp": setting.mpp, "overwrite": True}
        for layer in self.wanted:
            if not _is_of(self._file(layer), sha256):
                made = partial(self._made, layer)
                makers.append(partial(export_made, made, self._file(layer), **size))
        if not _is_of(self._file("cuts"), sha256, cuts=self.wanted):
            made, told = partial(self._made, last), {"layers": self.wanted, **size}
            named = {"name": stem_of(self.name)}
            makers.append(partial(export_cuts_made, made, self._file("cuts"), **told, **named))
        seeds = [seed for seed in range(self.random_seeds) if not self._random(seed).exists()]
        return makers + [partial(self._make_random, seed) for seed in seeds]

    def _make_random(self, seed: int) -> None:
        like = read_specs(self._file("cuts"))[0]
        random = partial(never_trained, self.name, layer=self.wanted[-1], seed=seed)
        size: dict[str, Any] = {"patch_px": like.patch_px, "mpp": like.mpp, "overwrite": True}
        export_made(random, self._random(seed), **size)

    def candidates(self) -> tuple[list[Path], list[Candidate]]:
        """Return what the files are good for, once they are there.

        Returns:
            Files that compute the features, one of all cuts and those of random networks; a candidate for
            each cut, with a file of its own for later use, and for each random network.
        """
        name, last = self.name, self.wanted[-1]
        depths = {cut.name: min(1.0, cut.flops_share) for cut in layers(name)}
        found = []
        for layer in self.wanted:
            alone = self._file(layer)
            row = _row(name, layer, name=f"{name} {layer}", file=alone, depth=depths[layer])
            commands = _commands(name, layer, self.weights, alone, self.setting.out)
            found.append(Candidate(row=row, encoder=alone, key=alone.stem, commands=commands))
        files = [self._file("cuts")]
        for seed in range(self.random_seeds):
            never = self._random(seed)
            files.append(never)
            of_all = f"{name}, random weights"
            told: dict[str, Any] = {"depth": depths[last], "baseline": True}
            row = _row(name, last, name=f"{of_all} {seed}", file=never, **told)
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
