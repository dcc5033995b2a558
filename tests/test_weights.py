"""Weights files: every layout that is known, what is reported of them, and what is refused."""

from __future__ import annotations

import os
import pickle
import zipfile
from argparse import Namespace

import numpy as np
import pytest

from extras import need
from histofast import encoders
from histofast.errors import ModelError

torch = need("torch")
safetensors = need("safetensors.torch")

from torch import nn

from histofast import networks
from histofast.networks import read_weights
from histofast.networks.weights import load_weights
from lively import lively


@pytest.fixture(scope="module")
def stem():
    """The state dict of the first layers of a ResNet18, and of the same with other weights."""
    states = []
    for seed in (1, 2):
        states.append(lively("resnet18", layer="layer1", seed=seed).state_dict())
    return states


def load(path, name="resnet18", layer="layer1", **options):
    return networks.create(name, weights=path, layer=layer, **options)


def saved(content, path):
    torch.save(content, path)
    return path


def under(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def assert_holds(network, state):
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)


def projection(prefix, *, d=512):
    return {f"{prefix}.{i}.{k}": torch.ones(d) for i in (0, 2) for k in ("weight", "bias")}


# --- Layouts ---------------------------------------------------------------------------------


def plain(state, _):
    return state, "", []


def data_parallel(state, _):
    return under("module.", state), "module.", []


def torchvision_training(state, _):
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    return {"model": state, "optimizer": optimizer, "epoch": 3}, "model.", []


def lightning(state, _):
    content = {"state_dict": under("model.", state), "hyper_parameters": {"lr": 0.1}}
    return content, "state_dict.model.", []


def with_a_classifier(state, _):
    head = {"fc.weight": torch.ones(9, 512), "fc.bias": torch.ones(9)}
    return state | head, "", list(head)


def moco(state, other):
    content = (
        under("module.encoder_q.", state)
        | projection("module.encoder_q.fc")
        | under("module.encoder_k.", other)
        | {"module.queue": torch.ones(128, 9), "module.queue_ptr": torch.zeros(1)}
    )
    dropped = [key for key in content if "_q." not in key or ".fc." in key]
    content = {"epoch": 200, "arch": "resnet18", "state_dict": content}
    return content, "state_dict.module.encoder_q.", under("state_dict.", dict.fromkeys(dropped))


def moco_keys_first(state, other):
    content = under("encoder_k.", other) | under("encoder_q.", state)
    return content, "encoder_q.", [key for key in content if "_k." in key]


def two_copies(state, other):
    content = under("first.", state) | under("second.", other)
    return content, "first.", [key for key in content if "second" in key]


def simclr(state, _):
    head = projection("projector")
    return (
        {"network": under("backbone.", state) | head},
        "network.backbone.",
        [f"network.{key}" for key in head],
    )


def simclr_head_within(state, _):
    head = projection("projection_head") | projection("mlp") | projection("l1_head")
    return state | head, "", list(head)


def swav(state, _):
    head = {"prototypes.weight": torch.ones(30, 128)} | projection("projection_head")
    return under("module.", state | head), "module.", list(under("module.", head))


def dino(state, other):
    head = projection("head")
    student = under("module.backbone.", other)
    teacher = under("backbone.", state) | under("", head)
    dropped = [*under("student.", student), *under("teacher.", head)]
    return {"student": student, "teacher": teacher, "epoch": 1}, "teacher.backbone.", dropped


def sequential(state, _):
    place = {"conv1": "0", "bn1": "1", "layer1": "4"}
    content = {}
    for key, value in state.items():
        stage, _, rest = key.partition(".")
        content[f"{place[stage]}.{rest}"] = value
    content["9.weight"] = torch.ones(2, 512)  # nn.Sequential(*children, pool, flatten, head)
    return content, "", ["9.weight"]


def counters_left_out(state, _):
    return {k: v for k, v in state.items() if "num_batches" not in k}, "", []


