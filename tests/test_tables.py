"""One vocabulary of columns: what any table of slides, patches or labels may call them."""

from __future__ import annotations

import pytest

from histofast._tables import NAMES, read_table
from histofast.learning import read_labels
from histofast.patches import list_jobs, read_patch_table


@pytest.fixture
def write(tmp_path):
    def write_table(*lines: str):
        path = tmp_path / "t.csv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write_table


PATIENTS = [
    *("patient", "PATIENT", "patient_id", "Patient ID", "patient-id", "PatientID", " Patient "),
    *("case", "case_id", "Case ID", "CASE_ID", "submitter_id", "case_submitter_id"),
    *("bcr_patient_barcode", "subject id", "Participant"),
]


@pytest.mark.parametrize("column", PATIENTS)
def test_patients_under_many_names(write, column):
    table = write(f"slide,label,{column}", "a,0,p", "b,1,p", "c,0,q", "d,1,r")
    found = read_labels(table, "abcd")
    assert found.patients == ("p", "p", "q", "r")
    assert not any("slides count" in note for note in found.notes)
    patches = write(f"file,slide,{column}", "1.png,a,p", "2.png,b,p")
    assert [(bag.name, bag.patient) for bag in read_patch_table(patches)] == [
        ("a", "p"),
        ("b", "p"),
    ]
    slides = write(f"wsi,{column}", "a.svs,p", "b.svs,p")
    assert [job.patient for job in list_jobs(slides)] == ["p", "p"]


@pytest.mark.parametrize("role", list(NAMES))
def test_every_name_in_every_spelling(write, role):
    for name in NAMES[role]:
        for spelt in (name, name.upper(), name.replace("_", " "), name.replace("_", "-").title()):
            assert read_table(write(f"other,{spelt}", "1,2")).column(role) == spelt


def test_no_name_has_two_meanings():
    plain = [name.replace("_", "") for names in NAMES.values() for name in names]
    assert len(plain) == len(set(plain))


@pytest.mark.parametrize(
    ("slide", "label", "split"),
    [("Slide ID", "Label", "Split"), ("WSI", "LABEL", "SPLIT"), ("slide-name", " label ", "split")],
)
def test_labels_in_other_spellings(write, slide, label, split):
    table = write(
        f"{slide},{label},{split}", "a.svs,no,Train", "b,yes,train", "c,no,test", "d,yes,test"
    )
    found = read_labels(table, "abcd")
    assert found.targets.tolist() == [0, 1, 0, 1]
    assert found.splits == ("train", "train", "test", "test")
    assert read_labels(table, "abcd", label_column="lab_el").classes == ("no", "yes")


def test_survival_in_another_spelling(write):
    table = write("WSI,Time,Event", "a,1,0", "b,2,1")
    assert read_labels(table, "ab", task="survival").targets.tolist() == [[1, 0], [2, 1]]


def test_slides_in_another_spelling(write, tmp_path):
    (job,) = list_jobs(write("Slide Path,MPP,Mask Path", "a.svs,0.25,a.png"))
    assert (job.path, job.mpp, job.mask) == (tmp_path / "a.svs", 0.25, tmp_path / "a.png")


def test_a_path_goes_before_a_name(write, tmp_path):
    (job,) = list_jobs(write("slide,path", "a,x/a.svs"))
    assert job.path == tmp_path / "x" / "a.svs"
    found = read_labels(write("path,slide,label", "x/1,a,0", "x/2,b,1"), "ab")
    assert found.names == ("a", "b")


# --- Patients are groups, slides are bags ------------------------------------------------------


def test_a_patient_is_the_bag_only_where_no_slides_are_named(write):
    bags = read_patch_table(write("file,patient", "1.png,p", "2.png,p", "3.png,q"))
    assert [(bag.name, bag.patient, len(bag)) for bag in bags] == [("p", "p", 2), ("q", "q", 1)]
    bags = read_patch_table(write("file,case,slide", "1.png,p,a", "2.png,p,b"))
    assert [(bag.name, bag.patient) for bag in bags] == [("a", "p"), ("b", "p")]
    found = read_labels(write("Patient ID,label", "p,0", "q,1"), "pq")
    assert (found.names, found.patients) == (("p", "q"), ("p", "q"))
    found = read_labels(write("name,patient,label", "a,p,0", "b,p,1"), "ab")
    assert (found.names, found.patients) == (("a", "b"), ("p", "p"))
    found = read_labels(write(",label,patient", "0,0,p", "1,1,q"), "pq")
    assert found.names == ("p", "q")


def test_a_bag_of_two_patients_is_refused(write):
    table = write("file,slide,patient", "1.png,a,p", "2.png,a,q")
    with pytest.raises(ValueError, match=r"t\.csv: bag a must be of one patient, got p, q"):
        read_patch_table(table)
    with pytest.raises(ValueError, match=r"t\.csv, line 2: patient is empty"):
        read_patch_table(write("file,slide,patient", "1.png,a,"))


def test_without_patients_slides_count_and_it_is_said(write):
    found = read_labels(write("slide,label", "a,0", "b,1"), "ab")
    assert found.notes == ("no column of patients: slides count as patients",)
    assert found.patients == ("", "")


@pytest.mark.parametrize("column", ["Patient Ref.", "case_nr", "Donor", "individual_id"])
def test_what_looks_like_patients_is_noted(write, column):
    found = read_labels(write(f"slide,label,{column}", "a,0,p", "b,1,p"), "ab")
    assert found.notes == (
        "no column of patients: slides count as patients",
        f"columns that may be patients and are not read: {column}: call the right one patient",
    )
    known = read_labels(write(f"slide,label,{column},patient", "a,0,1,p", "b,1,1,p"), "ab")
    assert not any("may be patients" in note for note in known.notes)


# --- Two columns for one thing -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "lines", "message"),
    [
        (
            lambda path: read_labels(path, "ab"),
            ("slide,label,patient,Case ID", "a,0,p,1", "b,1,p,2"),
            r"t\.csv must have one column for patient, got patient and Case ID: rename or remove",
        ),
        (
            lambda path: read_labels(path, "ab"),
            ("slide,wsi,label", "a,x,0", "b,y,1"),
            "must have one column for slide, got slide and wsi",
        ),
        (
            lambda path: read_labels(path, "ab"),
            ("slide,Label,LABEL", "a,x,0", "b,y,1"),
            "must have one column label, got Label and LABEL",
        ),
        (
            lambda path: read_labels(path, "ab"),
            ("slide,label,label", "a,x,0", "b,y,1"),
            "must have one column label, got label and label",
        ),
        (
            read_patch_table,
            ("file,path,slide", "1.png,1.png,a"),
            "must have one column for file, got file and path",
        ),
        (
            list_jobs,
            ("wsi,mpp,MPP", "a.svs,0.5,0.25"),
            "must have one column for mpp, got mpp and MPP",
        ),
    ],
)
def test_two_columns_for_one_thing_are_refused(write, read, lines, message):
    with pytest.raises(ValueError, match=message) as error:
        read(write(*lines))
    assert "\n" not in str(error.value)


def test_two_names_of_the_same_patients_are_no_contradiction(write):
    """TCGA's tables have an identifier and a barcode of each case."""
    table = write(
        "slide,label,case_id,case_submitter_id",
        *("a,0,f1e2,TCGA-A1", "b,1,f1e2,TCGA-A1", "c,1,9b0c,TCGA-B2"),
    )
    assert read_labels(table, "abc").patients == ("f1e2", "f1e2", "9b0c")
