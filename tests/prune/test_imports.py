"""What each part of prune/ may import: models, and what lies on the ground."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import diffc.prune

PRUNE = Path(diffc.prune.__file__).parent
GROUND = (
    "diffc.errors",
    "diffc.input_size",
    "diffc.recipe",
    "diffc.data.inputs",  # how long the data's texts are
    "diffc_export.specs",
    "diffc_export.events",
    "diffc_runtime.json_types",
)
SCORES = (
    "diffc.data",  # clean samples, batches that memory has room for
    "diffc.calibration.by_block",  # calls with one block in memory at a time
    "diffc_export.discovery",
    "diffc_runtime.files",  # files of sums, whole or not there
    "diffc_runtime.machine.out_of_memory",
)


def imported(path: Path) -> set[str]:
    """Every module of this project that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name for name in names if name.startswith("diffc")}


def beyond(path: Path, allowed: tuple[str, ...]) -> list[str]:
    return sorted(
        name
        for name in imported(path)
        if not any(name == one or name.startswith(f"{one}.") for one in allowed)
    )


@pytest.mark.parametrize("path", sorted(PRUNE.glob("*.py")), ids=lambda path: path.stem)
def test_pruning_knows_models_alone(path):
    own = [name for name in imported(path) if name.startswith("diffc.prune.")]
    assert not [name for name in own if "by_latency" in name or "importance" in name]
    assert beyond(path, ("diffc.models", "diffc.prune", *GROUND)) == []


@pytest.mark.parametrize("path", sorted(PRUNE.glob("importance/*.py")), ids=lambda path: path.stem)
def test_scores_know_models_and_data(path):
    own = ("diffc.models", "diffc.prune.importance", *GROUND, *SCORES)
    assert beyond(path, own) == []
