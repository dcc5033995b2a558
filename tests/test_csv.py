"""CSV that is written here: no cell is a formula to a spreadsheet, and every text comes back."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histofast._tables import as_read, as_written, csv_text, read_csv, read_table
from histofast.explain import read_values
from histofast.report import Column, Table
from test_architecture import FILES

FORMULAS = ["=cmd|' /C calc'!A0", "+1+cmd", "-a", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "''@x"]
FORMULAS += ["\uff1dcmd", "=", "-1+1", "+", "--5"]
PLAIN = [
    "",
    "a",
    "it's",
    "'quoted'",
    "a=b",
    "-0.5",
    "+3",
    "-1e-05",
    "-inf",
    "-.5",
    "1.5",
    "a-b",
    "'",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_begin_with_an_apostrophe(text):
    assert as_written(text) == f"'{text}"
    assert as_read(as_written(text)) == text
    (cell,) = next(csv.reader(io.StringIO(csv_text([[text]]), newline="")))
    assert cell[0] == "'"


@pytest.mark.parametrize("text", PLAIN)
def test_other_texts_and_numbers_stay(text):
    assert as_written(text) == as_read(text) == text


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(st.lists(st.lists(TEXTS, min_size=1), min_size=1))
def test_texts_come_back(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "texts.csv"
    path.write_bytes(csv_text([["first"], *rows]).encode())
    assert read_csv(path) == [["first"], *rows]


@given(st.floats())
def test_numbers_are_no_texts(value):
    ((cell, text),) = csv.reader(io.StringIO(csv_text([[value, repr(value)]])))
    assert cell == text == repr(value)


def test_names_join_with_tables_of_users(tmp_path):
    """What was written is read as any table is: names of slides are those of their files again."""
    rows = [("slide", "label"), *((text, "-1") for text in FORMULAS if text.strip() == text)]
    path = tmp_path / "t.csv"
    path.write_bytes(csv_text(rows).encode())
    assert [(row["slide"], row["label"]) for row in read_table(path).rows] == rows[1:]
    path.write_text("slide,label\n=a,=b\n")  # as others write it
    assert read_table(path).rows == ({"slide": "=a", "label": "=b"},)


def test_tables_of_reports():
    columns = (
        Column(title="Name", names=("name",)),
        Column(title="N", names=("n",), form="number"),
    )
    table = Table(name="t", columns=columns, rows=(("=cmd", -0.5), ("a", None)))
    assert table.to_csv() == "name,n\n'=cmd,-0.5\na,\n"


def test_maps_read_what_was_written(tmp_path):
    path = tmp_path / "values.csv"
    path.write_text(csv_text([("x", "y", "=share"), (0, 256, -0.25)]))
    found = read_values(path)
    assert (found.name, found.values.tolist()) == ("=share", [-0.25])


def test_all_csv_is_written_in_one_place():
    writing = [name for name, path in FILES.items() if "csv.writer(" in path.read_text()]
    writing += [name for name, path in FILES.items() if "DictWriter(" in path.read_text()]
    assert writing == ["histofast._tables.writing"]
