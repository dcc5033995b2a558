"""Published vision transformers that users fetch themselves: what the registry's `foundation` says of each."""

from __future__ import annotations

import re
from dataclasses import dataclass

POOLINGS = ("cls", "cls+mean", "pooled")
RENAMES = ("none", "dinov2", "hf-vit", "hf-dinov2", "swin")
MPP_BASES = ("stated", "20x", "convention")
ARGUMENTS = (
    *("img_size", "patch_size", "depth", "num_heads", "embed_dim", "mlp_ratio", "init_values"),
    *("no_embed_class", "reg_tokens", "mlp_layer", "act_layer", "embed_layer"),
)
Scalar = bool | int | float | str
SHARE_OF_PEAK = (
    0.85  # of a float32 product's speed, which ViT-S and ViT-B reach (benchmarks/bench_vits.py)
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundationEntry:
    """A published vision transformer: its network, how it is read, its file and its terms.

    `network` is timm's with `arguments` of a closed list. `pooling` is what its authors take: the class token,
    that and the mean of the patches' tokens one after the other, or what the network pools by itself;
    `prefix_tokens` are the class token and the registers, which no mean has; `token_px` is the side of the
    picture's part that becomes a token. The network sees the centre of `crop_px` of patches of `patch_px`
    where that is given. `mpp` is in um per pixel: `stated`, said as `20x`, or a `convention`.

    The file has `tensors` that belong to the network, under the keys of `rename` (see
    `networks.renamed`), and position embeddings for pictures of `positions_px` where those differ from the
    patches. `eps` is that of the LayerNorms where it is not timm's. `sha256` is the published
    file's, None where it was not at hand. `precision` is what the authors run, a note. `gated`: the page
    asks for a login or for an agreement. `tested`: whether the loader has met the real file.
    """

    name: str
    network: str
    arguments: dict[str, Scalar]
    pooling: str
    prefix_tokens: int
    token_px: int
    d: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    patch_px: int
    mpp: float
    mpp_basis: str
    tensors: int
    rename: str
    parameters_m: float
    licence: str
    gated: bool
    where: str
    tested: bool
    crop_px: int | None = None
    positions_px: int | None = None
    eps: float | None = None
    sha256: str | None = None
    gmac: float | None = None
    precision: str | None = None
    note: str | None = None

    @property
    def width(self) -> int:
        """Features of a token."""
        return self.d // 2 if self.pooling == "cls+mean" else self.d

    @property
    def terms(self) -> str:
        """The licence, and that the file is behind a gate."""
        return f"{self.licence}, gated" if self.gated else self.licence

    def patches_per_s(self, flops_per_s: float) -> float | None:
        """Return about how many patches a machine encodes in float32, by the speed of its products.

        None where the work of a patch is not known.
        """
        return None if self.gmac is None else SHARE_OF_PEAK * flops_per_s / (2e9 * self.gmac)

    def problem(self) -> str | None:
        """Return what is wrong with the entry, if anything is."""
        closed = (("pooling", POOLINGS), ("rename", RENAMES), ("mpp_basis", MPP_BASES))
        for key, known in closed:
            if (got := getattr(self, key)) not in known:
                return f"{key} must be one of {', '.join(known)}, got {got!r}"
        if unknown := sorted(self.arguments.keys() - set(ARGUMENTS)):
            return f"arguments must be of {', '.join(ARGUMENTS)}, got {unknown[0]!r}"
        if not self.network.startswith("timm:"):
            return f"network must be timm:NAME, got {self.network!r}"
        if "https://" not in self.where:
            return f"where must name a file and its https:// page, got {self.where!r}"
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            return f"sha256 must be 64 hexadecimal digits, got {self.sha256!r}"
        if self.crop_px is not None and not 0 < self.crop_px < self.patch_px:
            return f"its crop must be within 1..{self.patch_px - 1} px, got {self.crop_px}"
        return None
