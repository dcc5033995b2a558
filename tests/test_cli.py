"""The command line as its users meet it: what it answers, what it leaves, how it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import histofast
from conftest import SIGNALS, Answer
from extras import need
from foreign_models import residual
from histofast import cli as cli_module
from histofast import features
from histofast._stopping import Interrupted, stop_if_asked
from slide_files import overwrite, picture, tile_extent, write_tiff
from small_slides import write_slide
from tiny_encoder import write_encoder

COMMANDS = [
    "",
    "extract",
    "verify",
    "tissue",
    "demo",
    "doctor",
    "models",
    "models list",
    "models export",
    "models add",
    "models truncate",
]
PROGRAM = [sys.executable, "-c", "from histofast.cli import main; main()"]


@pytest.fixture
def extract(cli, encoder, tmp_path):
    """`histofast extract` with the tiny encoder into `tmp_path / "f"`."""

    def run(*arguments):
        return cli("extract", *arguments, "--out", tmp_path / "f", "-e", encoder)

    return run


def feature_files(folder):
    return {p.name: p for p in Path(folder).rglob("*.h5")}


def leftovers(folder):
    return list(Path(folder).rglob("*.tmp"))


# --- help and mistakes of typing ------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_reads_well_at_80_columns(cli, command):
    answer = cli(*command.split(), "--help")
    assert (answer.code, answer.err) == (0, [])
    assert answer.out.startswith(f"Usage: histofast {command}".rstrip())
    lines = answer.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not re.search(r"[╭│─]", answer.out)
    assert not any(line.endswith("...") for line in lines[1:])  # a summary that did not fit
    assert cli(*command.split(), "-h").out == answer.out


def test_nothing_said_is_a_call_for_help(cli):
    assert cli().out == cli("--help").out


@pytest.mark.skipif(sys.platform == "win32", reason="needs fcntl")
def test_a_file_system_without_locks_is_noted_once(slides, encoder, tmp_path):
    script = (
        "import errno, fcntl\n"
        "def refuse(*_): raise OSError(errno.ENOSYS, 'Function not implemented')\n"
        "fcntl.flock = refuse\n"
        "from histofast.cli import main; main()"
    )
    arguments = ["extract", slides, "--out", tmp_path / "f", "-e", encoder]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    notes = [line for line in done.stderr.splitlines() if "locks" in line]
    (note,) = notes
    assert note.startswith(f"note: {tmp_path / 'f'}")
    assert " is on a file system without locks (Function" in note
    assert features.verify([tmp_path / "f"]).is_whole
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_when_all_is_done_ends_without_a_traceback(number):
    script = (
        "import os, signal, sys, time\n"
        "end = sys.exit\n"
        "def late(code):\n"
        f"    os.kill(os.getpid(), signal.{number})\n"
        "    time.sleep(1)\n"
        "    end(code)\n"
        "sys.exit = late\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from histofast.cli import main; main()"
    )
    command = [sys.executable, "-c", script, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-getattr(signal, number), "")


def test_version(cli):
    assert cli("--version") == Answer(0, f"histofast {histofast.__version__}\n", [])


def test_help_and_mistakes_load_nothing_heavy():
    script = (
        "import sys\nfrom histofast.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'onnxruntime', 'onnx', 'h5py', 'tifffile', 'imagecodecs', 'openslide',"
        " 'numpy', 'scipy'}\nprint(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    for arguments in (["extract", "--help"], ["extract", "--mpp", "x"]):
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
        )
        assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("extract", "nothing to encode: name slides, a folder, a CSV list or --patches"),
        ("verify", "missing argument 'paths"),
        ("extrct", r"no such command 'extrct'.*\(see histofast --help\)"),
        ("extract x --patchpx 3", "no such option: --patchpx .*--patch-px"),
        ("extract x --mag", "--mag"),
        ("extract x --mpp 0,5", "'--mpp': must be a number, got '0,5'"),
        ("extract x --mag 20x", "'--mag': must be a number, got '20x'"),
        ("extract x --patch-px 1.5", "must be a whole number, got '1.5'"),
        ("extract x --layout foo", "must be one of trident, clam, stamp, got 'foo'"),
        ("extract x --device gpu", "must be one of auto, cpu, cuda, tensorrt, .*, got 'gpu'"),
        ("extract x --device cuda:x", "must be one of auto, cpu, .* such as cuda:1, got 'cuda:x'"),
        ("extract x --gpus 0,b", "'--gpus': must be indices such as 0,1, got '0,b'"),
        ("extract x --gpus -1", "gpus must not be negative, got -1"),
        ("extract x --gpus 1,1", "gpus must be given once each, got 1, 1"),
        ("extract x --gpus 0 --device cpu", "device must be auto, cuda or tensorrt with gpus, got"),
        ("extract x --edge crop", "must be one of drop, shift, got 'crop'"),
        ("extract x --mpp 0.5 --mag 20", "--mag must not be given beside --mpp 0.5, which is"),
        ("tissue x --mpp 0.5 --mag 20", "--mag must not be given beside --mpp 0.5, which is"),
        ("tissue x --mag 0", "--mag must be within 0.5..200, got 0: 20 means 0.5 um per pixel"),
        ("extract x --mag 1000", "--mag must be within 0.5..200, got 1000"),
        ("extract x --mag nan", "--mag must be within 0.5..200, got nan"),
        ("extract x --patches p.csv", "slides or patches must be given, and not both"),
        ("extract --patches p.csv --mask m.png", "mask must not be given with patches"),
        ("extract no.svs", "no such slide: no.svs"),
        ("extract none*.svs", r"no such slide: none\*.svs"),
        ("extract no.csv", "no such table: no.csv"),
        ("extract --patches no.csv", "no such table: no.csv"),
        ("tissue no.svs", "no such slide: no.svs"),
        ("verify no.h5", "no such feature file or folder: no.h5"),
        ("verify .", r"no feature file \(.h5, .pt, .npy\) in ."),
    ],
)
def test_mistakes_are_answered_in_one_line(cli, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    answer = cli(*arguments.split())
    assert (answer.code, answer.out) == (2, "")
    assert len(answer.err) == 1
    assert answer.err[0].startswith("histofast: ")
    assert re.search(message, answer.err[0])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--mpp", "nan", "--mpp must be within 0.05..20 um per pixel, got nan"),
        ("--mpp", "0", "--mpp must be within 0.05..20 um per pixel, got 0"),
        ("--mpp", "-1", "--mpp must be within 0.05..20 um per pixel, got -1"),
        ("--mpp-override", "inf", "--mpp-override must be within 0.05..20 um per pixel, got inf"),
        ("--patch-px", "0", "--patch-px must be at least 1, got 0"),
        ("--patch_size", "-5", "--patch-px must be at least 1, got -5"),
        ("--overlap", "-1", "--overlap must be within 0..31, got -1"),
        ("--min-tissue", "nan", "--min-tissue must be within 0..1, got nan"),
        ("--threshold", "300", "--threshold must be within 0..255, got 300"),
        ("--shard", "4/3", "--shard must be i/n with 1 <= i <= n, got '4/3'"),
        ("--threads", "0", "--threads must be at least 1, got 0"),
        ("--workers", "-2", "--workers must be at least 1, got -2"),
        ("--batch-size", "0", "--batch-size must be at least 1, got 0"),
        ("--mask", "no.png", "no such mask: no.png"),
        ("--encoder", "no.onnx", "no such encoder file: no.onnx"),
    ],
)
def test_values_out_of_range(extract, slides, tmp_path, option, value, message):
    answer = extract(slides / "s0.tif", option, value)
    assert (answer.code, answer.err) == (2, [f"histofast: {message}"])
    assert not (tmp_path / "f").exists()


# --- extract --------------------------------------------------------------------------------------


def test_extract_in_a_log(extract, slides, tmp_path):
    answer = extract(slides)
    assert (answer.code, answer.out) == (0, "")
    assert [line[:9] for line in answer.err[:3]] == ["[1/3] s0:", "[2/3] s1:", "[3/3] s2:"]
    assert re.fullmatch(
        r"\[1/3\] s0: \d+ patches in \d+\.\d s( \(.* pen marks .*\))?", answer.err[0]
    )
    assert re.fullmatch(r"3 slides: 3 done; \d+ patches in .* s \(.* patches/s\)", answer.err[3]), (
        answer.err[3]
    )
    limit = r"limit: (encoding|decoding|writing) \(encoder busy \d+ % of the time\)"
    assert re.fullmatch(limit, answer.err[4]), answer.err[4]
    assert answer.err[5:] == [f"report: {tmp_path / 'f' / 'run.json'}"]
    assert set(feature_files(tmp_path)) == {"s0.h5", "s1.h5", "s2.h5"}
    again = extract(slides)  # says nothing on each slide that is there
    assert again.err == ["3 slides: 3 already there", answer.err[5]]


def test_the_limit_names_gpus():
    from histofast.cli.progress import summarise
    from histofast.pipeline import DeviceReport, RunReport

    report = RunReport(limit="decoding", devices=[DeviceReport(device="cuda:1", busy=0.413)])
    assert "limit: decoding (cuda:1 busy 41 % of the time)" in summarise(report, quiet=False)
    report.devices.append(DeviceReport(device="cuda:3", busy=1.0))
    assert summarise(report, quiet=False)[1:] == [
        "limit: decoding (cuda:1 busy 41 %, cuda:3 busy 100 % of the time)"
    ]
    assert summarise(report, quiet=True) == []


def test_gpus_that_are_not_there(extract, slides, tmp_path, monkeypatch):
    from histofast.encoders import runtime

    monkeypatch.setattr(runtime, "why_no_cuda", lambda: None)
    monkeypatch.setattr("histofast.pipeline.options.driver_gpu_count", lambda: 2)
    answer = extract(slides, "--gpus", "0,2")
    what = "--gpus must be within 0..1, the GPUs that the driver offers, got 2"
    assert (answer.code, answer.err) == (2, [f"histofast: {what}"])
    assert not (tmp_path / "f").exists()


def test_extract_quietly(extract, slides):
    assert extract(slides, "--quiet") == Answer(0, "", [])


def test_extract_as_json(extract, slides, tmp_path):
    answer = extract(slides / "s1.tif", "--json", "-q")
    assert (answer.code, answer.err) == (0, [])
    report = json.loads(answer.out)
    assert report == json.loads((tmp_path / "f" / "run.json").read_text())
    (slide,) = report["slides"]
    assert (slide["name"], slide["status"], slide["error"]) == ("s1", "done", "")
    assert slide["patches"] == len(histofast.read_features(slide["outputs"][0]).features)
    assert slide["seconds"]["total"] > 0
    failed = extract(slides / "s1.tif", "--json", "--mpp-override", "4")
    assert failed.code == 1
    # The report is read by programs, in Python's words; the line is for who typed the command.
    error = json.loads(failed.out)["slides"][0]["error"]
    assert error.endswith("or replace it with overwrite=True")
    assert failed.err[0].endswith("or replace it with --overwrite")
    assert len(failed.err) == 1


@pytest.mark.parametrize(
    "options",
    ["--patch-px 64", "--patch-size 64", "--patch_size 64", "--mag 5 --patch-px 64 --batch_size 3"],
)
def test_options_of_the_fields_habit(extract, slides, tmp_path, options):
    answer = extract("--wsi-dir", slides, *options.split())
    assert answer.code == 0, answer.err
    file = histofast.read_features(feature_files(tmp_path / "f")["s0.h5"])
    assert feature_files(tmp_path / "f")["s0.h5"].parts[-3] == "5x_64px_0px_overlap"
    assert (file.attributes["patch_size"], file.attributes["patch_size_level0"]) == (64, 128)


def test_neighbours_read_the_file(extract, slides, tmp_path):
    import h5py

    extract(slides / "s0.tif", "--mag", "10", "--overlap", "8", "--min-tissue", "0.1")
    path = tmp_path / "f" / "10x_32px_8px_overlap" / "features_tiny" / "s0.h5"
    with h5py.File(path) as file:
        coords, found = file["coords"][:], file["features"][:]
        attributes = dict(file["coords"].attrs)
    assert coords.shape == (len(found), 2)
    assert coords.dtype == np.int64
    assert found.dtype == np.float32
    wanted = {"patch_size": 32, "patch_size_level0": 32, "overlap": 8, "level0_magnification": 10}
    wanted |= {"target_magnification": 10, "level0_width": 512, "level0_height": 640, "name": "s0"}
    assert {key: attributes[key] for key in wanted} == wanted


def test_layouts_and_half(extract, slides, tmp_path):
    for layout in ("clam", "stamp"):
        assert extract(slides / "s0.tif", "--layout", layout).code == 0
    assert extract(slides / "s0.tif", "--half").code == 0
    names = sorted(p.name for p in (tmp_path / "f" / "5x_32px_0px_overlap").glob("[!.]*"))
    folders = ["clam_tiny", "features_tiny", "stamp_tiny"]
    assert names == sorted(folders + [f"{name}.json" for name in folders])
    assert features.verify([tmp_path / "f"]).is_whole
    answer = extract(slides / "s0.tif", "--half", "--layout", "clam")
    assert answer.code == 2
    assert "half must be False for layout clam" in answer.err[0]


def test_lists_masks_and_shards(extract, slides, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    square = [[[64, 64], [192, 64], [192, 192], [64, 192], [64, 64]]]
    text = json.dumps({"type": "Polygon", "coordinates": square})
    (masks / "s0.geojson").write_text(text)
    table = tmp_path / "list.csv"
    table.write_text(f"wsi,mpp,mask\n{slides / 's0.tif'},2.0,masks/s0.geojson\n")
    assert extract(table).code == 0
    file = histofast.read_features(feature_files(tmp_path / "f")["s0.h5"])
    assert file.attributes["level0_mpp"] == 2.0
    assert file.coords.min() >= 64
    assert file.coords.max() < 192
    answer = extract(slides / "s1.tif", "--mask", masks)
    assert answer.code == 1
    assert "s1" in answer.err[0]
    done = [extract(slides, "--shard", f"{i}/2", "--overwrite").code for i in (1, 2)]
    assert done == [0, 0]
    assert len(feature_files(tmp_path / "f")) == 3


def test_patch_images(extract, tmp_path):
    rows = ["file,bag"]
    for i in range(3):
        histofast.slides.write_png(tmp_path / f"{i}.png", picture(40, 40, seed=i))
        rows.append(f"{i}.png,a")
    (tmp_path / "patches.csv").write_text("\n".join(rows))
    answer = extract("--patches", tmp_path / "patches.csv")
    assert answer.code == 0
    assert answer.err[0].startswith("[1/1] a: 3 patches in ")


def test_patch_images_without_bags(extract, tmp_path):
    """A folder of classes, or a table of labels alone: each picture is a bag."""
    root = tmp_path / "set"
    rows = ["file;label"]
    for i in range(4):
        file = root / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        histofast.slides.write_png(file, picture(40, 40, seed=i))
        rows.append(f"{file.relative_to(root)};{'ab'[i % 2]}")
    answer = extract("--patches", root)
    assert answer.code == 0
    assert [line.split(":")[0] for line in answer.err[:4]] == [
        *("[1/4] 0", "[2/4] 2", "[3/4] 1", "[4/4] 3")
    ]
    folder = feature_files(tmp_path / "f")
    assert sorted(folder) == ["0.h5", "1.h5", "2.h5", "3.h5"]
    before = {name: path.read_bytes() for name, path in folder.items()}
    (root / "labels.csv").write_text("\n".join(rows))
    assert extract("--patches", root / "labels.csv").code == 0
    assert {name: path.read_bytes() for name, path in folder.items()} == before
    (root / "a" / "4.png").symlink_to(root / "gone.png")
    answer = extract("--patches", root)
    assert answer.code == 1
    assert any("a/4.png is no file that can be read" in line for line in answer.err)
    (root / "b" / "0.png").write_bytes((root / "a" / "0.png").read_bytes())
    answer = extract("--patches", root)
    assert answer.code == 2
    assert "b/0.png must have a file name of its own where pictures are bags" in answer.err[0]


def test_dry_run(extract, slides, tmp_path):
    answer = extract(slides / "s0.tif", "--dry-run", "--batch-size", "100000000")
    assert answer.code == 0
    assert re.fullmatch(r"\[1/1\] s0: \d+ patches( \(.* pen marks .*\))?", answer.err[0])
    assert re.match(r"1 slide, \d+ patches: about .* \(nothing was written\)", answer.err[1])
    assert not (tmp_path / "f").exists()


def test_a_slide_without_tissue(extract, tmp_path):
    write_tiff(tmp_path / "white.tif", [np.full((400, 400, 3), 255, np.uint8)], mpp=1.0)
    answer = extract(tmp_path / "white.tif")
    assert answer.code == 0
    assert "white: empty: no tissue was found" in answer.err[0]
    assert features.verify([tmp_path / "f"]).is_whole
    assert histofast.read_features(feature_files(tmp_path)["white.h5"]).features.shape == (0, 8)


@pytest.mark.parametrize("name", ["sp ace", "ünï 切片", "br[ack]et", "x" * 200, "-dash", "a.b.c"])
def test_names_of_slides(extract, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_slide(Path(f"{name}.tif"))
    answer = extract(f"./{name}.tif")
    assert answer.code == 0, answer.err
    assert list(feature_files(tmp_path / "f")) == [f"{name}.h5"]
    assert answer.err[0].startswith(f"[1/1] {name}: ")


# --- bad input ------------------------------------------------------------------------------------


def _empty(path):
    path.write_bytes(b"")


def _text(path):
    path.write_text("not a slide at all\n")


def _cut(percent):
    def make(path):
        write_slide(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) * percent // 100])

    return make


def _tiff(**options):
    def make(path):
        image = options.pop("image", picture(300, 300))
        write_tiff(path, [image], **{"mpp": 1.0, **options})

    return make


def _png(path):
    histofast.slides.write_png(path, picture(300, 300))


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("empty.svs", _empty, "is empty: copy it again"),
        ("text.svs", _text, "is in no slide format that histofast reads"),
        ("cut30.tif", _cut(30), "cut30.tif (is truncated|cannot be|has)"),
        ("cut60.tif", _cut(60), "cut60.tif (is truncated|cannot be|has)"),
        ("cut99.tif", _cut(99), "cut99.tif (is truncated|cannot be|has)"),
        ("none.tif", _tiff(mpp=None), "does not say its mpp .*mpp column .* --mpp-override"),
        (
            "absurd.tif",
            _tiff(mpp=0.005),
            "mpp of .*absurd.tif must be within 0.05..20 .* says 0.005 .*--mpp-override",
        ),
        ("oval.tif", _tiff(mpp=(1.0, 1.5)), "mpp of .*oval.tif must be the same along x and y"),
        ("plain.png", _png, "does not say its mpp"),
        (
            "tiny.tif",
            _tiff(image=picture(40, 40)),
            "--patch-px must fit the slide: 32 px at 2 um/px",
        ),
        (
            "coarse.tif",
            _tiff(mpp=4.0),
            "mpp must be at least the slide's own 4.*--allow-upsampling",
        ),
        (
            "float.tif",
            _tiff(image=picture(300, 300).astype(np.float32)),
            "pixels must be grey or RGB, 8 or 16 bit, got 32-bit float32",
        ),
    ],
)
def test_a_bad_slide_is_one_line(extract, slides, tmp_path, name, make, message):
    bad = tmp_path / name
    make(bad)
    answer = extract(bad, slides / "s0.tif", "--quiet")
    assert (answer.code, answer.out) == (1, "")
    assert len(answer.err) == 1, answer.err
    assert answer.err[0].startswith(f"{bad.stem}: failed: ")
    assert re.search(message, answer.err[0]), answer.err[0]
    assert list(feature_files(tmp_path / "f")) == ["s0.h5"]
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("percent", [30, 60, 99])
def test_a_real_slide_cut_off(extract, data, tmp_path, percent):
    whole = (data / "slides" / "CMU-1-Small-Region.svs").read_bytes()
    (tmp_path / "cut.svs").write_bytes(whole[: len(whole) * percent // 100])
    answer = extract(tmp_path / "cut.svs", "-q")
    assert answer.code == 1
    assert len(answer.err) == 1
    assert "cut.svs is truncated: " in answer.err[0]


def test_the_real_slide_of_a_wrong_mpp(extract, cli, data, tmp_path):
    path = data / "slides" / "CMU-1-Small-Region.jpeg.tiff"
    answer = extract(path, "-q")
    assert answer.code == 1
    assert len(answer.err) == 1
    assert "says 0.00499" in answer.err[0]
    assert "--mpp-override" in answer.err[0]
    # Of one content, at one right scale: contours of both files lie in level-0 pixels.
    svs = data / "slides" / "CMU-1-Small-Region.svs"
    assert cli("tissue", svs, "-o", tmp_path).code == 0
    assert cli("tissue", path, "-o", tmp_path, "--mpp-override", "0.499").code == 0
    boxes = []
    for name in ("CMU-1-Small-Region.geojson", "CMU-1-Small-Region.jpeg.geojson"):
        found = json.loads((tmp_path / name).read_text())["features"]
        corners = np.concatenate([f["geometry"]["coordinates"][0] for f in found])
        boxes.append([*corners.min(0), *corners.max(0)])
    np.testing.assert_allclose(boxes[1], boxes[0], atol=33)
    assert boxes[0][3] == 2967  # the tissue goes down to the lower edge


@pytest.mark.parametrize(
    "options",
    [
        {"image": picture(640, 512)[..., 1], "photometric": "minisblack"},
        {"image": picture(640, 512)[..., 1].astype(np.uint16) * 257, "photometric": "minisblack"},
        {"image": picture(640, 512).astype(np.uint16) * 257},
        {
            "image": np.dstack([picture(640, 512), np.full((640, 512), 255, np.uint8)]),
            "extrasamples": ["unassalpha"],
        },
    ],
    ids=["grey", "grey16", "rgb16", "rgba"],
)
def test_other_kinds_of_pixels(extract, tmp_path, options):
    _tiff(**options)(tmp_path / "other.tif")
    answer = extract(tmp_path / "other.tif", "-q")
    assert answer == Answer(0, "", [])


def test_a_corrupt_tile(extract, tmp_path):
    path = write_slide(tmp_path / "hurt.tif")
    offset, size = tile_extent(path, 3 * 8 + 4)
    overwrite(path, offset, bytes(size))
    answer = extract(path, "--min-tissue", "0.1")
    assert answer.code == 0
    assert re.search(
        r", 1 unreadable region in \d+ patch(es)?( \(.* pen marks .*\))?$", answer.err[0]
    )
    answer = extract(path, "--min-tissue", "0.1", "--strict", "-q", "--patch-px", "64")
    assert answer.code == 1
    assert len(answer.err) == 1
    assert "(--strict)" in answer.err[0]


def test_two_slides_of_one_stem(extract, slides, tmp_path):
    shutil.copy(slides / "s0.tif", tmp_path / "s0.tif")
    answer = extract(slides, tmp_path / "s0.tif")
    assert answer.code == 2
    assert len(answer.err) == 1
    assert "slides must have different names, both" in answer.err[0]
    assert "rename one" in answer.err[0]


def test_a_folder_without_slides(extract, tmp_path):
    answer = extract(tmp_path)
    assert answer.code != 0
    assert len(answer.err) == 1
    assert f"no slide in {tmp_path}" in answer.err[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scanned,mpp\na,1\n", r"must have a column file \(or .*\), got scanned, mpp"),
        ("wsi\na.svs\na.svs\n", "slides must be given once each, got .*a.svs twice"),
        ("wsi,mpp\na.svs,inf\n", "line 2: mpp must be a finite number, got 'inf'"),
        ("", "must have a header and at least one row"),
    ],
)
def test_a_bad_list(extract, tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    answer = extract(tmp_path / "list.csv")
    assert answer.code == 2
    assert len(answer.err) == 1
    assert re.search(message, answer.err[0])


def _float_encoder(path):
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["y"])]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["n", 3, 224, 224]), ("y", ["n", 3, 1, 1]))
    ]
    graph = helper.make_graph(nodes, "float", values[:1], values[1:])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)


def _encoder_without_metadata(path):
    model = onnx.load(write_encoder(path))
    del model.metadata_props[:]
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_text, "is not an ONNX file, or is truncated"),
        (_empty, "is empty"),
        (_float_encoder, r"has input 'x' float32 .*, not the pixel-in form"),
        (_encoder_without_metadata, "lacks the metadata of the pixel-in form"),
        (lambda path: path.mkdir(), "bad.onnx"),
    ],
)
def test_a_bad_encoder(cli, slides, tmp_path, make, message):
    bad = tmp_path / "bad.onnx"
    make(bad)
    answer = cli("extract", slides / "s0.tif", "--out", tmp_path / "f", "-e", bad)
    assert answer.code in (1, 2)
    assert len(answer.err) == 1
    assert re.search(message, answer.err[0]), answer.err[0]
    assert not (tmp_path / "f").exists()


def test_an_unknown_encoder(cli, slides, tmp_path):
    answer = cli("extract", slides, "-o", tmp_path / "f", "-e", "densenet121")
    assert answer.code == 1
    assert len(answer.err) == 1
    assert "did you mean densenet121-t2 or densenet121-t2-int8?" in answer.err[0]


def test_a_file_of_another_encoder_in_the_way(extract, cli, slides, tmp_path):
    extract(slides / "s0.tif")
    other = write_encoder(tmp_path / "tiny.onnx", scale=0.5)
    answer = cli("extract", slides / "s0.tif", "-o", tmp_path / "f", "-e", other, "-q")
    assert answer.code == 1
    assert len(answer.err) == 1
    assert "features_tiny is for features made with encoder.sha256 " in answer.err[0]
    assert answer.err[0].endswith("choose another output folder, or replace them with --overwrite")


def test_an_output_folder_that_is_a_file(extract, cli, slides, tmp_path):
    (tmp_path / "f").write_text("")
    answer = extract(slides)
    line = f"histofast: cannot write to {tmp_path / 'f'}: there is a file in the way"
    assert (answer.code, answer.err) == (1, [line])
    answer = cli("tissue", slides, "--out", tmp_path / "f")
    assert (answer.code, answer.err) == (1, [line])


def unprivileged() -> list[str]:
    """What keeps a command of root's from writing where it must not."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root writes everywhere, and there is no setpriv")
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]


