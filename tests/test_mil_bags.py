"""Bags: feature files and a table of labels become slides with targets, or one clear line."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from extras import need
from histofast.errors import FeatureError
from histofast.features import FeatureWriter

need("torch")

from histofast.mil import open_bags

UNI = {"name": "uni", "sha256": "ab" * 32, "input_px": 224}


def write(folder, name, n=5, *, d=4, encoder=UNI, dtype="float32"):
    """Write a feature file of ours whose numbers follow from its name and sizes."""
    rng = np.random.default_rng([n, d, *name.encode()])
    features = rng.normal(size=(n, d)).astype(dtype)
    attributes = {"patch_size": 256, "patch_size_level0": 256, "name": name}
    identity = {} if encoder is None else {"encoder": encoder}
    with FeatureWriter(
        folder / f"{name}.h5",
        coords=np.arange(2 * n).reshape(n, 2),
        d=d,
        identity=identity,
        attributes=attributes,
        dtype=dtype,
    ) as writer:
        if n:
            writer.append(features)
        writer.finish()
    return features


def write_foreign(folder, name, features, **options):
    with h5py.File(folder / f"{name}.h5", "w") as file:
        file.create_dataset("features", data=features, **options)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Feature files of four slides, of 5, 6, 7 and 8 patches, in subfolders."""
    for i, name in enumerate("abcd"):
        (tmp_path / "features" / name).mkdir(parents=True)
        write(tmp_path / "features" / name, name, 5 + i)
    return tmp_path / "features"


@pytest.fixture
def table(tmp_path):
    def write_table(*lines: str) -> Path:
        path = tmp_path / "labels.csv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write_table


FOUR = ("slide,label", "a,no", "b,yes", "c,no", "d,yes")


