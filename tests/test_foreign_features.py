"""Feature files and folders of other tools, as they are: TRIDENT's jobs, CLAM's tensors, plain arrays."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from extras import need
from histofast.comparison import compare_features
from histofast.errors import FeatureError
from histofast.features import (
    FeatureWriter,
    content_sha256,
    find_features,
    open_features,
    problems_of,
    pt_path,
    read_features,
    verify,
)

NOTE = "passed over files without features of patches: 4 (a_patches.h5, b_patches.h5, a.h5, ...)"
LABELS = "slide_id,label\na.svs,0\nb.svs,1\n"


def numbers(seed: int, n: int = 6, d: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d), np.float32)


def tensor(path: Path, features: np.ndarray) -> Path:
    """A file as torch saves a tensor; torch itself reads ours, see `test_features.py`."""
    n, d = features.shape
    written = path.parent / "x" / "h5_files" / "a.h5"
    coords = np.zeros((n, 2), np.int64)
    with FeatureWriter(
        written, coords=coords, d=d, identity={}, attributes={}, layout="clam"
    ) as writer:
        writer.append(features)
        writer.finish()
    pt_path(written).rename(path)
    shutil.rmtree(path.parent / "x")
    return path


def open_bags(*arguments):
    need("torch")
    from histofast import mil

    return mil.open_bags(*arguments)


def hdf5(path: Path, **datasets: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
    return path


def trident(folder: Path) -> Path:
    """A job of TRIDENT: coordinates, features, and features of whole slides."""
    scale = folder / "20x_256px_0px_overlap"
    for seed, slide in enumerate("ab"):
        coords = np.arange(12, dtype=np.int64).reshape(6, 2)
        hdf5(scale / "patches" / f"{slide}_patches.h5", coords=coords)
        hdf5(scale / "features_uni" / f"{slide}.h5", features=numbers(seed), coords=coords)
        hdf5(scale / "slide_features_titan" / f"{slide}.h5", features=numbers(seed)[0])
    (folder / "contours").mkdir()
    (folder / "contours" / "a.jpg").touch()
    return folder


def labels(folder: Path) -> Path:
    (folder / "labels.csv").write_text(LABELS)
    return folder / "labels.csv"


# --- Whole folders -----------------------------------------------------------------------------


def test_a_job_of_trident_is_taken_whole(tmp_path):
    job = trident(tmp_path / "job")
    found = find_features(job)
    assert [path.parent.name + "/" + path.name for path in found.files] == [
        "features_uni/a.h5",
        "features_uni/b.h5",
    ]
    assert found.notes == (NOTE,)
    bags = open_bags(job, labels(tmp_path))
    assert (bags.names, bags.targets.tolist(), bags.sizes.tolist()) == (("a", "b"), [0, 1], [6, 6])
    np.testing.assert_array_equal(bags.read(1), numbers(1))
    assert bags.notes[0] == NOTE
    assert open_bags(job, None).notes == (NOTE,)


def test_a_folder_of_coordinates_has_no_features(tmp_path):
    folder = trident(tmp_path / "job") / "20x_256px_0px_overlap" / "patches"
    message = r"no feature file \(\.h5, \.pt, \.npy\) in .*: got 2 \(a_patches\.h5, b_patches\.h5\)"
    for read in (find_features, lambda path: open_bags(path, None)):
        with pytest.raises(FileNotFoundError, match=f"{message} without features of patches$"):
            read(folder)
    with pytest.raises(
        FeatureError, match="must have a dataset 'features' or 'feats', got 'coords'"
    ):
        open_bags(folder / "a_patches.h5", None)


def test_arrays_beside_other_files_are_told(tmp_path, cli):
    folder = tmp_path / "f"
    for seed, slide in enumerate("ab"):
        hdf5(folder / "h5_files" / f"{slide}.h5", features=numbers(seed))
    (folder / "pt_files").mkdir()
    for slide in "abc":  # those of a and b are the same features once more
        (folder / "pt_files" / f"{slide}.pt").touch()
    np.save(folder / "d.npy", numbers(3))
    found = find_features(folder)
    assert [path.stem for path in found.files] == ["a", "b"]
    assert [path.name for path in found.beside] == ["d.npy", "c.pt"]
    note = "passed over arrays, for .h5 files were read: 2 (d.npy, c.pt): name their own folder to read them"
    assert found.notes == (note,)
    assert open_bags(folder, None).notes == (note,)
    answer = cli("verify", folder)
    assert (answer.code, answer.out.splitlines()[-1]) == (0, note)
    for path in (folder / "h5_files").iterdir():
        path.unlink()
    assert [path.name for path in find_features(folder).beside] == ["d.npy"]


def test_a_broken_file_is_not_passed_over(tmp_path):
    job = trident(tmp_path / "job")
    (job / "c.h5").write_bytes(b"no HDF5")
    with pytest.raises(FeatureError, match=r"c\.h5 must be a whole HDF5 file, got none at all"):
        open_bags(job, None)


@pytest.mark.parametrize("suffix", [".pt", ".npy"])
def test_arrays_alone_are_features(tmp_path, suffix):
    folder = tmp_path / "pt_files"
    for seed, slide in enumerate("ab"):
        path = tensor(folder / f"{slide}{suffix}", numbers(seed))
        if suffix == ".npy":
            np.save(path, numbers(seed))
    bags = open_bags(folder, labels(tmp_path))
    assert (bags.names, bags.targets.tolist(), bags.d) == (("a", "b"), [0, 1], 4)
    for i in range(2):
        np.testing.assert_array_equal(bags.read(i), numbers(i))
        assert isinstance(bags.read(i), np.memmap)
    assert bags.contents() == tuple(
        hashlib.sha256(numbers(i).tobytes()).hexdigest() for i in range(2)
    )
    found = verify([folder])
    assert (found.files, found.patches, found.is_whole, len(found.not_sealed)) == (2, 12, True, 2)


def test_tensors_beside_hdf5_are_the_same_slides(tmp_path):
    for seed, slide in enumerate("ab"):
        hdf5(tmp_path / "f" / "h5_files" / f"{slide}.h5", features=numbers(seed))
        tensor(tmp_path / "f" / "pt_files" / f"{slide}.pt", numbers(seed))
    assert [path.suffix for path in open_bags(tmp_path / "f", None).paths] == [".h5", ".h5"]


def test_encoders_are_compared_by_tensors(tmp_path):
    for slide in range(6):
        features = numbers(slide, 40)
        tensor(tmp_path / "a" / f"{slide}.pt", features)
        np.save(tensor(tmp_path / "b" / f"{slide}.npy", features), features @ np.eye(4)[::-1] * 2)
    found = compare_features([tmp_path / "a", tmp_path / "b"], n=200, permutations=0)
    np.testing.assert_allclose(found.comparison.matrix, 1, atol=1e-5)


# --- What is in a file -------------------------------------------------------------------------


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


@pytest.mark.parametrize(
    "array",
    [
        numbers(0),
        numbers(0)[None],
        np.asfortranarray(numbers(0)),
        numbers(0).astype(np.float16),
        numbers(0).astype(">f8"),
        np.zeros((0, 4), np.float32),
    ],
)
def test_arrays_of_numpy(tmp_path, array):
    path = saved(tmp_path / "a.npy", array)
    wanted = array[0] if array.ndim == 3 else array
    for read in (read_features, open_features):
        file = read(path)
        np.testing.assert_array_equal(file.features, wanted)
        assert file.features.dtype == array.dtype
        assert (file.coords, file.identity, file.sha256) == (None, None, None)
    assert content_sha256(path) == hashlib.sha256(np.ascontiguousarray(wanted).data).hexdigest()
    assert problems_of(path) == []


def test_the_batch_axis_of_a_slide_is_left_out(tmp_path):
    path = hdf5(tmp_path / "a.h5", features=numbers(0)[None], coords=np.zeros((1, 6, 2), int))
    bags = open_bags(path, None)
    assert (bags.sizes.tolist(), bags.d) == ([6], 4)
    np.testing.assert_array_equal(bags.read(0), numbers(0))
    assert problems_of(path) == []


def test_tensors_as_torch_saves_them(tmp_path):
    torch = need("torch")
    x = torch.from_numpy(numbers(0))
    for wanted, given in (
        (x, x),
        (x[1:4], x[1:4]),
        (x.T, x.T),
        (x[:, 1:3], x[:, 1:3]),
        (x, x[None]),
        (x.half(), x.half()),
        (x.double(), x.double()),
        (x.bfloat16().float(), x.bfloat16()),
        (x, x.clone().requires_grad_(True)),
        (x[:0], x[:0].clone()),
    ):
        torch.save(given, tmp_path / "a.pt")
        np.testing.assert_array_equal(read_features(tmp_path / "a.pt").features, wanted.numpy())
        assert problems_of(tmp_path / "a.pt") == []
    for given, message in (
        ({"features": x}, r"got more than one tensor \(EMPTY_DICT\)"),
        (torch.nn.Linear(2, 2), "got more than one tensor"),
        (torch.arange(4), "must be floating point numbers, got a tensor of LongStorage"),
        (x[0], r"features of .*a\.pt must be of shape \(n, d\), got \(4,\)"),
        (torch.zeros(1).expand(5, 4), r"must be stored once each, got shape \(5, 4\)"),
    ):
        torch.save(given, tmp_path / "a.pt")
        with pytest.raises(FeatureError, match=message):
            read_features(tmp_path / "a.pt")
    torch.save(x, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(FeatureError, match=r"a file of torch 1\.6 or newer, got none: load it and"):
        read_features(tmp_path / "a.pt")


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil"),))


def test_nothing_that_a_tensor_file_names_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for content, message in (
        (pickle.dumps(Evil()), "got pathlib"),
        (b"\x80\x02]q\x00.", r"got more than one tensor \(EMPTY_LIST\)"),
        (b"\x80\x02K\x01.", "must hold one tensor, got something else: is it a model"),
        (b"\x80\x02r\xff\xff\xff\x7f.", r"LONG_BINPUT"),
        (b"\x80\x02" + b")" + b"\x85" * 20_000 + b".", "a pickle of 20004 bytes: is it a model"),
        (b"", "must be a whole file of one tensor, got "),
    ):
        with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
            archive.writestr("a/data.pkl", content)
        with pytest.raises(FeatureError, match=message) as error:
            read_features(tmp_path / "a.pt")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.arange(6).reshape(2, 3),
            "must be floating point numbers of at most 8 bytes, got int64",
        ),
        (np.zeros(3, [("x", int), ("y", int)]), "must be floating point numbers .*, got a table"),
        (np.zeros(3), r"must be of shape \(n, d\), got \(3,\)"),
        (np.zeros((2, 3, 4)), r"must be of shape \(n, d\), got \(2, 3, 4\)"),
        (np.array([{}]), "must be floating point numbers .*, got object"),
    ],
)
def test_arrays_that_are_no_features(tmp_path, array, message):
    with pytest.raises(FeatureError, match=message):
        read_features(saved(tmp_path / "a.npy", array))


def test_an_array_that_claims_more_than_it_has(tmp_path):
    path = saved(tmp_path / "a.npy", numbers(0))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(FeatureError, match=r"a\.npy must fit into its \d+ bytes, got 24 numbers"):
        read_features(path)
    path.write_bytes(b"nothing")
    with pytest.raises(FeatureError, match=r"a\.npy must be a NumPy file, got none"):
        read_features(path)


# --- What lies beside features ---------------------------------------------------------------


def stamp(path: Path, features: np.ndarray, kind: str) -> Path:
    """A file of STAMP, which says what its features are of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["feats"] = features
        file.attrs.update(stamp_version="2.2.0", extractor="uni", feat_type=kind, unit="um")
    return path