@pytest.mark.skipif(os.name != "posix", reason="needs modes of files")
def test_folders_that_must_not_be_written(slides, encoder, tmp_path):
    source = tmp_path / "in"
    shutil.copytree(slides, source)
    (tmp_path / "f").mkdir()
    try:
        source.chmod(0o555)
        (source / "s1.tif").chmod(0o000)
        (tmp_path / "f").chmod(0o555)

        def run(out):
            command = [*unprivileged(), *PROGRAM, "extract", source, "-o", out, "-e", encoder]
            return subprocess.run([*command, "-q"], capture_output=True, text=True, check=False)

        done = run(tmp_path / "f" / "g")
        assert (done.returncode, done.stderr) == (
            1,
            f"histofast: cannot write {tmp_path / 'f' / 'g'}: Permission denied\n",
        )
        done = run(tmp_path / "g")
        assert done.returncode == 1
        assert done.stderr == (
            f"s1: failed: {source / 's1.tif'} cannot be read: Permission denied\n"
        )
        assert set(feature_files(tmp_path / "g")) == {"s0.h5", "s2.h5"}
    finally:
        source.chmod(0o755)
        (tmp_path / "f").chmod(0o755)


def test_a_full_disk(extract, slides, tmp_path):
    disk = tmp_path / "f"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small tmpfs here")
    try:
        (disk / "filler").write_bytes(bytes(56 << 10))
        answer = extract(slides, "-q")
        assert answer.code == 1
        assert answer.err[0].startswith("s0: failed: ")
        assert "no space left" in answer.err[0]
        assert answer.err[-1].startswith("stopped: ")
        assert not feature_files(disk)
        assert not leftovers(disk)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# --- the other commands ---------------------------------------------------------------------------


