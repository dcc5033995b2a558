"""Slides that are read where they are: the same features as of files, few requests, faults on the way."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import histofast
from buckets import KINDS, bucket_of
from extras import need
from histofast._remote import Address, RemoteFile
from histofast.errors import SlideError, StoreError
from histofast.patches import list_jobs
from histofast.slides import TiffSlide, remote_parts
from slide_files import picture, write_tiff
from small_server import SmallServer
from small_slides import no_leftovers, run, write_slide

need("obstore")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("histofast._remote.store.FIRST_WAIT_S", 0.001)


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Slides of 6 MB in 400 tiles, of which patches of the test's encoder need all that are tissue."""
    folder = tmp_path_factory.mktemp("slides")
    for i in range(2):
        write_slide(
            folder / f"s{i}.tif",
            seed=i,
            size=(1280, 1280),
            mpp=2.0,
            compression=None,
            compressionargs=None,
        )
    return folder


@pytest.fixture
def server(slides):
    objects = {f"dir/{path.name}": path.read_bytes() for path in slides.glob("*.tif")}
    with SmallServer(**objects) as server:
        yield server


def addresses(server, *names):
    return [f"{server.url}/dir/{name}.tif" for name in names or ("s0", "s1")]


def told(folder):
    """All that feature files hold, but for what says which slide it was: by their names."""
    found = {}
    for path in folder.rglob("*.h5"):
        with h5py.File(path) as file:
            attributes = {
                k: v for k, v in file.attrs.items() if "identity" not in k and k != "sha256"
            }
            parts = {"": str(sorted(attributes.items()))}
            file.visititems(
                lambda name, part, parts=parts: (
                    parts.update({name: (part[()].tobytes(), str(sorted(part.attrs.items())))})
                    if isinstance(part, h5py.Dataset)
                    else None
                )
            )
        found[path.name] = parts
    return found


def test_features_are_those_of_files_and_cost_few_requests(
    slides, server, encoder, tmp_path, monkeypatch
):
    decoded = []
    read_tile = TiffSlide.read_tile

    def counted(slide, level, column, row, out):
        decoded.append((level, column, row))
        read_tile(slide, level, column, row, out)

    monkeypatch.setattr(TiffSlide, "read_tile", counted)
    report = run(addresses(server), tmp_path / "remote", encoder)
    assert [s.status for s in report.slides] == ["done"] * 2
    assert [s.name for s in report.slides] == ["s0", "s1"]
    assert 0 < len(server.requests) < len(decoded) / 20
    run(slides, tmp_path / "local", encoder)
    assert told(tmp_path / "remote") == told(tmp_path / "local") != {}
    assert histofast.features.verify([tmp_path / "remote"]).is_whole
    for path in (tmp_path / "remote").rglob("s0.h5"):
        identity = histofast.read_features(path).identity
        version = server.version_of("dir/s0.tif")
        size = len(server.objects["dir/s0.tif"])
        assert identity["slide"] == f"address:{server.url}/dir/s0.tif;size:{size};version:{version}"


def test_what_is_done_is_done_again_only_when_the_object_is_another(server, encoder, tmp_path):
    run(addresses(server), tmp_path, encoder)
    before = len(server.requests)
    report = run(addresses(server), tmp_path, encoder)
    assert [s.status for s in report.slides] == ["skipped"] * 2
    assert len(server.requests) - before <= 8
    server.objects["dir/s0.tif"] += b"\0"
    report = run(addresses(server), tmp_path, encoder)
    assert [s.status for s in report.slides] == ["failed", "skipped"]
    assert "was made by something else (slide" in report.slides[0].error
    report = run(addresses(server), tmp_path, encoder, overwrite=True)
    assert [s.status for s in report.slides] == ["done", "skipped"]


