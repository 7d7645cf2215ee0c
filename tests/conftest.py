"""Fixtures that every test may use: a cache of its own, and a tiny model on disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.quick import QUICK, save_tiny_model


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads or fills the user's cache."""
    if "DIFFC_CACHE" not in os.environ:
        monkeypatch.setenv("DIFFC_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A random DDPM pipeline folder: 16x16, one channel, about 60 k parameters."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", seed=0)


@pytest.fixture(scope="session")
def other_model(tmp_path_factory) -> Path:
    """Another random model of the same shape."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "other", seed=1)


@pytest.fixture(scope="session")
def compiled(tiny_model, tmp_path_factory):
    """The tiny model, compiled once: (output folder, report, cache)."""
    import diffc

    out, cache = tmp_path_factory.mktemp("out") / "run", tmp_path_factory.mktemp("cache")
    before = os.environ.get("DIFFC_CACHE")
    os.environ["DIFFC_CACHE"] = str(cache)
    try:
        report = diffc.compile(tiny_model, ratio=0.4, out=out, options=QUICK)
    finally:
        os.environ.pop("DIFFC_CACHE")
        if before is not None:
            os.environ["DIFFC_CACHE"] = before
    return out, report, cache
