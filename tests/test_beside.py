"""Encoders of two files, as those over 2 GiB must be: made, used, moved, struck down."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import foreign_models
import histofast
from extras import need
from histofast import encoders, graphs
from histofast._files import remove_stale_temporaries
from histofast.errors import ModelError, WriteError
from histofast.patches import make_slide
from histofast.slides import write_png
from tiny_transformer import write_transformer

CHANNELS = {"mean": foreign_models.MEAN, "std": foreign_models.STD}
SIDE = 32


MOST, SMALL = "histofast.graphs.writing.MOST_INSIDE_BYTES", "histofast.graphs.outside.SMALL_BYTES"


@pytest.fixture
def low(monkeypatch):
    """Toy models are over what one file may have, and their weights are large."""
    monkeypatch.setattr(MOST, 0)
    monkeypatch.setattr(SMALL, 16)


@pytest.fixture
def patches(rng):
    return rng.integers(0, 256, (40, SIDE, SIDE, 3), dtype=np.uint8)


def foreign(path: Path, **options) -> Path:
    return foreign_models.residual(path, batch=1, sides=(SIDE, SIDE), **options)


def wrapped(folder: Path, name: str = "big", **options) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    source = foreign(folder / f"{name}-source.onnx", **options)
    graphs.wrap(source, out=folder / f"{name}.onnx", name="big", provenance="x", **CHANNELS)
    source.unlink()
    return folder / f"{name}.onnx"


def transformer(folder: Path) -> Path:
    """A small one; written anew by whoever writes encoders, so that it is of two files where all are."""
    folder.mkdir(exist_ok=True, parents=True)
    with graphs.replacing_encoder(folder / "vit.onnx", overwrite=False) as pending:
        graphs.write_model(onnx.load(write_transformer(folder / "source.onnx")), pending)
    return folder / "vit.onnx"


def features(path: Path, patches) -> np.ndarray:
    with encoders.load(path, device="cpu", threads=1) as encoder:
        return encoder.encode(patches)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- What is written --------------------------------------------------------------------------


def test_an_encoder_of_two_files_is_what_one_of_one_file_is(tmp_path, patches, monkeypatch):
    one = wrapped(tmp_path / "one")
    monkeypatch.setattr(MOST, 0)
    monkeypatch.setattr(SMALL, 16)
    two = wrapped(tmp_path / "two")
    assert names(tmp_path / "one") == ["big.onnx"]
    assert names(tmp_path / "two") == ["big.onnx", "big.onnx.data"]
    assert np.array_equal(features(two, patches), features(one, patches))
    data = two.with_name("big.onnx.data").read_bytes()
    spec = encoders.read_spec(two)
    assert spec.sha256 == hashlib.sha256(data + two.read_bytes()).hexdigest()
    assert spec.size_bytes == len(data) + two.stat().st_size
    model = onnx.load(two, load_external_data=False)
    props = {entry.key: entry.value for entry in model.metadata_props}
    assert props["histofast.data_sha256"] == hashlib.sha256(data).hexdigest()
    far = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert {t.name for t in far} >= {"conv1.w", "layer2/conv1.w", "fc.w"}
    assert {entry.value for t in far for entry in t.external_data if entry.key == "location"} == {
        "big.onnx.data"
    }
    onnx.checker.check_model(str(two))
    again = wrapped(tmp_path / "again")
    for name in names(tmp_path / "two"):
        assert (again.parent / name).read_bytes() == (two.parent / name).read_bytes()


def is_outside(tensor) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def in_memory(graph: graphs.Graph) -> dict[str, onnx.TensorProto]:
    return {n: onnx.numpy_helper.from_array(graph.array(n), n) for n in graph.constants}


def test_one_file_is_written_from_tensors_outside_as_protobuf_writes_it(tmp_path, monkeypatch):
    with monkeypatch.context() as low:
        low.setattr(MOST, 0)
        low.setattr(SMALL, 16)
        path = wrapped(tmp_path / "in")
        model = graphs.read_model(path)
    assert any(map(is_outside, model.graph.initializer))
    graphs.write_model(model, tmp_path / "out.onnx")
    graph = graphs.Graph(model)
    graph.constants = in_memory(graph)
    wanted = graph.to_model().SerializeToString(deterministic=True)
    assert (tmp_path / "out.onnx").read_bytes() == wanted
    assert not (tmp_path / "out.onnx.data").exists()


@pytest.mark.usefixtures("low")
def test_large_weights_stay_where_they_are(tmp_path):
    """What is read into memory of a graph is the graph and what is small."""
    path = wrapped(tmp_path / "in")
    whole = onnx.load(path)
    graph = graphs.Graph(graphs.read_model(path))
    for tensor in whole.graph.initializer:
        wanted = onnx.numpy_helper.to_array(tensor)
        assert np.array_equal(graph.array(tensor.name), wanted)
        is_large = wanted.nbytes >= 16 and wanted.dtype == np.float32
        assert is_outside(graph.constants[tensor.name]) == is_large
        if is_large:
            held = graph.array(tensor.name)
            while not isinstance(held, np.memmap):
                held = held.obj if isinstance(held, memoryview) else held.base


def test_several_numbers_to_a_byte(tmp_path):
    (tmp_path / "w").write_bytes(bytes(5) + b"\xe1\x03")  # 1, -2 in one byte, 3 in the next
    far = onnx.TensorProto(name="a", data_type=onnx.TensorProto.INT4, dims=[3])
    far.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": str(tmp_path / "w"), "offset": "5", "length": "2"}.items():
        far.external_data.add(key=key, value=value)
    graph = graphs.Graph(onnx.ModelProto())
    graph.constants = {"a": far}
    assert graph.array("a").astype(int).tolist() == [1, -2, 3]


# --- What is made of them ---------------------------------------------------------------------


@pytest.mark.usefixtures("low")
def test_cut_joined_and_looked_at(tmp_path, patches):
    path = wrapped(tmp_path / "in")
    graphs.truncate(path, at="layer1", out=tmp_path / "cut.onnx")
    graphs.join_cuts(path, at=["layer1", "layer2"], out=tmp_path / "cuts.onnx")
    assert [n for n in names(tmp_path) if n != "in"] == [
        "cut.onnx",
        "cut.onnx.data",
        "cuts.onnx",
        "cuts.onnx.data",
    ]
    cut = features(tmp_path / "cut.onnx", patches)
    inner = graphs.capture(path, ["/layer1/layer1.0/relu/Relu_output_0"], patches)
    (values,) = inner.values()
    np.testing.assert_allclose(cut, values.mean((2, 3)), rtol=1e-4, atol=1e-6)
    with encoders.load_all(tmp_path / "cuts.onnx", device="cpu", threads=1) as both:
        found = dict(zip([s.layer for s in both.specs], both.encode(patches), strict=True))
    np.testing.assert_allclose(found["layer1"], cut, rtol=1e-4, atol=1e-6)
    assert graphs.total_flops(path, patch_px=SIDE) > 0
    (times,) = graphs.bench([path], rounds=1).encoders
    assert times.size_bytes == sum(p.stat().st_size for p in path.parent.iterdir())


@pytest.mark.usefixtures("low")
def test_reduced_to_fewer_features(tmp_path, patches):
    two = wrapped(tmp_path / "two")
    whole = features(two, patches)
    spec = graphs.write_reduced(
        two, out=tmp_path / "few.onnx", dims=3, features=whole, held_out=whole
    )
    assert names(tmp_path) == ["few.onnx", "few.onnx.data", "two"]
    wanted = graphs.principal_axes(whole, 3).of(whole)
    off = np.linalg.norm(features(spec.path, patches) - wanted, axis=1)
    assert (off < 1e-5 * np.linalg.norm(whole, axis=1)).all()


@pytest.mark.usefixtures("low")
def test_cut_in_the_whole_graph_by_others(tmp_path):
    path = wrapped(tmp_path / "in")
    head, tail = graphs.split(path, "layer1")
    for half in (head, tail):
        assert not any(map(is_outside, half.graph.initializer))


def test_in_float16(tmp_path, patches, monkeypatch):
    one = wrapped(tmp_path / "one")
    graphs.write_quantized(
        one, out=tmp_path / "one" / "half.onnx", precision="float16", held_out=patches
    )
    monkeypatch.setattr(MOST, 0)
    monkeypatch.setattr(SMALL, 16)
    two = wrapped(tmp_path / "two")
    spec = graphs.write_quantized(
        two, out=tmp_path / "two" / "half.onnx", precision="float16", held_out=patches
    )
    assert names(two.parent) == ["big.onnx", "big.onnx.data", "half.onnx", "half.onnx.data"]
    assert spec.precision == "float16"
    assert spec.size_bytes < encoders.read_spec(two).size_bytes
    got, wanted = features(spec.path, patches), features(one.with_name("half.onnx"), patches)
    np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=1e-4)
    kinds = {
        t.name: t.data_type
        for t in onnx.load(spec.path, load_external_data=False).graph.initializer
    }
    assert kinds["layer2/conv1.w"] == onnx.TensorProto.FLOAT16


def test_in_int8(tmp_path, patches, monkeypatch):
    """The same bytes as from one file, whether it is of maps or of tokens."""
    for make in (wrapped, transformer):
        folder = tmp_path / make.__name__
        one = make(folder / "one")
        options = {"precision": "int8", "calibration": patches, "held_out": patches}
        wanted = graphs.write_quantized(one, out=folder / "int8.onnx", **options)
        with monkeypatch.context() as low:
            low.setattr(MOST, 0)
            low.setattr(SMALL, 16)
            two = make(folder / "two")
            assert two.with_name(f"{two.name}.data").exists()
            with pytest.raises(ModelError, match="what layers cost is measured on encoders of one"):
                graphs.layer_sensitivity(two, calibration=patches, held_out=patches)
            small = graphs.write_quantized(two, out=folder / "small.onnx", **options)
            assert (folder / "small.onnx.data").exists()
            np.testing.assert_array_equal(
                features(small.path, patches), features(wanted.path, patches)
            )
        assert small.agreement == wanted.agreement
        inside = graphs.write_quantized(two, out=folder / "inside.onnx", **options)
        assert not (folder / "inside.onnx.data").exists()
        np.testing.assert_array_equal(
            features(inside.path, patches), features(wanted.path, patches)
        )


@pytest.mark.usefixtures("low")
def test_extracted_from_a_slide(tmp_path):
    path = wrapped(tmp_path / "in")
    slide = tmp_path / "slide.tif"
    make_slide(slide, width_px=1024, height_px=1024, tissue_fraction=0.5)
    report = histofast.extract(slide, encoder=path, out=tmp_path / "out", device="cpu")
    assert (report.exit_code, report.patches > 0) == (0, True)
    told = json.loads((tmp_path / "out" / "run.json").read_text())
    assert encoders.read_spec(path).sha256 in json.dumps(told)


@pytest.fixture
def table(tmp_path, patches):
    folder = tmp_path / "patches"
    folder.mkdir()
    rows = ["file,bag"]
    for i in range(2 * len(patches)):
        write_png(folder / f"{i}.png", patches[i % len(patches)] // (1 + i // len(patches)))
        rows.append(f"{i}.png,bag{i % 8}")
    (folder / "patches.csv").write_text("\n".join(rows))
    return folder / "patches.csv"


LAYERS = (
    "histofast: {path} keeps its weights in a second file, what layers cost is measured on encoders of "
    "one: measure a cut of it (`histofast models truncate`)"
)


@pytest.mark.usefixtures("low")
@pytest.mark.parametrize(
    ("command", "refusal"),
    [
        ("models truncate {path} --list", None),
        ("models truncate {path} --at layer1 --out {out}", None),
        ("models truncate {path} --layers all --out {out}", None),
        ("models quantize {path} --patches {table} --n 64 --precision fp16 --out {out}", None),
        ("models quantize {path} --patches {table} --n 64 --out {out}", None),
        ("models quantize {path} --patches none.csv --sensitivity", LAYERS),
        ("models bench {path} --patches {table} --rounds 1", None),
        ("models add {path} --mean imagenet --out {out}", "{path} is an encoder already: use it as"),
        ("similarity --a {path} --b {path} --images {table} --n 64 --out {folder}/s", None),
        ("extract --patches {table} --encoder {path} --out {folder}/f", None),
    ],
)  # fmt: skip
def test_commands_take_two_files_or_say_why_not(
    tmp_path, table, cli, monkeypatch, command, refusal
):
    if command.startswith("similarity"):
        need("torch", "matplotlib", "jinja2")
    monkeypatch.setattr("histofast.graphs.speed._ROUND_S", 0.01)
    path, out = wrapped(tmp_path / "in"), tmp_path / "out.onnx"
    given = {"path": path, "out": out, "table": table, "folder": tmp_path}
    done = cli(*command.format(**given).split())
    if refusal is None:
        assert (done.code, out.exists()) == (0, "--out {out}" in command), done.err
        return
    (line,) = done.err
    assert refusal.format(path=path) in line
    assert not out.exists()


# --- One without the other --------------------------------------------------------------------


@pytest.mark.usefixtures("low")
def test_moved_without_the_weights(tmp_path):
    path = wrapped(tmp_path / "in")
    data = path.with_name("big.onnx.data")
    told = r"keeps its weights in big\.onnx\.data, which is missing: put it beside the file$"
    moved = path.rename(tmp_path / "moved.onnx")
    for use in (
        encoders.read_spec,
        lambda p: encoders.load(p, device="cpu"),
        lambda p: graphs.truncate(p, at="layer1", out=tmp_path / "out.onnx"),
        graphs.cuts,
    ):
        with pytest.raises(ModelError, match=told):
            use(moved)
    with pytest.raises(FileNotFoundError, match=r"no such encoder file: .*big\.onnx"):
        encoders.load(path, device="cpu")
    data.rename(tmp_path / "big.onnx.data")
    assert encoders.read_spec(moved).d == 5


@pytest.mark.usefixtures("low")
def test_weights_of_another_making(tmp_path, patches):
    path, other = wrapped(tmp_path / "in"), wrapped(tmp_path / "other", half=True)
    data = path.with_name("big.onnx.data")
    whole = data.read_bytes()
    told = r"big\.onnx and big\.onnx\.data are not of one making: copy both again, or export"
    changed = bytearray(whole)
    changed[-1] ^= 1
    for bytes_ in (whole + bytes(1), bytes(changed), bytes(len(whole))):
        data.write_bytes(bytes_)
        for use in (
            encoders.read_spec,
            lambda p: encoders.load(p, device="cpu"),
            lambda p: graphs.capture(p, ["features"], patches[:1]),
            graphs.cuts,
        ):
            with pytest.raises(ModelError, match=told):
                use(path)
    data.write_bytes(other.with_name("big.onnx.data").read_bytes())
    with pytest.raises(ModelError, match=r"is truncated: copy or export|not of one making"):
        encoders.read_spec(path)


@pytest.mark.usefixtures("low")
def test_links_into_a_folder_of_blobs(tmp_path, patches):
    path = wrapped(tmp_path / "in")
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    for name, blob in (("big.onnx", "9c"), ("big.onnx.data", "04")):
        path.with_name(name).rename(blobs / blob)
        (snapshot / name).symlink_to(f"../blobs/{blob}")
    assert features(snapshot / "big.onnx", patches).shape == (40, 5)
    assert graphs.cuts(snapshot / "big.onnx")[-1].d == 5
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "big.onnx").write_bytes((blobs / "9c").read_bytes())
    (alone / "big.onnx.data").symlink_to(blobs / "04")
    with pytest.raises(ModelError, match="copy both files, not links to them, into one folder"):
        encoders.load(alone / "big.onnx", device="cpu")


# --- More than there is -----------------------------------------------------------------------


MEMORY = "histofast.encoders.memory.memory_bytes"


def test_what_is_larger_than_the_memory_is_not_opened(tmp_path, patches, monkeypatch):
    one = wrapped(tmp_path / "one")
    graphs.write_quantized(one, out=tmp_path / "half.onnx", precision="float16", held_out=patches)
    monkeypatch.setattr(MOST, 0)
    monkeypatch.setattr(SMALL, 16)
    two = wrapped(tmp_path / "two")
    for path, times in ((one, 1), (two, 1), (tmp_path / "half.onnx", 3)):
        needs = times * encoders.read_spec(path).size_bytes
        monkeypatch.setattr(MEMORY, lambda needs=needs: needs)
        encoders.load(path, device="cpu").close()
        monkeypatch.setattr(MEMORY, lambda needs=needs: needs - 1)
        with pytest.raises(ModelError) as told:
            encoders.load(path, device="cpu")
        assert str(told.value) == (
            f"{path}, to be opened, needs {needs / 1e9:.1f} GB of memory, this process may use "
            f"{(needs - 1) / 1e9:.1f} GB: take a cut of it, or use a machine with more"
        )
    monkeypatch.setattr(MEMORY, lambda: None)  # where nobody knows
    encoders.load(two, device="cpu").close()


# --- A disk that is full ----------------------------------------------------------------------


@pytest.fixture
def largest_file():
    """Let no file grow beyond so many bytes: a disk that is full meets the same calls."""
    resource = pytest.importorskip("resource", reason="needs POSIX")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("files", [1, 2])
@pytest.mark.parametrize("work", ["wrap", "truncate", "join", "half"])
def test_a_disk_that_is_full_leaves_nothing(
    tmp_path, patches, monkeypatch, largest_file, files, work
):
    if files == 2:
        monkeypatch.setattr(MOST, 0)
        monkeypatch.setattr(SMALL, 16)
    path, out = wrapped(tmp_path / "in"), tmp_path / "out.onnx"
    source = foreign(tmp_path / "in" / "source.onnx")
    before = names(tmp_path / "in")
    work = {
        "wrap": lambda: graphs.wrap(source, out=out, **CHANNELS),
        "truncate": lambda: graphs.truncate(path, at="layer2", out=out),
        "join": lambda: graphs.join_cuts(path, at=["layer1", "layer2"], out=out),
        "half": lambda: graphs.write_quantized(
            path, out=out, precision="float16", held_out=patches
        ),
    }[work]
    largest_file(200)
    told = f"cannot write {out}: File too large: the file system or `ulimit -f` allows no file of this size"
    with pytest.raises(WriteError) as error:
        work()
    assert str(error.value) == told
    assert names(tmp_path) == ["in"]
    assert names(tmp_path / "in") == before


# --- Whatever happens while it is written ----------------------------------------------------


def test_the_other_kind_is_replaced(tmp_path, patches, monkeypatch):
    folder = tmp_path / "in"
    one = wrapped(folder)
    wanted = features(one, patches)
    source = foreign(tmp_path / "source.onnx")

    def again(**options):
        graphs.wrap(source, out=one, **CHANNELS, **options)

    with monkeypatch.context() as low:
        low.setattr(MOST, 0)
        low.setattr(SMALL, 16)
        with pytest.raises(FileExistsError, match=r"big\.onnx exists: choose another name"):
            again()
        again(overwrite=True)
        assert names(folder) == ["big.onnx", "big.onnx.data"]
        assert np.array_equal(features(one, patches), wanted)
    again(overwrite=True)
    assert names(folder) == ["big.onnx"]
    assert np.array_equal(features(one, patches), wanted)
    (folder / "big.onnx.data").write_bytes(b"of somebody else")
    again(overwrite=True)
    assert (folder / "big.onnx.data").read_bytes() == b"of somebody else"
    one.unlink()
    with pytest.raises(FileExistsError, match=r"big\.onnx\.data exists: choose another name"):
        again()
    again(overwrite=True)
    assert names(folder) == ["big.onnx"]


class _StruckError(BaseException):
    pass


@pytest.mark.usefixtures("low")
@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("before", [True, False], ids=["over an old one", "anew"])
def test_struck_while_it_takes_its_name(tmp_path, patches, monkeypatch, after, before):
    """Old, new, or one line: never the graph of one with the weights of the other."""
    path = wrapped(tmp_path / "in")
    old = features(path, patches)
    if not before:
        for each in list(path.parent.iterdir()):
            each.unlink()
    source = foreign(tmp_path / "source.onnx")
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array * np.float32(1.5), tensor.name))
    onnx.save(model, source)
    real, done = Path.replace, []

    def struck(self, target):
        if len(done) == after:
            raise _StruckError
        done.append(target)
        return real(self, target)

    with monkeypatch.context() as at_work:
        at_work.setattr(Path, "replace", struck)
        if after < 2:
            with pytest.raises(_StruckError):
                graphs.wrap(source, out=path, overwrite=True, **CHANNELS)
        else:
            graphs.wrap(source, out=path, overwrite=True, **CHANNELS)
    assert [p.name for p in done] == ["big.onnx.data", "big.onnx"][:after]
    assert set(names(path.parent)) <= {"big.onnx", "big.onnx.data"}
    if after == 1 and before:
        with pytest.raises(ModelError, match="are not of one making: copy both again, or export"):
            encoders.load(path, device="cpu")
    elif after < 2 and not before:
        with pytest.raises(FileNotFoundError, match="no such encoder file"):
            encoders.load(path, device="cpu")
    else:
        assert np.array_equal(features(path, patches), old) == (after == 0)
    graphs.wrap(source, out=path, overwrite=True, **CHANNELS)
    assert features(path, patches).shape == old.shape


def test_what_was_killed_is_swept(tmp_path):
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom histofast._files import replacing_both\n"
        "with replacing_both(Path(sys.argv[1]), 'a.onnx.data', overwrite=True) as pending:\n"
        "    pending.write_bytes(b'1')\n    pending.with_name('a.onnx.data').write_bytes(b'2')\n"
        "    print(pending, flush=True)\n    sys.stdin.read()\n    os._exit(1)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.onnx")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        pending = Path(process.stdout.readline().strip())
        assert pending.name == "a.onnx"
        assert pending.parent.name.startswith(".a.onnx.")
        assert remove_stale_temporaries(tmp_path) == []  # it is at work
        assert pending.exists()
        process.communicate()
    assert remove_stale_temporaries(tmp_path) == [pending.parent]
    (tmp_path / ".a.onnx.1.01234567.tmp").mkdir()  # its maker died before it had a lock
    remove_stale_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_over_two_gib(tmp_path, rng):
    """What protobuf cannot hold, with nothing set lower: 2.24 GB, most of it holes of zeros."""
    if shutil.disk_usage(tmp_path).free < 12 << 30:
        pytest.skip("needs 12 GB of disk")
    wide, narrow = 20_000, 14_000
    constants = {"w0": (3, wide), "w3": (wide, 8)}
    near = [
        onnx.numpy_helper.from_array(rng.normal(size=size).astype("f4") / size[0] ** 0.5, name)
        for name, size in constants.items()
    ]
    far, offset = [], 0
    for name, size in {"w1": (wide, narrow), "w2": (narrow, wide)}.items():
        tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=size)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        length = 4 * size[0] * size[1]
        entries = {"location": "net.data", "offset": str(offset), "length": str(length)}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
        far.append(tensor)
        offset += length
    with (tmp_path / "net.data").open("wb") as file:
        file.truncate(offset)
        for place in rng.integers(0, offset // 4 - 1000, 200):
            file.seek(4 * int(place))
            file.write(rng.normal(size=1000).astype("f4").tobytes())
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [node("GlobalAveragePool", ["x"], ["pool"]), node("Flatten", ["pool"], ["h0"])]
    nodes += [node("MatMul", [f"h{i}", f"w{i}"], [f"h{i + 1}"]) for i in range(3)]
    nodes += [node("Add", ["h1", "h3"], ["sum"]), node("MatMul", ["sum", "w3"], ["y"])]
    kind = onnx.TensorProto.FLOAT
    given, made = value("x", kind, ["n", 3, SIDE, SIDE]), value("y", kind, ["n", 8])
    graph = onnx.helper.make_graph(nodes, "net", [given], [made], [*near, *far])
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "net.onnx"
    )
    spec = graphs.wrap(tmp_path / "net.onnx", out=tmp_path / "big.onnx", **CHANNELS)
    assert spec.size_bytes > 2**31
    assert names(tmp_path) == ["big.onnx", "big.onnx.data", "net.data", "net.onnx"]
    cut = graphs.truncate(tmp_path / "big.onnx", at="h2", out=tmp_path / "cut.onnx")
    assert 2**30 < cut.size_bytes < 2**31
    assert not (tmp_path / "cut.onnx.data").exists()