@pytest.mark.parametrize("at", [2, 3, 4, -1])
def test_an_object_that_changes_fails_its_slide_alone(server, encoder, tmp_path, at):
    """Whenever that is: when it is opened, when tiles are read, and before the last look at it."""
    run(addresses(server, "s0"), tmp_path / "whole", encoder)
    most, server.requests = len(server.requests), []
    assert most > 4

    def change(count):
        if count == at % (most + 1):
            server.objects["dir/s0.tif"] = server.objects["dir/s0.tif"][:-1] + b"?"

    server.on_request = change
    report = run(addresses(server), tmp_path / "out", encoder)
    assert [s.status for s in report.slides] == ["failed", "done"]
    assert "dir/s0.tif was changed while it was" in report.slides[0].error
    assert no_leftovers(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").rglob("*.h5")] == ["s1.h5"]


@pytest.mark.parametrize("trouble", ["refuse", "cut"])
def test_failures_that_pass_change_nothing(slides, server, encoder, tmp_path, trouble):
    def fail_now_and_then(count):
        if count % 4 == 0:
            setattr(server, trouble, 1)

    server.on_request = fail_now_and_then
    report = run(addresses(server), tmp_path / "remote", encoder)
    assert [s.status for s in report.slides] == ["done"] * 2
    run(slides, tmp_path / "local", encoder)
    assert told(tmp_path / "remote") == told(tmp_path / "local")


def test_a_server_that_ends_midway_fails_slides_and_damages_no_tile(server, encoder, tmp_path):
    def stop(count):
        server.refuse = 1000 if count > 4 else 0

    server.on_request = stop
    report = run(addresses(server), tmp_path, encoder)
    assert [s.status for s in report.slides] == ["failed"] * 2
    assert "cannot be read: the server answered 503" in report.slides[0].error
    assert list(tmp_path.rglob("*.h5")) == []
    server.on_request, server.refuse = lambda count: None, 0
    assert [s.status for s in run(addresses(server), tmp_path, encoder).slides] == ["done"] * 2


def test_an_object_that_is_not_there_fails_alone(server, encoder, tmp_path):
    report = run(addresses(server, "s0", "nothing"), tmp_path, encoder)
    assert [s.status for s in report.slides] == ["failed", "done"]
    assert report.slides[0].error == f"no such object: {server.url}/dir/nothing.tif"


def test_a_table_may_name_addresses_beside_files(slides, server, encoder, tmp_path):
    table = tmp_path / "slides.csv"
    table.write_text(f"wsi,mpp\n{addresses(server)[0]},2.0\n{slides / 's1.tif'},\n")
    report = run(table, tmp_path / "out", encoder)
    assert [(s.name, s.status) for s in report.slides] == [("s0", "done"), ("s1", "done")]
    assert [s.path for s in report.slides] == [addresses(server)[0], str(slides / "s1.tif")]


def test_nothing_secret_is_stored_printed_or_logged(server, encoder, tmp_path):
    server.user = "bWU6aHVudGVyMg=="  # me:hunter2
    url = server.url.replace("http://", "http://me:hunter2@")
    given = [f"{url}/dir/{name}.tif?X-Amz-Signature=s3cret" for name in ("s0", "nothing")]
    command = [sys.executable, "-c", "import sys; from histofast.cli import main; sys.exit(main())"]
    command += [
        "--log",
        str(tmp_path / "log.txt"),
        "extract",
        *given,
        "--out",
        str(tmp_path / "out"),
    ]
    command += ["--encoder", str(encoder), "--min-tissue", "0.1"]
    ran = subprocess.run(
        command,
        env={**os.environ, "HISTOFAST_LOG_LEVEL": "debug"},
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 1, ran.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"run.json", "s0.h5", "log.txt"} <= {path.name for path in files}
    seen = ran.stdout + ran.stderr + b"".join(path.read_bytes() for path in files)
    assert ran.stderr.count(b"/dir/nothing.tif") == 1
    assert b"extract 'http://127.0.0.1" in (tmp_path / "log.txt").read_bytes()
    for secret in (b"hunter2", b"s3cret", b"Signature", b"aHVudGVy"):
        assert secret not in seen


# --- one slide ------------------------------------------------------------------------------------


def test_a_slide_is_opened_by_few_requests_and_is_the_file_to_its_last_pixel(slides, server):
    with (
        histofast.open_slide(addresses(server)[0]) as remote,
        histofast.open_slide(slides / "s0.tif") as local,
    ):
        assert len(server.requests) <= 4
        assert (remote.name, remote.mpp, remote.levels) == (local.name, local.mpp, local.levels)
        assert remote.properties == local.properties
        assert (str(remote.path), remote.files) == (addresses(server)[0], ())
        for level in (0, 1):
            where = {"location": (100, 300), "level": level, "size": (700, 500)}
            np.testing.assert_array_equal(remote.read_region(**where), local.read_region(**where))
        np.testing.assert_array_equal(remote.overview(), local.overview())


@pytest.mark.parametrize("ome", [False, True])
def test_small_slides_cost_one_request(tmp_path, ome):
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    path = write_tiff(tmp_path / "x.tif", [image], ome=ome, metadata={} if ome else None)
    with SmallServer(**{"x.tif": path.read_bytes()}) as server:
        with histofast.open_slide(f"{server.url}/x.tif") as slide:
            np.testing.assert_array_equal(slide.read_region((0, 0), 0, (256, 256)), image)
        assert len(server.requests) == 1


def test_what_is_not_in_tiles_must_be_a_file(tmp_path):
    image = np.zeros((64, 64, 3), np.uint8)
    histofast.slides.write_png(tmp_path / "x.png", image)
    objects = {"x.png": (tmp_path / "x.png").read_bytes(), "x.mrxs": b"\xff\xd8", "empty.svs": b""}
    with SmallServer(**objects) as server:
        for name, said in (
            (
                "x.png",
                r"must be a tiled TIFF or OME-Zarr to be read where it is, got a file that begins with",
            ),
            ("x.mrxs", r"got one of the files .mrxs, which OpenSlide reads: copy it here, or have"),
            ("empty.svs", "is empty: copy it again"),
        ):
            with pytest.raises(SlideError, match=said):
                histofast.open_slide(f"{server.url}/{name}")


# --- listing --------------------------------------------------------------------------------------


@pytest.fixture(params=KINDS)
def bucket(request, monkeypatch):
    """A function that puts an object into an empty bucket."""
    with bucket_of(request.param, monkeypatch) as put:
        yield put


def keys(found):
    return [str(job.path).removeprefix("s3://cohort/") for job in found]


def test_folders_and_patterns_of_a_bucket_are_listed(bucket, tmp_path):
    for key in (
        "a/x.svs",
        "a/y.svs",
        "a/.h.svs",
        "a/notes.txt",
        "a/b/z.svs",
        "a/b/w.tif",
        "a/m.mrxs",
    ):
        bucket(key, b"12345")
    bucket("a/m/Data0.dat", b"1")
    for given, wanted in (
        ("a/x.svs", ["a/x.svs"]),
        ("a", ["a/m.mrxs", "a/x.svs", "a/y.svs"]),
        ("a/", ["a/m.mrxs", "a/x.svs", "a/y.svs"]),
        ("a/*.svs", ["a/x.svs", "a/y.svs"]),
        ("a/[xz].svs", ["a/x.svs"]),
        ("*/b/*", ["a/b/w.tif", "a/b/z.svs"]),
        ("**/*.svs", ["a/x.svs", "a/y.svs", "a/b/z.svs"]),
    ):
        assert keys(list_jobs(f"s3://cohort/{given}")) == wanted, given
        assert keys(list_jobs(Path(f"s3://cohort/{given}"))) == wanted  # which has lost a slash
    found = list_jobs("s3://cohort/a", recursive=True)
    assert [job.name for job in found] == ["m", "w", "x", "y", "z"]
    assert {job.path.size_bytes for job in found} == {5}
    with pytest.raises(FileNotFoundError, match="no such slide: s3://cohort/none"):
        list_jobs("s3://cohort/none")
    with pytest.raises(SlideError, match="no slide in s3://cohort/a/m/: looked for"):
        list_jobs("s3://cohort/a/m/")
    table = tmp_path / "t.csv"
    table.write_text("wsi\ns3://cohort/a/x.svs\ns3://cohort/a/x.svs\n")
    with pytest.raises(ValueError, match=r"given once each, got s3://cohort/a/x\.svs twice"):
        list_jobs(table)


def test_slides_of_a_bucket_are_encoded(bucket, slides, encoder, tmp_path):
    for path in slides.glob("*.tif"):
        bucket(f"in/{path.name}", path.read_bytes())
    report = run("s3://cohort/in/*.tif", tmp_path / "remote", encoder)
    assert [s.status for s in report.slides] == ["done"] * 2
    run(slides, tmp_path / "local", encoder)
    assert told(tmp_path / "remote") == told(tmp_path / "local")
    saved = json.loads((tmp_path / "remote" / "run.json").read_text())
    assert [s["path"] for s in saved["slides"]] == [
        "s3://cohort/in/s0.tif",
        "s3://cohort/in/s1.tif",
    ]


def test_a_folder_of_zarr_in_a_bucket_is_one_slide(bucket):
    for key in (
        "z/a.ome.zarr/.zattrs",
        "z/a.ome.zarr/0/0.0",
        "z/b.svs",
        "z/deep/c.zarr/0/zarr.json",
    ):
        bucket(key, b"12345")
    for given, wanted in (
        ("z", ["z/a.ome.zarr", "z/b.svs"]),
        ("z/*.zarr", ["z/a.ome.zarr"]),
        ("**/*.zarr", ["z/a.ome.zarr", "z/deep/c.zarr"]),
        ("z/deep/c.zarr/", ["z/deep/c.zarr/"]),
        ("z/deep/c.zarr/0", ["z/deep/c.zarr/0"]),
    ):
        assert keys(list_jobs(f"s3://cohort/{given}")) == wanted, given
    found = list_jobs("s3://cohort/z", recursive=True)
    assert [job.name for job in found] == ["a", "b", "c"]
    assert [job.name for job in list_jobs("s3://cohort/z/deep/c.zarr/0")] == ["c-0"]


def test_zarr_in_a_bucket_shows_what_is_in_a_folder(bucket, tmp_path):
    need("zarr")
    from zarr_files import write_zarr

    image = picture(150, 200)
    path = write_zarr(tmp_path / "a.zarr", [image], version="0.5", shard=2)
    for file in path.rglob("*"):
        if file.is_file():
            bucket(f"in/{file.relative_to(tmp_path).as_posix()}", file.read_bytes())
    with histofast.open_slide("s3://cohort/in/a.zarr/") as slide:
        assert slide.name == "a"
        np.testing.assert_array_equal(slide.read_region((0, 0), 0, (200, 150)), image)
        assert slide.identity


def test_instances_of_one_series_are_one_slide(bucket):
    def instance(series):
        return b"\0" * 128 + b"DICM" + b"\x20\x00\x0e\x00UI\x04\x00" + series

    for name, series in (("1", b"1.2\0"), ("2", b"1.2\0"), ("3", b"1.3\0")):
        bucket(f"d/{name}.dcm", instance(series))
    assert keys(list_jobs("s3://cohort/d")) == ["d/1.dcm", "d/3.dcm"]


def test_without_obstore_slides_fail_with_the_remedy(monkeypatch, encoder, tmp_path):
    monkeypatch.setitem(sys.modules, "obstore", None)
    report = run("https://127.0.0.1:9/x.svs", tmp_path, encoder)
    assert report.slides[0].error.endswith("pip install 'histofast[s3]'")


# --- slides that are copied first -----------------------------------------------------------------


@pytest.fixture
def pictures(slides, tmp_path):
    """Two pictures that are no slides in tiles, of 1 um per pixel."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(2):
        with histofast.open_slide(slides / f"s{i}.tif") as slide:
            histofast.slides.write_png(
                folder / f"p{i}.png", slide.read_region((0, 0), 0, (900, 700))
            )
    return folder


def files_below(folder):
    return [path for path in folder.rglob("*") if path.is_file() and ".locks" not in path.parts]


def test_pictures_are_copied_encoded_removed_and_not_copied_again(
    pictures, encoder, tmp_path, monkeypatch
):
    stage, copied = tmp_path / "stage", []
    copy_to = RemoteFile.copy_to

    def counted(file, path):
        copied.append(path.name)
        assert len(list(stage.iterdir())) <= 2
        copy_to(file, path)

    monkeypatch.setattr(RemoteFile, "copy_to", counted)
    objects = {path.name: path.read_bytes() for path in pictures.iterdir()}
    with SmallServer(**objects) as server:
        given = [f"{server.url}/{name}" for name in sorted(objects)]
        refused = run(given, tmp_path / "none", encoder, mpp_override=1.0)
        assert [s.status for s in refused.slides] == ["failed"] * 2
        assert "have it copied while it is encoded with stage=..." in refused.slides[0].error
        assert copied == []
        options = {"mpp_override": 1.0, "stage": stage}
        report = run(given, tmp_path / "remote", encoder, **options)
        assert [s.status for s in report.slides] == ["done"] * 2, report.slides[0].error
        assert copied == ["p0.png", "p1.png"]
        assert files_below(stage) == []
        assert [s.path for s in report.slides] == given
        again = run(given, tmp_path / "remote", encoder, **options)
        assert [s.status for s in again.slides] == ["skipped"] * 2
        assert len(copied) == 2
        server.objects["p0.png"] += b"\0"
        again = run(given, tmp_path / "remote", encoder, **options)
        assert "was made by something else (slide" in again.slides[0].error
        assert len(copied) == 2
        again = run(given, tmp_path / "remote", encoder, overwrite=True, **options)
        assert [s.status for s in again.slides] == ["done", "skipped"]
    run(pictures, tmp_path / "local", encoder, mpp_override=1.0)
    assert told(tmp_path / "remote") == told(tmp_path / "local") != {}


def test_what_is_copied_stays_within_its_bound(pictures, encoder, tmp_path):
    sizes = [path.stat().st_size for path in pictures.iterdir()]
    objects = {path.name: path.read_bytes() for path in pictures.iterdir()}
    with SmallServer(**objects) as server:
        given = [f"{server.url}/{name}" for name in sorted(objects)]
        options = {"mpp_override": 1.0, "stage": tmp_path / "stage"}
        one = run(given, tmp_path / "a", encoder, stage_gb=(max(sizes) + 1) / 1e9, **options)
        assert [s.status for s in one.slides] == ["done"] * 2  # one after the other
        small = run(given, tmp_path / "b", encoder, stage_gb=1e-6, **options)
        assert [s.status for s in small.slides] == ["failed"] * 2
        assert re.search(r"got 1e-06 GB for its 0\.00\d+: give more with", small.slides[0].error)
    with pytest.raises(ValueError, match=r"stage_gb must be given with stage=\.\.\., got 3$"):
        run(pictures, tmp_path / "c", encoder, stage_gb=3)


def test_a_copy_is_of_the_object_that_was_listed(bucket, tmp_path):
    bucket("in/x.png", b"1" * 100)
    parts = remote_parts(Address.of("s3://cohort/in/x.png"))
    bucket("in/x.png", b"2" * 100)
    with pytest.raises(StoreError, match=r"s3://cohort/in/x\.png was changed while it was read"):
        parts.copy_to(tmp_path)


def test_all_that_belongs_to_a_slide_is_copied(bucket, tmp_path):
    def instance(series):
        return b"\0" * 128 + b"DICM" + b"\x20\x00\x0e\x00UI\x04\x00" + series

    objects = {
        "m.mrxs": b"\xff\xd8",
        "m/Slidedat.ini": b"[GENERAL]",
        "m/deep/Data0.dat": b"data",
        "mm/Data0.dat": b"of another",
        "1.dcm": instance(b"1.2\0"),
        "2.dcm": instance(b"1.3\0"),
        "3.dcm": instance(b"1.2\0"),
        "v.vms": b"[Virtual]\nImageFile=v-0.jpg\nMapFile=../m/Slidedat.ini\n",
        "v-0.jpg": b"jpeg",
        "w-0.jpg": b"of another",
        "n.ndpi": b"II*\0",
    }
    for key, body in objects.items():
        bucket(f"in/{key}", body)
    for name, wanted in (
        ("m.mrxs", {"m.mrxs", "m/Slidedat.ini", "m/deep/Data0.dat"}),
        ("1.dcm", {"1.dcm", "3.dcm"}),
        ("v.vms", {"v.vms", "v-0.jpg"}),
        ("n.ndpi", {"n.ndpi"}),
    ):
        parts = remote_parts(Address.of(f"s3://cohort/in/{name}"))
        folder = tmp_path / name
        assert parts.copy_to(folder) == folder / name
        made = {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in files_below(folder)
        }
        assert made == {key: objects[key] for key in wanted}
        assert parts.size_bytes == sum(map(len, made.values()))
        before = parts.identity
        bucket(f"in/{min(wanted)}", b"\0" * 200)
        if name != "1.dcm":  # whose series it no longer is
            assert remote_parts(Address.of(f"s3://cohort/in/{name}")).identity != before


def test_keys_that_are_no_places_are_refused(bucket):
    bucket("in/m.mrxs", b"\xff\xd8")
    bucket("in/m/a:b", b"1")
    with pytest.raises(SlideError, match=r"in/m/a:b must have a key that names a file"):
        remote_parts(Address.of("s3://cohort/in/m.mrxs"))


def test_a_slide_in_several_files_cannot_be_copied_from_a_web_server():
    with (
        SmallServer(**{"m.mrxs": b"\xff\xd8"}) as server,
        pytest.raises(SlideError, match="a slide in several files, which a web server does not"),
    ):
        remote_parts(Address.of(f"{server.url}/m.mrxs"))


def test_patches_and_pyramids_are_made_of_addresses(cli, server, slides, tmp_path):
    """As of files, to the byte; coordinates name such a slide as any other."""
    plan = ["--mpp", "4", "--patch-px", "32", "--min-tissue", "0.1", "-q"]
    for out, of in (("there", addresses(server, "s0")[0]), ("here", slides / "s0.tif")):
        assert cli("patches", of, "-o", tmp_path / out, *plan).code == 0
        answer = cli("convert", of, tmp_path / out / "s0.tif", "--lossless", "-q")
        assert answer.code == 0, answer.err
    made = {path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*.*")}
    assert len(made) > 10
    for path in made:
        if path.suffix in (".png", ".tif", ".csv"):
            assert (tmp_path / "there" / path).read_bytes() == (
                tmp_path / "here" / path
            ).read_bytes()
    given = tmp_path / "here" / "patches.csv"
    again = ("-o", tmp_path / "again", "--coords", given, "--mpp", "4", "--patch-px", "32", "-q")
    assert cli("patches", addresses(server, "s0")[0], *again).code == 0
    assert len([*(tmp_path / "again").rglob("*.png")]) == len([*(tmp_path / "here").rglob("*.png")])
