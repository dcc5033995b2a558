"""Published vision transformers: what the registry says of each, and their files under their publishers' keys."""

from __future__ import annotations

import re
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest

import broken_files
from conftest import ROOT
from extras import need
from histofast import encoders, graphs
from histofast.errors import ModelError
from timm_here import need_timm

ENTRIES = encoders.registry().foundation
ENTRY = """
[foundation.f]
network = "timm:vit_small_patch16_224"
arguments = { img_size = 224 }
pooling = "cls"
prefix_tokens = 1
token_px = 16
d = 384
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
patch_px = 224
mpp = 0.5
mpp_basis = "stated"
tensors = 150
rename = "none"
parameters_m = 21.67
licence = "MIT"
gated = true
where = "f.pth from https://example.org/"
tested = false
"""


# --- The registry ---------------------------------------------------------------------------------


@pytest.fixture
def read(tmp_path):
    def read(text):
        (tmp_path / "registry.toml").write_text(text)
        return encoders.read_registry(tmp_path / "registry.toml").foundation

    return read


def test_an_entry_is_read(read):
    entry = read(ENTRY)["f"]
    assert (entry.width, entry.terms, entry.arguments) == (384, "MIT, gated", {"img_size": 224})
    assert (entry.crop_px, entry.eps, entry.sha256, entry.gmac) == (None,) * 4
    both = read(ENTRY.replace('"cls"', '"cls+mean"').replace("gated = true", "gated = false"))["f"]
    assert (both.width, both.terms) == (192, "MIT")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"cls"', '"mean"', "foundation.f: pooling must be one of cls, cls+mean, pooled, got 'mean'"),
        ('"none"', '"keras"', "rename must be one of none, dinov2, hf-vit, hf-dinov2, swin, got 'keras'"),
        ('"stated"', '"guess"', "mpp_basis must be one of stated, 20x, convention, got 'guess'"),
        ("img_size =", "norm_layer =", "arguments must be of img_size, patch_size, depth"),
        ("= 224 }", "= [224] }", "foundation.f: arguments must be dict"),
        ('"timm:', '"', "network must be timm:NAME, got 'vit_small_patch16_224'"),
        ("https://", "", "where must name a file and its https:// page, got 'f.pth from example.org/'"),
        ("tested = false", 'tested = false\nsha256 = "0"', "sha256 must be 64 hexadecimal digits, got '0'"),
        ("tested = false", "tested = false\ncrop_px = 224", "its crop must be within 1..223 px, got 224"),
        ("tensors = 150\n", "", "foundation.f: key 'tensors' is missing"),
    ],
)  # fmt: skip
def test_spoiled_entries_are_refused(read, old, new, message):
    assert old in ENTRY
    with pytest.raises(ModelError, match=re.escape(message)) as told:
        read(ENTRY.replace(old, new))
    assert "\n" not in str(told.value)


def test_a_name_is_given_once(read):
    source = '[sources.f]\nnetwork = "densenet121"\nmean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n'
    source += 'licence = ""\nwhere = "f from https://f"\nkeys = ""\ntested = false\nnote = ""\n'
    with pytest.raises(ModelError, match=r"foundation\.f: sources have that name already"):
        read(source + ENTRY)


def test_checksums_are_of_one_file_each(data):
    known = [entry.sha256 for entry in ENTRIES.values() if entry.sha256]
    assert len(set(known)) == len(known)
    table = data / "foundation_weights_sha256.tsv"
    if table.is_file():  # as transcribed from the publishers' pages
        assert set(known) <= {row.split("\t")[4] for row in table.read_text().splitlines()[1:]}


