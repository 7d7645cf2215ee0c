"""A command imports one class of diffusers without the classes beside it; a library call does not
change how anything is imported."""

from __future__ import annotations

import subprocess
import sys

DEFERRED = """
import sys
from diffc.lean_imports import PACKAGES, defer_packages
defer_packages()
defer_packages()
from diffusers import UNet2DModel
assert not PACKAGES - set(sys.modules) - {"diffusers.models.autoencoders"}
others = [name for name in sys.modules if "transformer_flux" in name or "unet_3d" in name]
assert not others, others

import diffusers.models.transformers as package
assert not hasattr(package, "__all__")
assert not [name for name in sys.modules if "transformer_flux" in name]
from diffusers.models.transformers import DiTTransformer2DModel
from diffusers import FluxTransformer2DModel
assert package.FluxTransformer2DModel is FluxTransformer2DModel
assert package.DiTTransformer2DModel is DiTTransformer2DModel
assert type(package.__spec__.loader).__name__ == "SourceFileLoader"
assert package.__loader__ is package.__spec__.loader
try:
    package.Missing
except AttributeError as error:
    assert "has no attribute 'Missing'" in str(error)
else:
    raise AssertionError("a name that nobody gives")
"""
LEFT_ALONE = """
import sys
before = list(sys.meta_path)
import diffc, diffc.models.load
assert sys.meta_path[-len(before):] == before
assert not [f for f in sys.meta_path if getattr(f, "__module__", "").startswith("diffc")]
"""


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_package_waits_until_a_name_is_missing() -> None:
    run(DEFERRED)


def test_a_process_that_imports_diffc_imports_as_before() -> None:
    run(LEFT_ALONE)
