"""Joining a launch: with patience for the first process, and which ways of sharding there are."""

from __future__ import annotations

from types import SimpleNamespace

import accelerate
import pytest
import torch
from support.family_cases import case

from diffc.data.precision import best_device
from diffc.data.processes import PATIENCE, on_cpu, process_share
from diffc.data.recipe_of_model import recipe_of_model
from diffc.data.sharding import shard_units, wants_sharding
from diffc.distill.setup import make_accelerator
from diffc.errors import RequestError, UnavailableError
from diffc.models.source import find_source
from diffc.recipe import DistillSection, Recipe
from diffc.stages.preflight import quick_checks


def launched(monkeypatch, processes: int = 2) -> None:
    """This is the second process of a launch."""
    about = {"RANK": "1", "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
    for name, value in about.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("name", ["DEEPSPEED", "MEGATRON_LM"])
def test_other_ways_of_sharding_are_refused(tmp_path, monkeypatch, name: str) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(RequestError, match="diffc shards by FSDP2 alone") as caught:
        make_accelerator(DistillSection(), tmp_path)
    assert "--shard on" in caught.value.hint


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [("FSDP_VERSION", "1", "version 1 of FSDP"), ("FSDP_OFFLOAD_PARAMS", "true", "of the host")],
)
def test_what_fsdp2_does_not_do_here_is_refused(monkeypatch, variable, value, words) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv(variable, value)
    with pytest.raises(RequestError, match=words) as caught:
        process_share()
    assert "in accelerate's configuration" in caught.value.hint


@pytest.mark.parametrize("choice", ["auto", "on", "off"])
def test_one_process_shards_nothing(monkeypatch, choice) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert not wants_sharding(choice, lambda: 10**15)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prune": {"cut": "width,depth"}}, "branches are not scored"),
        ({"distill": {"compile": True}}, "distill.compile does not work"),
        ({"distill": {"precision": "fp16"}}, "precision fp16 does not"),
    ],
)
def test_what_no_sharded_network_does_is_refused_before_the_work(
    tiny_model, monkeypatch, options, words
) -> None:
    launched(monkeypatch)
    monkeypatch.setattr("diffc.data.precision.best_device", lambda: torch.device("cuda", 1))
    source = find_source(tiny_model)
    for shard in ("off", "auto"):
        quick_checks(source, Recipe.model_validate({**options, "shard": shard}), "distill")
    with pytest.raises(RequestError, match=words) as caught:
        quick_checks(source, Recipe.model_validate({**options, "shard": "on"}), "distill")
    assert "--shard off" in caught.value.hint


LOOP = {"aim": "loop", "batch": 6}


@pytest.mark.parametrize(
    ("distill", "words"),
    [
        ({"batch": 4}, "a batch of 4 does not split over 3 processes"),
        ({**LOOP, "loop": {"batch": 4}}, "a batch of 4 does not split over 3 processes"),
        ({"batch": 6, "precision": "fp16"}, "precision fp16 trains on GPUs only"),
        ({**LOOP, "loop": {"batch": 6, "trackers": ["none"]}}, "no tracker 'none'"),
    ],
)
def test_what_no_training_does_is_refused_before_the_work(
    tiny_model, monkeypatch, distill, words
) -> None:
    source = find_source(tiny_model)
    launched(monkeypatch, processes=3)
    recipe = Recipe.model_validate({"distill": distill, "loops": ["ddim:2"]})
    with pytest.raises((RequestError, UnavailableError), match=words):
        quick_checks(source, recipe, "distill")
    quick_checks(source, recipe, "prune")
    untrained = {"batch": 4, "steps": 0}
    quick_checks(source, Recipe.model_validate({"distill": untrained}), "distill")


@pytest.mark.parametrize(
    ("flags", "cut"),
    [({}, "width"), ({"shard": "off"}, "width,depth"), ({"prune": {"cut": "depth"}}, "depth")],
)
def test_a_familys_depth_gives_way_in_a_launch_that_shards(
    tiny_model, monkeypatch, flags, cut
) -> None:
    source = find_source(tiny_model)
    assert recipe_of_model(source, None, {}).prune.cut == "width,depth"
    launched(monkeypatch)
    assert recipe_of_model(source, None, {}).prune.cut == "width,depth"
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert recipe_of_model(source, None, flags).prune.cut == cut


@pytest.mark.slow
def test_units_are_the_blocks_of_the_family() -> None:
    """Each weight is in one of them, or is small."""
    assert shard_units(case("sdxl").model, case("sdxl").family)[:2] == [
        "down_blocks.0.resnets.0",
        "down_blocks.1.attentions.0.transformer_blocks.0",
    ]
    names = shard_units(case("flux").model, case("flux").family)
    assert names == [
        *(f"transformer_blocks.{i}" for i in range(2)),
        *(f"single_transformer_blocks.{i}" for i in range(2)),
    ]


def test_the_others_wait_long_for_the_first_process(monkeypatch) -> None:
    asked = []

    def state(**options):
        asked.append(options)
        return SimpleNamespace(process_index=1, num_processes=2)

    monkeypatch.setattr(accelerate, "PartialState", state)
    launched(monkeypatch)
    assert process_share() == (1, 2)
    assert asked[0]["timeout"] == PATIENCE


def test_training_is_where_everything_else_is(monkeypatch) -> None:
    """torch has accelerators that diffc puts no network on, such as that of a Mac."""
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert on_cpu() and best_device().type == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert not on_cpu() and best_device().type == "cuda"
