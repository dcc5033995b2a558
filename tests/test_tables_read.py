"""CSV as it comes from anywhere: read right, or refused in one line with the file and the line."""

from __future__ import annotations

import codecs
import os
import re

import pytest

from histofast._tables import as_number, is_missing, number_remedy, read_table
from histofast.datasets import open_images
from histofast.errors import SlideError
from histofast.explain import read_values
from histofast.learning import LabelsOfPatients, read_labels
from histofast.patches import list_jobs, read_patch_table, with_masks


@pytest.fixture
def write(tmp_path):
    def write_bytes(content: bytes | str):
        path = tmp_path / "t.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_bytes


GOOD = "slide,label\ná,0\nb,1\n"


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD.encode("utf-8-sig"),
        GOOD.encode("utf-16"),
        codecs.BOM_UTF16_BE + GOOD.encode("utf-16-be"),
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\r"),
        "slide,label\r\ná,0\rb,1\n",
        "\n\r\nslide,label\n\n  \ná,0\n,\nb,1\n\n,,,\n".replace(",,,", ","),
        GOOD.replace(",", ";"),
        GOOD.replace(",", "\t"),
        "sep=;\n" + GOOD.replace(",", ";"),
        ("sep=\t\r\n" + GOOD.replace(",", "\t")).encode("utf-16"),
        'slide, "label"\n"á", "0"\n b , 1\n',
        '"sli\nde","label"\ná,0\nb,1\n',
        "slide;label;note, if any\ná;0;a, b\nb;1;\n",
        "slide,label,note\ná,0,a; b; c\nb,1,\n",
        'slide,label,note\ná,0,"several\nlines, and ""quotes"""\nb,1,\n',
        "slide,label,x,x,x\ná,0,1,2,3\nb,1,1,2,3\n",
        "slide,label\ná,0,\nb,1,,\n",
        "slide,label,,\ná,0,,\n,,,\nb,1,,\n",
        '"","slide","label"\n"1","á","0"\n"2","b","1"\n',
        "SLIDE_ID;Label\r\n/d/á.svs;0\r\nD:\\s\\b.ome.tif;1\r\n",
    ],
)
def test_tables_as_spreadsheets_save_them(write, content):
    found = read_labels(write(content), "áb")
    assert found.names == ("b", "á")
    assert found.classes == ("0", "1")


REFUSED = {
    GOOD.encode(
        "latin-1"
    ): "t.csv, line 2: must be CSV text in UTF-8, got the byte 0xe1: save it so",
    GOOD.encode("utf-16-le"): "t.csv, line 1: must be CSV text in UTF-8, got a NUL: save it so",
    GOOD.encode("utf-16")[:-1]: "t.csv, line 3: must be CSV text in UTF-8, got half a character",
    b"PK\x03\x04\xe1\0": (
        "t.csv must be CSV text, got a workbook or another archive: save the sheet as CSV"
    ),
    b"slide,label\na,0\nb\0,1\n": "t.csv, line 3: must be CSV text in UTF-8, got a NUL",
    b"slide,label\na,0\n\nb,1,2\n": "t.csv, line 4: must have 2 cells like the header, got 3",
    b"slide;label\na;0\nb;1;2\n": "t.csv, line 3: must have 2 cells like the header, got 3",
    b"slide,label\na,0\nb\n": "t.csv, line 3: must have 2 cells like the header, got 1: fill the row up",
    b'slide,label\n"a,0\nb,1\n': (
        "t.csv, line 2: must close its quotes, got one that is open at the end of the file"
    ),
    b'slide,label\n"a,0\n"b",1\n': (
        "t.csv, line 2: must have a quote in a quoted cell twice, got one alone: "
        "is one not closed before?"
    ),
    b'slide,label\n"a,0\nb,1\n",0\nc,1\n': (
        "t.csv, line 2: slide must be text of one line and at most 4096 characters, "
        r"got 'a,0\nb,1': is a quote not closed?"
    ),
    b"slide,label\n" + b"a" * 5000 + b",0\nb,1\n": "line 2: slide must be text of one line",
    b'slide,label\n"' + b"a,0\n" * 50_000: (
        "t.csv, line 2: must have cells of at most 131072 characters: is a quote not closed?"
    ),
    b"slide,label\na,0\n" + b"x" * (1 << 24) + b"y": (
        "t.csv, line 3: must have rows of at most 16777216 characters, got a longer one: "
    ),
    b"slide,label\na,0\n" + b'"x\n",' * (1 << 22): (
        "t.csv, line 3: must have rows of at most 16777216 characters, got a longer one: "
    ),
    b"slide,label;x\na,0;1\nb,1;2\n": (
        "t.csv, line 1: must be divided into cells in one way, got the same number by commas and "
        "by semicolons: quote the cells that have one"
    ),
    b"slide,label\na,Tumor\nb,tumor\n": (
        "t.csv must have classes of different names, got Tumor and tumor, which differ in "
        "case only: write them in one way"
    ),
    b"slide,label\na,0\nb,1\nc,1.0\n": "got 1 and 1.0, which are one number: write them in one way",
    b"\n\n": "t.csv must have a header and at least one row",
    b"a,b\n1,2\n": "t.csv must have a column label, got a, b: name it with label_column",
}


