"""A distribution on the import path, as if pip had installed it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def install(
    monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, modules: dict[str, str], points: str
) -> None:
    """Write a distribution into ``folder`` and put the folder on the path, of processes below too.

    modules: module's name -> its source. points: entry_points.txt.
    """
    about = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(points)
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    monkeypatch.setenv("PYTHONPATH", path)
    for module in modules:
        monkeypatch.delitem(__import__("sys").modules, module, raising=False)
