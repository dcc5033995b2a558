"""Models of bags: each is its published formula, and obeys the laws of pooling."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from extras import need

torch = need("torch")

from torch.nn.functional import cross_entropy

from histofast.mil import (
    PositionEncoding,
    create,
    models,
    nystrom_attention,
    pseudo_inverse,
    smooth_svm_loss,
)

D = 12
SMALL = {
    "attention": {"hidden": 10, "embedding": 8, "attention": 5},
    "gated": {"hidden": 10, "attention": 6},
    "mean": {"hidden": 10},
    "max": {"hidden": 10},
    "clam": {"hidden": 10, "attention": 6, "k_sample": 3},
    "transmil": {"hidden": 16, "heads": 4, "landmarks": 8},
    "dsmil": {"query": 6},
}
INVARIANT = sorted(set(SMALL) - {"transmil"})
POOLED = ["attention", "gated", "clam"]  # output = head(attention @ h)


def small(name, *, outputs=2, seed=0, **options):
    return create(name, d=D, outputs=outputs, seed=seed, **(SMALL[name] | options))


def bag_of(n, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(scale * rng.standard_normal((n, D))).float()


def layer(module):
    """(weights, bias) of a linear layer for the definitions."""
    return module.weight.detach().numpy(), module.bias.detach().numpy()


def close(got, wanted, atol=1e-9):
    np.testing.assert_allclose(got.detach().numpy(), wanted, rtol=1e-9, atol=atol)


# --- Against the definitions ----------------------------------------------------------------------


@given(n=st.integers(1, 9), seed=st.integers(0, 99), patch_head=st.booleans())
@settings(max_examples=25)
def test_attention_is_histotransfers(n, seed, patch_head):
    model = small("attention", seed=seed, patch_head=patch_head).double()
    bag = bag_of(n, seed).double()
    out = model(bag)
    layers = [model.embed[0], model.embed[3], model.score[0], model.score[2], model.head]
    layers.append(model.patch_head if patch_head else model.head)
    wanted = reference.histotransfer(bag.numpy(), *map(layer, layers))
    found = (out.output, out.attention, out.scores, out.patch_outputs)
    for got, value in zip(found, wanted, strict=True):
        close(got, value)


def test_attention_has_the_published_widths():
    model = create("attention", d=1024, outputs=2, patch_head=True)
    shapes = [tuple(p.shape) for p in model.parameters() if p.ndim == 2]
    assert shapes == [(256, 1024), (64, 256), (32, 64), (1, 32), (2, 64), (2, 64)]
    assert model.options["dropout"] == 0


@pytest.mark.parametrize("name", ["gated", "clam"])
@given(n=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_gated_attention_is_ilses(name, n, seed):
    model = small(name, outputs=3, seed=seed).double()
    bag = bag_of(n, seed).double()
    out = model(bag)
    weights, bias = layer(model.score.both)
    value, gate = (weights[:6], bias[:6]), (weights[6:], bias[6:])
    wanted = reference.gated_attention(
        bag.numpy(),
        layer(model.embed[0]),
        value,
        gate,
        layer(model.score.last),
        layer(model.head),
    )
    for got, expected in zip((out.output, out.attention, out.scores), wanted, strict=True):
        close(got, expected)


@given(n=st.integers(1, 9), seed=st.integers(0, 99), outputs=st.integers(1, 4))
@settings(max_examples=30)
def test_dsmil_is_its_definition(n, seed, outputs):
    model = small("dsmil", outputs=outputs, seed=seed).double()
    bag = bag_of(n, seed).double()
    target = seed % outputs
    out = model(bag, torch.tensor(target))
    layers = [model.instance, model.query, model.value, model.head]
    output, attention, distances, patch_outputs = reference.dsmil(bag.numpy(), *map(layer, layers))
    close(out.output, output)
    close(out.attention, attention[:, output.argmax()])
    close(out.scores, distances[:, output.argmax()])
    close(out.patch_outputs, patch_outputs)
    assert out.embedding.shape == (outputs * D,)
    if outputs == 1:
        assert out.auxiliary is None
    else:
        close(out.auxiliary, reference.dsmil_loss(patch_outputs, target))


@pytest.mark.parametrize("name", ["mean", "max"])
@given(n=st.integers(1, 9), seed=st.integers(0, 99), outputs=st.integers(1, 4))
@settings(max_examples=25)
def test_mean_and_max_are_numpys(name, n, seed, outputs):
    model = small(name, outputs=outputs, seed=seed).double()
    bag = bag_of(n, seed).double()
    out = model(bag)
    h = reference.relu(reference.linear(bag.numpy(), layer(model.embed[0])))
    patch_outputs = reference.linear(h, layer(model.head))
    close(out.patch_outputs, patch_outputs)
    assert out.attention is None
    if name == "mean":
        close(out.embedding, h.mean(axis=0))
        close(out.output, patch_outputs.mean(axis=0))
        assert out.scores is None
        return
    if outputs == 1:
        scores = patch_outputs[:, 0]
    elif outputs == 2:
        scores = patch_outputs @ np.array([-1, 1])
    else:
        scores = [np.log(reference.softmax(row).max()) for row in patch_outputs]
    close(out.scores, scores)
    close(out.output, patch_outputs[np.argmax(scores)])
    close(out.embedding, h[np.argmax(scores)])


def test_mean_without_hidden_layer_is_linear_in_the_mean():
    model = small("mean", hidden=0).double()
    bag = bag_of(7).double()
    wanted = reference.linear(bag.numpy().mean(axis=0), layer(model.head))
    close(model(bag).output, wanted)


@given(
    n=st.integers(1, 12),
    seed=st.integers(0, 99),
    outputs=st.integers(2, 4),
    subtyping=st.booleans(),
    kind=st.sampled_from(["svm", "cross-entropy"]),
)
@settings(max_examples=50)
def test_clams_instance_loss_is_its_definition(n, seed, outputs, subtyping, kind):
    model = small(
        "clam", outputs=outputs, seed=seed, subtyping=subtyping, instance_loss=kind
    ).double()
    bag = bag_of(n, seed).double()
    target = seed % outputs
    out = model(bag, torch.tensor(target))
    assert model(bag).auxiliary is None
    if n == 1:
        assert out.auxiliary == 0
        return
    weights, bias = layer(model.instance)
    wanted = reference.clam_instance_loss(
        reference.relu(reference.linear(bag.numpy(), layer(model.embed[0]))),
        out.scores.detach().numpy(),
        [(weights[2 * j : 2 * j + 2], bias[2 * j : 2 * j + 2]) for j in range(outputs)],
        target,
        k_sample=3,
        subtyping=subtyping,
        loss=reference.smooth_svm if kind == "svm" else reference.cross_entropy,
    )
    close(out.auxiliary, 0.3 / 0.7 * wanted)


def test_the_weight_of_clams_instance_loss_is_an_option():
    bag, target = bag_of(9), torch.tensor(1)
    whole, half = (small("clam", instance_weight=w)(bag, target).auxiliary for w in (1, 0.5))
    torch.testing.assert_close(whole / 2, half)


def test_smooth_svm_loss_is_near_the_hinge_and_never_under_it(rng):
    logits = torch.from_numpy(20 * rng.standard_normal((50, 3)))
    targets = torch.from_numpy(rng.integers(0, 3, 50))
    for row, target in zip(logits, targets, strict=True):
        hinge = max(float(row[j] - row[target] + (j != target)) for j in range(3))
        found = float(smooth_svm_loss(row[None], target[None]))
        assert hinge <= found <= hinge + np.log(3)


# --- TransMIL -------------------------------------------------------------------------------------


def qkv(tokens, seed=0, heads=2, width=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((3, heads, tokens, width), generator=generator, dtype=torch.float64)


@given(tokens=st.integers(1, 16), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_nystrom_attention_of_few_tokens_is_exact(tokens, seed):
    q, k, v = qkv(tokens, seed)
    found = nystrom_attention(q, k, v, landmarks=16)
    for head in range(2):
        shares = reference.attention_shares(q[head].numpy(), k[head].numpy())
        close(found[head], shares @ v[head].numpy())


@pytest.mark.parametrize("tokens", [6, 17, 20, 41])
def test_nystrom_attention_is_its_definition(tokens, monkeypatch):
    q, k, v = qkv(tokens)
    monkeypatch.setattr("histofast.mil.transmil.pseudo_inverse", torch.linalg.pinv)
    found = nystrom_attention(q, k, v, landmarks=5)
    for head in range(2):
        parts = (q[head].numpy(), k[head].numpy(), v[head].numpy())
        close(found[head], reference.nystrom_attention(*parts, landmarks=5), atol=1e-6)


def test_pseudo_inverse_comes_to_the_exact_one():
    matrices = (torch.eye(6, dtype=torch.float64) * 3 + qkv(6, width=6)[0]).softmax(dim=2)
    found = pseudo_inverse(matrices, iterations=12)
    close(found, torch.linalg.pinv(matrices).numpy(), atol=1e-6)


def test_position_encoding_is_the_sum_of_its_convolutions():
    model = PositionEncoding(4).double()
    square = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 4, 5, 5)))
    wanted = square
    for convolution, side in zip(model.convolutions, (7, 5, 3), strict=True):
        wanted = wanted + torch.nn.functional.conv2d(
            square, convolution.weight, convolution.bias, padding=side // 2, groups=4
        )
    close(model(square), wanted.detach().numpy())


@given(n=st.integers(1, 40), seed=st.integers(0, 20))
@settings(max_examples=25)
def test_transmil_of_few_patches_is_its_definition(n, seed):
    """Few: with no more tokens than landmarks all attention is exact."""
    model = small("transmil", seed=seed, landmarks=50).double()
    bag = bag_of(n, seed).double()
    layers = []
    for attention in model.layers:
        parts = [attention.query, attention.key, attention.value, attention.near]
        weights = [part.weight.detach().numpy() for part in parts]
        layers.append((*weights[:3], weights[3][:, 0, :, 0], layer(attention.out[0])))
    convolutions = [(w[:, 0], b) for w, b in map(layer, model.position.convolutions)]
    output, embedding, attention = reference.transmil(
        bag.numpy(),
        layer(model.embed[0]),
        model.class_token.detach().numpy(),
        layers,
        convolutions,
        layer(model.head),
    )
    out = model(bag)
    close(out.output, output, atol=1e-7)
    close(out.embedding, embedding, atol=1e-7)
    close(out.scores, np.log(attention), atol=1e-7)
    close(out.attention, attention / attention.sum())


def test_transmil_holds_patches_by_their_order():
    model, bag = small("transmil"), bag_of(30)
    assert not torch.allclose(model(bag).output, model(bag.flip(0)).output, atol=1e-4)


def test_transmil_under_autocast_is_near_float32():
    model, bag = small("transmil"), bag_of(60)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(bag)
    high = model(bag)
    torch.testing.assert_close(low.output.float(), high.output, atol=0.05, rtol=0)
    assert torch.isfinite(low.attention).all()


# --- Laws -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INVARIANT)
@given(n=st.integers(1, 20), seed=st.integers(0, 99))
@settings(max_examples=15)
def test_order_of_patches_does_not_matter(name, n, seed):
    model = small(name, outputs=3, seed=seed).double()
    bag = bag_of(n, seed).double()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    target = torch.tensor(2)
    a, b = model(bag, target), model(bag[order], target)
    close(a.output, b.output.detach().numpy())
    close(a.embedding, b.embedding.detach().numpy())
    for field in ("attention", "scores", "patch_outputs"):
        value, moved = getattr(a, field), getattr(b, field)
        assert (value is None) == (moved is None)
        if value is not None:
            close(value[order], moved.detach().numpy())
    assert (a.auxiliary is None) == (b.auxiliary is None)
    if a.auxiliary is not None:
        close(a.auxiliary, b.auxiliary.detach().numpy())


@pytest.mark.parametrize("name", sorted(SMALL))
@given(n=st.integers(1, 30), seed=st.integers(0, 99), scale=st.sampled_from([0, 1e-3, 1, 1e3]))
@settings(max_examples=20)
def test_what_comes_out_has_its_shape_and_is_finite(name, n, seed, scale):
    model = small(name, outputs=3, seed=seed)
    out = model(bag_of(n, seed, scale), torch.tensor(1))
    assert out.output.shape == (3,)
    assert out.embedding.ndim == 1
    shapes = {"attention": (n,), "scores": (n,), "patch_outputs": (n, 3), "auxiliary": ()}
    absent = {
        "mean": {"attention", "scores", "auxiliary"},
        "max": {"attention", "auxiliary"},
        "transmil": {"patch_outputs", "auxiliary"},
        "attention": {"auxiliary"},
        "gated": {"auxiliary"},
    }.get(name, set())
    for field, shape in shapes.items():
        value = getattr(out, field)
        assert (value is None) == (field in absent), field
        if value is not None:
            assert value.shape == shape
            assert torch.isfinite(value).all()
    assert torch.isfinite(out.output).all()
    assert torch.isfinite(out.embedding).all()
    if out.attention is not None:
        assert float(out.attention.sum().detach()) == pytest.approx(1, abs=1e-5)
        torch.testing.assert_close(out.attention, out.scores.softmax(dim=0))


@pytest.mark.parametrize("name", POOLED)
def test_constant_scores_give_the_mean(name):
    model, bag = small(name), bag_of(11)
    last = model.score[2] if name == "attention" else model.score.last
    torch.nn.init.zeros_(last.weight)
    out = model(bag)
    torch.testing.assert_close(out.attention, torch.full((11,), 1 / 11))
    torch.testing.assert_close(out.embedding, model.embed(bag).mean(dim=0))
    torch.testing.assert_close(out.output, out.patch_outputs.mean(dim=0))


@pytest.mark.parametrize("name", POOLED)
def test_the_output_is_the_weighted_mean_of_the_patches(name):
    out = small(name)(bag_of(11))
    torch.testing.assert_close(out.output, out.attention @ out.patch_outputs)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_patch_alone_has_all_attention(name):
    bag = bag_of(1)
    out = small(name)(bag)
    if out.attention is not None:
        assert out.attention.tolist() == [1]
    if name in (*POOLED, "mean", "max"):
        torch.testing.assert_close(out.output, out.patch_outputs[0])


@pytest.mark.parametrize("name", sorted(set(SMALL) - {"transmil", "dsmil"}))
def test_every_patch_twice_changes_nothing(name):
    model, bag = small(name), bag_of(7)
    torch.testing.assert_close(model(bag).output, model(torch.cat([bag, bag])).output)


@pytest.mark.parametrize("name", sorted(SMALL))
@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_gradients_reach_all_parameters(name, outputs):
    if outputs < models.MODELS[name].least_outputs:
        pytest.skip("needs classes")
    options = {"patch_head": True} if name == "attention" else {}
    model = small(name, outputs=outputs, **options).train()
    for target in range(outputs):
        out = model(bag_of(40, target), torch.tensor(target))
        if outputs == 1:
            loss = (out.output**2).sum()
        else:
            loss = cross_entropy(out.output[None], torch.tensor([target]))
        if out.auxiliary is not None:
            loss = loss + out.auxiliary
        if name == "attention":
            loss = loss + (out.patch_outputs**2).mean()
        loss.backward()
    for key, parameter in model.named_parameters():
        # A shift of all scores changes nothing, and max looks at one patch only.
        if key in ("score.2.bias", "score.last.bias", "query.bias"):
            continue
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", sorted(SMALL))
def test_training_lowers_the_loss(name):
    """Two classes told apart by one feature of a tenth of the patches."""
    torch.manual_seed(0)
    model = small(name, dropout=0.0).train()
    bags = [bag_of(30, seed) for seed in range(8)]
    for bag in bags[::2]:
        bag[:3, 0] += 6
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    means = []
    for _ in range(30):
        total = 0.0
        for i, bag in enumerate(bags):
            target = torch.tensor((i + 1) % 2)
            out = model(bag, target)
            loss = cross_entropy(out.output[None], target[None])
            total += float(loss.detach())
            optimiser.zero_grad()
            (loss if out.auxiliary is None else loss + out.auxiliary).backward()
            optimiser.step()
        means.append(total / len(bags))
    assert means[-1] < 0.3 * means[0]


@pytest.mark.parametrize("name", sorted(SMALL))
def test_dropout_is_off_in_evaluation_and_on_in_training(name):
    model, bag = small(name, dropout=0.5), bag_of(20)
    assert not model.training
    assert torch.equal(model(bag).output, model(bag).output)
    model.train()
    torch.manual_seed(0)
    assert not torch.equal(model(bag).output, model(bag).output)


@pytest.mark.slow
@pytest.mark.parametrize("name", models.names())
def test_a_bag_of_twenty_thousand_is_finite(name):
    rng = np.random.default_rng(0)
    bag = torch.from_numpy(rng.standard_normal((20_000, 64), dtype=np.float32)) * 5
    with torch.inference_mode():
        out = create(name, d=64, outputs=2)(bag, torch.tensor(1))
    for field in ("output", "embedding", "attention", "scores", "patch_outputs", "auxiliary"):
        value = getattr(out, field)
        assert value is None or torch.isfinite(value).all(), field
    if out.attention is not None:
        assert float(out.attention.sum()) == pytest.approx(1, abs=1e-3)


# --- create ---------------------------------------------------------------------------------------


def test_names_are_those_that_create_knows():
    assert set(models.names()) == set(SMALL)
    assert models.names()[0] == "attention"
    for name in models.names():
        model = create(name, d=D, outputs=2)
        assert (model.name, model.d, model.outputs) == (name, D, 2)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_same_seed_same_weights_and_torchs_generator_left_alone(name):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    a, b, other = (small(name, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    values = [torch.cat([p.flatten() for p in m.parameters()]) for m in (a, b, other)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


@pytest.mark.parametrize("name", sorted(SMALL))
def test_options_rebuild_the_model(name):
    model = small(name, dropout=0.1)
    options = json.loads(json.dumps(model.options))
    again = create(name, d=D, outputs=2, **options)
    assert again.options == model.options
    again.load_state_dict(model.state_dict())
    bag = bag_of(9)
    assert torch.equal(model(bag).output, again(bag).output)


def test_options_hold_the_defaults_too():
    assert create("gated", d=D, outputs=2).options == {
        "hidden": 512,
        "attention": 128,
        "dropout": 0.25,
    }


def test_an_option_comes_back_in_its_own_type():
    assert json.dumps(small("gated", dropout=0).options["dropout"]) == "0.0"


@pytest.mark.parametrize(
    ("name", "changes", "wanted"),
    [
        ("gatted", {}, "name must be one of attention, gated, .* got 'gatted': did you mean gated"),
        ("zzz", {}, "got 'zzz'$"),
        ("gated", {"d": 0}, "d must be at least 1, got 0"),
        ("gated", {"outputs": 0}, "outputs must be at least 1 for gated, got 0$"),
        ("clam", {"outputs": 1}, "outputs must be at least 2 for clam, got 1: its loss of inst"),
        (
            "gated",
            {"atention": 3},
            "options of gated must be of hidden, attention, dropout, got at",
        ),
        ("gated", {"atention": 3}, "atention: did you mean attention"),
        ("mean", {"k_sample": 3}, "options of mean must be of hidden, dropout, got k_sample$"),
        ("gated", {"hidden": 0}, "hidden must be at least 1, got 0"),
        ("mean", {"hidden": -1}, "hidden must be at least 0, got -1"),
        ("gated", {"dropout": 1.0}, "dropout must be at least 0 and less than 1, got 1.0"),
        ("gated", {"dropout": float("nan")}, "dropout must be at least 0 .* got nan"),
        (
            "clam",
            {"instance_weight": -1.0},
            "instance_weight must be finite and at least 0, got -1",
        ),
        (
            "clam",
            {"instance_loss": "hinge"},
            "instance_loss must be one of svm, cross-entropy, got",
        ),
        ("transmil", {"heads": 7}, "heads must divide hidden, got heads=7 and hidden=512"),
    ],
)
def test_create_refuses(name, changes, wanted):
    with pytest.raises(ValueError, match=wanted):
        create(name, **({"d": D, "outputs": 2} | changes))


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"k_sample": 3.0}, "k_sample must be int, got float"),
        ({"k_sample": True}, "k_sample must be int, got bool"),
        ({"dropout": "0.1"}, "dropout must be float, got str"),
        ({"subtyping": 1}, "subtyping must be bool, got int"),
        ({"instance_loss": None}, "instance_loss must be str, got NoneType"),
    ],
)
def test_create_refuses_other_types(options, wanted):
    with pytest.raises(TypeError, match=wanted):
        create("clam", d=D, outputs=2, **options)


# --- What forward refuses -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0, D), (3, D + 1), (D,), (1, 3, D)])
def test_a_bag_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"bag must be of shape \(n, 12\) with n >= 1, got \("):
        small("gated")(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.uint8])
def test_a_bag_of_another_type_is_refused(dtype):
    with pytest.raises(TypeError, match=r"bag must be torch.float32 as the model is, got torch\."):
        small("gated")(torch.zeros((3, D), dtype=dtype))


@pytest.mark.parametrize("name", ["clam", "dsmil"])
def test_a_target_that_is_no_class_is_refused(name):
    model, bag = small(name), bag_of(5)
    for target, got in ((-1, "-1"), (2, "2"), ([0, 1], r"\[0, 1\]")):
        with pytest.raises(ValueError, match=rf"target must be one class in 0\.\.1, got {got}$"):
            model(bag, torch.tensor(target))
    with pytest.raises(TypeError, match=r"target must be an integer class, got torch.float32"):
        model(bag, torch.tensor(1.0))


@pytest.mark.parametrize("name", sorted(set(SMALL) - {"clam"}))
def test_targets_of_other_tasks_are_not_looked_at(name):
    out = small(name, outputs=1)(bag_of(5), torch.tensor([3.5, 1.0]))
    assert out.auxiliary is None


# --- Another implementation -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def torchmil_models():
    return need("torchmil.models")


def copy(into, weights, bias):
    """Fill a layer of theirs, lazy or not."""
    into = getattr(into, "module", into)
    into.weight.copy_(weights)
    if into.bias is not None:
        into.bias.copy_(bias)


@pytest.mark.parametrize("gated", [False, True])
def test_torchmils_abmil_gives_the_same(torchmil_models, gated):
    model, bag = small("gated" if gated else "attention", outputs=1), bag_of(17)
    first, last = (
        (model.score.both, model.score.last) if gated else (model.score[0], model.score[2])
    )
    other = torchmil_models.ABMIL(
        in_shape=(D,), att_dim=last.in_features, gated=gated, feat_ext=model.embed
    ).eval()
    theirs = (other.pool.fc1, other.pool.fc_gated) if gated else (other.pool.fc1,)
    with torch.no_grad():
        other(bag[None])  # makes its lazy layers
        last.bias.zero_()  # theirs has none
        parts = zip(first.weight.chunk(len(theirs)), first.bias.chunk(len(theirs)), strict=True)
        for into, (weights, bias) in zip(theirs, parts, strict=True):
            copy(into, weights, bias)
        copy(other.pool.fc2, last.weight, None)
        copy(other.classifier, model.head.weight, model.head.bias)
        output, scores = other(bag[None], return_att=True)
    out = model(bag)
    torch.testing.assert_close(out.output, output)
    torch.testing.assert_close(out.scores, scores[0])


def test_torchmils_dsmil_gives_the_same(torchmil_models):
    model, bag = small("dsmil", outputs=1), bag_of(17)
    other = torchmil_models.DSMIL(in_shape=(D,), att_dim=6).eval()
    with torch.no_grad():
        model.value.weight.copy_(torch.eye(D))  # theirs has none
        model.value.bias.zero_()
        copy(other.q_nn, model.query.weight, model.query.bias)
        copy(other.inst_classifier, model.instance.weight, model.instance.bias)
        copy(other.bag_classifier, model.head.weight, model.head.bias)
        output, patch_outputs = other.predict(bag[None], return_inst_pred=True)
        _, attention = other(bag[None], return_att=True)
    out = model(bag)
    torch.testing.assert_close(out.output, output)
    torch.testing.assert_close(out.patch_outputs[:, 0], patch_outputs[0])
    torch.testing.assert_close(out.attention, attention.flatten())