LAYOUTS = [
    *(plain, data_parallel, torchvision_training, lightning, with_a_classifier, moco),
    *(moco_keys_first, two_copies, simclr, simclr_head_within, swav, dino, sequential),
    counters_left_out,
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_the_network_is_found_where_it_lies(tmp_path, stem, layout):
    content, prefix, dropped = layout(*stem)
    path = saved(content, tmp_path / "w.pth")
    network = load(path)
    assert_holds(network, stem[0] | {k: torch.tensor(0) for k in stem[0] if "num_batches" in k})
    assert network.loaded == networks.LoadReport(
        sha256=encoders.sha256_of(path),
        prefix=prefix,
        head="none",
        dropped=tuple(dropped),
        missing=(),
        unexpected=(),
    )
    assert network.weights_sha256 == network.loaded.sha256


def test_a_second_copy_beside_an_unprefixed_network(tmp_path, stem):
    content = stem[0] | under("encoder_k.", stem[1])
    network = load(saved(content, tmp_path / "w.pth"))
    assert_holds(network, stem[0])
    assert network.loaded.dropped == tuple(under("encoder_k.", stem[1]))


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("prefix", ["", "module.encoder_q."])
def test_safetensors_are_known_by_their_content(tmp_path, stem, suffix, prefix):
    path = tmp_path / f"w{suffix}"
    content = under(prefix, stem[0]) | under("module.encoder_k.", stem[1])
    safetensors.save_file({k: v.contiguous() for k, v in content.items()}, path)
    assert_holds(load(path), stem[0])


def test_torch_files_are_known_by_their_content(tmp_path, stem):
    assert_holds(load(saved(stem[0], tmp_path / "w.safetensors")), stem[0])
    torch.save(stem[0], tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_holds(load(tmp_path / "old.pth"), stem[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path, stem, dtype):
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in stem[0].items()}
    assert_holds(
        load(saved(state, tmp_path / "w.pth")),
        {k: v.float() if v.is_floating_point() else v for k, v in state.items()},
    )


# --- Histopathology networks -----------------------------------------------------------------


def kimianet(state):
    content = {k.replace("features.", "module.model."): v for k, v in state.items()}
    return content | {
        "module.fc_4.weight": torch.ones(30, 1024),
        "module.fc_4.bias": torch.ones(30),
    }


def kimianet_in_sequential(state):
    content = {k.replace("features.", "module.model.0."): v for k, v in state.items()}
    return content | {
        "module.fc_4.weight": torch.ones(30, 1024),
        "module.fc_4.bias": torch.ones(30),
    }


def ciga(state):
    content = under("model.resnet.", state) | projection("model.fc")
    return {"state_dict": content, "epoch": 99, "global_step": 1, "lr_schedulers": []}


def lunit(state):
    return dict(state)


def retccl(state):
    return state | projection("fc", d=2048)


def radimagenet(state):
    children = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    content = {}
    for key, value in state.items():
        stage, _, rest = key.partition(".")
        content[f"backbone.{children.index(stage)}.{rest}"] = value
    return content


@pytest.mark.parametrize(
    ("layout", "name", "prefix", "dropped"),
    [
        (kimianet, "densenet121", "module.model.", 2),
        (kimianet_in_sequential, "densenet121", "module.model.0.", 2),
        (ciga, "resnet18", "state_dict.model.resnet.", 4),
        (lunit, "resnet50", "", 0),
        (retccl, "resnet50", "", 4),
        (radimagenet, "resnet50", "backbone.", 0),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_layouts_of_histopathology_networks(tmp_path, layout, name, prefix, dropped):
    """Files with keys as these projects are known to spell them, but of random networks.

    The real files were not at hand: this shows that such keys are understood, not more.
    """
    made = lively(name, seed=3)
    path = saved(layout(made.state_dict()), tmp_path / "w.pth")
    network = networks.create(name, weights=path)
    assert (network.loaded.prefix, len(network.loaded.dropped)) == (prefix, dropped)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(network(x), made(x))


# --- Heads -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "head"), [("resnet18", "fc"), ("densenet121", "classifier")])
@pytest.mark.parametrize("prefix", ["", "state_dict.model."])
def test_a_head_is_loaded_where_it_fits(tmp_path, name, head, prefix):
    state = networks.create(name, classes=3, seed=5).state_dict()
    path = saved(under(prefix, state), tmp_path / "w.pth")
    fitting = networks.create(name, weights=path, classes=3)
    assert_holds(fitting, state)
    assert (fitting.loaded.head, fitting.loaded.dropped) == ("loaded", ())
    other = networks.create(name, weights=path, classes=4, seed=1)
    keys = tuple(f"{prefix}{head}.{k}" for k in ("weight", "bias"))
    assert (other.loaded.head, other.loaded.dropped) == ("new", keys)
    fresh = networks.create(name, classes=4, seed=1).state_dict()
    assert torch.equal(other.state_dict()[f"{head}.weight"], fresh[f"{head}.weight"])
    none = networks.create(name, weights=path)
    assert (none.loaded.head, none.loaded.dropped) == ("none", keys)
    layer = networks.layers(name)[4].name
    width = networks.layers(name)[4].d
    cut = networks.create(name, weights=path, layer=layer, classes=3)
    assert (cut.loaded.head, cut.get_submodule(head).in_features) == ("new", width)


def test_the_head_of_squeezenet_is_another(tmp_path):
    state = networks.create("squeezenet1.1", seed=5).state_dict()
    head = {"classifier.1.weight": torch.ones(3, 512, 1, 1), "classifier.1.bias": torch.ones(3)}
    path = saved(state | head, tmp_path / "w.pth")
    network = networks.create("squeezenet1.1", weights=path, classes=3)
    assert (network.loaded.head, network.loaded.dropped) == ("new", tuple(head))


def test_the_auxiliary_head_of_inception_is_dropped(tmp_path):
    state = networks.create("inception-v3", layer="maxpool1", seed=5).state_dict()
    extra = {"AuxLogits.conv0.conv.weight": torch.ones(128, 768, 1, 1), "fc.bias": torch.ones(9)}
    network = load(saved(state | extra, tmp_path / "w.pth"), "inception-v3", "maxpool1")
    assert network.loaded.dropped == tuple(extra)
    assert_holds(network, state)


def test_random_networks_report_nothing():
    network = networks.create("resnet18", layer="conv1")
    assert network.loaded is None
    assert network.weights_sha256 is None


def test_a_new_head_and_missing_tensors_are_told_in_the_file(tmp_path, stem):
    state = {k: v for k, v in stem[0].items() if not k.startswith("layer1.1.")}
    path = saved(state, tmp_path / "w.pth")
    spec = networks.export_encoder(
        "resnet18",
        weights=path,
        layer="layer1",
        classes=2,
        bn_eps=1e-4,
        partial=True,
        out=tmp_path / "a.onnx",
        patch_px=32,
        provenance="a friend",
    )
    assert spec.provenance == "a friend; 10 tensors random; random head"
    assert (spec.licence, spec.weights_sha256) == ("not stated", encoders.sha256_of(path))


# --- Weights that do not fit -----------------------------------------------------------------


def test_missing_and_unexpected_tensors_are_refused_or_reported(tmp_path, stem):
    state = under("model.", stem[0])
    missing = ("model.layer1.0.bn1.bias", "model.layer1.1.conv2.weight")
    for key in missing:
        state.pop(key)
    path = saved(state, tmp_path / "w.pth")
    message = (
        r"lacks 2 tensors of resnet18 under 'model.' \(layer1.0.bn1.bias, layer1.1.conv2.weight\): "
        r"is it cut shorter, or of another network\?$"
    )
    with pytest.raises(ModelError, match=message):
        load(path)
    network = load(path, partial=True)
    assert network.loaded.missing == tuple(key.removeprefix("model.") for key in missing)
    assert network.loaded.unexpected == ()
    random = networks.create("resnet18", layer="layer1").state_dict()
    got = network.state_dict()
    assert torch.equal(got["layer1.1.conv2.weight"], random["layer1.1.conv2.weight"])
    assert torch.equal(got["layer1.0.conv1.weight"], stem[0]["layer1.0.conv1.weight"])

    path = saved(stem[0] | {"layer1.0.se.weight": torch.ones(3)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"has 1 tensors that resnet18 has not \(layer1.0.se.weig"):
        load(path)
    assert load(path, partial=True).loaded.unexpected == ("layer1.0.se.weight",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1.weight": torch.ones(64, 1, 7, 7)}, r"conv1.weight must be of shape \(64, 3, 7, 7"),
        (
            {"bn1.weight": torch.ones(64, dtype=torch.int32)},
            "bn1.weight must be floating point of 16 bits or more, got torch.int32",
        ),
        ({"bn1.bias": torch.full((64,), torch.nan)}, "bn1.bias holds NaN or infinity"),
        ({"bn1.running_var": torch.full((64,), torch.inf)}, "bn1.running_var holds NaN or inf"),
    ],
    ids=["shape", "integers", "nan", "infinity"],
)
@pytest.mark.parametrize("partial", [False, True])
def test_wrong_tensors_are_always_refused(tmp_path, stem, change, message, partial):
    path = saved(stem[0] | change, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=message):
        load(path, partial=partial)


@pytest.mark.parametrize(
    ("held", "asked", "message"),
    [
        ("squeezenet1.1", "resnet18", r"lacks \d+ tensors of resnet18 .*: it fits squeezenet1.1$"),
        ("resnet34", "resnet18", r"has \d+ tensors .* that resnet18 has not .*: it fits resnet34$"),
        ("resnet18", "resnet34", r"lacks \d+ tensors of resnet34 .*: it fits resnet18$"),
        ("cbr-tiny-w", "cbr-tiny", r"of cbr-tiny.*: it fits cbr-tiny-w$"),
        ("cbr-large-t", "cbr-small", r"has 6 tensors .* that cbr-small has not.*fits cbr-large-t$"),
    ],
)
def test_weights_of_another_network(tmp_path, held, asked, message):
    state = networks.create(held).state_dict()
    path = saved({"state_dict": under("module.", state)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=message):
        networks.create(asked, weights=path)


def test_weights_of_no_network_here(tmp_path):
    path = saved({"some.weight": torch.ones(3)}, tmp_path / "w.pth")
    for partial in (False, True):
        with pytest.raises(
            ModelError, match=r"lacks 100 tensors of resnet18 .* another network\?$"
        ):
            networks.create("resnet18", weights=path, layer="layer4", partial=partial)


# --- Files that are no weights ---------------------------------------------------------------


class MakesFolder:
    """What a malicious file would hold: unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("form", ["torch", "torch, old", "pickle 2", "pickle 4", "checkpoint"])
def test_code_is_named_and_not_executed(tmp_path, form):
    path, victim = tmp_path / "w.pth", tmp_path / "victim"
    content = MakesFolder(victim)
    if form == "checkpoint":
        content = {"state_dict": {"conv1.weight": torch.ones(1)}, "args": content}
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps(content, protocol=int(form[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form != "torch, old")
    with pytest.raises(
        ModelError, match=r"holds code \((posix|nt).mkdir\), which is never"
    ) as told:
        load(path)
    assert "\n" not in str(told.value)
    assert not victim.exists()


def test_how_a_training_was_asked_for_is_no_code(tmp_path, stem):
    """DINO keeps it in its checkpoints; what is in it may be code all the same."""
    args = Namespace(arch="vit_small", lr=5e-4)
    path = saved({"teacher": stem[0], "epoch": 3, "args": args}, tmp_path / "w.pth")
    assert_holds(load(path), stem[0])
    torch.save({"teacher": stem[0], "args": args}, path, _use_new_zipfile_serialization=False)
    assert_holds(load(path), stem[0])
    args.callback = MakesFolder(tmp_path / "victim")
    with pytest.raises(ModelError, match=r"holds code \((posix|nt).mkdir\), which is never"):
        load(saved({"teacher": stem[0], "args": args}, path))
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_module_is_code(tmp_path, zipped):
    path = tmp_path / "w.pth"
    torch.save(nn.Sequential(nn.Linear(2, 2)), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"holds code \(torch\.nn\.modules\.[\w.]+\), which is"):
        load(path)


class WithPlaces(nn.Module):
    architecture, layer, prefix, head, stage_keys = "own", "a", "", "fc", ("a",)

    def __init__(self, places):
        super().__init__()
        self.a = nn.Linear(2, 2)
        self.a.register_buffer("places", torch.tensor(places))


def test_whole_numbers_are_taken_where_the_network_has_them():
    network, file = WithPlaces([0, 0]), WithPlaces([3, 4])
    about = {"whole": network, "sha256": "", "partial": False, "where": "w.pth"}
    load_weights(network, file.state_dict(), **about)
    assert network.a.places.tolist() == [3, 4]
    torch.testing.assert_close(network.a.weight, file.a.weight)
    with pytest.raises(ModelError, match=r"a\.places must be whole numbers for own, got torch"):
        load_weights(network, file.float().state_dict() | {"a.places": torch.ones(2)}, **about)


def torchscript(path):
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), path)


def cut_zip(path):
    torch.save({"conv1.weight": torch.ones(999)}, path)
    path.write_bytes(path.read_bytes()[:-900])


def damaged_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", b"nonsense")


def cut_safetensors(path):
    safetensors.save_file({"conv1.weight": torch.ones(999)}, path)
    path.write_bytes(path.read_bytes()[:-900])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "page.pth",
            b"\n <!DOCTYPE html><p>Sign in",
            "is a web page, not the file: download",
        ),
        ("page.safetensors", b"<html>", "is a web page, not the file: download it again"),
        ("lfs.pth", b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
        (
            "keras.h5",
            b"\x89HDF\r\n\x1a\n",
            "must be a whole HDF5 file, got a truncated or .*: copy",
        ),
        ("empty.pth", b"", "is empty: copy or download it again"),
        ("empty.safetensors", b"", "is empty: copy or download it again"),
        ("noise.pth", bytes(range(256)), "is not a torch file of plain tensors"),
        ("cut.pickle", pickle.dumps({"a": 1}, protocol=2)[:-5], "is not a torch file of plain ten"),
        (
            "dumped.pickle",
            pickle.dumps({"conv1.weight": torch.ones(1)}, protocol=4),
            "is not a torch file of plain tensors",
        ),
        ("short.safetensors", b"abc", "is not a whole safetensors file"),
        ("cut.safetensors", cut_safetensors, "is not a whole safetensors file"),
        ("cut.bin", cut_safetensors, "is not a whole safetensors file"),
        ("cut.pth", cut_zip, "is a truncated torch file: copy or download it again"),
        ("damaged.pth", damaged_zip, "is not a torch file of plain tensors"),
        ("script.pt", torchscript, "is a TorchScript archive, which holds code: save the state"),
        ("list.pth", [torch.zeros(1)], "holds no named tensors, but a list: save the state dict"),
        ("counts.pth", {"epoch": 3}, "holds no named tensors, but a dict of epoch: save"),
        ("nothing.pth", {}, "holds no named tensors, but a dict of nothing"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "-",
)
# Torch's own, of making TorchScript; which of the two depends on what was imported before.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_files_that_hold_no_weights(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif callable(content):
        content(path)
    else:
        torch.save(content, path)
    with pytest.raises(ModelError, match=message) as told:
        load(path)
    assert "\n" not in str(told.value)


def test_a_damaged_file_is_refused_or_read_but_nothing_else(tmp_path):
    """Whatever is flipped in a pickle, torch's reader fails in a way that is expected."""
    path = tmp_path / "w.pth"
    torch.save({"conv1.weight": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(400):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 2):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged[: rng.integers(len(whole) // 2, len(whole) + 1)])
        try:
            read_weights(path)
        except ModelError as told:
            messages.append(str(told))
    assert len(messages) > 300
    assert not [message for message in messages if "\n" in message]


def test_no_file_and_what_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such weights file: "):
        load(tmp_path / "none.pth")
    with pytest.raises(ModelError, match=r"weights file .* must be a file, got a folder"):
        load(tmp_path)
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(
        ModelError, match=r"weights file .*pipe\.pth must be a file, got a named pip"
    ):
        load(tmp_path / "pipe.pth")
    with pytest.raises(ModelError, match="weights file /dev/zero must be a file, got a device"):
        load("/dev/zero")


# --- Files that claim what they have not -----------------------------------------------------


def a_strange_version(path, data):
    path.write_bytes((data / "cases" / "bad_archive_version.pth").read_bytes())


def archive(path, *, old="", new="", records=(), compression=zipfile.ZIP_STORED):
    """Write a torch archive of one tensor of 3 float32, its pickle changed, records added."""
    torch.save({"conv1.weight": torch.ones(3)}, path)
    with zipfile.ZipFile(path) as written:
        content = [(entry.filename, written.read(entry)) for entry in written.infolist()]
    with zipfile.ZipFile(path, "w", compression) as changed:
        for name, held in [*content, *records]:
            changed.writestr(name, held.replace(old, new) if old else held)


THREE = b"X\x03\x00\x00\x00cpuq\x06K\x03"  # the device of the storage, and its count


def more_than_its_record(path, _):
    archive(path, old=THREE, new=THREE[:-2] + b"J\xff\xff\xff\x7f")


def less_than_nothing(path, _):
    archive(path, old=THREE, new=THREE[:-2] + b"J\xff\xff\xff\xff")


def compressed(path, _):
    archive(path, records=[("w/bomb", bytes(1 << 20))], compression=zipfile.ZIP_DEFLATED)


def a_room_for_nothing(path, _):
    """`bytearray(2**31 - 1)`, which torch allows."""
    archive(path, old=b"}q\x00", new=b"}q\x00cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R0")


def deep(path, _):
    """A key of a dict that takes the stack of its thread to be hashed."""
    archive(path, old=b"}q\x00", new=b"}q\x00)" + b"\x85" * 1_000_000 + b"NsX\x01\x00\x00\x00aNs")


def old_form(path, old, new):
    torch.save({"conv1.weight": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    written = path.read_bytes()
    assert old in written
    path.write_bytes(written.replace(old, new))


def more_than_the_file(path, _):
    old_form(path, b"K\x03N", b"J\xff\xff\xff\x7fN")


def a_text_beyond_the_file(path, _):
    old_form(path, b"X\x0c\x00\x00\x00conv1", b"X\xff\xff\xff\xffconv1")


def many_of_one(path, _):
    """Dicts of dicts that are ten times the same: 10^8 entries of 80 objects."""
    inner = {"conv1.weight": torch.ones(3)}
    for _ in range(7):
        inner = {str(i): inner for i in range(10)}
    torch.save(inner, path)


def a_page_of_a_name(path, _):
    torch.save({"conv1.weight": torch.ones(1), "a\nb" * 9999: torch.ones(2)}, path)


def of_a_newer_pickle(path, _):
    torch.save({"conv1.weight": torch.ones(3)}, path, pickle_protocol=4)


def sparse(path, _):
    torch.save({"conv1.weight": torch.ones(3, 3).to_sparse()}, path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (a_strange_version, r"is not a torch file of plain tensors \(zip file version 11\.6\)"),
        (more_than_its_record, r"\(storage 0 of 8589934588 bytes, 12 are there\)"),
        (less_than_nothing, r"\(a storage of -1 x torch\.FloatStorage\)"),
        (of_a_newer_pickle, r"\(Unsupported operand \d+\): save its state dict as safetensors"),
        (compressed, r"\(compressed records, which torch does not write\)"),
        (a_room_for_nothing, r"\(builtins\.bytearray of a size and no content\)"),
        (deep, r"\(tuples within tuples, over 100 deep\)"),
        (more_than_the_file, r"\(storages of 8589934588 bytes, \d+ are there\)"),
        (
            a_text_beyond_the_file,
            r"is not a torch file of plain tensors \(.*exp.* 4294967295 bytes",
        ),
        (many_of_one, r"holds over 1,000,000 entries: save the state dict alone"),
        (a_page_of_a_name, r"lacks \d+ tensors|has 1 tensors"),
        (
            sparse,
            r"conv1\.weight must be a plain tensor, got one of layout torch\.sparse_coo on cpu",
        ),
    ],
)
def test_files_that_claim_what_they_have_not(tmp_path, data, write, message):
    path = tmp_path / "w.pth"
    write(path, data)
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=message) as told:
        load(path)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 600
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 200_000  # KiB


def test_a_file_of_many_forms_is_read_within_its_claims(tmp_path):
    """Views, shared storages, all precisions, empty and wrapped tensors, in both forms."""
    base = torch.arange(12.0)
    dtypes = [torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.complex64]
    content = {
        "whole": base,
        "view": base[3:7],
        "turned": base.view(3, 4).t(),
        "empty": torch.ones(0),
        "wrapped": nn.Parameter(torch.ones(2)),
        "inner": {str(dtype): torch.ones(5, dtype=dtype) for dtype in dtypes},
        "epoch": 3,
        "size": torch.Size([2, 3]),
        "device": torch.device("cpu"),
        "numbers": {1, 2},
    }
    for new in (True, False):
        path = tmp_path / f"{new}.pth"
        torch.save(content, path, _use_new_zipfile_serialization=new)
        state = read_weights(path)
        assert len(state) == 5 + len(dtypes)
        assert torch.equal(state["turned"], content["turned"])


def test_a_dtype_that_torch_has_not(tmp_path):
    header = b'{"a":{"dtype":"F128","shape":[1],"data_offsets":[0,16]}}'
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(ModelError, match="is not a whole safetensors file"):
        read_weights(path)


def test_a_reason_is_not_a_page(tmp_path):
    """`zipfile` quotes the names that differ, whatever their length."""
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as written:
        written.writestr("w/data.pkl", b"")
        written.writestr("w/" + "a" * 9999, b"")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"w/data.pkl", b"v\n" * 5, 1))
    with pytest.raises(ModelError, match="is not a torch file of plain tensors") as told:
        read_weights(path)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 500
