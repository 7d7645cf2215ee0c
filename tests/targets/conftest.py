"""ONNX folders for the targets' tests: a handmade one (milliseconds) and a UNet from torch."""

import pytest
from support.onnx_folder import write_handmade_folder


@pytest.fixture
def folder(tmp_path):
    """A handmade ONNX folder of this test's own."""
    return write_handmade_folder(tmp_path / "onnx")