class TestOpening:
    def test_classification(self, folder, table):
        bags = open_bags(
            folder, table("slide,label,case_id", "d,yes,p2", "b,yes,p2", "a,no,p1", "c,no,p3")
        )
        assert len(bags) == 4
        assert bags.names == ("a", "b", "c", "d")
        assert [path.name for path in bags.paths] == ["a.h5", "b.h5", "c.h5", "d.h5"]
        assert bags.sizes.tolist() == [5, 6, 7, 8]
        assert bags.sizes.dtype == bags.targets.dtype == np.int64
        assert (bags.task, bags.classes) == ("classification", ("no", "yes"))
        assert bags.targets.tolist() == [0, 1, 0, 1]
        assert bags.patients == bags.groups == ("p1", "p2", "p3", "p2")
        assert bags.splits == ("",) * 4
        assert bags.d == 4
        assert bags.encoder == {"name": "uni", "sha256": "ab" * 32}
        assert bags.notes == ()

    def test_regression_and_a_column_by_name(self, folder, table):
        path = table("slide,share", "a,0.5", "b,-1", "c,2e1", "d,0")
        bags = open_bags(folder, path, task="regression", label_column="share")
        assert bags.targets.tolist() == [0.5, -1, 20, 0]
        assert (bags.targets.dtype, bags.classes) == (np.float64, ())

    def test_what_a_group_is(self, folder, table):
        known = open_bags(folder, table("slide,label,PATIENT", "a,0,p", "b,1,p", "c,0,q", "d,1,r"))
        assert (known.groups, known.unit) == (("p", "p", "q", "r"), "patient")
        assert known.part([0]).unit == "patient"
        unknown = open_bags(folder, table(*FOUR))
        assert (unknown.groups, unknown.unit) == (("a", "b", "c", "d"), "slide")
        assert open_bags(folder, None).unit == "slide"

    def test_survival(self, folder, table):
        path = table("slide,time,event", "a,1,0", "b,2.5,1", "c,3,1.0", "d,4,0")
        bags = open_bags(folder, path, task="survival")
        assert bags.targets.tolist() == [[1, 0], [2.5, 1], [3, 1], [4, 0]]

    def test_without_labels(self, folder):
        bags = open_bags([folder / "a", folder / "c" / "c.h5", folder / "c"], None)
        assert bags.names == bags.groups == ("a", "c")
        assert bags.targets.shape == (0,)
        assert not bags.has_targets
        assert bags.patients == bags.splits == ("", "")

    @pytest.mark.parametrize("column", ["slide", "wsi", "slide_id", "bag", "patient", "anything"])
    def test_names_of_the_column_of_slides(self, folder, table, column):
        path = table(f"{column},label", "a,no", "b,yes", "c,no", "d,yes")
        assert open_bags(folder, path).targets.tolist() == [0, 1, 0, 1]

    def test_the_column_of_slides_need_not_be_first(self, folder, table):
        path = table(",label,wsi", "0,no,a", "1,yes,b", "2,no,c", "3,yes,d")
        assert open_bags(folder, path).targets.tolist() == [0, 1, 0, 1]

    def test_names_with_folders_and_suffixes(self, folder, table):
        write(folder, "e.2", 3)
        path = table("slide,label", "a.svs,0", "x/b.TIFF,1", r"D:\x\c.h5,0", "/d.pt,1", "e.2,1")
        bags = open_bags(folder, path)
        assert bags.names == ("a", "b", "c", "d", "e.2")
        assert bags.targets.tolist() == [0, 1, 0, 1, 1]

    def test_a_number_behind_a_dot_is_no_suffix(self, folder, table):
        path = table("slide,label", "a.2,no", "b,yes", "c,no", "d,yes")
        with pytest.raises(ValueError, match=r"labels without features: 1 \(a\.2\)"):
            open_bags(folder, path)

    def test_classes_that_are_numbers_are_ordered_as_such(self, folder, table):
        path = table("slide,label", "a,10", "b,9", "c,-1", "d,9")
        bags = open_bags(folder, path)
        assert bags.classes == ("-1", "9", "10")
        assert bags.targets.tolist() == [2, 1, 0, 1]

    def test_splits(self, folder, table):
        path = table("slide,label,split", "a,0,Train", "b,1,val", "c,0,valid", "d,1,test")
        assert open_bags(folder, path).splits == ("train", "validation", "validation", "test")

    def test_a_patient_in_two_classes_is_noted(self, folder, table):
        path = table("slide,label,patient", "a,0,p", "b,1,p", "c,0,q", "d,1,r")
        assert open_bags(folder, path).notes == ("patients with slides in several classes: 1 (p)",)

    def test_a_missing_label_is_left_out_and_counted(self, folder, table):
        path = table("slide,label,patient,split", "a,0,p,train", "c,NA,r,", "b,1,q,test", "d,,s,?")
        bags = open_bags(folder, path)
        assert (bags.names, bags.classes) == (("a", "b"), ("0", "1"))
        assert bags.notes == ("left out slides without a label: 2 (c, d), first in line 3",)
        path = table("slide,age,patient", "a,0.5,p", "b,NaN,q", "c,2,r", "d,1,s")
        bags = open_bags(folder, path, task="regression", label_column="age")
        assert bags.targets.tolist() == [0.5, 2.0, 1.0]
        assert bags.notes == ("left out slides without a label: 1 (b), first in line 3",)
        path = table("slide,time,event", "a,1,1", "b,2,", "c,NA,0", "d,4,1", "e,,")
        bags = open_bags(folder, path, task="survival")
        assert bags.targets.tolist() == [[1, 1], [4, 1]]
        assert bags.notes[1] == "left out slides without a label: 2 (b, c), first in line 3"

    def test_decimal_commas(self, folder, table):
        path = table("slide;time;event", "a;1,5;1", "b;2,0;0", "c;0,25;0", "d;1,125;1")
        bags = open_bags(folder, path, task="survival")
        assert bags.targets[:, 0].tolist() == [1.5, 2.0, 0.25, 1.125]

    def test_part(self, folder, table):
        bags = open_bags(folder, table(*FOUR))
        part = bags.part(np.array([3, 0]))
        assert (part.names, part.targets.tolist()) == (("d", "a"), [1, 0])
        assert (part.classes, part.sizes.tolist()) == (bags.classes, [8, 5])
        assert (part.d, part.encoder, len(bags.part([]))) == (4, bags.encoder, 0)
        np.testing.assert_array_equal(part.read(0), bags.read(3))
        assert not open_bags(folder, None).part([1, 2]).has_targets


