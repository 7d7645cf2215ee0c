"""Fixtures that every test may use: a cache of its own, and a tiny model on disk."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from support import deadline
from support.cores import stay_on_own_cores
from support.deaths import (  # noqa: F401 - pytest's hooks
    pytest_handlecrashitem,
    pytest_report_teststatus,
    pytest_terminal_summary,
    pytest_xdist_make_scheduler,
)  # fmt: skip
from support.exports import exports_shared
from support.order import long_files_first
from support.quick import QUICK, save_tiny_model
from support.shared import copy_once, make_once


def pytest_configure(config):
    stay_on_own_cores()
    config.pluginmanager.register(deadline)


def pytest_collection_modifyitems(items):
    long_files_first(items)


def pytest_collection_finish():
    """What was imported stays: a collection of garbage need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads or fills the user's cache."""
    if "DIFFC_CACHE" not in os.environ:
        monkeypatch.setenv("DIFFC_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True, scope="session")
def shared_exports(tmp_path_factory):
    """The chains of a session export each network once."""
    with exports_shared(tmp_path_factory):
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A random DDPM pipeline folder: 16x16, one channel, about 60 k parameters."""
    return make_once(tmp_path_factory, "tiny", lambda folder: save_tiny_model(folder, seed=0))


@pytest.fixture(scope="session")
def other_model(tmp_path_factory) -> Path:
    """Another random model of the same shape."""
    return make_once(tmp_path_factory, "other", lambda folder: save_tiny_model(folder, seed=1))


@pytest.fixture(scope="session")
def compiled(tiny_model, tmp_path_factory):
    """The tiny model, compiled once in a session: (output folder, report, cache).

    Each worker has copies of the folder and the cache.
    """
    import diffc

    def compile_tiny(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DIFFC_CACHE", str(folder / "cache"))
            diffc.compile(tiny_model, ratio=0.4, out=folder / "run", options=QUICK)

    copy = copy_once(tmp_path_factory, "compiled", compile_tiny)
    return copy / "run", diffc.Report.read(copy / "run"), copy / "cache"


@pytest.fixture
def compiled_cache(compiled, monkeypatch):
    """The cache that ``compiled`` filled, as the test's own: stages that it needs are there."""
    monkeypatch.setenv("DIFFC_CACHE", str(compiled[2]))


@pytest.fixture(scope="session")
def unet_folder(tmp_path_factory) -> Path:
    """A tiny UNet2DModel with attention, exported by torch; not to be written to."""

    def export(folder: Path) -> None:
        from support.onnx_folder import tiny_unet, write_onnx_folder

        write_onnx_folder(tiny_unet(), folder / "onnx")

    return make_once(tmp_path_factory, "unet", export) / "onnx"
