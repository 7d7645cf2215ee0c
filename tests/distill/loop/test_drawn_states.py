"""Trajectories that are the clean samples' own ways, beside those that calls of the model give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import tiny_loops
from support.tiny_training import clean

from diffc.data.randomness import keyed_noise
from diffc.data.sampling import accurate_loop
from diffc.data.states import DrawnStates
from diffc.data.synthetic import UNCONDITIONAL, synthesize, synthesize_with_states
from diffc.distill.loop.path import DensePath, dense_path, goes_along
from diffc.distill.loop.steps import sampler_settings
from diffc.distill.loop.trajectories import TrajectorySet, make_trajectories
from diffc_export.events import drain

STEPS = 4
N = 6


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    monkeypatch.setattr("diffc.data.synthetic.fast_dtype", lambda device: torch.float32)


def drawn(n: int = N) -> DrawnStates:
    work = synthesize_with_states(
        tiny_loops.dense(), n, UNCONDITIONAL, steps=STEPS, seed=0, batch=4
    )
    states = drain(work)[1]
    assert states is not None
    return states


def along(config: dict, steps: int, path: DensePath) -> bool:
    loop = accurate_loop(config, steps, tiny_loops.SHAPE)
    return goes_along(loop.trajectory(tiny_loops.SHAPE), path)


def path_of(config: dict, *visited: float) -> DensePath:
    return dense_path([(999.0, *visited)], sampler_settings(config, tiny_loops.SHAPE), STEPS)


def test_the_samples_are_the_same_with_and_without_their_states() -> None:
    dense, options = tiny_loops.dense(), {"steps": STEPS, "seed": 0, "batch": 4}
    plain = drain(synthesize(dense, N, **options))
    kept, states = drain(synthesize_with_states(dense, N, UNCONDITIONAL, **options))
    assert torch.equal(plain.sample, kept.sample) and states is not None
    assert states.x.shape == (N, STEPS, *tiny_loops.SHAPE)
    torch.testing.assert_close(states.x[:, -1].float(), plain.sample, rtol=2e-3, atol=2e-3)


def test_they_are_the_trajectories_of_the_same_noise(tmp_path: Path, monkeypatch) -> None:
    plan = tiny_loops.plan(count=N, steps=STEPS)
    calls = drain(
        make_trajectories(tiny_loops.dense(), clean(), replace(plan, drawn=drawn()), tmp_path / "a")
    )
    assert calls == 0
    ours = TrajectorySet.load(tmp_path / "a", clean())
    monkeypatch.setattr("diffc.distill.loop.trajectories.NOISE", drawn().stream)
    assert drain(make_trajectories(tiny_loops.dense(), clean(), plan, tmp_path / "b")) == N * STEPS
    theirs = TrajectorySet.load(tmp_path / "b", clean())
    for row in range(N):
        torch.testing.assert_close(ours.states(row), theirs.states(row), rtol=2e-3, atol=2e-3)


def test_calls_make_those_beyond_the_samples(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("diffc.distill.loop.trajectories.SHARD", 5)  # the border lies in a shard
    plan = tiny_loops.plan(count=12, steps=STEPS)
    work = make_trajectories(
        tiny_loops.dense(), clean(), replace(plan, drawn=drawn(7)), tmp_path / "a"
    )
    assert drain(work) == (12 - 7) * STEPS
    mixed = TrajectorySet.load(tmp_path / "a", clean())
    alone = tiny_loops.trajectories(tmp_path / "b", count=12, steps=STEPS)
    for row in range(7, 12):
        assert torch.equal(mixed.states(row), alone.states(row))
    first = keyed_noise([(0, drawn(7).stream, 6)], tiny_loops.SHAPE)[0]
    assert torch.equal(mixed.states(6)[0], first)
    assert list(mixed.digests()) != list(alone.digests())


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    states = drawn()
    states.save(tmp_path / "states.safetensors")
    again = DrawnStates.load(tmp_path / "states.safetensors")
    assert torch.equal(again.x, states.x)
    assert replace(again, x=states.x) == states


def test_only_the_same_way_counts() -> None:
    config = dict(tiny_loops.CONFIG)
    assert along(config, STEPS, path_of(config, 499.0))
    assert along(config, STEPS, path_of(config, 749.0, 499.0, 249.0))
    assert not along(config, STEPS + 1, path_of(config, 499.0))
    assert not along(config, STEPS, path_of(config, 666.0, 333.0))


@pytest.mark.parametrize("other", [
    {"beta_schedule": "squaredcos_cap_v2"},
    {"prediction_type": "epsilon"},
    {"beta_end": 0.012},
])  # fmt: skip
def test_another_process_is_another_way(other: dict) -> None:
    config = dict(tiny_loops.CONFIG)
    assert not along({**config, **other}, STEPS, path_of(config, 499.0))


def test_a_flow_that_is_drawn_by_euler_is_another_way() -> None:
    flow = {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "shift": 1.0,
    }
    path = dense_path([(1000.0, 500.0)], sampler_settings(flow, tiny_loops.SHAPE), STEPS)
    assert not along(flow, STEPS, path)