def test_verify(extract, cli, slides, encoder, tmp_path):
    extract(slides)
    answer = cli("verify", tmp_path / "f", "--encoder", encoder)
    assert (answer.code, answer.err) == (0, [])
    assert re.fullmatch(r"3 feature files, 0 broken; \d+ patches in whole ones\n", answer.out)
    path = feature_files(tmp_path / "f")["s1.h5"]
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    answer = cli("verify", tmp_path / "f")
    assert answer.code == 1
    lines = answer.out.splitlines()
    assert lines[0].startswith(f"{path}: ")
    assert lines[-1].startswith("3 feature files, 1 broken; ")
    found = json.loads(cli("verify", tmp_path / "f", "--json").out)
    assert found["files"] == 3
    assert list(found["problems"]) == [str(path)]
    other = write_encoder(tmp_path / "other.onnx", scale=0.5)
    answer = cli("verify", feature_files(tmp_path / "f")["s0.h5"], "-e", other)
    assert answer.code == 1
    assert "encoder" in answer.out


def test_verify_of_what_is_no_feature_file(cli, tmp_path):
    (tmp_path / "x.h5").write_text("nothing")
    answer = cli("verify", tmp_path)
    assert answer.code == 1
    assert answer.out.count(str(tmp_path / "x.h5")) == 1