def test_stamps_features_of_slides_and_patients_are_no_patches(tmp_path):
    stamp(tmp_path / "tiles" / "a.h5", numbers(0), "tile")
    for kind in ("slide", "patient"):
        stamp(tmp_path / kind / "a.h5", numbers(1)[:1], kind)
    assert find_features(tmp_path).files == (tmp_path / "tiles" / "a.h5",)
    assert len(find_features(tmp_path).others) == 2
    with pytest.raises(FileNotFoundError, match=r"got 1 \(a\.h5\) without features of patches"):
        open_bags(tmp_path / "slide", None)


def test_coordinates_and_slides_beside_arrays_are_passed_over(tmp_path):
    """slide2vec and hs2p keep tables of coordinates as arrays."""
    table = np.zeros(6, [("x", int), ("y", int), ("tile_level", int)])
    for name, array in (
        ("coordinates/a", table),
        ("whole/a", numbers(0)[0]),
        ("xy/a", np.zeros((6, 2), int)),
        ("features/a", numbers(0)),
    ):
        (tmp_path / name).parent.mkdir()
        saved(tmp_path / f"{name}.npy", array)
    found = find_features(tmp_path)
    assert found.files == (tmp_path / "features" / "a.npy",)
    assert [path.parent.name for path in found.others] == ["coordinates", "whole", "xy"]
    note = "passed over files without features of patches: 3 (a.npy, a.npy, a.npy)"
    assert verify(tmp_path).notes == found.notes == (note,)
    with pytest.raises(FileNotFoundError, match=r"in .*whole: got 1 \(a\.npy\) without features"):
        verify([tmp_path / "whole", tmp_path / "whole"])
    both = verify([tmp_path / "features", tmp_path / "xy"])
    assert (both.files, both.is_whole, len(both.notes)) == (1, True, 1)
    assert both.notes[0].startswith("no feature file (.h5, .pt, .npy) in ")


