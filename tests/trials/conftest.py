"""A search of a tiny model, made once in a session."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.shared import copy_once
from support.toy_search import GOAL, OPTIONS, VALUES


@pytest.fixture(scope="session")
def searched(compiled, tiny_model, tmp_path_factory):
    """The tiny model's search: (output folder, result, cache), as copies of this worker.

    The data and the dense engine are those of ``compiled``.
    """
    import diffc
    from diffc.trials.request import RESULT
    from diffc.trials.results import SearchResult

    def search_tiny(folder: Path) -> None:
        shutil.copytree(compiled[2], folder / "cache")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DIFFC_CACHE", str(folder / "cache"))
            diffc.search(tiny_model, out=folder / "run", options=OPTIONS, min_ssim=GOAL, **VALUES)

    copy = copy_once(tmp_path_factory, "searched", search_tiny)
    result = SearchResult.model_validate_json((copy / "run" / RESULT).read_text("utf-8"))
    return copy / "run", result, copy / "cache"


@pytest.fixture
def searched_cache(searched, monkeypatch):
    """The cache that ``searched`` filled, as the test's own."""
    monkeypatch.setenv("DIFFC_CACHE", str(searched[2]))
