"""Tiny ONNX denoisers made by hand, and the engine folders and bundles around them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import tiny_engines


@pytest.fixture(scope="session")
def engine(tmp_path_factory) -> Path:
    """An ort-cpu engine folder of an unconditional denoiser (3, 8, 8), batches 1 to 4."""
    return tiny_engines.engine_folder(tmp_path_factory.mktemp("plain") / "engine")


@pytest.fixture(scope="session")
def conditional(tmp_path_factory) -> Path:
    """The same with class labels and text, guidance, and twice the output's channels."""
    folder = tmp_path_factory.mktemp("conditional") / "engine"
    return tiny_engines.engine_folder(folder, conditions=True, batch=(1, 2))
