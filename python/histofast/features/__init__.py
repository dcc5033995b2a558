"""Features, coordinates and their origin in, whole and checksummed HDF5 files out, and back again.

A feature file is whole or absent. The door to h5py.
"""

from __future__ import annotations

from histofast.features.coords import StoredCoords, read_coords
from histofast.features.exporting import Exported, export_features
from histofast.features.file import (
    FeatureFile,
    FeatureSummary,
    content_sha256,
    open_features,
    read_features,
    read_identity,
    read_summary,
)
from histofast.features.foreign import ForeignArrays, read_arrays
from histofast.features.grid import SlideInputs, slide_inputs
from histofast.features.layouts import Layout, feature_path, pt_path
from histofast.features.listing import FoundFeatures, feature_files, find_features, list_features
from histofast.features.options import (
    differences_of_options,
    options_in,
    options_of,
    shared_options,
)
from histofast.features.selection import SelectedRows
from histofast.features.vectors import write_vectors
from histofast.features.verification import VerifyReport, problems_of, verify
from histofast.features.writer import FeatureWriter

__all__ = [
    "Exported",
    "FeatureFile",
    "FeatureSummary",
    "FeatureWriter",
    "ForeignArrays",
    "FoundFeatures",
    "Layout",
    "SelectedRows",
    "SlideInputs",
    "StoredCoords",
    "VerifyReport",
    "content_sha256",
    "differences_of_options",
    "export_features",
    "feature_files",
    "feature_path",
    "find_features",
    "list_features",
    "open_features",
    "options_in",
    "options_of",
    "problems_of",
    "pt_path",
    "read_arrays",
    "read_coords",
    "read_features",
    "read_identity",
    "read_summary",
    "shared_options",
    "slide_inputs",
    "verify",
    "write_vectors",
]


def __dir__() -> list[str]:
    return __all__
