"""Pairs of engine folders: fake ones with known times, and real ones for ort-cpu."""

import pytest
from support.onnx_folder import write_handmade_folder

from diffc_export.events import drain
from diffc_export.targets import target
from diffc_export.targets.base import BuildOptions

MACS = {"dense": 2_000_000_000, "compressed": 1_000_000_000}


@pytest.fixture
def folders(tmp_path):
    """ONNX folders ``dense`` and ``compressed``: the second has half the channels and MACs."""
    return {
        name: write_handmade_folder(tmp_path / "OUT" / "onnx" / name, channels, macs=MACS[name])
        for name, channels in (("dense", 16), ("compressed", 8))
    }


@pytest.fixture
def engines(folders, tmp_path):
    """A function: target's name -> its two engine folders, under OUT/engines."""

    def build(name, **options):
        made = {}
        for key, folder in folders.items():
            made[key] = tmp_path / "OUT" / "engines" / name / key
            drain(target(name).build(folder, BuildOptions(**options), made[key]))
        return made

    return build
