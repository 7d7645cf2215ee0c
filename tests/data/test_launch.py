"""Joining a launch: with patience for the first process, and never sharded."""

from __future__ import annotations

from types import SimpleNamespace

import accelerate
import pytest

from diffc.data.processes import PATIENCE, process_share
from diffc.distill.setup import make_accelerator
from diffc.errors import RequestError
from diffc.recipe import DistillSection


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_sharding_is_refused(tmp_path, monkeypatch, variable: str) -> None:
    monkeypatch.setenv(variable, "true")
    with pytest.raises(RequestError, match="diffc shards nothing") as caught:
        make_accelerator(DistillSection(), tmp_path)
    assert "--multi_gpu" in caught.value.hint


def test_the_others_wait_long_for_the_first_process(monkeypatch) -> None:
    asked = []

    def state(**options):
        asked.append(options)
        return SimpleNamespace(process_index=1, num_processes=2)

    monkeypatch.setattr(accelerate, "PartialState", state)
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    assert process_share() == (1, 2)
    assert asked[0]["timeout"] == PATIENCE