def test_tissue(cli, slides, tmp_path):
    answer = cli("tissue", slides, "--out", tmp_path / "qc", "--mag", "5", "--patch-px", "32")
    assert (answer.code, answer.err) == (0, [])
    lines = answer.out.splitlines()
    assert re.fullmatch(
        r"s0: \d\.\d\d mm2 of tissue \(\d+\.\d %\), \d+ patches"
        r"( \(\d+ % of what could be tissue was taken for pen [^()]*\))?: .*s0_preview.png",
        lines[0],
    )
    mask = histofast.slides.read_mask(tmp_path / "qc" / "s0_mask.png")
    area_mm2 = mask.mean() * 0.640 * 0.512
    assert float(lines[0].split()[1]) == pytest.approx(area_mm2, abs=0.006)
    contours = json.loads((tmp_path / "qc" / "s0.geojson").read_text())
    assert contours["type"] == "FeatureCollection"
    preview = histofast.slides.read_image(tmp_path / "qc" / "s0_preview.png")
    assert preview.shape == (640, 512, 3)
    rows = json.loads(cli("tissue", slides, "-o", tmp_path / "qc", "--mag", "5", "--json").out)
    assert [row["name"] for row in rows] == ["s0", "s1", "s2"]
    assert rows[0]["tissue_mm2"] == pytest.approx(area_mm2)


