"""Tables: a CSV file that users give in, its rows and which column is what out; and rows to CSV.

One vocabulary for every table: of slides, of patch images, of labels. A name is read in any case, with
or without spaces, hyphens and underscores: `Patient ID`, `patient_id` and `PATIENT-ID` are one.
A patient is always a group of slides; a bag is a slide.

Text is UTF-8, or UTF-16 with its mark; cells are separated by commas, semicolons or tabs, whichever
divides the header. What is not so is refused with its line, and memory does not grow with columns that
nobody reads. A cell that is empty, or `NA` and the like, has no value.

Spreadsheets calculate a cell that begins as a formula does (`=cmd|...`), also one that came as CSV. What
is written here begins with an apostrophe then, which they take for text, and is read here without it.
"""

from __future__ import annotations

from histofast._tables.cells import (
    as_flag,
    as_number,
    as_read,
    as_written,
    is_missing,
    number_remedy,
    shown,
)
from histofast._tables.classes import alike, ordered
from histofast._tables.reading import is_table, read_csv, records, separator_of
from histofast._tables.table import NAMES, Role, Table, header_of, read_table
from histofast._tables.writing import csv_text

__all__ = [
    "NAMES",
    "Role",
    "Table",
    "alike",
    "as_flag",
    "as_number",
    "as_read",
    "as_written",
    "csv_text",
    "header_of",
    "is_missing",
    "is_table",
    "number_remedy",
    "ordered",
    "read_csv",
    "read_table",
    "records",
    "separator_of",
    "shown",
]