@pytest.mark.parametrize(("content", "message"), REFUSED.items(), ids=range(len(REFUSED)))
def test_what_is_no_table_is_refused_with_its_line(write, content, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_labels(write(content), "abc", missing="skip")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_million_columns_cost_nothing_that_lasts(write):
    header = ",".join(f"g{i}" for i in range(1_000_000))
    row = "," * 999_999
    table = read_table(write(f"slide,label,{header}\na,0,{row}\nb,1,{row}\n"))
    assert table.rows == ({"slide": "a", "label": "0"}, {"slide": "b", "label": "1"})
    with pytest.raises(
        ValueError,
        match=r"must have a column file \(or .*\), got slide, label, g0, .* and 999982 more$",
    ):
        table.needed("file")


READERS = {
    "labels": lambda path: read_labels(path, "ab"),
    "patches": read_patch_table,
    "set": open_images,
    "list": list_jobs,
    "values": read_values,
}
KINDS = [
    (name, kind)
    for name in READERS
    for kind in ("pipe", "folder", "device")
    if not (kind == "folder" and name in ("patches", "set"))  # a folder of classes is a table
]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_what_is_no_file_is_refused_unopened(tmp_path, name, kind):
    path = tmp_path / "t.csv"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"table .*t\.csv must be a file, got a ") as error:
        READERS[name](path)
    assert "\n" not in str(error.value)


NUMBERS = ["nan", "inf", "-inf", "1e309", "1,500", "1.234,5", "1'000", "1 000", "1_0", "1\u202f000"]
NUMBERS += ["٣", "1.5.", "0x1", "1e", "--1", "+-1", "½"]


@pytest.mark.parametrize("cell", NUMBERS)
def test_numbers_are_finite_and_written_with_a_point(write, cell):
    assert as_number(cell) is None
    remedy = ": write decimals with a point and thousands without a mark"
    assert number_remedy(cell) in ("", remedy)
    if cell[0] == "1" and cell[1] in ",'_ \u202f.":
        assert number_remedy(cell) == remedy
    got = re.escape(f"must be a finite number, got {cell!r}")
    for read, text, place in (
        (list_jobs, f"wsi,mpp\na.svs,0.5\nb.svs,'{cell}'\n", "t.csv, line 3: mpp"),
        (read_patch_table, f"file,slide,x,y\n1,a,0,'{cell}'\n", "t.csv, line 2: y"),
        (
            lambda path: read_labels(path, "ab", task="regression"),
            f"slide,label\na,1\nb,'{cell}'\n",
            "t.csv, line 3: label",
        ),
        (
            lambda path: read_labels(path, "a", task="survival"),
            f"slide,time,event\na,'{cell}',1\n",
            "t.csv, line 2: time",
        ),
    ):
        if is_missing(cell) and read is not read_patch_table:
            continue
        quoted = text.replace("'" + cell + "'", f'"{cell}"')
        with pytest.raises(ValueError, match=f"{place}.*{got}") as error:
            read(write(quoted))
        assert str(error.value).endswith(number_remedy(cell))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("wsi;mpp\na.svs;0,5\nb.svs;0,252\n", [0.5, 0.252]),
        ("wsi\tmpp\na.svs\t0,5\nb.svs\t,25\n", [0.5, 0.25]),
        ('wsi,mpp\na.svs,"0,5"\nb.svs,1.0\n', [0.5, 1.0]),
        ("wsi;mpp\n\na.svs;NA\n\nb.svs;\n", [None, None]),
    ],
)
def test_decimal_commas_and_missing_numbers(write, text, found):
    assert [job.mpp for job in list_jobs(write(text))] == found