def test_tissue_of_coarse_and_bad_slides(cli, slides, tmp_path):
    (tmp_path / "bad.svs").write_text("no slide")
    given = [tmp_path / "bad.svs", slides / "s0.tif", "-o", tmp_path, "--patch-px", "32"]
    answer = cli("tissue", *given)
    assert answer.code == 1
    assert [line.split(":")[0] for line in answer.err] == ["bad", "s0"]
    assert "--allow-upsampling" in answer.err[1]
    answer = cli("tissue", *given, "--allow-upsampling", "--json")
    assert answer.code == 1
    bad, good = json.loads(answer.out)
    assert bad["error"] in answer.err[0]
    assert good["patches"] > 0


def test_doctor(cli):
    answer = cli("doctor")
    assert answer.err == []
    assert answer.out.startswith("ok    python: ")
    findings = json.loads(cli("doctor", "--json").out)
    assert {"topic", "status", "text", "remedy"} <= set(findings[0])
    assert answer.code == int(any(f["status"] == "fail" for f in findings))


def test_models_export(cli, data, tmp_path):
    need("torch")
    weights = data / "weights" / "densenet121_imagenet.safetensors"
    arguments = ["models", "export", "densenet121", "--weights", weights]
    out = tmp_path / "short.onnx"
    answer = cli(*arguments, "--layer", "denseblock1", "--out", out, "--patch-px", "64")
    assert answer.code == 0, answer.err
    assert re.search(r"short.onnx: short, 256 features, .* MB, verified", answer.out)
    assert histofast.load_encoder(out).spec.patch_px == 64
    for change, message in (
        (["--layer", "denseblok1", "--out", tmp_path / "x.onnx"], "denseblock1"),
        (["--layer", "denseblock1", "--out", out], "--overwrite|overwrite"),
    ):
        answer = cli(*arguments, *change)
        assert answer.code in (1, 2)
        assert len(answer.err) == 1
        assert re.search(message, answer.err[0])


