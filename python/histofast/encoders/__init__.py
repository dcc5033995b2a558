"""Encoders: ONNX files that take pixels and give features, by name or by path.

`load(name_or_path)` opens one, `load_all` all that one file computes. Nothing here imports ONNX
Runtime or onnx before it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from histofast._lazy import attach

if TYPE_CHECKING:
    from histofast.encoders.beside import (
        DATA_SHA256,
        DATA_SUFFIX,
        Place,
        check_of_one_making,
        files_of,
        identity_of,
        places_of,
    )
    from histofast.encoders.catalogue import (
        DEFAULT,
        EncoderEntry,
        Registry,
        SourceEntry,
        WeightsEntry,
        find,
        models_folder,
        read_registry,
        registry,
    )
    from histofast.encoders.checking import check_model
    from histofast.encoders.form import Value
    from histofast.encoders.foundation import SHARE_OF_PEAK, FoundationEntry
    from histofast.encoders.hashing import checksums
    from histofast.encoders.memory import refuse_too_large
    from histofast.encoders.opening import OpenGraph
    from histofast.encoders.providers import try_providers
    from histofast.encoders.reading import read_spec, read_specs
    from histofast.encoders.runtime import CPU, device_problem, driver_gpu_count
    from histofast.encoders.session import (
        Encoder,
        EncoderSet,
        Pending,
        load,
        load_all,
    )
    from histofast.encoders.sizes import PatchSizes, sizes_around, sizes_near
    from histofast.encoders.soundness import Outside, claimed_bytes
    from histofast.encoders.spec import (
        INPUT,
        NOT_STATED,
        OUTPUT,
        PREFIX,
        RANDOM,
        EncoderMetadata,
        EncoderSpec,
        cut_name,
        cuts_to_props,
        refuse_cuts,
        sha256_of,
    )
    from histofast.encoders.tissue_file import (
        TISSUE,
        TISSUE_FORMAT,
        TissueMetadata,
        TissueSpec,
        read_tissue_spec,
    )
    from histofast.encoders.tissue_network import TissueNetwork, opened_network
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "histofast.encoders.beside": [
                "DATA_SHA256",
                "DATA_SUFFIX",
                "Place",
                "check_of_one_making",
                "files_of",
                "identity_of",
                "places_of",
            ],
            "histofast.encoders.catalogue": [
                "DEFAULT",
                "EncoderEntry",
                "Registry",
                "SourceEntry",
                "WeightsEntry",
                "find",
                "models_folder",
                "read_registry",
                "registry",
            ],
            "histofast.encoders.checking": ["check_model"],
            "histofast.encoders.form": ["Value"],
            "histofast.encoders.foundation": ["SHARE_OF_PEAK", "FoundationEntry"],
            "histofast.encoders.hashing": ["checksums"],
            "histofast.encoders.memory": ["refuse_too_large"],
            "histofast.encoders.opening": ["OpenGraph"],
            "histofast.encoders.providers": ["try_providers"],
            "histofast.encoders.reading": ["read_spec", "read_specs"],
            "histofast.encoders.runtime": ["CPU", "device_problem", "driver_gpu_count"],
            "histofast.encoders.session": [
                "Encoder",
                "EncoderSet",
                "Pending",
                "load",
                "load_all",
            ],
            "histofast.encoders.sizes": ["PatchSizes", "sizes_around", "sizes_near"],
            "histofast.encoders.soundness": ["Outside", "claimed_bytes"],
            "histofast.encoders.spec": [
                "EncoderMetadata",
                "EncoderSpec",
                "INPUT",
                "NOT_STATED",
                "OUTPUT",
                "PREFIX",
                "RANDOM",
                "cut_name",
                "cuts_to_props",
                "refuse_cuts",
                "sha256_of",
            ],
            "histofast.encoders.tissue_file": [
                "TISSUE",
                "TISSUE_FORMAT",
                "TissueMetadata",
                "TissueSpec",
                "read_tissue_spec",
            ],
            "histofast.encoders.tissue_network": ["TissueNetwork", "opened_network"],
        },
    )

__all__ = [
    "CPU",
    "DATA_SHA256",
    "DATA_SUFFIX",
    "DEFAULT",
    "INPUT",
    "NOT_STATED",
    "OUTPUT",
    "PREFIX",
    "RANDOM",
    "SHARE_OF_PEAK",
    "TISSUE",
    "TISSUE_FORMAT",
    "Encoder",
    "EncoderEntry",
    "EncoderMetadata",
    "EncoderSet",
    "EncoderSpec",
    "FoundationEntry",
    "OpenGraph",
    "Outside",
    "PatchSizes",
    "Pending",
    "Place",
    "Registry",
    "SourceEntry",
    "TissueMetadata",
    "TissueNetwork",
    "TissueSpec",
    "Value",
    "WeightsEntry",
    "check_model",
    "check_of_one_making",
    "checksums",
    "claimed_bytes",
    "cut_name",
    "cuts_to_props",
    "device_problem",
    "driver_gpu_count",
    "files_of",
    "find",
    "identity_of",
    "load",
    "load_all",
    "models_folder",
    "opened_network",
    "places_of",
    "read_registry",
    "read_spec",
    "read_specs",
    "read_tissue_spec",
    "refuse_cuts",
    "refuse_too_large",
    "registry",
    "sha256_of",
    "sizes_around",
    "sizes_near",
    "try_providers",
]
