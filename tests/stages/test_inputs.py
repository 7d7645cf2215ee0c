"""A stage cannot read what its key does not hold, by construction: for every stage there is."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import diffc.stages
from diffc.recipe import Recipe
from diffc.runner import StageFolder, StageResult
from diffc.stage_inputs import FileInput, Unkeyed, keyed
from diffc.stage_outcomes import DataOutcome, StageOutcome

FOLDER = Path(diffc.stages.__file__).parent
MODULES = [
    importlib.import_module(f"diffc.stages.{path.stem}") for path in sorted(FOLDER.glob("*.py"))
]
# Lists, not sets: every process that collects these tests must see them in one order
INPUTS = [
    value
    for module in MODULES
    for name, value in vars(module).items()
    if name.endswith("Inputs")
    and is_dataclass(value)
    and value.__module__ == module.__name__
    and name != "ImageInputs"  # a part of other stages' inputs
]
FUNCTIONS = [
    value
    for module in MODULES
    for value in vars(module).values()
    if inspect.isfunction(value)
    and not value.__name__.startswith("_")
    and value.__module__ == module.__name__
    and list(inspect.signature(value).parameters) == ["inputs", "folder"]
]


def named(one) -> str:
    return one.__name__


def test_every_stage_is_here():
    names = {one.__name__.removesuffix("Inputs") for one in INPUTS}
    assert names == {
        "Data", "Importance", "Plan", "Prune", "Repair", "Distill", "Samples", "Export", "Decoder",
        "Precision", "Choice", "Build", "Bench", "Frontier", "Explain", "Serve", "Blocks",
        "Trajectories", "Loop", "Fuse", "Text", "TextEncoder", "TextBuild", "ComparedBuild",
    }  # fmt: skip
    assert {inspect.get_annotations(one)["inputs"] for one in FUNCTIONS} == set(map(named, INPUTS))


@pytest.mark.parametrize("function", FUNCTIONS, ids=named)
def test_a_stage_receives_its_inputs_and_a_folder_alone(function):
    annotations = inspect.get_annotations(function)
    assert function.__closure__ is None and "<locals>" not in function.__qualname__
    assert annotations["folder"] == StageFolder.__name__
    outcome = annotations["return"].removeprefix("Work[").removesuffix("]")
    module = inspect.getmodule(function)
    assert issubclass(vars(module)[outcome], StageOutcome)


@pytest.mark.parametrize("inputs", INPUTS, ids=named)
def test_inputs_are_frozen_and_hold_neither_a_recipe_nor_a_bare_path(inputs):
    assert inputs.__dataclass_params__.frozen
    for name, kind in get_type_hints(inputs).items():
        parts = {kind, *get_args(kind)}
        assert not parts & {Recipe, Path}, f"{name}: {kind}"


def test_a_key_refuses_what_it_cannot_hold(tmp_path):
    @dataclass(frozen=True)
    class Inputs:
        file: object

    with pytest.raises(TypeError, match="cannot hold"):
        keyed(Inputs(tmp_path))
    (tmp_path / "x").write_text("a")
    before = keyed(Inputs(FileInput.of(tmp_path / "x")))
    (tmp_path / "x").write_text("b")
    assert keyed(Inputs(FileInput.of(tmp_path / "x"))) != before
    assert keyed(Inputs(Unkeyed(4))) == keyed(Inputs(Unkeyed(8)))
    assert [field.name for field in fields(Inputs)] == list(before)


def test_an_earlier_stage_stands_for_its_key(tmp_path):
    done = StageResult("data", "a key", tmp_path, DataOutcome(images=3), 1.0, 1, False)
    assert keyed(done) == "a key"