def test_demo(cli, tmp_path, monkeypatch):
    def small(folder, **_):
        folder.mkdir(parents=True)
        return [write_slide(folder / "demo.tif", size=(640, 640), mpp=0.5)]

    monkeypatch.setattr("histofast.patches.make_demo_slides", small)
    answer = cli("demo", "--out", tmp_path / "demo")
    assert answer.code == 0, answer.err
    assert "features (" in answer.out
    assert (tmp_path / "demo" / "qc" / "demo_preview.png").is_file()
    assert list(feature_files(tmp_path / "demo")) == ["demo.h5"]


# --- terminals, pipes and signals -----------------------------------------------------------------


@pytest.fixture(scope="module")
def long_run(slides, encoder):
    """Arguments of a run that takes a while for each of its slides."""
    dense = ["--mpp", "1", "--overlap", "28", "--min-tissue", "0.1", "--batch-size", "16"]
    return ["extract", str(slides), "-e", str(encoder), "--threads", "1", *dense]


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("number", SIGNALS)
def test_signals_leave_whole_files_only(long_run, tmp_path, number):
    out = tmp_path / "f"
    command = [*PROGRAM, *long_run, "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr.readline().startswith("[1/3] s0: ")
        process.send_signal(number)
        rest = process.stderr.read()
    assert process.returncode == 130, rest
    assert "interrupted: the same command goes on from here" in rest
    assert "Traceback" not in rest
    assert "s0.h5" in feature_files(out)
    assert len(feature_files(out)) < 3
    assert not leftovers(out)
    assert features.verify([out]).is_whole
    report = json.loads((out / "run.json").read_text())
    assert report["interrupted"]
    assert [s["status"] for s in report["slides"]].count("interrupted") >= 1


def test_an_interruption_before_the_first_slide(cli, monkeypatch, slides, tmp_path):
    def interrupted(*_, **__):
        try:
            cli_module._stopped(int(signal.SIGINT), None)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None

    monkeypatch.setattr("histofast.pipeline.extract", interrupted)
    answer = cli("extract", slides, "-o", tmp_path)
    assert (answer.code, answer.err) == (130, ["histofast: interrupted"])


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("asks", [True, False])
def test_work_that_asks_ends_where_it_asks_and_the_rest_soon(
    cli, monkeypatch, slides, tmp_path, asks
):
    began, where = [], []

    def count():  # a call: on Python 3.13 the end of a loop is in no `try` around it
        while time.monotonic() < began[0] + 30:
            if asks:
                stop_if_asked()

    def works(*_, **__):
        began.append(time.monotonic())
        signal.raise_signal(signal.SIGTERM)
        try:
            count()
        except KeyboardInterrupt as end:
            where.append(type(end))
            raise

    monkeypatch.setattr("histofast.pipeline.extract", works)
    answer = cli("extract", slides, "-o", tmp_path)
    assert (answer.code, answer.err) == (130, ["histofast: interrupted"])
    assert where == [Interrupted if asks else KeyboardInterrupt]
    took_s = time.monotonic() - began[0]
    assert took_s < cli_module.GRACE_S if asks else cli_module.GRACE_S <= took_s < 10


def test_who_has_heard_is_not_interrupted_while_it_cleans_up(cli, monkeypatch, slides, tmp_path):
    ended = []

    def works(*_, **__):
        signal.raise_signal(signal.SIGINT)
        try:
            stop_if_asked()
        finally:
            time.sleep(3 * cli_module.GRACE_S)
            ended.append(True)

    monkeypatch.setattr("histofast.pipeline.extract", works)
    answer = cli("extract", slides, "-o", tmp_path)
    assert (answer.code, answer.err, ended) == (130, ["histofast: interrupted"], [True])


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("ends_as", ["KeyboardInterrupt", "ImportError('not initialized')"])
def test_ctrl_c_again_while_the_first_is_told_shows_no_traceback(ends_as, slides):
    code = f"""
import os, signal, sys, time
from histofast import cli, encoding, pipeline

def interrupted(*_, **__):
    cli._Interruption.came = True
    raise {ends_as}

def again(*_, **__):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)

pipeline.extract, cli.say = interrupted, again
sys.argv = ["histofast", "extract", {str(slides)!r}, "-o", "f"]
cli.main()
"""
    signal_of = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, **signal_of
    )
    assert (ran.returncode, ran.stderr) == (-signal.SIGINT, b"")