class TestReading:
    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_ours_is_mapped(self, tmp_path, dtype):
        wanted = write(tmp_path, "a", 9, dtype=dtype)
        read = open_bags(tmp_path, None).read(0)
        np.testing.assert_array_equal(read, wanted)
        assert isinstance(read, np.memmap)
        assert read.dtype == dtype
        assert not read.flags.writeable

    def test_foreign_files(self, tmp_path, rng):
        wanted = rng.normal(size=(9, 4))
        write_foreign(tmp_path, "plain", wanted.astype(np.float32))
        write_foreign(tmp_path, "chunked", wanted, chunks=(2, 4), compression="gzip")
        write_foreign(tmp_path, "slide_axis", wanted[None].astype(np.float16))
        bags = open_bags(tmp_path, None)
        assert bags.encoder == {}
        assert bags.names == ("chunked", "plain", "slide_axis")
        for i, dtype in enumerate((np.float32, np.float32, np.float16)):
            assert bags.read(i).dtype == dtype
            np.testing.assert_array_equal(bags.read(i), wanted.astype(dtype))

    def test_large_numbers_are_finite(self, tmp_path):
        write_foreign(tmp_path, "a", np.full((9, 4), 3e38, np.float32))
        assert open_bags(tmp_path, None).read(0).max() == np.float32(3e38)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("dtype", [np.float16, np.float32])
    def test_nan_and_infinity_are_refused(self, tmp_path, bad, dtype):
        features = np.zeros((9000, 2), dtype)
        features[5000, 1] = bad
        write_foreign(tmp_path, "a", features)
        with pytest.raises(
            FeatureError, match=r"a\.h5 must be finite, got NaN or infinity in row 5000"
        ):
            open_bags(tmp_path, None).read(0)

    def test_doubles_that_do_not_fit_are_refused(self, tmp_path):
        write_foreign(tmp_path, "a", np.full((2, 2), 1e300))
        with pytest.raises(FeatureError, match=r"a\.h5 must be finite"):
            open_bags(tmp_path, None).read(0)

    def test_a_file_that_changed_since(self, tmp_path):
        write(tmp_path, "a", 9)
        bags = open_bags(tmp_path, None)
        write_foreign(tmp_path, "a", np.ones((9, 4), np.float32))
        with pytest.raises(FeatureError, match="as when opened, got other features: start anew"):
            bags.read(0)
        write(tmp_path, "a", 8)
        with pytest.raises(
            FeatureError, match=r"must be of shape \(9, 4\) as when opened, got \(8, 4\)"
        ):
            bags.read(0)
        (tmp_path / "a.h5").unlink()
        with pytest.raises(FileNotFoundError, match="no such feature file"):
            bags.read(0)

    def test_no_such_bag(self, folder):
        with pytest.raises(IndexError):
            open_bags(folder, None).read(4)