def test_decimal_commas_of_values_on_a_map(write):
    found = read_values(write("x;y;share\n0;256;0,5\n256;0;1,25\n"))
    assert found.values.tolist() == [0.5, 1.25]
    with pytest.raises(ValueError, match="line 2: must have two whole numbers and a finite number"):
        read_values(write("x,y,share\n0,256,1.234\n".replace("1.234", '"1,234"')))


def test_what_is_missing_in_a_list_of_slides(write):
    text = "wsi,mpp,mask,patient\na.svs,NA,n/a,NULL\nb.svs,0.5,b.png,p\n"
    first, second = list_jobs(write(text))
    assert (first.mpp, first.mask, first.patient) == (None, None, "")
    assert (second.mpp, second.mask and second.mask.name, second.patient) == (0.5, "b.png", "p")
    with pytest.raises(ValueError, match=r"t\.csv, line 3: wsi must be told, got 'NA'"):
        list_jobs(write("wsi\na.svs\nNA\n"))


def test_coordinates_beyond_floats_are_whole(write):
    (bag,) = read_patch_table(write("file,slide,x,y\n1,a,9007199254740993,-0\n"))
    assert bag.coords.tolist() == [[9007199254740993, 0]]


def test_classes_that_look_like_numbers(write):
    """`+-1` is a name; a number of thousands of digits is one too."""
    found = read_labels(write("slide,label\na,+-1\nb,2\n"), "ab")
    assert found.classes == ("+-1", "2")
    found = read_labels(write(f"slide,label\na,{'1' * 4000}5\nb,2\n"), "ab")
    assert found.classes[0].startswith("1")
    assert read_labels(write("slide,label\na,10\nb,+9\n"), "ab").classes == ("+9", "10")


def test_lines_are_those_of_the_file(write):
    table = read_table(write('note,slide\n\n"a\nb",x\n,\nc,y\n'))
    assert list(table.line_numbers) == [3, 6]


def test_names_longer_than_names_can_be_are_slides_that_are_not_there(write, tmp_path):
    longer, long = "a" * 300, "b" * 250
    plain = list_jobs(write(f"wsi\n{longer}.svs\n{long}.svs\n"))
    with pytest.raises(SlideError, match=r"File name too long$"):
        plain[0].open(mpp=None)
    jobs = with_masks(plain, tmp_path)
    assert [job.name for job in jobs] == [longer, long]
    with pytest.raises(SlideError, match=r"^no such mask: "):
        jobs[0].open(mpp=None)
    with pytest.raises(FileNotFoundError, match="no such mask"):
        with_masks(jobs, tmp_path / longer)


def test_a_name_of_signs_is_no_other_spelling_of_an_unnamed_column(write):
    path = write("slide,,#\na,0,1\nb,1,2\n")
    assert read_labels(path, "ab", label_column="#").classes == ("1", "2")
    with pytest.raises(ValueError, match=r"must have a column \*, got slide, '', #"):
        read_labels(path, "ab", label_column="*")


def test_columns_are_counted_before_they_are_named(write):
    with pytest.raises(ValueError, match=r"must have at most 2097152 columns, got 3000001"):
        read_table(write("," * 3_000_000 + "x\n"))


NOTHING = ["", "NA", "na", "N/A", "#N/A", "NaN", "nan", "-nan", "NaT", "NULL", "<NA>", "missing"]
NOTHING += ["#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NUM!", "#NULL!"]