def test_an_interruption_that_hits_a_destructor(cli, monkeypatch, slides, tmp_path):
    class Unlucky:
        def __del__(self):
            raise KeyboardInterrupt

    def runs_on(*_, **__):
        Unlucky()
        for _ in range(200):
            time.sleep(0.05)
        raise AssertionError("ran on")

    monkeypatch.setattr("histofast.pipeline.extract", runs_on)
    answer = cli("extract", slides, "-o", tmp_path)
    assert (answer.code, answer.err) == (130, ["histofast: interrupted"])


@pytest.mark.skipif(os.name != "posix", reason="needs pipes that break")
def test_a_reader_that_goes_away(slides, encoder, tmp_path):
    process = subprocess.Popen(
        [*PROGRAM, "models", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 1
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PROGRAM, "models", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "histofast: No space left on device\n")
    line = f"{' '.join(f'{part!r}' for part in PROGRAM)} extract {slides} -e {encoder}"
    done = subprocess.run(f"{line} --out {tmp_path / 'f'} <&- >&- 2>&-", shell=True, check=False)
    assert done.returncode == 0
    assert len(feature_files(tmp_path)) == 3


@pytest.mark.skipif(os.name != "posix", reason="needs a terminal")
def test_bars_on_a_terminal(slides, encoder, tmp_path):
    import pty

    odd = tmp_path / "in"
    odd.mkdir()
    shutil.copy(slides / "s0.tif", odd / "[red]s:smile:.tif")  # no markup, no emoji
    (odd / "bad.tif").write_text("no slide")
    ours, theirs = pty.openpty()
    command = [*PROGRAM, "extract", str(odd), "-e", str(encoder), "--out", str(tmp_path / "f")]
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # Linux's way to say that the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait() == 1
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    lines = re.split(r"[\r\n]+", text)
    assert any(re.match(r"slides +\S+ 2/2", line) for line in lines), lines
    assert any(line.startswith("[red]s:smile:: ") for line in lines)
    assert sum(line.startswith("bad: failed: ") for line in lines) == 1
    assert "2 slides: 1 done, 1 failed;" in text


def test_two_runs_in_one_folder_one_killed(long_run, tmp_path):
    """The one that is left makes all files, those of the dead one too."""
    out = tmp_path / "f"
    command = [*PROGRAM, *long_run, "--out", str(out)]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert first.stderr.readline().startswith("[1/3] s0: ")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as second:
        assert second.stderr.readline()  # it has made one that the first one had not
        first.kill()
        rest = second.stderr.read()
    first.stderr.close()
    first.wait()
    assert second.returncode == 0, rest
    assert set(feature_files(out)) == {"s0.h5", "s1.h5", "s2.h5"}
    assert features.verify([out]).is_whole


def test_a_library_that_is_broken_is_no_interruption(cli, monkeypatch, slides, tmp_path):
    def broken(*_, **__):
        raise histofast.errors.ModelError("onnxruntime cannot be imported")

    monkeypatch.setattr("histofast.pipeline.extract", broken)
    answer = cli("extract", slides, "-o", tmp_path)
    assert (answer.code, answer.err) == (1, ["histofast: onnxruntime cannot be imported"])


def test_notes_on_encoders_are_told_once_at_the_end(extract, slides, tmp_path, monkeypatch):
    from histofast.pipeline import encoding

    load, gpus = encoding.load_all, [None]

    def noted(*arguments, **options):
        loaded = load(*arguments, **options)
        loaded.device_note = notes[0]
        return loaded

    monkeypatch.setattr(encoding, "load_all", noted)
    monkeypatch.setattr("histofast.encoders.driver_gpu_count", lambda: gpus[0])
    notes = ["float16 is for GPUs: on a CPU the float32 encoder is faster"]
    answer = extract(slides)
    assert answer.code == 0
    assert answer.err.count(f"note: tiny: {notes[0]}") == 1
    assert answer.err[-2:] == [
        f"note: tiny: {notes[0]}", f"report: {tmp_path / 'f' / 'run.json'}",
    ]  # fmt: skip
    assert extract(slides, "-q").err == []
    answer = extract(slides, "--json")
    assert json.loads(answer.out)["notes"] == [f"tiny: {notes[0]}"]
    # Who has no GPU does not want to read it; who has one does.
    notes = ["CUDA is not used: libcudnn.so.9 is missing"]
    for count, told in ((None, 0), (0, 0), (1, 1)):
        gpus[0] = count
        answer = extract(slides)
        assert answer.err.count(f"note: tiny: {notes[0]}") == told
        saved = json.loads((tmp_path / "f" / "run.json").read_text())
        assert saved["notes"] == [f"tiny: {notes[0]}"]


def test_a_report_that_cannot_be_written_is_told(extract, slides, tmp_path):
    (tmp_path / "f" / "run.json").mkdir(parents=True)
    answer = extract(slides, "-q")
    reason = f"no report: cannot write {tmp_path / 'f' / 'run.json'}: Is a directory"
    assert (answer.code, answer.err) == (1, [reason])
    assert len(feature_files(tmp_path / "f")) == 3


def test_a_hole_in_the_overview_is_told(extract, cli, tmp_path):
    path = write_slide(tmp_path / "hurt.tif", size=(1280, 1024))
    offset, size = tile_extent(path, 5, page=1)
    overwrite(path, offset, bytes(size))
    answer = extract(path, "--min-tissue", "0.1")
    assert answer.code == 0
    assert re.search(
        r" patches in .* s, 1 unreadable region( \(.* pen marks .*\))?$", answer.err[0]
    )
    answer = cli("tissue", path, "--mpp", "2", "-o", tmp_path / "qc")
    assert answer.code == 0
    assert re.search(r" patches, 1 unreadable region( \(.* of the tissue .*\))?: ", answer.out)


# --- foreign graphs, and cutting ------------------------------------------------------------------


@pytest.fixture
def net(tmp_path):
    return residual(tmp_path / "net.onnx", batch=1, sides=(32, 32))


def test_models_add(cli, net, tmp_path):
    out = tmp_path / "added.onnx"
    answer = cli("models", "add", net, "--out", out, "--mean", "imagenet", "--licence", "MIT")
    assert (answer.code, answer.err) == (0, [])
    assert re.search(
        rf"^{out}: added, 5 features from fc, 32 px only, 0.0 MB, verified against {net}, sha256 ",
        answer.out,
    )
    spec = histofast.load_encoder(out).spec
    assert (spec.licence, spec.provenance, spec.patch_px) == ("MIT", "net.onnx", 32)
    arguments = ["--mean", "0.5,0.4,0.3", "--std", "0.2", "--at", "layer1", "--mpp", "2"]
    answer = cli("models", "add", net, "--out", out, *arguments, "--overwrite", "--name", "cut")
    assert (answer.code, answer.err) == (0, [])
    spec = histofast.load_encoder(out).spec
    assert (spec.name, spec.layer, spec.d, spec.mpp) == ("cut", "layer1", 4, 2.0)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--mean must be given: what the network was trained with, or imagenet$"),
        (["--std", "1"], 2, "--mean must be given beside --std, --channels and --scale$"),
        (["--channels", "bgr"], 2, "--mean must be given beside"),
        (["--mean", "0.5"], 2, "--std must be given beside --mean$"),
        (["--mean", "a,b", "--std", "1"], 2, "--mean must be three numbers .*, got 'a,b'$"),
        (["--mean", "0,0", "--std", "1"], 2, "--mean must be three numbers .*, got '0,0'$"),
        (["--mean", "104", "--std", "1"], 2, r"--mean must be within 0..1 .* say --scale 255$"),
        (["--mean", "0", "--std", "1", "--scale", "256"], 2, "--scale must be 1 or 255, got 256$"),
        (["--mean", "0", "--std", "1", "--channels", "bgrr"], 2, "rgb, bgr"),
        (["--mean", "imagenet", "--size", "64"], 1, "takes 32 px only, --size is 64"),
        (["--mean", "imagenet", "--output", "layr2"], 1, "no tensor 'layr2': did you mean layer2"),
        (["--mean", "imagenet", "--pool", "max"], 2, "pool must be one of auto, nchw"),
    ],
)
def test_models_add_refuses(cli, net, tmp_path, arguments, code, message):
    answer = cli("models", "add", net, "--out", tmp_path / "a.onnx", *arguments)
    assert (answer.code, answer.out, len(answer.err)) == (code, "", 1)
    assert re.search(message, answer.err[0])
    assert list(tmp_path.iterdir()) == [net]