@pytest.mark.parametrize("name", ENTRIES)
def test_readme_tells_of_every_model(name):
    entry = ENTRIES[name]
    text = (ROOT / "models" / "README.md").read_text()
    (row,) = (line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
    assert row == (
        f"| `{name}` | {entry.d} {entry.pooling} | {entry.patch_px} px at {entry.mpp:g} um/px "
        f"({entry.mpp_basis}) | {entry.parameters_m:g} | {entry.terms} | {entry.where} |"
    )
    assert not entry.tested  # then that README may say more


def test_speed_is_a_share_of_the_machines_products(read):
    """170.1 billion multiply-adds, two operations each, at 0.85 of 200 GFLOP/s."""
    assert ENTRIES["virchow2"].patches_per_s(200e9) == pytest.approx(0.85 * 200 / (2 * 170.1))
    assert read(ENTRY)["f"].patches_per_s(200e9) is None


def test_models_list_of_foundation_models(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(graphs, "peak_flops_per_s", lambda: 200e9)
    answer = cli("models", "list", "--foundation")
    assert (answer.code, answer.err) == (0, [])
    rows = {line.split()[0]: line.split() for line in answer.out.splitlines() if line.strip()}
    wanted = "virchow2 2560 cls+mean 224 0.5 stated 631 170 0.5 untested CC-BY-NC-ND-4.0, gated"
    assert rows["virchow2"] == wanted.split()
    assert rows["kaiko-vits16"][8] == "18"
    assert "an estimate for this machine's CPUs in float32, 0.85 of what its products" in answer.out
    assert "200 GFLOP/s" in answer.out

    def timed():
        raise AssertionError("not asked for")

    monkeypatch.setattr(graphs, "peak_flops_per_s", timed)
    without = cli("models", "list", "--foundation", "--no-speed")
    assert (without.code, "patches/s" in without.out) == (0, False)
    for entry in ENTRIES.values():
        assert set(entry.where.split()) <= set(answer.out.split())
    assert f"{len(ENTRIES)} foundation models" in cli("models", "list").out


# --- Models that are not built here ---------------------------------------------------------------


NOT_BUILT = {
    "conch": "conch is not built here (an image tower with an attentional pooler of its own package, "
    "terms CC-BY-NC-ND-4.0): let its own package write an ONNX file of its image tower, and bring that with "
    "`histofast models add`",
    "titan": "titan is a model of slides, not an encoder of patches (it takes where patches lie, too): "
    "extract features with conch-v1.5, and give them to its own package",
}


@pytest.mark.parametrize("name", encoders.registry().elsewhere)
def test_a_model_that_is_not_built_says_why(networks, name, cli, tmp_path):
    told = encoders.registry().elsewhere[name].told
    assert "\n" not in told
    assert told == NOT_BUILT.get(name, told)
    for call in (networks.create, networks.layers, encoders.find):
        with pytest.raises(ModelError) as refused:
            call(name)
        assert str(refused.value) == told
    weights = _file(tmp_path / "w.bin")
    made = ("--weights", weights, "--out", tmp_path / "e.onnx")
    assert cli("models", "export", name, *made).err == [f"histofast: {told}"]
    text = (ROOT / "models" / "README.md").read_text()
    assert f"`{name}`" in text


@pytest.mark.parametrize("name", ["CONCH", "conch_v1_5", "ConchV15", "GenBio_PathFM", "RudolfV2.S"])
def test_names_of_models_that_are_not_built_in_any_spelling(networks, name):
    with pytest.raises(ModelError, match="is not built here"):
        networks.create(name)


def test_models_of_slides_take_features_of_patches_that_are_known():
    known = encoders.registry()
    for entry in known.elsewhere.values():
        assert entry.patches_by in (None, *known.foundation, *known.elsewhere)
        assert entry.name not in known.foundation


def test_a_foundation_model_that_was_not_made_yet():
    with pytest.raises(
        ModelError, match=r"uni2-h must be made of its weights first: .*export uni2-h"
    ):
        encoders.find("uni2-h")


@pytest.mark.parametrize("name", ["F", "g-", "G"])
def test_a_name_of_what_is_not_built_is_given_once(read, name):
    other = '[elsewhere.g]\nwhy = "x"\n' + ENTRY
    if name == "F":
        name, other = "f", ENTRY
    with pytest.raises(ModelError, match=r"elsewhere\..*: another entry has that name already"):
        read(f'[elsewhere.{name}]\nwhy = "x"\n{other}')


# --- Files that are not what they are called ------------------------------------------------------


@pytest.fixture
def networks():
    need("torch", "safetensors")
    from histofast import networks

    return networks


def _file(path, *, tensors=342, width=1024, token_px=16):
    """Write as many tensors as a file has, the kernel alone in its shape."""
    torch = need("torch")
    state = {f"blocks.{i}": torch.zeros(1) for i in range(tensors - 1)}
    torch.save({"patch_embed.proj.weight": torch.zeros(width, 3, token_px, token_px)} | state, path)
    return path


@pytest.mark.parametrize(
    ("made", "name", "message"),
    [
        ({}, "uni2-h", "which has 343 tensors, it has 342: it fits uni, mstar, path-orchestra"),
        (
            {"tensors": 566, "width": 1536},
            "virchow2",
            "which has 455 tensors, it has 566: it fits gigapath",
        ),
        (
            {"tensors": 342, "token_px": 14},
            "uni",
            "it has 1024 features of 14 px and 1 tokens before them: it fits gpfm",
        ),
        (
            {"tensors": 12},
            "uni",
            "which has 342 tensors, it has 12: get pytorch_model.bin from https://huggingface.co/MahmoodLab/UNI",
        ),
        ({}, "phikon", "it has no tensors of a network of the kind hf-vit: it fits uni, mstar, "),
    ],
)
def test_a_file_of_another_model_is_refused_with_the_right_name(
    networks, tmp_path, made, name, message
):
    path = _file(tmp_path / "pytorch_model.bin", **made)
    with pytest.raises(
        ModelError, match=rf"{re.escape(f'{path} is not of {name}, ')}.*{re.escape(message)}"
    ) as told:
        networks.create(name, weights=path)
    assert "\n" not in str(told.value)


def test_a_file_is_known_by_its_checksum(networks, tmp_path, monkeypatch, cli):
    path = _file(tmp_path / "w.bin")
    known = encoders.registry()
    mine = replace(known.foundation["mstar"], sha256=encoders.sha256_of(path))
    changed = replace(known, foundation=known.foundation | {"mstar": mine})
    monkeypatch.setattr("histofast.networks.foundation.registry", lambda: changed)
    said = f"{path} is the file of mstar, not of uni: say mstar"
    with pytest.raises(ModelError, match=re.escape(said)):
        networks.create("uni", weights=path)
    out = tmp_path / "e.onnx"
    assert cli("models", "export", "uni", "--weights", path, "--out", out).err == [
        f"histofast: {said}"
    ]
    assert not out.exists()


def test_weights_of_networks_of_our_own(networks, data):
    path = data / "weights" / "densenet121_imagenet.safetensors"
    if not path.is_file():
        pytest.skip("no weights")
    with pytest.raises(ModelError, match="holds weights of densenet121, not of uni"):
        networks.create("uni", weights=path)


def test_without_a_file_it_is_told_where_it_is(networks):
    for weights in (None, "hub"):
        with pytest.raises(
            ValueError, match="weights must be a file for uni2-h: get pytorch_model"
        ):
            networks.create("uni2-h", weights=weights)
    with pytest.raises(ValueError, match="bn_eps must be left to timm"):
        networks.create("uni2-h", bn_eps=1e-3)
    with pytest.raises(ModelError, match="did you mean virchow2 or virchow"):
        networks.create("virchov2")
    with pytest.raises(FileNotFoundError, match=r"weights file.*none\.bin"):
        networks.create("uni2-h", weights="none.bin")


# --- Files under their publishers' keys -----------------------------------------------------------


@pytest.fixture(scope="module")
def timm():
    need("torch", "onnxscript")
    return need_timm()


@pytest.mark.parametrize("name", ENTRIES)
def test_the_whole_network_is_what_the_entry_says(networks, timm, name):
    """Without memory for its tensors."""
    torch = need("torch")

    entry = ENTRIES[name]
    with torch.device("meta"):
        network = networks.create(networks.foundation_name(entry))
    assert len(network.state_dict()) == entry.tensors
    assert (network.d, network.input_px) == (entry.d, entry.patch_px)
    assert getattr(network.model, "num_prefix_tokens", 0) == entry.prefix_tokens
    assert network.model.patch_embed.patch_size == (entry.token_px, entry.token_px)
    parameters = sum(value.numel() for value in network.parameters())
    assert parameters / 1e6 == pytest.approx(entry.parameters_m, rel=2e-3)
    assert (network.model.patch_embed.img_size[0] == entry.crop_px) == (entry.crop_px is not None)


@pytest.mark.parametrize("name", ENTRIES)
def test_the_work_is_what_the_entry_says(networks, timm, name):
    """Counted at every product of the whole network, also where only a cut of it is asked for."""
    entry = ENTRIES[name]
    cuts = {cut.name: cut for cut in networks.layers(name)}
    assert cuts["features"].gmac == pytest.approx(entry.gmac, abs=0.06)
    assert cuts["features"].parameters / 1e6 == pytest.approx(entry.parameters_m, rel=2e-3)
    if entry.pooling == "pooled":  # no blocks of one width
        return
    blocks = len([name for name in cuts if networks.block_of(name) == name]) - 1
    half = cuts[f"block{blocks // 2}"]
    assert 0.5 < half.flops_share < 0.52
    assert 0.5 < half.parameters_share < 0.53


BLOCKS, WIDTH, HEADS = 2, 48, 3
CUT = {"depth": BLOCKS, "embed_dim": WIDTH, "num_heads": HEADS}
CUT_SWIN = {"depths": (2, 2), "embed_dim": WIDTH // 2, "num_heads": (1, 2)}


def _under(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


def _dino(state):
    """As DINO saves its training: a student beside the teacher, heads, and how it was asked for."""
    other = {key: value + 1 for key, value in state.items()}
    head = {"head.mlp.0.weight": next(iter(state.values()))}
    both = {
        "student": _under("module.backbone.", other),
        "teacher": _under("backbone.", state) | head,
    }
    return both | {"epoch": 100, "args": Namespace(arch="vit_small", patch_size=16)}


# What publishers' files have around the tensors.
LAID_OUT = {
    "openpath": lambda state: {"teacher": _under("backbone.", state)},
    "openmidnight": lambda state: {
        "teacher": _under("backbone.", state) | {"dino_head.last_layer.weight": state["cls_token"]}
    },
    "ctranspath": lambda state: {"model": state},
    "hipt-256": _dino,
    "sp22m": lambda state: _under("encoder.", state),
}


def _place_on_another_grid(model, state, side):
    """Give a file positions for `side` x `side` patches, and the model what timm makes of them."""
    torch = need("torch")
    from timm.layers import resample_abs_pos_embed

    grid = model.patch_embed.grid_size
    before = model.pos_embed.shape[1] - grid[0] * grid[1]
    generator = torch.Generator().manual_seed(5)
    state["pos_embed"] = torch.randn(1, before + side**2, WIDTH, generator=generator)
    found = resample_abs_pos_embed(state["pos_embed"], new_size=grid, num_prefix_tokens=before)
    model.pos_embed.data = found


@pytest.fixture
def small(networks, timm, tmp_path):
    """Cut an entry down to a few narrow blocks; write random weights under its publisher's keys."""
    torch = need("torch")
    import published

    def small(name):
        entry = ENTRIES[name]
        arguments = entry.arguments | (CUT_SWIN if entry.rename == "swin" else CUT)
        cut = replace(entry, arguments=arguments, d=WIDTH * (entry.d // entry.width), sha256=None)
        network = networks.create(networks.foundation_name(cut), seed=1)
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for value in network.parameters():
                value += 0.2 * torch.randn(value.shape, generator=generator)
            for key, value in network.named_buffers():
                if "running" in key:
                    value += torch.rand(value.shape, generator=generator)
        gated = any(type(module).__name__ == "GluMlp" for module in network.modules())
        plain = network.model.state_dict()
        chunk = 1 if name == "openpath" else None
        state = published.published(plain, entry.rename, gated=gated, chunk=chunk)
        if entry.positions_px is not None:
            _place_on_another_grid(network.model, state, entry.positions_px // entry.token_px)
        path = tmp_path / "weights.pth"
        torch.save(LAID_OUT.get(name, dict)(state), path)
        return replace(cut, tensors=len(plain)), path, network, state

    return small


def _pooled(tokens, entry, pooling=None):
    torch = need("torch")
    if entry.pooling == "pooled":
        return tokens.mean((1, 2))
    parts = {"cls": tokens[:, 0], "mean": tokens[:, entry.prefix_tokens :].mean(1)}
    return torch.cat([parts[part] for part in (pooling or entry.pooling).split("+")], 1)


@pytest.mark.parametrize("name", ENTRIES)
def test_a_file_under_its_publishers_keys_is_the_network(small, networks, name):
    torch = need("torch")
    import published

    entry, path, made, state = small(name)
    network = networks.create_foundation(entry, weights=path)
    assert (network.mean, network.std, network.mpp) == (entry.mean, entry.std, entry.mpp)
    assert network.licence == entry.terms
    assert (network.loaded.missing, network.loaded.unexpected) == ((), ())
    assert (network.d, network.input_px) == (entry.d, entry.patch_px)
    x = torch.randn(2, 3, entry.patch_px, entry.patch_px)
    start = (entry.patch_px - (entry.crop_px or entry.patch_px)) // 2
    seen = x[:, :, start : entry.patch_px - start, start : entry.patch_px - start]
    with torch.inference_mode():
        got = network(x)
        if entry.rename == "swin":
            tokens = made.model.norm(made.model.layers(published.stem(state, seen)))
        elif entry.rename == "none":
            tokens = made.model.forward_features(seen)
        elif name == "openpath":
            plain = published.published(made.model.state_dict(), "dinov2", gated=True)
            tokens = published.tokens(plain, "dinov2", seen, heads=HEADS, eps=1e-6)
        else:
            eps = entry.eps or 1e-6
            tokens = published.tokens(state, entry.rename, seen, heads=HEADS, eps=eps)
    wanted = _pooled(tokens, entry)
    assert ((got - wanted).norm(dim=1) / wanted.norm(dim=1)).max() < 1e-5


def test_no_register_is_in_the_mean_of_virchow2(small, networks):
    torch = need("torch")

    entry, path, made, _ = small("virchow2")
    network = networks.create_foundation(entry, weights=path)
    x = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        got, tokens = network(x), made.model.forward_features(x)
    assert tokens.shape[1] == 1 + 4 + 256
    torch.testing.assert_close(got[:, WIDTH:], tokens[:, 5:].mean(1), rtol=1e-4, atol=1e-5)
    assert (got[:, WIDTH:] - tokens[:, 1:].mean(1)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "pool", "width"),
    [("virchow2", "cls", 1), ("virchow2", "mean", 1), ("h0-mini", "cls+mean", 2), ("midnight-12k", "cls", 1)],
)  # fmt: skip
def test_a_whole_network_pooled_otherwise_by_name(small, by_name, tmp_path, cli, name, pool, width):
    """Virchow2's class token is what PRISM2 takes; H0-mini's authors name both."""
    torch = need("torch")

    entry, path, made, _ = small(name)
    by_name(entry)
    out = tmp_path / "e.onnx"
    done = cli("models", "export", name, "--weights", path, "--pool", pool, "--out", out)
    assert done.code == 0, done.err
    assert encoders.read_spec(out).terms == entry.terms
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (entry.mean, entry.std))
    with torch.inference_mode():
        tokens = made.model.forward_features((x - mean) / std)
    wanted = _pooled(tokens, entry, pool)
    assert wanted.shape[1] == width * WIDTH
    with encoders.load(out, device="cpu") as encoder:
        got = torch.from_numpy(encoder.encode(pixels))
    assert ((got - wanted).norm(dim=1) / wanted.norm(dim=1)).max() < 1e-5


def test_positions_for_larger_pictures_are_resampled_once(small, networks, timm):
    """As timm resamples those of a file of its own for another size: the same numbers."""
    torch = need("torch")

    entry, path, _, state = small("kaiko-vitl14")
    positions = torch.randn(1, 37 * 37, WIDTH)
    torch.save(state | {"pos_embed": positions}, path)
    network = networks.create_foundation(entry, weights=path)
    filtered = timm.models.vision_transformer.checkpoint_filter_fn(
        {"pos_embed": positions, "patch_embed.proj.weight": state["patch_embed.proj.weight"]},
        network.model,
    )
    assert torch.equal(network.model.pos_embed, filtered["pos_embed"])
    assert network.loaded.positions_of == 37


def test_positions_for_pictures_of_another_size_are_refused(small, networks):
    torch = need("torch")
    entry, path, _, state = small("uni")
    torch.save(state | {"pos_embed": torch.randn(1, 1 + 12 * 12, WIDTH)}, path)
    said = r"is not of uni, whose position embeddings are for 224 px, it has those for 192 px: get pytorch_"
    with pytest.raises(ModelError, match=said):
        networks.create_foundation(entry, weights=path)


def test_another_file_than_the_published_one_is_said(small, networks, tmp_path):

    entry, path, _, _ = small("uni")
    network = networks.create_foundation(replace(entry, sha256="0" * 64), weights=path)
    (line,) = network.loaded.remarks()
    assert line == "not the published file of uni by its sha256, but one that fits"
    assert network.origin.endswith("; file not known")
    known = networks.create_foundation(
        replace(entry, sha256=encoders.sha256_of(path)), weights=path
    )
    assert known.loaded.remarks() == []
    assert known.origin == f"uni: {entry.where}"


# --- Bad input ------------------------------------------------------------------------------------


@pytest.fixture
def by_name(networks, monkeypatch):
    """Let the registry know a cut-down entry by its own name."""

    def by_name(entry):
        known = encoders.registry()
        changed = replace(known, foundation=known.foundation | {entry.name: entry})
        for module in ("networks.creation", "networks.foundation"):
            monkeypatch.setattr(f"histofast.{module}.registry", lambda: changed)

    return by_name


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("pytorch_model.bin", broken_files.PAGE, "is a web page, not the file: download it again, signed in"),
        ("pytorch_model.bin", broken_files.POINTER, "is a Git LFS pointer, not the file: run `git lfs pull`"),
        ("model.safetensors", broken_files.PAGE, "is a web page, not the file: download it again, signed in"),
        ("model.safetensors", b"", "is empty: copy or download it again"),
        ("pytorch_model.bin.index.json", b'{"metadata": {}, "weight_map": {}}', "is an index of weights in several"),
        ("model.bin", b'{"weight_map": {"a": "b"}}', "is an index of weights in several files, not weights: save"),
        ("pytorch_model.bin", bytes(300), "is not a torch file of plain tensors"),
    ],
)  # fmt: skip
def test_what_downloads_leave_instead_of_weights(cli, networks, tmp_path, file, content, message):
    path, out = tmp_path / file, tmp_path / "e.onnx"
    path.write_bytes(content)
    (line,) = cli("models", "export", "uni2-h", "--weights", path, "--out", out).err
    assert line.startswith(f"histofast: {path} {message}")
    assert not out.exists()


@pytest.mark.parametrize("keys", ["first", "last"])
def test_one_of_several_files_is_called_so(small, networks, tmp_path, keys):
    torch = need("torch")
    entry, _, _, state = small("virchow2")
    some = list(state.items())
    some = some[:9] if keys == "first" else some[-9:]
    path = tmp_path / "model-00001-of-00002.bin"
    torch.save(dict(some), path)
    with pytest.raises(
        ModelError, match=r"it is part 1 of 2, save all of them as one file$"
    ) as told:
        networks.create_foundation(entry, weights=path)
    assert str(told.value).startswith(f"{path} is not of virchow2, ")


def test_a_part_of_a_layer_is_told_with_its_file(small, networks, tmp_path):
    torch = need("torch")
    entry, _, _, state = small("phikon")
    path = tmp_path / "w.pth"
    torch.save({k: v for k, v in state.items() if ".key." not in k}, path)
    for partial in (False, True):
        with pytest.raises(
            ModelError, match=r"attn\.qkv\.\w+ lacks its key: get model\.safe"
        ) as told:
            networks.create_foundation(entry, weights=path, partial=partial)
        assert str(told.value).startswith(str(path))


@pytest.mark.parametrize("name", ["uni2-h", "phikon", "hibou-b"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_read_as_its_numbers_are(small, networks, tmp_path, name, dtype):
    """Also where the class token is the sum of two tensors (hibou-b), which is of float32."""
    torch = need("torch")
    entry, path, _, state = small(name)
    rounded = {key: value.to(getattr(torch, dtype)) for key, value in state.items()}
    torch.save(rounded, path)
    halved = networks.create_foundation(entry, weights=path)
    torch.save({key: value.float() for key, value in rounded.items()}, path)
    whole = networks.create_foundation(entry, weights=path)
    for (key, got), wanted in zip(
        halved.state_dict().items(), whole.state_dict().values(), strict=True
    ):
        assert got.dtype == torch.float32, key
        assert torch.equal(got, wanted), key


def test_a_cut_beyond_the_last_block_is_refused_before_the_file_is_read(
    small, by_name, cli, tmp_path, monkeypatch
):
    entry, path, _, _ = small("uni2-h")
    by_name(entry)
    monkeypatch.setattr("histofast.networks.foundation.read_weights", None)
    out = tmp_path / "e.onnx"
    made = ("models", "export", "uni2-h", "--weights", path, "--out", out)
    for more in (["--layer", "block3"], ["--layer", "block3", "--pool", "cls"]):
        (line,) = cli(*made, *more).err
        assert re.search("layer of .* must be one of block1.*, got 'block3'", line)
    assert not out.exists()


def test_a_file_larger_than_the_memory_is_refused_before_it_is_read(
    small, by_name, networks, cli, tmp_path, monkeypatch
):
    entry, path, _, _ = small("uni2-h")
    by_name(entry)
    size = path.stat().st_size
    monkeypatch.setattr("histofast.encoders.memory.memory_bytes", lambda: size - 1)
    monkeypatch.setattr("histofast.networks.foundation.sha256_of", None)
    out = tmp_path / "e.onnx"
    (line,) = cli("models", "export", "uni2-h", "--weights", path, "--out", out).err
    assert line == (
        f"histofast: {path}, to be read, needs {size / 1e9:.1f} GB of memory, this process may use "
        f"{(size - 1) / 1e9:.1f} GB: use a machine with more, and bring the encoder that is made there"
    )
    with pytest.raises(ModelError, match="to be read, needs"):
        networks.read_weights(path)
    assert not out.exists()


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_weights_that_are_no_numbers(small, networks, value):
    torch = need("torch")
    entry, path, _, state = small("uni")
    key = "blocks.1.mlp.fc1.weight"
    torch.save(state | {key: state[key] * float(value)}, path)
    with pytest.raises(
        ModelError, match=r"fc1\.weight holds NaN or infinity: copy or train it again"
    ):
        networks.create_foundation(entry, weights=path)


def _exported(small, networks, tmp_path, name):

    entry, path, _, _ = small(name)
    spec = networks.export(networks.create_foundation(entry, weights=path), tmp_path / "e.onnx")
    assert (spec.d, spec.patch_px, spec.height_px) == (entry.d, entry.patch_px, entry.patch_px)
    assert (spec.mpp, spec.licence) == (entry.mpp, entry.terms)
    assert spec.provenance.startswith(f"{name}: {entry.where}")
    assert spec.weights_sha256 == encoders.sha256_of(path)


def test_ctranspath_of_timm_today_is_that_of_timm_05(small, networks, tmp_path):
    torch = need("torch")

    entry, path, made, state = small("ctranspath")
    assert "layers.0.downsample.reduction.weight" in state
    today = tmp_path / "today.pth"
    torch.save(made.model.state_dict(), today)
    both = [networks.create_foundation(entry, weights=file).state_dict() for file in (path, today)]
    assert both[0].keys() == both[1].keys()
    assert all(torch.equal(value, both[1][key]) for key, value in both[0].items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"embed_layer": "Convstem"},
            "embed_layer must be one of ConvStem, got 'Convstem': did you",
        ),
        (
            {"embed_layer": "ConvStem", "patch_size": 8},
            "must have patches of 4 px and a width that",
        ),
    ],
)
def test_no_such_stem(networks, timm, arguments, message):
    with pytest.raises(ModelError, match=message):
        networks.layers("timm:swin_tiny_patch4_window7_224", timm_args=arguments)


def test_ctranspath_is_cut_at_its_stages(small, networks, tmp_path):
    torch = need("torch")

    entry, path, made, _ = small("ctranspath")
    assert [cut.name for cut in networks.layers("ctranspath")] == [
        *(f"layers.{i}" for i in range(4)),
        "features",
    ]
    cut = networks.create_foundation(entry, weights=path, layer="layers.0")
    x = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        wanted = made.model.layers[0](made.model.patch_embed(x)).mean((1, 2))
        torch.testing.assert_close(cut(x), wanted, rtol=1e-4, atol=1e-5)
    assert networks.export(cut, tmp_path / "e.onnx").d == WIDTH // 2


@pytest.mark.parametrize("name", ["phikon", "midnight-12k", "gigapath", "uni2-h", "ctranspath"])
def test_an_encoder_of_it_agrees_with_torch(small, networks, tmp_path, name):
    """`export` writes nothing that differs by more than 1e-5."""
    _exported(small, networks, tmp_path, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENTRIES)
def test_encoders_of_all_agree_with_torch(small, networks, tmp_path, name):
    _exported(small, networks, tmp_path, name)
