"""Output folders with tiny engines, as ``diffc compile`` leaves them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support import tiny_engines


@pytest.fixture(scope="session")
def out(tmp_path_factory) -> Path:
    """OUT with dense and compressed ort-cpu engines, batches 1 to 4."""
    folder = tmp_path_factory.mktemp("made") / "out"
    dense = tiny_engines.engine_folder(folder / "engines" / "ort-cpu" / "dense")
    shutil.rmtree(dense.parent / "dense-onnx")
    shutil.copytree(dense, dense.parent / "compressed")
    return folder


@pytest.fixture(scope="session")
def conditional_out(tmp_path_factory) -> Path:
    """OUT of a conditional model."""
    folder = tmp_path_factory.mktemp("conditional") / "out"
    made = folder / "engines" / "ort-cpu" / "compressed"
    tiny_engines.engine_folder(
        made,
        conditions=True,
        batch=(1, 2),
        unconditional={"class_labels": 0, "encoder_hidden_states": [[0.0] * 5] * 4},
    )
    shutil.rmtree(made.parent / "compressed-onnx")
    return folder


@pytest.fixture(scope="session")
def latent_out(tmp_path_factory) -> Path:
    """OUT of a latent model with its decoder."""
    folder = tmp_path_factory.mktemp("latent") / "out"
    made = tiny_engines.engine_folder(folder / "engines" / "ort-cpu" / "compressed")
    tiny_engines.decoder_folder(made.parent / "decoder", scaling_factor=0.5)
    for name in ("compressed-onnx", "decoder-onnx"):
        shutil.rmtree(made.parent / name)
    return folder


def pytest_report_header() -> str:
    """Which parts of the server's tests are real here."""
    from support import triton_server

    if triton_server.environment() is None:
        return f"triton: no server ({triton_server.VARIABLE} is not set; scripts/triton_env.sh)"
    if triton_server.has_backend("onnxruntime"):
        return "triton: a real server, the denoiser in its onnxruntime backend"
    return (
        "triton: a real server; no onnxruntime backend (scripts/triton_onnxruntime.sh), so"
        " the denoiser runs in a stand-in in Python, and its own config is validated offline"
    )
