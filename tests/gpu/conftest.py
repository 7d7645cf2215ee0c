"""What only a GPU can show. Every test here has the marker ``gpu``; without one it is skipped.

    pytest -m gpu

A test of one target asks for it with ``needs(name)``, which skips with the target's own reason.
"""

from pathlib import Path

import pytest
from support.gpu_targets import needs
from support.onnx_folder import tiny_unet

from diffc_export.events import drain
from diffc_export.targets.base import BuildOptions
from diffc_runtime import machine
from diffc_runtime.machine.driver import no_gpu


def pytest_collection_modifyitems(items):
    reason = None if machine.gpu.gpus() else (no_gpu() or "no NVIDIA GPU here")
    for item in items:
        if Path(__file__).parent in Path(item.fspath).parents:
            item.add_marker(pytest.mark.gpu)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The same UNet as a diffusers folder."""
    folder = tmp_path_factory.mktemp("model")
    tiny_unet().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def engine(unet_folder, model, tmp_path):
    """A function: target, precision, options -> an engine folder of the tiny UNet."""

    def build(name, precision="fp32", **options):
        found = needs(name)
        folder = unet_folder
        if precision != "fp32" and precision not in found.facts.hinted:
            from diffc_export.onnx.precision import convert_precision

            folder = tmp_path / f"onnx-{precision}"
            if not folder.exists():
                convert_precision(unet_folder, folder, precision)
        out = tmp_path / "-".join([name, precision, *map(str, options.values())])
        wanted = {"batch": (4,), "precision": precision, "model": model, **options}
        drain(found.build(folder, BuildOptions(**wanted), out))
        return out

    return build