@pytest.mark.parametrize("cell", NOTHING)
def test_a_label_that_is_missing_is_no_class(write, cell):
    found = read_labels(write(f"slide,label\na,no\nb,yes\nc,{cell}\nd,yes\n"), "abcd")
    assert found.classes == ("no", "yes")
    assert found.names == ("a", "b", "d")
    assert found.targets.tolist() == [0, 1, 1]
    assert "left out slides without a label: 1 (c), first in line 4" in found.notes
    found = read_labels(write(f"slide,label\na,1\nb,2.5\nc,{cell}\n"), "abc", task="regression")
    assert found.targets.tolist() == [1.0, 2.5]


def test_names_of_slides_with_and_without_suffix_on_either_side(write):
    slides = ["a", "b.svs", "c.ome", "d", "e.2", "007", "g.svs", "g.ndpi"]
    text = "slide,label\nx/a.SVS,0\nb,1\nc.ome.tiff,0\nC:\\y\\d.mrxs,1\ne.2,0\n007,1\ng.svs,0\n"
    found = read_labels(write(text), slides, missing="skip")
    assert dict(zip(found.names, found.targets.tolist(), strict=True)) == {
        **dict.fromkeys(["a", "c.ome", "e.2", "g.svs"], 0),
        **dict.fromkeys(["b.svs", "d", "007"], 1),
    }
    with pytest.raises(ValueError, match=r"got no common name: labels of 2 \(g, b\.ndpi\)"):
        read_labels(write("slide,label\ng,0\nb.ndpi,1\n"), ["g.svs", "g.ndpi", "b.svs"])


def test_zeros_that_a_spreadsheet_took_are_told(write):
    remedy = ": save the column of slides as text, for spreadsheets take 007 for 7"
    with pytest.raises(ValueError, match=f"got no common name: .*{remedy}$"):
        read_labels(write("slide,label\n7,0\n12,1\n"), ["007", "012"])
    with pytest.raises(ValueError, match=f"labels without features: 1 .*{remedy}.0, or leave"):
        read_labels(write("slide,label\n7.0,0\n120,1\n"), ["007", "120"])
    found = read_labels(write("slide,label\n007,0\n012,1\n"), ["007", "012"])
    assert found.names == ("007", "012")


def test_classes_are_in_the_order_of_numbers(write):
    found = read_labels(write("slide,label\na,10.0\nb,2.0\nc,-1.5\n"), "abc")
    assert (found.classes, found.targets.tolist()) == (("-1.5", "2.0", "10.0"), [2, 1, 0])


def test_events_that_are_false_and_true(write):
    table = write("slide,time,event\na,1,True\nb,2,FALSE\nc,3,yes\n")
    found = read_labels(table, "abc", task="survival")
    assert found.targets.tolist() == [[1, 1], [2, 0], [3, 1]]


@pytest.mark.parametrize("suffix", [".tsv", ".TXT", ".csv"])
def test_lists_of_slides_are_tables_by_their_suffix(tmp_path, suffix):
    path = tmp_path / f"list{suffix}"
    path.write_text("wsi\tmpp\nx\\a.svs\t0,25\n", encoding="utf-16")
    (tmp_path / "x").mkdir()
    (job,) = list_jobs(path)
    assert (job.path, job.name, job.mpp) == (tmp_path / "x" / "a.svs", "a", 0.25)


def test_files_of_windows_are_found_under_slashes(write, tmp_path):
    table = write("file,mask\nx\\1.png,m\\1.png\nx\\2.png,\n")
    (tmp_path / "x\\2.png").touch()
    (one, two) = read_patch_table(table)
    assert (one.name, one.files) == ("1", (tmp_path / "x" / "1.png",))
    assert (two.name, two.files) == ("2", (tmp_path / "x\\2.png",))
    assert list_jobs(table)[0].mask == tmp_path / "m" / "1.png"


def test_columns_of_values_in_any_case(write):
    found = read_values(write("X;Y;Share\n0;256;0,5\n"))
    assert (found.name, found.coords_l0.tolist(), found.values.tolist()) == (
        "Share",
        [[0, 256]],
        [0.5],
    )