class TestBagsWithoutPatches:
    """A slide without tissue is left out, and named; all else stays what it is without it."""

    def test_they_are_left_out(self, folder, table):
        write(folder, "e", 0)
        write(folder, "f", 0)
        lines = ("slide,label,patient,split", "a,no,p,train", "b,yes,q,train", "c,no,r,test")
        lines += ("d,yes,s,test", "e,other,s,test")
        path = table(*lines, "f,no,t,train")
        for missing in ("error", "skip"):
            bags = open_bags(folder, path, missing=missing)
            assert (bags.names, bags.empty) == (("a", "b", "c", "d"), ("e", "f"))
            assert bags.notes == (
                "left out slides without a patch: 2 (e, f)",
                "left out patients without another slide: 1 (t)",
                "left out classes without another slide: 1 (other)",
            )
            without = open_bags(folder, table(*lines[:-1]), missing="skip")
            for name in ("names", "paths", "classes", "patients", "splits", "d", "encoder"):
                assert getattr(bags, name) == getattr(without, name)
            assert bags.targets.tolist() == without.targets.tolist()
            table(*lines, "f,no,t,train")

    def test_what_nobody_asked_for_is_not_named(self, folder, table):
        write(folder, "e", 0)
        bags = open_bags(folder, table(*FOUR), missing="skip")
        assert bags.empty == ()
        assert "left out features without labels: 1 (e)" in bags.notes

    def test_one_class_left(self, folder, table):
        write(folder, "e", 0)
        with pytest.raises(ValueError, match="must have at least two classes, got only no in 4"):
            open_bags(folder, table("slide,label", *(f"{n},no" for n in "abcd"), "e,yes"))


OPTIONS = {
    "dtype": "float16",
    "layout": "trident",
    "slide": "x",
    "level0_mpp": 0.25,
    "patch_px": 256,
    "mpp": 0.5,
    "overlap": 0,
    "min_tissue": 0.25,
    "edge": "drop",
    "tissue": {"revision": 3, "threshold": None, "overview_mpp": 8.0},
}


class TestOptions:
    """Features of one folder are of one making; only what is of a slide may differ."""

    @pytest.fixture
    def made(self, tmp_path):
        def write_two(folder, **changes):
            (tmp_path / folder).mkdir()
            encoder = UNI | {"provider": "CPU"}
            for name, more in (("a", {}), ("b", changes)):
                identity = {"encoder": encoder, **OPTIONS, **more}
                with FeatureWriter(
                    tmp_path / folder / f"{name}.h5",
                    coords=np.zeros((2, 2), np.int64),
                    d=4,
                    identity=identity,
                    attributes={"patch_size": 256},
                ) as writer:
                    writer.append(np.ones((2, 4), np.float32))
                    writer.finish()
            return tmp_path / folder

        return write_two

    @pytest.mark.parametrize(
        ("change", "one", "two"),
        [
            ({"mpp": 1.0}, "mpp 0.5", "mpp 1.0"),
            ({"overlap": 32, "edge": "shift"}, "edge drop, overlap 0", "edge shift, overlap 32"),
            ({"patch_px": 224}, "patch_px 256", "patch_px 224"),
            ({"dtype": "float32"}, "dtype float16", "dtype float32"),
            ({"min_tissue": 0.5}, "min_tissue 0.25", "min_tissue 0.5"),
            (
                {"tissue": {**OPTIONS["tissue"], "threshold": 30}},
                "tissue.threshold none",
                "tissue.threshold 30",
            ),
            (
                {"encoder": UNI | {"layer": "layer2"}},
                "encoder.layer layer1",
                "encoder.layer layer2",
            ),
        ],
    )
    def test_two_option_sets_are_refused(self, made, monkeypatch, change, one, two):
        monkeypatch.setitem(UNI, "layer", "layer1")
        folder = made("f", **change)
        with pytest.raises(FeatureError) as refused:
            open_bags(folder, None)
        assert str(refused.value) == (
            f"features must be made with the same options, got {one} in {folder / 'a.h5'} and {two} "
            f"in {folder / 'b.h5'}: name the folder of one"
        )

    @pytest.mark.parametrize(
        "change",
        [
            {"level0_mpp": 0.5},
            {"slide": "y"},
            {"layout": "clam"},
            {"tissue": "mask:12"},
            {"tissue": {"mask": "12", "overview_mpp": 8.0, "revision": 3}},
            {"encoder": UNI | {"provider": "CUDA", "batch_size": 64}},
        ],
    )
    def test_what_is_of_a_slide_or_a_machine_may_differ(self, made, change):
        assert open_bags(made("f", **change), None).options["mpp"] == 0.5

    def test_what_other_tools_tell(self, tmp_path):
        for name, size in (("a", 256), ("b", 512)):
            write_foreign(tmp_path, name, np.ones((3, 4), np.float32))
            with h5py.File(tmp_path / f"{name}.h5", "a") as file:
                file["features"].attrs["patch_size"] = size
        with pytest.raises(FeatureError, match=r"got patch_size 256 in .*a\.h5 and patch_size 5"):
            open_bags(tmp_path, None)