@pytest.mark.parametrize("name", ["a.npz", "a.zarr/tables", "a.parquet", "a.pkl"])
def test_stores_that_are_not_read_are_named(tmp_path, name):
    (tmp_path / "f" / name).parent.mkdir(parents=True)
    (tmp_path / "f" / name).touch()
    store = name.partition("/")[0]
    message = (
        rf"no feature file .* in .*f, got 1 \({store}\): save the features of each slide as a \.npy"
    )
    with pytest.raises(FileNotFoundError, match=message):
        find_features(tmp_path / "f")
    with pytest.raises(
        FeatureError, match=rf"{store} must be an \.h5, \.pt or \.npy file: save the"
    ):
        read_features(tmp_path / "f" / store)
    if "/" in name:
        with pytest.raises(FileNotFoundError, match=r"got 1 \(a\.zarr\): save"):
            find_features(tmp_path / "f" / store)


def test_a_comparison_tells_what_it_passed_over(tmp_path):
    job = trident(tmp_path / "job")
    for seed, slide in enumerate("ab"):
        tensor(tmp_path / "pt" / f"{slide}.pt", numbers(seed) @ np.eye(4, dtype=np.float32)[::-1])
    found = compare_features([job, tmp_path / "pt"], permutations=0).comparison
    assert found.convention["beside the features"] == f"{job}: {NOTE}"
    alone = compare_features([job / "20x_256px_0px_overlap" / "features_uni", tmp_path / "pt"])
    assert "beside the features" not in alone.comparison.convention


