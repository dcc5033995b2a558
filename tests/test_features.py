"""Feature files: whole or absent, verifiable, and read by the neighbours' loaders."""

from __future__ import annotations

import errno
import gc
import io
import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
import zipfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extras import need
from histofast._files import Lock, Temporary, remove_stale_temporaries
from histofast.errors import FeatureError, NoSpaceError, WriteError
from histofast.features import (
    FeatureSummary,
    FeatureWriter,
    content_sha256,
    feature_files,
    feature_path,
    problems_of,
    pt_path,
    read_features,
    read_identity,
    read_summary,
    tensors,
    verify,
)
from histofast.features.tensors import write_tensor

IDENTITY = {
    "slide": {"name": "a", "identity": "12-ab"},
    "encoder": {"name": "uni", "sha256": "ab" * 32},
    "tiling": {"patch_size": 256, "mpp": 0.5},
    "version": "0.1.0",
}
ATTRIBUTES = {
    "name": "a",
    "encoder": "uni",
    "patch_size": 256,
    "patch_size_level0": 513,
    "overlap": 0,
    "level0_magnification": 40.08,
    "target_magnification": 20.0,
    "level0_width": 90_000,
    "level0_height": 70_000,
    "mpp": 0.5,
    "level0_mpp": 0.2495,
}