class TestBadFeatures:
    def test_nothing_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no such feature file or folder: .*nowhere"):
            open_bags(tmp_path / "nowhere", None)
        with pytest.raises(FileNotFoundError, match=r"no feature file \(\.h5, \.pt, \.npy\) in"):
            open_bags(tmp_path, None)
        with pytest.raises(ValueError, match="features must name at least one file or folder"):
            open_bags([], None)

    def test_two_encoders(self, folder):
        other = UNI | {"sha256": "cd" * 32}
        for name in "abc":
            write(folder, name, encoder=other)
        write(folder, "e", encoder=None)
        with pytest.raises(
            FeatureError,
            match=r"features must be made by one encoder, got 4 of uni \(sha256 abababababab\), "
            r"3 of uni \(sha256 cdcdcdcdcdcd\), 1 of an unknown one: name the folder of one",
        ):
            open_bags(folder, None)

    def test_many_encoders(self, tmp_path):
        for name in "abcd":
            write(tmp_path, name, encoder={"name": name, "sha256": name * 64})
        with pytest.raises(FeatureError, match=r"1 of c \(sha256 cccccccccccc\), \.\.\.: name"):
            open_bags(tmp_path, None)

    def test_two_widths(self, folder):
        write(folder, "e", d=5)
        with pytest.raises(
            FeatureError, match="features must be of one width, got 4 of 4 per patch, 1 of 5 per"
        ):
            open_bags(folder, None)

    def test_a_slide_at_two_scales(self, folder):
        write(folder, "b")
        with pytest.raises(
            ValueError, match=r"must hold one file per slide, got .*b\.h5 and .*b/b\.h5: name the"
        ):
            open_bags(folder, None)

    def test_nothing_but_empty_bags(self, tmp_path, table):
        for name in "abcd":
            write(tmp_path, name, 0)
        with pytest.raises(
            FeatureError,
            match=r"bags must have patches, got none in all 4 \(a, b, c, \.\.\.\): was",
        ):
            open_bags(tmp_path, table(*FOUR))
        bags = open_bags(tmp_path, None)
        assert (len(bags), bags.d, bags.empty) == (0, 4, ("a", "b", "c", "d"))

    def test_no_features(self, tmp_path):
        (tmp_path / "a.h5").write_bytes(b"not HDF5")
        with pytest.raises(FeatureError, match=r"a\.h5 must be a whole HDF5 file"):
            open_bags(tmp_path, None)
        write_foreign(tmp_path, "a", np.zeros((3, 4), np.int64))
        with pytest.raises(FeatureError, match=r"a\.h5 must be floating point numbers, got int64"):
            open_bags(tmp_path, None)