def test_models_truncate(cli, net, tmp_path):
    answer = cli("models", "truncate", net, "--list")
    assert (answer.code, answer.err) == (0, [])
    lines = answer.out.splitlines()
    assert lines[3] == (
        "layer1.0.relu (also layer1, layer1.0): 4 features, 4 x 16 x 16, 82.3% of the FLOPs"
    )
    assert lines[-2:] == [
        "fc: 5 features, 5, 100.0% of the FLOPs",
        f"{net} takes patches of 32 px",
    ]
    answer = cli("models", "truncate", "densenet121-t2", "--list")
    assert "\ndenseblock1: 256 features, 256 x 64 x 64, 61.1% of the FLOPs\n" in answer.out
    out = tmp_path / "cut.onnx"
    answer = cli("models", "truncate", "densenet121-t2", "--at", "pool0", "--out", out)
    assert (answer.code, answer.err) == (0, [])
    told = f"{out}: cut, 64 features from pool0, 0.0 MB, verified against densenet121-t2, sha256 "
    assert answer.out.startswith(told)
    assert histofast.load_encoder(out).spec.layer == "pool0"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--at and --out must be given, or --list to see where to cut"),
        (["--at", "layer1"], 2, "--at and --out must be given"),
        (["--at", "layer1", "--out", "a.onnx"], 1, "wrap and cut it in one go .* add .*layer1`$"),
    ],
)
def test_models_truncate_refuses(cli, net, arguments, code, message):
    answer = cli("models", "truncate", net, *arguments)
    assert (answer.code, answer.out, len(answer.err)) == (code, "", 1)
    assert re.search(message, answer.err[0])