# --- Labels of patients ----------------------------------------------------------------------------


CLINI = "PATIENT,AGE,isMSIH\nP1,50,MSIH\nP2,61,nonMSIH\nP3,70,MSIH\nP4,44,NA\n"
SLIDES = "FILENAME;PATIENT\nx/a.h5;P1\nb.h5;P1\nc;P2\nd.svs;P4\ne.svs;P9\n"


@pytest.fixture
def stamp(tmp_path):
    (tmp_path / "clini.csv").write_text(CLINI)
    (tmp_path / "slide.csv").write_text(SLIDES)
    return LabelsOfPatients(tmp_path / "clini.csv", tmp_path / "slide.csv")


def test_labels_of_patients_are_those_of_their_slides(stamp):
    """STAMP's clinical and slide table."""
    found = read_labels(stamp, "abcd", label_column="isMSIH")
    assert (found.names, found.patients) == (("a", "b", "c"), ("P1", "P1", "P2"))
    assert [found.classes[k] for k in found.targets] == ["MSIH", "MSIH", "nonMSIH"]
    assert found.notes == (
        "patients without a slide: 1 (P3)",
        "slides of patients without a label: 1 (e.svs)",
        "left out slides without a label: 1 (d), first in line 5",
    )
    ages = read_labels(stamp, "abcd", label_column="AGE", task="regression")
    assert dict(zip(ages.names, ages.targets, strict=True)) == {"a": 50, "b": 50, "c": 61, "d": 44}
    with pytest.raises(ValueError, match=r"features without labels: 1 \(z\): leave them out"):
        read_labels(stamp, "abcdz", label_column="isMSIH")


@pytest.mark.parametrize(
    ("clini", "slides", "message"),
    [
        (CLINI + "P1,1,MSIH\n", SLIDES, r"clini\.csv must name each patient once .* for 1 \(P1\)$"),
        (CLINI, SLIDES.replace("PATIENT", "age"), r"slide\.csv must have a column patient \(or "),
        (CLINI, SLIDES.replace("FILENAME", "age"), r"slide\.csv must have a column file \(or "),
        (CLINI.replace("PATIENT", "who"), SLIDES, r"clini\.csv must have a column patient \(or "),
        (
            CLINI,
            "FILENAME,PATIENT\na,Q1\n",
            r"slide\.csv must name slides of the patients in .*clini",
        ),
        (
            CLINI,
            SLIDES + "a;P2\n",
            r"clini\.csv must name each slide once, got several rows for 1 ",
        ),
        (CLINI, SLIDES + ";P2\n", r"slide\.csv, line 7: FILENAME is empty"),
    ],
)
def test_two_tables_that_do_not_go_together(stamp, clini, slides, message):
    stamp.labels.write_text(clini)
    stamp.slides.write_text(slides)
    with pytest.raises(ValueError, match=message):
        read_labels(stamp, "abcd", label_column="isMSIH")


@pytest.mark.parametrize("cell", ['"=""007"""', '="007"', "007"])
def test_formulas_that_are_one_text_keep_their_zeros(write, cell):
    found = read_labels(write(f"slide,label\n{cell},0\n8,1\n"), ["007", "8"])
    assert found.names == ("007", "8")


def test_minus_signs_of_spreadsheets(write):
    found = read_labels(write("slide;label\na;\u22121,5\nb;-2,5\n"), "ab", task="regression")
    assert found.targets.tolist() == [-1.5, -2.5]


@pytest.mark.parametrize("name", ["01-Mar", "1. Mär", "Mar-21", "2021-03-01", "01.03.2021"])
def test_names_that_became_dates_are_told(write, name):
    table = write(f"slide,label\n{name},0\nb,1\n")
    message = (
        rf"features without labels: 1 \(1-3\): save the column of slides as text, for .*{name}"
    )
    with pytest.raises(ValueError, match=message):
        read_labels(table, ["1-3", "b"])
    assert read_labels(table, [name, "b"]).names == (name, "b")
