"""The build backend: scikit-build-core's, after a look whether this machine can compile."""

from __future__ import annotations

import os
import sys
from typing import Any

import compiler
from scikit_build_core import build
from scikit_build_core.build import *  # the hooks that are not wrapped below

Settings = dict[str, Any] | None


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    _look(config_settings)
    return build.get_requires_for_build_wheel(config_settings)


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    _look(config_settings)
    return build.get_requires_for_build_editable(config_settings)


def build_wheel(folder: str, config_settings: Settings = None, metadata: str | None = None) -> str:
    _look(config_settings)  # without build isolation nobody asks for requirements
    return build.build_wheel(folder, config_settings, metadata)


def build_editable(
    folder: str, config_settings: Settings = None, metadata: str | None = None
) -> str:
    _look(config_settings)
    return build.build_editable(folder, config_settings, metadata)


def _look(config_settings: Settings) -> None:
    """End with one line when nothing here can compile; whoever names a compiler to CMake knows."""
    named = (
        f"{config_settings} {os.environ.get('CMAKE_ARGS')} {os.environ.get('SKBUILD_CMAKE_ARGS')}"
    )
    if os.name != "posix" or "CMAKE_CXX_COMPILER" in named or "TOOLCHAIN" in named:
        return
    try:
        compiler.check()
    except compiler.Unable as reason:
        sys.exit(f"histofast: {reason}")
