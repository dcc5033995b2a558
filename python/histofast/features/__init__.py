"""Features, coordinates and their origin in, whole and checksummed HDF5 files out, and back again. The door to h5py."""

from __future__ import annotations

from histofast.features.file import (
    FeatureFile,
    FeatureSummary,
    FeatureWriter,
    Layout,
    SlideLock,
    feature_path,
    pt_path,
    read_features,
    read_identity,
    read_summary,
    remove_stale_temporaries,
    verify,
    verify_folder,
)

__all__ = [
    "FeatureFile",
    "FeatureSummary",
    "FeatureWriter",
    "Layout",
    "SlideLock",
    "feature_path",
    "pt_path",
    "read_features",
    "read_identity",
    "read_summary",
    "remove_stale_temporaries",
    "verify",
    "verify_folder",
]