class TestBadLabels:
    @pytest.mark.parametrize(
        ("task", "lines", "message"),
        [
            ("classification", ("slide,target", "a,1"), "must have a column label, got slide, tar"),
            (
                "survival",
                ("slide,time", "a,1"),
                "must have a column event, got slide, time: name it so in the header$",
            ),
            (
                "survival",
                ("slide,x", "a,1"),
                "must have a column time and a column event, got slide, x: name it so",
            ),
            ("classification", ("label,x", "a,1"), r"must have a column slide \(or wsi, slide_id"),
            ("classification", ("slide,label",), "must have a header and at least one row"),
            ("classification", ("slide,label", ",1"), r"labels\.csv, line 2: slide is empty"),
            (
                "classification",
                ("slide,label,patient", "a,1,p", "b,0,"),
                r"labels\.csv, line 3: patient is empty",
            ),
            (
                "classification",
                ("slide,label,split", "a,1,fold1"),
                r"labels\.csv, line 2: split must be train, val or test, got 'fold1'",
            ),
            (
                "classification",
                (*FOUR, "a.svs,no", "d,no"),
                r"must name each slide once, got several rows for 2 \(a, d\)",
            ),
            (
                "classification",
                ("slide,label", "a,", "b,NA", "c,", "d,nan"),
                r"labels\.csv must have labels of the features' slides, got none of any",
            ),
            (
                "classification",
                ("slide,label,case", "a,x,p", "b,y,null"),
                r"labels\.csv, line 3: case must be told, got 'null'",
            ),
            (
                "classification",
                ("slide,label", "a,x", "b,x", "c,x", "d,x"),
                "must have at least two classes, got only x in 4 bags",
            ),
            (
                "regression",
                ("slide,label", "a,1", "b,high", "c,1e309", "d,inf"),
                r"line 3: label must be a finite number, got 'high' first for 3 \(b, c, d\)",
            ),
            (
                "survival",
                ("slide,time,event", "a,1,0", "b,0,1", "c,-2,1", "d,1,0"),
                r"time of .*labels\.csv must be above 0, got 0 first for 2 \(b, c\)",
            ),
            (
                "survival",
                ("slide,time,event", "a,1,0", "b,1,1", "c,2,2", "d,1,0.5"),
                r"event of .*labels\.csv must be 0 or 1, got 2 first for 2 \(c, d\)",
            ),
            (
                "survival",
                ("slide,time,event", "a,1,0", "b,1,0", "c,2,0", "d,1,0"),
                r"event of .*labels\.csv must be 1 in some rows, got 0 in all 4",
            ),
        ],
    )
    def test_one_clear_line(self, folder, table, task, lines, message):
        with pytest.raises(ValueError, match=message) as error:
            open_bags(folder, table(*lines), task=task)
        assert "\n" not in str(error.value)

    def test_no_table(self, folder, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no such table: .*none\.csv"):
            open_bags(folder, tmp_path / "none.csv")

    def test_options(self, folder, table):
        with pytest.raises(
            ValueError, match="task must be one of classification, regression, survival, got 'x'"
        ):
            open_bags(folder, table(*FOUR), task="x")
        with pytest.raises(ValueError, match="missing must be one of error, skip, got 'ask'"):
            open_bags(folder, table(*FOUR), missing="ask")

    def test_labels_and_features_that_do_not_match(self, folder, table):
        path = table("slide,label", "a,no", "b,yes", "v,no", "x,yes", "y,no", "z,")
        with pytest.raises(
            ValueError,
            match=r"labels\.csv and features must be of the same slides, got labels without "
            r"features: 3 \(v, x, y\); features without labels: 2 \(c, d\): leave them out with missing",
        ):
            open_bags(folder, path)
        bags = open_bags(folder, path, missing="skip")
        assert (bags.names, bags.targets.tolist()) == (("a", "b"), [0, 1])
        assert bags.notes == (
            "left out labels without features: 3 (v, x, y)",
            "left out features without labels: 2 (c, d)",
            "no column of patients: slides count as patients",
        )

    def test_labels_of_other_slides(self, folder, table):
        path = table("slide,label", "x,no", "y,yes")
        with pytest.raises(
            ValueError,
            match=r"got no common name: labels of 2 \(x, y\), features of 4 \(a, b, c, \.\.\.\)",
        ):
            open_bags(folder, path, missing="skip")

    def test_files_without_labels_are_not_opened(self, folder, table):
        (folder / "broken.h5").write_bytes(b"not HDF5")
        assert len(open_bags(folder, table(*FOUR), missing="skip")) == 4