def arrays(n: int, d: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    return rng.standard_normal((n, d), np.float32), rng.integers(0, 70_000, (n, 2))


def write(path: Path, n: int = 10, *, d: int = 8, batch: int = 4, **options: Any) -> Path:
    features, coords = arrays(n, d)
    arguments = {"identity": IDENTITY, "attributes": ATTRIBUTES, **options}
    with FeatureWriter(path, coords=coords, d=d, **arguments) as writer:
        for start in range(0, n, batch):
            writer.append(features[start : start + batch])
        writer.finish()
    return path


def files_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return write(tmp_path / "a.h5")


class TestRoundTrip:
    @given(n=st.integers(0, 40), d=st.integers(1, 9), batch=st.integers(1, 50))
    @settings(max_examples=15)
    def test_any_batching(
        self, tmp_path_factory: pytest.TempPathFactory, n: int, d: int, batch: int
    ) -> None:
        path = write(tmp_path_factory.mktemp("f") / "a.h5", n, d=d, batch=batch)
        features, coords = arrays(n, d)
        for mmap in (False, True):
            read = read_features(path, mmap=mmap)
            np.testing.assert_array_equal(read.features, features)
            np.testing.assert_array_equal(read.coords, coords)
            chunks = list(read.iter_chunks(7))
            assert sum(map(len, chunks)) == n
            assert all(len(chunk) <= 7 for chunk in chunks)
        assert problems_of(path) == []
        assert files_in(path.parent) == ["a.h5"]

    def test_everything_comes_back(self, tmp_path: Path) -> None:
        features, coords = arrays(3)
        fraction = np.array([0.5, 1, 0.25], np.float32)
        regions = np.array([[0, 0, 240, 240], [480, 0, 240, 240]], np.int64)
        with FeatureWriter(
            tmp_path / "a.h5",
            coords=coords,
            d=8,
            identity=IDENTITY,
            attributes=ATTRIBUTES,
            tissue_fraction=fraction,
        ) as writer:
            writer.append(features)
            sha256 = writer.finish(unreadable=regions, unreadable_patches=np.array([0, 2]))
        read = read_features(tmp_path / "a.h5")
        assert read.sha256 == sha256
        assert read.identity == IDENTITY == read_identity(tmp_path / "a.h5")
        assert read.attributes.items() >= ATTRIBUTES.items()
        np.testing.assert_array_equal(read.tissue_fraction, fraction)
        np.testing.assert_array_equal(read.unreadable, regions)
        np.testing.assert_array_equal(read.unreadable_patches, [0, 2])

    def test_summary(self, tmp_path: Path) -> None:
        features, coords = arrays(3)
        regions = np.array([[0, 0, 512, 256], [512, 0, 512, 256]], np.int64)
        with FeatureWriter(
            tmp_path / "a.h5", coords=coords, d=8, identity=IDENTITY, attributes=ATTRIBUTES
        ) as writer:
            writer.append(features)
            writer.finish(unreadable=regions, unreadable_patches=np.array([1]), seen="size:1")
        assert read_summary(tmp_path / "a.h5") == FeatureSummary(
            identity=IDENTITY,
            unreadable=2,
            damaged_patches=1,
            seen="size:1",
            empty="",
            is_complete=True,
        )
        assert read_summary(tmp_path / "none.h5") is None

    @pytest.mark.parametrize("n", [0, 5])
    def test_a_clam_file_without_its_tensor_is_not_complete(self, tmp_path: Path, n: int) -> None:
        path = write(tmp_path / "h5_files" / "a.h5", n, layout="clam")
        pt = pt_path(path)
        whole = pt.read_bytes()
        for content, is_complete in ((whole, True), (b"", False), (whole[: n * 32], False)):
            pt.write_bytes(content)
            summary = read_summary(path)
            assert summary is not None
            assert summary.is_complete is is_complete
        pt.unlink()
        summary = read_summary(path)
        assert summary is not None
        assert not summary.is_complete

    def test_no_patches_is_a_whole_file(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.h5", 0)
        assert read_features(path, mmap=True).features.shape == (0, 8)
        assert read_identity(path) == IDENTITY
        assert problems_of(path) == []

    def test_half(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.h5", dtype="float16")
        read = read_features(path, mmap=True)
        assert read.features.dtype == np.float16
        np.testing.assert_array_equal(read.features, arrays(10)[0].astype(np.float16))
        assert problems_of(path) == []

    def test_same_input_same_bytes(self, tmp_path: Path) -> None:
        for layout in ("trident", "clam", "stamp"):
            one = write(tmp_path / "1" / layout / "h5_files" / "a.h5", batch=3, layout=layout)
            other = write(tmp_path / "2" / layout / "h5_files" / "a.h5", batch=10, layout=layout)
            assert one.read_bytes() == other.read_bytes()
        clam = Path("clam") / "pt_files" / "a.pt"
        assert (tmp_path / "1" / clam).read_bytes() == (tmp_path / "2" / clam).read_bytes()

    def test_checksum_is_of_the_plain_bytes(self, written: Path) -> None:
        import hashlib

        features, coords = arrays(10)
        plain = features.astype("<f4").tobytes() + coords.astype("<i8").tobytes()
        assert read_features(written).sha256 == hashlib.sha256(plain).hexdigest()

    def test_features_are_one_contiguous_run(self, written: Path) -> None:
        with h5py.File(written) as file:
            assert file["features"].chunks is None
            assert file["features"].compression is None

    def test_memory_does_not_grow_with_the_file(self, tmp_path: Path) -> None:
        import tracemalloc

        batch = np.ones((256, 64), np.float32)
        coords = np.zeros((256 * 200, 2), np.int64)
        tracemalloc.start()
        with FeatureWriter(
            tmp_path / "a.h5", coords=coords, d=64, identity=IDENTITY, attributes=ATTRIBUTES
        ) as writer:
            for _ in range(200):
                writer.append(batch)
            before = tracemalloc.get_traced_memory()[1]
            writer.finish()
        tracemalloc.stop()
        assert before < 2 * coords.nbytes  # 13 MB of features went by


class TestNeighbours:
    """Each test reads as the named tool does, with nothing of histofast."""

    def test_trident(self, tmp_path: Path) -> None:
        path = feature_path(
            tmp_path, mpp=0.5, patch_px=256, overlap_px=0, encoder="uni_v1", slide="a"
        )
        expected = tmp_path / "20x_256px_0px_overlap" / "features_uni_v1" / "a.h5"
        assert path == expected
        write(path)
        features, coords = arrays(10)
        with h5py.File(path, "r") as f:
            np.testing.assert_array_equal(f["features"][:], features)
            assert f["features"].dtype == np.float32
            np.testing.assert_array_equal(f["coords"][:], coords)
            assert f["coords"].dtype == np.int64
            assert f["coords"].attrs["patch_size_level0"] == 513
            assert f["coords"].attrs["patch_size"] == 256
            assert f["coords"].attrs["overlap"] == 0
            assert f["coords"].attrs["name"] == "a"
            assert f["coords"].attrs["level0_magnification"] == 40.08
            assert f["coords"].attrs["target_magnification"] == 20
            assert f["coords"].attrs["level0_width"] == 90_000
            assert f["features"].attrs["encoder"] == "uni"

    def test_clam(self, tmp_path: Path) -> None:
        path = feature_path(
            tmp_path, mpp=0.5, patch_px=256, overlap_px=0, encoder="uni", slide="a", layout="clam"
        )
        assert path.relative_to(path.parents[1]) == Path("h5_files/a.h5")
        write(path, layout="clam")
        features, coords = arrays(10)
        with h5py.File(path, "r") as f:
            np.testing.assert_array_equal(f["features"][:], features)
            np.testing.assert_array_equal(f["coords"][:], coords)
            assert f["coords"].dtype == np.int32
        assert pt_path(path) == path.parents[1] / "pt_files" / "a.pt"
        assert zipfile.ZipFile(pt_path(path)).testzip() is None
        assert problems_of(path) == []
        np.testing.assert_array_equal(read_features(path).coords, coords)

    @pytest.mark.parametrize("n", [0, 1, 10])
    def test_clam_tensor(self, tmp_path: Path, n: int) -> None:
        torch = need("torch")
        path = write(tmp_path / "h5_files" / "a.h5", n, layout="clam")
        tensor = torch.load(tmp_path / "pt_files" / "a.pt", weights_only=True)
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        np.testing.assert_array_equal(tensor.numpy(), arrays(n)[0])
        tensor += 1  # its own memory, writable
        assert problems_of(path) == []

    @pytest.mark.parametrize("limit", [250, 1000, 2**31 - 1])
    def test_clam_tensor_is_the_archive_that_zipfile_writes(
        self, limit: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Small limits stand for big files, whose sizes lie in fields of their own."""
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
        monkeypatch.setattr(tensors, "_ZIP64_LIMIT", limit)
        for shape in ((0, 3), (1, 1), (60, 1), (100, 7)):
            features = arrays(*shape)[0]
            ours, theirs = io.BytesIO(), io.BytesIO()
            write_tensor(ours, [features.tobytes()], shape=shape)
            with zipfile.ZipFile(ours) as archive, zipfile.ZipFile(theirs, "w") as copy:
                assert archive.testzip() is None
                for old in archive.infolist():
                    new = zipfile.ZipInfo(old.filename, (1980, 1, 1, 0, 0, 0))
                    new.create_system = 3
                    long = old.filename == "archive/data/0"
                    if not long:
                        copy.writestr(new, archive.read(old))
                        continue
                    with copy.open(new, "w", force_zip64=True) as member:
                        member.write(features.data)
            assert ours.getvalue() == theirs.getvalue()

    def test_stamp(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.h5", layout="stamp")
        features, coords = arrays(10)
        with h5py.File(path, "r") as f:
            np.testing.assert_array_equal(f["feats"][:], features.astype(np.float16))
            np.testing.assert_allclose(f["coords"][:], coords * 0.2495, rtol=1e-6)
            assert f["coords"].dtype == np.float32
            assert f.attrs["unit"] == "um"
            assert f.attrs["tile_size_um"] == 128.0
            assert f.attrs["tile_size_px"] == 256
            assert f.attrs["extractor"] == "uni"
            assert f.attrs["feat_type"] == "tile"
        np.testing.assert_array_equal(read_features(path).coords, coords)
        assert problems_of(path) == []

    def test_reads_their_files(self, tmp_path: Path) -> None:
        features, coords = arrays(5)
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as f:  # chunked, resizable, with the batch axis kept
            f.create_dataset(
                "features", data=features[None], chunks=(1, 1, 8), maxshape=(1, None, 8)
            )
            f.create_dataset("coords", data=coords).attrs["patch_size_level0"] = 512
        read = read_features(path)
        np.testing.assert_array_equal(read.features, features)
        np.testing.assert_array_equal(read.coords, coords)
        assert read.attributes == {"patch_size_level0": 512}
        assert read.identity is None
        assert read_identity(path) is None
        assert problems_of(path) == []
        assert verify([path]).not_sealed == (path,)
        with pytest.raises(FeatureError, match="must be contiguous to be mapped"):
            read_features(path, mmap=True)

    def test_reads_stamp_without_scale(self, tmp_path: Path) -> None:
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as f:
            f["feats"], f["coords"] = np.ones((2, 3), np.float16), np.ones((2, 2), np.float32)
            f.attrs["unit"] = "um"
        assert read_features(path).coords is None


class TestWholeOrAbsent:
    def test_exception_leaves_nothing(self, tmp_path: Path) -> None:
        def interrupted() -> None:
            features, coords = arrays(10)
            with FeatureWriter(
                tmp_path / "a.h5", coords=coords, d=8, identity=IDENTITY, attributes=ATTRIBUTES
            ) as writer:
                writer.append(features[:4])
                assert len(files_in(tmp_path)) == 1
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert files_in(tmp_path) == []

    def test_unfinished_leaves_nothing(self, tmp_path: Path) -> None:
        with (
            pytest.raises(ValueError, match=r"writer of a\.h5 must be finished"),
            FeatureWriter(
                tmp_path / "a.h5",
                coords=arrays(1)[1],
                d=8,
                identity=IDENTITY,
                attributes=ATTRIBUTES,
            ),
        ):
            pass
        assert files_in(tmp_path) == []

    def test_kill_leaves_no_final_file_and_is_swept(self, tmp_path: Path) -> None:
        script = f"""
            import numpy as np, sys, time
            from histofast._files import Lock
            from histofast.features import FeatureWriter
            Lock({str(tmp_path / "a.h5")!r}).acquire() or sys.exit("held")
            lock = Lock({str(tmp_path / "b.h5")!r}); lock.acquire()
            writer = FeatureWriter({str(tmp_path / "a.h5")!r}, coords=np.zeros((9, 2), np.int64), d=4,
                                   identity={{}}, attributes={{}})
            writer.append(np.ones((3, 4), np.float32))
            print("ready", flush=True)
            time.sleep(60)
        """
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            (temporary,) = tmp_path.glob(".a.h5.*.tmp")
            assert remove_stale_temporaries(tmp_path) == []  # its owner lives
            lock = Lock(tmp_path / "b.h5")
            assert not lock.acquire()
            process.send_signal(signal.SIGKILL)
        assert not (tmp_path / "a.h5").exists()
        assert read_identity(tmp_path / "a.h5") is None
        assert remove_stale_temporaries(tmp_path) == [temporary]
        assert not temporary.exists()
        assert lock.acquire()  # the dead hold nothing
        lock.release()

    @pytest.mark.skipif(sys.platform == "win32", reason="needs fcntl")
    def test_swept_where_locks_need_a_file_open_for_writing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As on NFS, which makes flock of fcntl's locks."""
        import fcntl

        stale = tmp_path / ".a.h5.123.0123abcd.tmp"
        stale.write_bytes(b"x")
        monkeypatch.setattr(fcntl, "flock", fcntl.lockf)
        assert remove_stale_temporaries(tmp_path) == [stale]
        assert not stale.exists()

    @pytest.mark.skipif(sys.platform == "win32", reason="needs fcntl")
    def test_a_file_system_without_locks_keeps_what_is_stale(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import fcntl

        def refuses(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        stale = tmp_path / ".a.h5.123.0123abcd.tmp"
        stale.write_bytes(b"x")
        monkeypatch.setattr(fcntl, "flock", refuses)
        assert remove_stale_temporaries(tmp_path) == []
        assert stale.exists()

    def test_old_file_stays_until_the_new_one_is_whole(self, written: Path) -> None:
        old = written.read_bytes()
        writer = FeatureWriter(
            written, coords=arrays(2)[1], d=8, identity=IDENTITY, attributes=ATTRIBUTES
        )
        writer.append(arrays(2)[0])
        assert written.read_bytes() == old
        writer.finish()
        writer.close()
        assert read_features(written).features.shape == (2, 8)

    def test_foreign_files_are_not_swept(self, tmp_path: Path) -> None:
        (tmp_path / ".a.h5.note.tmp").touch()
        (tmp_path / "a.tmp").touch()
        assert remove_stale_temporaries(tmp_path) == []
        assert remove_stale_temporaries(tmp_path / "missing") == []

    def test_no_room_is_told_before_the_first_row(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", fail)
        with pytest.raises(NoSpaceError, match=r"no space left on .*: a\.h5 needs 0\.0 MB"):
            write(tmp_path / "a.h5")
        assert files_in(tmp_path) == []

    @pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")
    @pytest.mark.parametrize("n", [500, 3000])
    def test_a_limit_of_file_sizes_is_met_before_hdf5_meets_it(
        self, tmp_path: Path, n: int
    ) -> None:
        """HDF5 would end the process."""
        script = f"""
            import resource
            import numpy as np
            from histofast.errors import WriteError
            from histofast.features import FeatureWriter
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
            try:
                FeatureWriter({str(tmp_path / "a.h5")!r}, coords=np.zeros(({n}, 2), np.int64), d=30,
                              identity={{}}, attributes={{}})
            except WriteError as error:
                print(error)
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            check=True,
            capture_output=True,
            text=True,
        )
        words = "File too large: the file system or `ulimit -f` allows no file of this size\n"
        assert (done.stdout, done.stderr) == (f"cannot write {tmp_path / 'a.h5'}: {words}", "")
        assert files_in(tmp_path) == []

    @pytest.mark.parametrize("when", ["append", "finish"])
    def test_no_room_later(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
    ) -> None:
        # h5py tells the reason in its text only.
        error = {
            "append": OSError(errno.ENOSPC, "No space left on device"),
            "finish": OSError(
                "Can't write data (file write failed: errno = 28, error message = ..."
            ),
        }[when]

        def fail(*_: Any) -> None:
            raise error

        target = {"append": "write", "finish": "sync"}[when]
        monkeypatch.setattr(Temporary, target, fail)
        with pytest.raises(NoSpaceError, match="no space left on"):
            write(tmp_path / "a.h5")
        assert files_in(tmp_path) == []

    @pytest.mark.parametrize("layout", ["trident", "clam"])
    def test_really_full_disk(self, full_disk: Path, layout: Any) -> None:
        path = full_disk / "h5_files" / "a.h5"
        n = 2000 if layout == "trident" else 1000  # clam: the .h5 fits, the .pt does not
        lacks = r"a\.h5 needs .* MB" if layout == "trident" else r"pt_files: a\.pt"
        with pytest.raises(NoSpaceError, match=rf"no space left on .*{lacks}; free some or"):
            write(path, n, d=180, layout=layout)
        assert files_in(full_disk) == []
        assert problems_of(write(path, 10)) == []
        free = os.statvfs(full_disk)
        (full_disk / "rest").write_bytes(bytes(free.f_bavail * free.f_bsize))
        with pytest.raises(NoSpaceError, match="no space left on"):
            write(full_disk / "h5_files" / "b.h5", 10, layout=layout)
        assert files_in(full_disk) == ["a.h5", "rest"]

    @pytest.mark.parametrize("layout", ["trident", "clam", "stamp"])
    def test_who_keeps_the_error_of_a_full_disk_keeps_no_space(
        self, full_disk: Path, layout: Any
    ) -> None:
        free = os.statvfs(full_disk).f_bfree
        errors = []
        gc.disable()  # a cycle would end by chance
        try:
            for _ in range(2):
                n = 1000 if layout == "clam" else 4000  # clam: the .h5 fits, the .pt does not
                with pytest.raises(NoSpaceError) as raised:
                    write(full_disk / "h5_files" / "a.h5", n, d=180, layout=layout)
                errors.append(raised.value)
                assert os.statvfs(full_disk).f_bfree == free
        finally:
            gc.enable()
        assert len(errors) == 2

    def test_disk_that_is_nearly_full(self, full_disk: Path) -> None:
        path = full_disk / "h5_files" / "a.h5"
        path.parent.mkdir()
        # In a process of its own: HDF5 crashes where it writes to a full disk.
        code = (
            f"import sys; sys.path[:] = {sys.path!r}\n"
            "import pathlib, test_features as t\n"
            "from histofast.errors import NoSpaceError\n"
            f"try: t.write(pathlib.Path({str(path)!r}), 400)\n"
            "except NoSpaceError as error: print(error)\n"
        )
        said = []
        for left_kb in (0, 4, 8, 12, 16, 32, 64):
            free = os.statvfs(full_disk)
            rest = full_disk / "rest"
            rest.write_bytes(bytes(free.f_bavail * free.f_bsize - 1024 * left_kb))
            done = subprocess.run(
                [sys.executable, "-c", code], check=False, capture_output=True, text=True
            )
            assert (done.returncode, done.stderr) == (0, "")
            said.append(done.stdout)
            assert files_in(full_disk) == ["rest"] if done.stdout else ["a.h5", "rest"]
            rest.unlink()
            path.unlink(missing_ok=True)
        assert all(not text or "no space left on" in text for text in said)
        assert said[0]
        assert not said[-1]

    def test_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(
            WriteError, match=r"cannot write .*a\.h5: (Not a directory|File exists)"
        ):
            write(tmp_path / "file" / "a.h5")


class TestRejections:
    def start(self, tmp_path: Path, **options: Any) -> FeatureWriter:
        arguments: dict[str, Any] = {
            "coords": arrays(10)[1],
            "d": 8,
            "identity": IDENTITY,
            "attributes": ATTRIBUTES,
        }
        return FeatureWriter(tmp_path / "a.h5", **(arguments | options))

    @pytest.mark.parametrize(
        ("options", "error", "match"),
        [
            ({"coords": np.zeros((3, 2))}, TypeError, "coords must be"),
            ({"coords": np.zeros((3, 3), np.int64)}, ValueError, "coords must be"),
            ({"d": 0}, ValueError, "d must be at least 1"),
            ({"layout": "zarr"}, ValueError, "layout must be one of trident, clam, stamp"),
            (
                {"layout": "clam", "dtype": "float16"},
                ValueError,
                "dtype must be float32 for layout",
            ),
            ({"dtype": "float64"}, ValueError, "dtype must be float32 or float16"),
            ({"layout": "stamp", "attributes": {}}, ValueError, "must have 'patch_size'"),
            ({"attributes": {"mpp": None}}, TypeError, r"attributes\['mpp'\] must be a string or"),
            ({"tissue_fraction": np.ones(3, np.float32)}, ValueError, "tissue_fraction must be"),
            ({"identity": {"x": float("nan")}}, ValueError, "not JSON compliant"),
        ],
    )
    def test_arguments(
        self, tmp_path: Path, options: Any, error: type[Exception], match: str
    ) -> None:
        with pytest.raises(error, match=match):
            self.start(tmp_path, **options)
        assert files_in(tmp_path) == []

    @pytest.mark.parametrize(
        ("features", "error", "match"),
        [
            (np.zeros((3, 8)), TypeError, "features must be"),
            (np.zeros((3, 8), np.float16), TypeError, "features must be"),
            (np.zeros((3, 7), np.float32), ValueError, "features must be"),
            (np.zeros((11, 8), np.float32), ValueError, "must have 10 rows in all"),
        ],
    )
    def test_rows(self, tmp_path: Path, features: Any, error: type[Exception], match: str) -> None:
        with self.start(tmp_path) as writer:
            with pytest.raises(error, match=match):
                writer.append(features)
            writer.append(arrays(10)[0])
            writer.finish()
            with pytest.raises(ValueError, match="must be open"):
                writer.append(arrays(10)[0])

    def test_too_few_rows(self, tmp_path: Path) -> None:
        with self.start(tmp_path) as writer:
            writer.append(arrays(10)[0][:9])
            with pytest.raises(
                ValueError, match="must have 10 rows in all, as many as coords, got 9"
            ):
                writer.finish()
            writer.append(arrays(10)[0][9:])
            with pytest.raises(ValueError, match=r"must be rows 0\.\.9, got 10"):
                writer.finish(unreadable_patches=np.array([1, 10]))
            writer.finish()

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, tmp_path: Path, value: float) -> None:
        features = arrays(10)[0]
        features[6, 3] = features[8, 0] = value
        writer = self.start(tmp_path)
        writer.append(features[:4])
        with pytest.raises(
            FeatureError, match="got NaN or infinity in 2 of 6 rows, first in row 6"
        ):
            writer.append(features[4:])
        writer.close()
        assert files_in(tmp_path) == []

    def test_large_values_are_finite(self, tmp_path: Path) -> None:
        features = np.full((10, 8), 3e38, np.float32)  # their sum is not
        with self.start(tmp_path) as writer:
            writer.append(features)
            writer.finish()

    def test_too_large_for_half(self, tmp_path: Path) -> None:
        features = arrays(10)[0]
        features[7] = 1e5
        with (
            pytest.raises(FeatureError, match=r"small enough for float16, .* first in row 7"),
            self.start(tmp_path, dtype="float16") as writer,
        ):
            writer.append(features)

    @pytest.mark.parametrize("name", ["", "../a", "a/b", ".a"])
    def test_names_of_no_file(self, name: str) -> None:
        with pytest.raises(ValueError, match="slide must be usable as a file name"):
            feature_path("f", mpp=0.5, patch_px=256, overlap_px=0, encoder="uni", slide=name)

    def test_scale_in_the_path(self) -> None:
        def folder(mpp: float | None) -> str:
            return feature_path(
                "f", mpp=mpp, patch_px=224, overlap_px=16, encoder="e", slide="s"
            ).parts[1]

        assert folder(0.5) == "20x_224px_16px_overlap"
        assert folder(0.499) == "20.0401x_224px_16px_overlap"
        assert folder(None) == "224px_16px_overlap"


class TestDamage:
    def test_not_a_file_of_ours(self, tmp_path: Path, written: Path) -> None:
        text = tmp_path / "text.h5"
        text.write_text("not an HDF5 file")
        empty = tmp_path / "empty.h5"
        empty.touch()
        other = tmp_path / "other.h5"
        with h5py.File(other, "w") as file:
            file["x"] = 1
        with pytest.raises(FileNotFoundError, match="no such feature file"):
            read_features(tmp_path / "missing.h5")
        for path, match in (
            (text, "must be a whole HDF5 file, got none at all"),
            (empty, "must be a whole HDF5 file, got none at all"),
            (other, "must have a dataset 'features' or 'feats', got 'x'"),
        ):
            assert read_identity(path) is None
            assert len(problems_of(path)) == 1
            with pytest.raises(FeatureError, match=match):
                read_features(path)
        assert read_identity(tmp_path / "missing.h5") is None
        assert read_identity(tmp_path) is None

    @pytest.mark.parametrize("keep", [0.01, 0.3, 0.6, 0.99])
    def test_truncated(self, tmp_path: Path, keep: float) -> None:
        path = write(tmp_path / "a.h5", 200)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])
        assert read_identity(path) is None
        assert len(problems_of(path)) == 1
        with pytest.raises(FeatureError, match="must be a whole HDF5 file, got"):
            read_features(path)

    def test_every_flipped_bit_of_the_data_is_found(self, written: Path) -> None:
        content = written.read_bytes()
        features, coords = arrays(10)
        for array, problem in (
            (features, "features or coords do not have the checksum the file states"),
            (coords, "changed or damaged since it was written, outside the features"),
        ):
            start = content.index(array.tobytes())
            for offset in (0, array.nbytes // 2, array.nbytes - 1):
                damaged = bytearray(content)
                damaged[start + offset] ^= 1
                written.write_bytes(damaged)
                assert problem in problems_of(written)
        written.write_bytes(content)
        assert problems_of(written) == []

    def test_every_flipped_bit_of_the_rest_is_found(self, written: Path, rng: Any) -> None:
        content = written.read_bytes()
        for offset in rng.integers(0, len(content), 300):
            damaged = bytearray(content)
            damaged[offset] ^= 1 << (offset % 8)
            written.write_bytes(damaged)
            assert problems_of(written) != []
            assert read_identity(written) in (None, IDENTITY)

    def test_changed_attribute(self, written: Path) -> None:
        with h5py.File(written, "r+") as file:
            file["coords"].attrs["level0_mpp"] = 0.25
        assert len(problems_of(written)) == 1
        assert read_identity(written) is None

    def test_changed_coordinates(self, written: Path) -> None:
        content = bytearray(written.read_bytes())
        content[content.index(arrays(10)[1].tobytes())] ^= 1
        written.write_bytes(content)
        with pytest.raises(FeatureError, match=r"a\.h5 must be as it was written"):
            read_features(written)
        assert len(problems_of(written)) == 1
        assert read_identity(written) is None

    def test_made_by_something_else_than_it_says(self, tmp_path: Path) -> None:
        identity = IDENTITY | {"tiling": {"patch_size": 224, "mpp": 0.5}, "d": 9}
        path = write(tmp_path / "a.h5", identity=identity)
        assert problems_of(path) == [
            "d is 8, but the identity says 9",
            "patch_size is 256, but the identity says 224",
        ]
        path = write(tmp_path / "a.h5", attributes=ATTRIBUTES | {"encoder": "virchow"})
        assert problems_of(path) == ["encoder is 'virchow', but the identity says 'uni'"]

    def test_another_encoder_of_that_name(self, written: Path) -> None:
        assert problems_of(written, encoders_sha256={"uni": "ab" * 32, "other": "0" * 64}) == []
        (problem,) = problems_of(written, encoders_sha256={"uni": "cd" * 32})
        assert "made by another file of encoder uni: sha256 abababababab instead of" in problem

    def test_not_finite_is_found(self, written: Path) -> None:
        with h5py.File(written) as file:
            offset = file["features"].id.get_offset()
        with written.open("r+b") as plain:
            plain.seek(offset + 4 * (3 * 8 + 2))
            plain.write(np.float32(np.nan).tobytes())
        assert "features are not finite, first in row 3" in problems_of(written)

    def test_tensor_beside_it(self, tmp_path: Path) -> None:
        path = write(tmp_path / "h5_files" / "a.h5", layout="clam")
        pt = tmp_path / "pt_files" / "a.pt"
        content = bytearray(pt.read_bytes())
        content[content.index(arrays(10)[0].tobytes()) + 5] ^= 1
        pt.write_bytes(content)
        assert problems_of(path) == ["the .pt file beside it holds other features"]
        pt.write_bytes(content[:100])
        assert problems_of(path) == ["no whole a.pt beside it"]
        pt.unlink()
        assert problems_of(path) == ["no whole a.pt beside it"]

    @pytest.mark.parametrize("layout", ["trident", "clam", "stamp"])
    @pytest.mark.parametrize("what", ["dataset", "attribute", "link", "byte", "front"])
    def test_what_is_added_to_a_file_is_found(self, tmp_path: Path, layout: Any, what: str) -> None:
        path = write(tmp_path / "h5_files" / "a.h5", layout=layout)
        if what in {"byte", "front"}:
            content = path.read_bytes()
            path.write_bytes(content + b"x" if what == "byte" else bytes(512) + content)
        else:
            with h5py.File(path, "r+") as file:
                if what == "dataset":
                    file["more"] = np.zeros(3)
                elif what == "attribute":
                    file["coords"].attrs["more"] = 1
                else:
                    file["more"] = h5py.ExternalLink("other.h5", "x")
        assert len(problems_of(path)) == 1
        assert read_identity(path) is None

    @pytest.mark.parametrize("n", [0, 10])
    @pytest.mark.parametrize(
        "change",
        [
            "exchanged pickle",
            "another pickle",
            "extra member",
            "other order",
            "compressed",
            "appended",
            "prepended",
            "other version",
            "comment",
        ],
    )
    def test_an_archive_that_is_not_as_written_is_found(
        self, tmp_path: Path, change: str, n: int
    ) -> None:
        """An old reader runs what a pickle says."""
        path = write(tmp_path / "h5_files" / "a.h5", n, layout="clam")
        pt = pt_path(path)
        whole = pt.read_bytes()
        with zipfile.ZipFile(pt) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
        evil = b"cos\nsystem\n(Vecho\ntR."
        if change == "exchanged pickle":  # of the same length, and the directory left as it was
            (pickled,) = [content for name, content in members if name == "archive/data.pkl"]
            changed = whole.replace(pickled, evil.ljust(len(pickled), b"."))
        elif change == "appended":
            changed = whole + b"x"
        elif change == "prepended":
            changed = b"x" + whole
        elif change == "other version":
            changed = whole.replace(b"3\n", b"2\n")
        elif change == "comment":
            changed = whole[:-2] + b"\x01\x00x"
        else:
            if change == "another pickle":
                members[0] = (members[0][0], evil)
            elif change == "extra member":
                members.append(("archive/.data/0", b"x"))
            elif change == "other order":
                members.reverse()
            kind = zipfile.ZIP_DEFLATED if change == "compressed" else zipfile.ZIP_STORED
            with zipfile.ZipFile(pt, "w", kind) as archive:
                for name, content in members:
                    archive.writestr(name, content)
            changed = pt.read_bytes()
        assert changed != whole
        pt.write_bytes(changed)
        (problem,) = problems_of(path)
        assert ".pt" in problem
        if change in {"exchanged pickle", "appended", "other version", "comment"}:
            assert problem == "the .pt file beside it was changed: do not load it"
        summary = read_summary(path)
        assert summary is not None
        assert not summary.is_complete
        pt.write_bytes(whole)
        assert problems_of(path) == []

    def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(self, tmp_path: Path) -> None:
        path = write(tmp_path / "h5_files" / "a.h5", layout="clam")
        pt_path(path).unlink()
        os.mkfifo(pt_path(path))
        assert problems_of(path) == ["no whole a.pt beside it"]
        summary = read_summary(path)
        assert summary is not None
        assert not summary.is_complete

    def test_folder(self, tmp_path: Path) -> None:
        for name in "abc":
            write(tmp_path / "x" / f"{name}.h5")
        (tmp_path / "x" / "b.h5").write_bytes(b"")
        (tmp_path / "x" / ".d.h5.1.00000000.tmp").touch()
        report = verify([tmp_path, tmp_path / "x" / "a.h5"])
        assert (report.files, report.patches, report.is_whole) == (3, 20, False)
        assert list(report.problems) == [tmp_path / "x" / "b.h5"]
        assert verify([tmp_path / "x" / "a.h5"]).is_whole
        with pytest.raises(FileNotFoundError, match="no such feature file or folder"):
            verify([tmp_path / "y"])


class TestStrangers:
    """Files of other tools, which HDF5 believes whatever they say."""

    @staticmethod
    def make(path: Path, **datasets: Any) -> Path:
        features, coords = arrays(10)
        with h5py.File(path, "w") as file:
            for name, data in ({"features": features, "coords": coords} | datasets).items():
                if data is not None:
                    file[name] = data
        return path

    @staticmethod
    def refused(path: Path, match: str) -> None:
        for read in (read_features, content_sha256):
            with pytest.raises(FeatureError, match=match) as raised:
                read(path)
            assert "\n" not in str(raised.value)
        assert len(problems_of(path)) == 1
        assert read_summary(path) is None

    @pytest.mark.parametrize("reader", ["read_features", "content_sha256", "verify"])
    def test_a_file_over_which_hdf5_loops_takes_no_time(self, data: Path, reader: str) -> None:
        path = data / "cases" / "hdf5_hang_foreign.h5"
        if not path.is_file():
            pytest.skip(f"no {path}")
        script = f"from histofast import features as f; f.{reader}({str(path)!r})"
        subprocess.run([sys.executable, "-c", script], check=True, timeout=20)

    @pytest.mark.parametrize("text", ["unit", "note"])
    def test_a_heap_of_texts_that_leads_back_to_itself(self, tmp_path: Path, text: str) -> None:
        path = self.make(tmp_path / "a.h5")
        with h5py.File(path, "r+") as file:
            file.attrs[text] = "um"
        content = bytearray(path.read_bytes())
        heap = content.index(b"GCOL")
        content[heap + 40 : heap + 4096] = bytes(4056)  # free space of no bytes
        path.write_bytes(content)
        script = f"""
            from histofast.features import read_features
            from histofast.errors import FeatureError
            try:
                read_features({str(path)!r})
            except FeatureError as error:
                print(error)
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            check=True,
            timeout=20,
            capture_output=True,
            text=True,
        )
        damaged = f"{path} must be a whole feature file, got a damaged heap of texts\n"
        assert done.stdout == (damaged if text == "unit" else "")

    @pytest.mark.parametrize("name", ["features", "coords"])
    def test_nothing_outside_the_file_is_read(self, tmp_path: Path, name: str) -> None:
        features, coords = arrays(10)
        array = features if name == "features" else coords
        other = self.make(tmp_path / "other.h5")
        (tmp_path / "raw").write_bytes(array.tobytes())
        layout = h5py.VirtualLayout(array.shape, array.dtype)
        layout[:] = h5py.VirtualSource(other, name, array.shape)
        for number, (make, got) in enumerate(
            [
                (
                    lambda file: file.__setitem__(name, h5py.ExternalLink("other.h5", name)),
                    "a link",
                ),
                (lambda file: file.__setitem__(name, h5py.SoftLink("/x")), "a link"),
                (lambda file: file.create_virtual_dataset(name, layout), "a virtual dataset"),
                (
                    lambda file: file.create_dataset(
                        name, array.shape, array.dtype, external=[("raw", 0, array.nbytes)]
                    ),
                    "external storage",
                ),
            ]
        ):
            path = self.make(tmp_path / f"{number}.h5", **{name: None})
            with h5py.File(path, "r+") as file:
                make(file)
            self.refused(path, f"^{name} of .* must lie in the file itself, got {got}$")

    def test_no_more_than_the_file_can_hold(self, tmp_path: Path) -> None:
        def file_of(name: str, shape: tuple[int, ...], **options: Any) -> Path:
            path = self.make(tmp_path / f"{name}.h5", features=None)
            with h5py.File(path, "r+") as file:
                file.create_dataset("features", shape, np.float32, **options)
            return path

        huge = (10**12, 16)
        self.refused(
            file_of("plain", huge), r"must fit into its \d+ bytes, got 64000000000000 bytes"
        )
        self.refused(file_of("chunks", huge, chunks=(10**7, 16)), "must fit into its")
        self.refused(
            file_of("tiny", (10**6, 16), chunks=(1, 16)), "must fit .*, got 1000000 chunks"
        )
        self.refused(
            file_of("wide", (10, 16), chunks=(10**7, 16), maxshape=(None, 16)),
            "must fit .*, got chunks of 640000000 bytes",
        )
        bomb = self.make(tmp_path / "bomb.h5", features=None)
        with h5py.File(bomb, "r+") as file:
            file.create_dataset(
                "features", (1 << 20, 80), np.float32, chunks=(1 << 18, 80), compression="gzip"
            )
        assert bomb.stat().st_size < 1 << 20
        self.refused(bomb, "must fit into its .* bytes, got 335544320 bytes of shape")

    def test_a_chunk_that_holds_more_than_a_chunk(self, tmp_path: Path) -> None:
        """HDF5 makes room for 400 MB, whatever its shape says."""
        path = self.make(tmp_path / "a.h5", features=None)
        stream = zlib.compressobj(9)
        deflated = b"".join(stream.compress(bytes(1 << 24)) for _ in range(24)) + stream.flush()
        with h5py.File(path, "r+") as file:
            made = file.create_dataset(
                "features", (10, 8), np.float32, chunks=(10, 8), compression="gzip"
            )
            made.id.write_direct_chunk((0, 0), deflated)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.refused(path, "features of .* must have chunks of 320 bytes, got more in one")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB

    @pytest.mark.parametrize("fletcher32", [False, True])
    def test_big_chunks_that_are_deflated(self, tmp_path: Path, fletcher32: bool) -> None:
        path = self.make(tmp_path / "a.h5", features=None, coords=None)
        features = arrays(3000, 256)[0]
        with h5py.File(path, "r+") as file:
            file.create_dataset(
                "features",
                data=features,
                chunks=(2000, 256),
                compression="gzip",
                shuffle=True,
                fletcher32=fletcher32,
            )
        np.testing.assert_array_equal(read_features(path).features, features)

    def test_what_compresses_well_is_no_bomb(self, tmp_path: Path) -> None:
        path = self.make(tmp_path / "a.h5", features=None, coords=None)
        with h5py.File(path, "r+") as file:
            file.create_dataset("features", data=np.zeros((9999, 64), "f4"), compression="gzip")
        assert read_features(path).features.shape == (9999, 64)

    @pytest.mark.parametrize(
        ("datasets", "match"),
        [
            ({"features": np.array([b"text"] * 10)}, r"must be floating point numbers, got \|S4$"),
            (
                {"features": np.zeros((10, 8), "i8")},
                "features of .* must be floating point numbers, got int64",
            ),
            (
                {"features": np.zeros((2, 10, 8), "f4")},
                r"must be of shape \(n, d\), got \(2, 10, 8\)",
            ),
            ({"features": np.zeros(10, "f4")}, r"must be of shape \(n, d\), got \(10,\)"),
            ({"features": np.float32(3)}, r"must be of shape \(n, d\), got \(\)"),
        ],
    )
    def test_what_is_no_features(self, tmp_path: Path, datasets: Any, match: str) -> None:
        self.refused(self.make(tmp_path / "a.h5", **datasets), match)

    @pytest.mark.parametrize(
        ("coords", "match"),
        [
            (np.zeros((9, 2), "i8"), r"coords of .* must be of shape \(10, 2\), got \(9, 2\)"),
            (np.zeros((10, 3), "i8"), r"must be of shape \(10, 2\), got \(10, 3\)"),
            (np.full((10, 2), np.nan), "must be pixels of a slide, got NaN or huge ones"),
            (np.full((10, 2), 2.0**60), "must be pixels of a slide, got NaN or huge ones"),
            (np.full((10, 2), 2**63, "u8"), "must be pixels of a slide, got NaN or huge ones"),
            (np.array([[b"a", b"b"]] * 10), "coords of .* must be numbers, got"),
        ],
    )
    def test_what_is_no_coordinates(self, tmp_path: Path, coords: Any, match: str) -> None:
        path = self.make(tmp_path / "a.h5", coords=coords)
        with pytest.raises(FeatureError, match=match):
            read_features(path)

    def test_of_its_attributes_only_those_asked_for(self, tmp_path: Path) -> None:
        path = self.make(tmp_path / "a.h5")
        with h5py.File(path, "r+") as file:
            file["coords"].attrs.update(
                patch_size=np.int32(256),
                overlap=[0],
                level0_width="wide",
                mpp=np.zeros(3),
                note="x",
            )
            file.attrs["unit"] = "px"
            file.attrs["level0_mpp"] = 0.25
            file.attrs["identity"] = "{}"
        read = read_features(path)
        assert read.attributes == {
            "patch_size": 256,
            "overlap": 0,
            "unit": "px",
            "level0_mpp": 0.25,
        }
        assert (read.identity, read.sha256) == (None, None)

    @pytest.mark.parametrize("level0_mpp", [0.0, -1.0, np.nan, "x", None])
    def test_um_without_a_scale_are_no_coordinates(self, tmp_path: Path, level0_mpp: Any) -> None:
        path = self.make(tmp_path / "a.h5", coords=np.ones((10, 2), "f4"))
        with h5py.File(path, "r+") as file:
            file.attrs["unit"] = np.bytes_("um")
            if level0_mpp is not None:
                file.attrs["level0_mpp"] = level0_mpp
        assert read_features(path).coords is None

    @pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")
    def test_what_is_no_file_is_not_waited_for(self, tmp_path: Path) -> None:
        (tmp_path / "folder.h5").mkdir()
        os.mkfifo(tmp_path / "pipe.h5")
        (tmp_path / "gone.h5").symlink_to("nowhere.h5")
        self.refused(tmp_path / "folder.h5", "feature file .* must be a file, got a folder")
        self.refused(tmp_path / "pipe.h5", "feature file .* must be a file, got a named pipe")
        with pytest.raises(FileNotFoundError, match=r"a link to nowhere\.h5, which is not"):
            read_features(tmp_path / "gone.h5")
        report = verify([tmp_path, tmp_path / "pipe.h5"])
        assert sorted(path.name for path in report.problems) == ["folder.h5", "gone.h5", "pipe.h5"]
        assert all(len(problems) == 1 for problems in report.problems.values())


class TestListing:
    def test_files_below_and_behind_links_once_and_none_that_is_hidden(
        self, tmp_path: Path
    ) -> None:
        for name in ("x/b.h5", "x/a.h5", "y/c.h5", "x/.d.h5", "x/e.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "x" / "linked").symlink_to(tmp_path / "y")
        (tmp_path / "y" / "back").symlink_to(tmp_path / "x")
        assert feature_files(tmp_path / "x") == [
            tmp_path / "x" / name for name in ("a.h5", "b.h5", "linked/c.h5")
        ]
        assert feature_files(tmp_path / "x" / "linked" / ".." / "none") == []

    def test_a_folder_that_cannot_be_read_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path / "a.h5")
        (tmp_path / "closed").mkdir()
        scan = os.scandir

        def refuse(path: Any) -> Any:
            if Path(path).name == "closed":
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return scan(path)

        monkeypatch.setattr(os, "scandir", refuse)
        words = f"cannot look for feature files in {tmp_path / 'closed'}: Permission denied"
        with pytest.raises(FeatureError, match=f"^{re.escape(words)}$"):
            feature_files(tmp_path)
        report = verify([tmp_path])
        assert (report.files, report.problems) == (1, {tmp_path / "closed": [words]})


class TestContent:
    def test_of_ours_is_what_the_file_states(self, written: Path) -> None:
        assert content_sha256(written) == read_features(written).sha256

    @pytest.mark.parametrize("batch_axis", [False, True])
    def test_of_others_is_of_the_same_bytes(self, written: Path, batch_axis: bool) -> None:
        file = read_features(written)
        other = written.with_name("other.h5")
        with h5py.File(other, "w") as made:
            made["features"] = file.features[None] if batch_axis else file.features
            made["coords"] = file.coords
        assert content_sha256(other) == file.sha256
        with h5py.File(other, "r+") as made:
            made["features"][..., 0] = 7
        assert content_sha256(other) != file.sha256

    def test_what_cannot_be_believed_is_refused(self, written: Path) -> None:
        data = bytearray(written.read_bytes())
        data[100] ^= 1
        written.write_bytes(data)
        with pytest.raises(FeatureError, match="must be as it was written"):
            content_sha256(written)
        with pytest.raises(FileNotFoundError, match="no such feature file"):
            content_sha256(written.with_name("none.h5"))


class TestLock:
    def test_one_owner(self, tmp_path: Path) -> None:
        one, other = Lock(tmp_path / "a.h5"), Lock(tmp_path / "a.h5")
        assert one.acquire()
        assert not other.acquire()
        assert Lock(tmp_path / "b.h5").acquire()
        one.release()
        with other as held:
            assert held
        other.release()
        assert files_in(tmp_path) == ["a.h5.lock", "b.h5.lock"]

    def test_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(WriteError, match="cannot write"):
            Lock(tmp_path / "file" / "a.h5").acquire()


def test_a_temporary_file_that_nobody_holds_is_removed(tmp_path):
    made = Temporary(tmp_path / "a.h5")
    assert [path.name for path in tmp_path.iterdir()] == [made.path.name]
    del made
    assert list(tmp_path.iterdir()) == []
    kept = Temporary(tmp_path / "b.h5")
    kept.keep()
    del kept
    assert [path.name for path in tmp_path.iterdir()] == ["b.h5"]
