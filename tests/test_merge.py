"""Merges of checkpoints: laws, hand-worked cases, and each against its definition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import reference
from extras import need
from labelled_pictures import write_pictures

torch = need("torch", "safetensors")

from safetensors.torch import save_file

from histofast import classify, datasets
from histofast.errors import ModelError
from histofast.networks import create, starts
from histofast.networks.starts import METHODS, merge_states

ON_A_BASE = ("task", "ties", "stock", "iso")


def state(seed, *, shape=(6, 3, 2, 2)):
    generator = torch.Generator().manual_seed(seed)
    return {
        "conv.weight": torch.randn(shape, generator=generator),
        "bn.weight": torch.rand(shape[0], generator=generator),
        "bn.running_mean": torch.rand(shape[0], generator=generator),
        "bn.running_var": torch.rand(shape[0], generator=generator) + 0.5,
        "bn.num_batches_tracked": torch.tensor(seed),
    }


def options_of(method, base=None):
    if method in ON_A_BASE:
        return {"base": state(99) if base is None else base}
    if method.startswith("svd"):
        return {"rank": 4}
    return {"score": lambda _: 1.0} if method == "greedy" else {}


@pytest.mark.parametrize(
    "method", [m for m in METHODS if m not in ("task", "iso", "ties", "svd-pre", "svd-post")]
)
def test_a_merge_of_equals_is_itself(method):
    part = state(1)
    merged = merge_states([part, dict(part), dict(part)], method, **options_of(method))
    for key, value in part.items():
        torch.testing.assert_close(merged[key], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["svd-pre", "svd-post"])
def test_a_merge_of_equals_at_full_rank_is_itself(method):
    part = state(1)
    merged = merge_states([part, dict(part)], method, rank=6)
    assert all(torch.equal(merged[key], part[key]) for key in part)


@pytest.mark.parametrize("method", ON_A_BASE)
def test_parts_that_are_their_base_are_it(method):
    part = state(1)
    merged = merge_states([part, dict(part)], method, base=part)
    for key, value in part.items():
        torch.testing.assert_close(merged[key], value, rtol=0, atol=1e-6)
        assert bool(merged[key].isfinite().all())


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_parts_does_not_matter(method):
    parts = [state(seed) for seed in (1, 2, 3)]
    options = options_of(method)
    if method == "greedy":
        options = {"score": lambda s: -float(s["conv.weight"].abs().mean())}
    first = merge_states(parts, method, **options)
    for order in itertools.permutations(parts):
        again = merge_states(order, method, **options)
        for key in first:
            if "num_batches" not in key:  # of whichever is first
                assert torch.equal(again[key], first[key]), key


def tensors(parts, key="conv.weight"):
    return [part[key].double().numpy().reshape(6, -1) for part in parts]


def test_methods_against_their_definitions():
    parts, base = [state(seed) for seed in (1, 2, 3)], state(9)
    arrays, begun = tensors(parts), tensors([base])[0]
    wanted = {
        "mean": np.mean(arrays, axis=0),
        "task": begun + 0.5 * sum(a - begun for a in arrays),
        "ties": reference.merge_ties(arrays, begun, scale=0.5),
        "stock": reference.merge_stock(arrays, begun),
        "iso": reference.merge_iso(arrays, begun, scale=0.5),
        "svd-pre": np.mean([reference.truncated(a, 4) for a in arrays], axis=0),
        "svd-post": reference.truncated(np.mean(arrays, axis=0), 4),
    }
    for method, array in wanted.items():
        options = options_of(method, base) | (
            {"scale": 0.5} if method in ("task", "ties", "iso") else {}
        )
        found = merge_states(parts, method, **options)["conv.weight"]
        np.testing.assert_allclose(found.numpy().reshape(6, -1), array, atol=2e-6, err_msg=method)


def of_rank(rank, seed, *, rows=12, columns=27):
    """A kernel of a rank under noise, and the state that holds it."""
    rng = np.random.default_rng(seed)
    matrix = 2 * rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))
    matrix += rng.normal(size=(rows, columns)) / 4
    kernel = torch.tensor(matrix.reshape(rows, -1, 3, 3), dtype=torch.float32)
    return {"w": kernel, "b": torch.tensor(rng.random(rows), dtype=torch.float32)}


def test_ranks_by_evbmf_are_of_each_matrix():
    parts = [of_rank(rank, seed) for rank, seed in ((3, 1), (0, 2))]
    arrays = [part["w"].double().numpy().reshape(12, -1) for part in parts]
    ranks = [len(reference.evbmf(a)[0]) for a in arrays]
    assert ranks == [3, 0]
    pre = np.mean(
        [reference.truncated(a, max(1, r)) for a, r in zip(arrays, ranks, strict=True)], axis=0
    )
    mean = np.mean(arrays, axis=0)
    post = reference.truncated(mean, max(1, len(reference.evbmf(mean)[0])))
    for method, wanted in (("svd-pre", pre), ("svd-post", post)):
        found = merge_states(parts, method, rank="evbmf")
        np.testing.assert_allclose(found["w"].numpy().reshape(12, -1), wanted, atol=2e-6)
        torch.testing.assert_close(found["b"], torch.stack([p["b"] for p in parts]).mean(0))


def test_where_nothing_stands_out_of_noise_one_is_kept():
    parts = [of_rank(0, 1), of_rank(0, 2)]
    mean = merge_states(parts, "mean")["w"].double().numpy().reshape(12, -1)
    assert len(reference.evbmf(mean)[0]) == 0
    found = merge_states(parts, "svd-post", rank="evbmf")
    np.testing.assert_allclose(
        found["w"].numpy().reshape(12, -1), reference.truncated(mean, 1), atol=2e-6
    )
    nothing = {"w": torch.zeros(4, 3)}
    assert not merge_states([nothing, dict(nothing)], "svd-pre", rank="evbmf")["w"].any()


def test_ties_by_hand():
    """Five entries, so that each tau keeps its largest one: 1 of 5."""
    base = {"w": torch.zeros(1, 5)}
    parts = [
        {"w": torch.tensor([[3.0, 1, 0, 0, 0]])},
        {"w": torch.tensor([[2.0, 0, -1, 0, 0]])},
        {"w": torch.tensor([[-4.0, 0, 0, 0, 3.0]])},
    ]
    # Kept: 3, 2, -4; their sum is 1, so the sign is +, and the mean of 3 and 2 is 2.5.
    found = merge_states(parts, "ties", base=base)["w"]
    assert found.tolist() == [[2.5, 0, 0, 0, 0]]


def test_stock_by_hand():
    """Two taus at 60 degrees: cos 1/2, t = 2 * 1/2 / (1 + 1/2) = 2/3 of the mean."""
    base = {"w": torch.tensor([[1.0, 1.0]])}
    parts = [{"w": torch.tensor([[2.0, 1.0]])}, {"w": torch.tensor([[1.5, 1 + 3**0.5 / 2]])}]
    found = merge_states(parts, "stock", base=base)["w"].numpy()
    np.testing.assert_allclose(found, [[1 + 2 / 3 * 0.75, 1 + 2 / 3 * 3**0.5 / 4]], atol=1e-6)


def test_greedy_keeps_what_does_not_lower_the_score():
    good, also, bad = ({"w": torch.full((1, 1), v)} for v in (1.0, 0.8, 5.0))
    merged = merge_states([bad, good, also], "greedy", score=lambda s: -abs(float(s["w"]) - 0.9))
    assert float(merged["w"]) == pytest.approx(0.9)


def test_half_precision_is_merged_in_full():
    parts = [{"w": torch.full((2, 2), v, dtype=torch.float16)} for v in (1.0, 1.0009765625)]
    merged = merge_states(parts, "mean")["w"]
    assert merged.dtype == torch.float32
    assert merged[0, 0].item() == 1.00048828125


@pytest.mark.parametrize(
    ("parts", "method", "options", "error", "message"),
    [
        ([state(1)], "mean", {}, ValueError, "at least two parts, got 1"),
        ([state(1), state(2)], "tied", {}, ValueError, "method must be one of .* got 'tied'"),
        ([state(1), state(2)], "ties", {}, ValueError, "base must be given for method ties"),
        ([state(1), state(2)], "mean", {"base": state(3)}, ValueError, "base must be left out"),
        ([state(1), state(2)], "svd-pre", {}, ValueError, "rank must be given"),
        (
            [state(1), state(2)],
            "svd-pre",
            {"rank": "evbfm"},
            ValueError,
            "rank must be a whole number or evbmf, got 'evbfm'",
        ),
        ([state(1), state(2)], "svd-pre", {"rank": 1.5}, TypeError, "rank must be a whole number"),
        ([state(1), state(2)], "svd-pre", {"rank": 0}, ValueError, "rank must be at least 1"),
        ([state(1), state(2)], "mean", {"rank": "evbmf"}, ValueError, "rank must be left out"),
        ([state(1), {"w": torch.ones(1)}], "mean", {}, ModelError, "6 tensors that are not in all"),
        ([state(1), state(2, shape=(6, 3, 1, 1))], "mean", {}, ModelError, "conv.weight of shape"),
        (
            [state(1), state(2) | {"bn.weight": torch.full((6,), float("nan"))}],
            "mean",
            {},
            ModelError,
            "NaN or infinity in bn.weight",
        ),
    ],
)
def test_refused(parts, method, options, error, message):
    with pytest.raises(error, match=message) as raised:
        merge_states(parts, method, **options)
    assert "\n" not in str(raised.value)


# --- Starts --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    found = []
    for name, seed in (("base", 1), ("a", 2), ("b", 3)):
        path = folder / f"{name}.safetensors"
        save_file(create("resnet18", seed=seed).state_dict(), path)
        found.append(str(path))
    return found


def test_a_merge_is_a_start(files):
    base, a, b = files
    begun = starts.begin("resnet18", f"merge:mean:{a}+{b}", classes=2)
    wanted = merge_states([create("resnet18", weights=f).state_dict() for f in (a, b)], "mean")
    assert torch.equal(begun.state_dict()["conv1.weight"], wanted["conv1.weight"])
    begun = starts.begin("resnet18", f"merge:ties:{base}+{a}+{b}")
    wanted = merge_states(
        [create("resnet18", weights=f).state_dict() for f in (a, b)],
        "ties",
        base=create("resnet18", weights=base).state_dict(),
    )
    assert torch.equal(begun.state_dict()["conv1.weight"], wanted["conv1.weight"])
    for rank in (8, "evbmf"):
        text = f"merge:svd-pre:{rank}:{a}+{b}"
        assert str(starts.parse(text)) == text
        assert starts.identity(text)["rank"] == rank


def test_a_merge_by_evbmf_is_a_start_and_a_file(cli, tmp_path):
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for seed, file in enumerate(files):
        save_file(create("cbr-tiny", seed=seed).state_dict(), file)
    out = tmp_path / "m.safetensors"
    options = ("--method", "svd-post", "--network", "cbr-tiny", "--out", out)
    assert cli("models", "merge", *files, *options, "--rank", "evbmf").code == 0
    begun = starts.begin("cbr-tiny", f"merge:svd-post:evbmf:{files[0]}+{files[1]}").state_dict()
    written = create("cbr-tiny", weights=out).state_dict()
    assert all(torch.equal(begun[key], written[key]) for key in begun)
    assert int(torch.linalg.matrix_rank(begun["conv2.weight"].flatten(1).double(), atol=1e-5)) == 1
    answer = cli("models", "merge", *files, *options, "--rank", "many")
    assert answer.code == 2
    assert (
        "invalid value for '--rank': must be a whole number or evbmf, got 'many'" in answer.err[-1]
    )


def test_parts_and_base_must_standardise_alike(files, tmp_path):
    """A run of weights for pixels of mean 0.5 among files for those of ImageNet."""
    _, a, b = files
    other = classify.train(
        write_pictures(tmp_path, n=24, groups=12),
        network="ciga-simclr-resnet18",
        start=a,
        recipe=classify.Recipe(epochs=1, px=24, batch_size=8, freeze="head"),
        out=tmp_path / "run",
    )
    assert other.network().mean == (0.5, 0.5, 0.5)
    wrong = f"run:{other.path}"
    for text in (f"merge:mean:{a}+{wrong}", f"merge:task:{wrong}+{a}+{b}"):
        with pytest.raises(ModelError, match=r"must standardise alike, .* does not as .* does"):
            starts.begin("resnet18", text)
    for parts, options in (
        ([a, other.path], {"method": "mean"}),
        ([a, b], {"method": "task", "base": other.path}),
    ):
        with pytest.raises(ModelError, match=r"must standardise alike, .* does not as .* does"):
            classify.merge(parts, out=tmp_path / "m.safetensors", **options)
    alike = classify.merge([other.path, other.path], out=tmp_path / "m.safetensors", method="mean")
    assert alike.network == "resnet18"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("merge:mean:a.pth", "must have a method and parts: merge:METHOD:A"),
        ("merge:ties:a.pth+b.pth", "must have a base and two parts"),
        ("merge:svd-pre:a.pth+b.pth", "must have a rank, a number or evbmf, merge:svd-pre:RANK:A"),
        ("merge:meen:a.pth+b.pth", "method of merging, .* got 'merge:meen"),
    ],
)
def test_bad_texts(text, message):
    with pytest.raises(ValueError, match=message):
        starts.parse(text)


def test_a_merged_start_has_statistics_of_the_training_images(files, tmp_path):
    table = write_pictures(tmp_path, n=36, groups=12)
    recipe = classify.Recipe(epochs=1, px=24, batch_size=8, freeze="head", ema=0.0)
    _, a, b = files
    done = classify.train(
        table, network="resnet18", start=f"merge:mean:{a}+{b}", recipe=recipe, out=tmp_path / "r"
    )
    network = done.network()
    # conv1 sees pixels alone: its statistics have a definition.
    train = [done.names[i] for i in done.fold.train]
    images = datasets.open_images(table)
    rows = [images.names.index(name) for name in train]
    found = datasets.decode(images.part(rows), cache=tmp_path / "c", px=24)
    x = torch.from_numpy(found.pixels.copy()).permute(0, 3, 1, 2).double() / 255
    mean = torch.tensor(network.mean).view(1, 3, 1, 1)
    std = torch.tensor(network.std).view(1, 3, 1, 1)
    y = torch.nn.functional.conv2d(
        (x - mean) / std, network.conv1.weight.double(), stride=2, padding=3
    )
    wanted = y.transpose(0, 1).reshape(64, -1)
    torch.testing.assert_close(
        network.bn1.running_mean.double(), wanted.mean(1), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        network.bn1.running_var.double(), wanted.var(1), rtol=1e-3, atol=1e-5
    )


def test_statistics_are_all_that_changes_and_are_those_of_one_batch():
    network = create("resnet18", seed=1)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    images = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert starts.estimate_batchnorm(network, [images]) == 16
    after = network.state_dict()
    assert {k for k in before if not torch.equal(before[k], after[k])} == {
        k for k in before if "running" in k or "num_batches" in k
    }
    assert not network.training
    again = {k: v.clone() for k, v in after.items()}
    starts.estimate_batchnorm(network, [images])
    for key, value in again.items():
        if "running" in key:
            torch.testing.assert_close(network.state_dict()[key], value, rtol=1e-5, atol=1e-6)


def test_statistics_of_the_first_layer_do_not_depend_on_batches():
    images = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = []
    for size in (12, 5):
        network = create("resnet18", seed=1)
        starts.estimate_batchnorm(network, images.split(size))
        found.append(network.bn1.running_var.clone())
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)