# --- Verification ------------------------------------------------------------------------------


def test_files_of_others_are_not_sealed_and_not_broken(tmp_path, cli):
    job = trident(tmp_path / "job")
    found = verify([job])
    assert (found.files, found.patches, found.is_whole) == (2, 12, True)
    assert [path.name for path in found.not_sealed] == ["a.h5", "b.h5"]
    assert found.notes == (NOTE,)
    answer = cli("verify", job)
    assert answer.code == 0
    assert answer.out.splitlines() == [
        "2 feature files, 0 broken, 2 of other tools and not sealed; 12 patches in whole ones",
        "passed over files without features of patches: 4 (a_patches.h5, b_patches.h5, a.h5, ...)",
    ]
    bad = numbers(2)
    bad[4, 1] = np.nan
    path = hdf5(job / "c.h5", features=bad, coords=np.zeros((6, 2), int))
    assert problems_of(path) == ["features are not finite, first in row 4"]
    path = hdf5(job / "d.h5", features=numbers(3), coords=np.zeros((5, 2), int))
    (problem,) = problems_of(path)
    assert problem.endswith("d.h5 must be of shape (6, 2), got (5, 2)")
    answer = cli("verify", job, "--json")
    assert answer.code == 1
    told = json.loads(answer.out)
    assert (told["files"], len(told["problems"]), len(told["not_sealed"])) == (4, 2, 2)
