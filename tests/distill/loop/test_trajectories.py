"""Trajectories: what diffusers' own solver gives, whatever was killed or batched on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from support import tiny_loops
from support.disks import file_system, remount
from support.tiny_training import clean

from diffc.data.clean import CleanSet
from diffc.data.synthetic import Conditioning, guided_call
from diffc.distill.loop import trajectories as module
from diffc.distill.loop.trajectories import TrajectorySet, make_trajectories
from diffc.errors import InputError
from diffc_export.disks import disk_errors
from diffc_export.events import drain


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    monkeypatch.setattr("diffc.data.synthetic.fast_dtype", lambda device: torch.float32)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "SHARD", 5)


def states(made: TrajectorySet) -> torch.Tensor:
    return torch.stack([made.states(row) for row in range(len(made))])


def test_the_states_are_those_of_diffusers_solver(tmp_path: Path) -> None:
    made = tiny_loops.trajectories(tmp_path, count=3)
    x = states(made)[:, 0]
    assert made.visited == (499,) and x.std() == pytest.approx(1, abs=0.2)
    theirs = DPMSolverMultistepScheduler.from_config(
        tiny_loops.CONFIG, timestep_spacing="trailing", thresholding=False
    )
    theirs.set_timesteps(4)
    network, kept = tiny_loops.dense().model, [x]
    with torch.no_grad():
        for t in theirs.timesteps:
            x = theirs.step(network(x, t).sample, t, x).prev_sample
            kept.append(x)
    for place, theirs_at in enumerate((kept[0], kept[2], kept[4])):
        torch.testing.assert_close(states(made)[:, place], theirs_at, rtol=2e-3, atol=2e-3)


@pytest.mark.usefixtures("small_shards")
def test_a_killed_run_makes_no_whole_shard_again(tmp_path: Path) -> None:
    whole = states(tiny_loops.trajectories(tmp_path / "whole"))
    plan, dense = tiny_loops.plan(), tiny_loops.dense()
    work = make_trajectories(dense, clean(), plan, tmp_path / "cut")
    for event in work:
        if event.done > 6:  # in the second shard of three
            break
    work.close()
    assert len(list((tmp_path / "cut").glob("*.safetensors"))) == 1
    assert drain(make_trajectories(dense, clean(), plan, tmp_path / "cut")) == 7 * 4
    parts = TrajectorySet.load(tmp_path / "cut", clean())
    assert torch.equal(states(parts), whole)
    assert drain(make_trajectories(dense, clean(), plan, tmp_path / "cut")) == 0


@pytest.mark.usefixtures("small_shards")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """What was written stays, and with room the rest is made."""
    whole = states(tiny_loops.trajectories(tmp_path / "whole"))
    plan, dense = tiny_loops.plan(), tiny_loops.dense()
    with file_system(tmp_path / "disk", "size=8k") as disk:
        full = pytest.raises(InputError, match=r"^cannot write .*: No space left on device\n")
        with full, disk_errors(disk):
            drain(make_trajectories(dense, clean(), plan, disk))
        assert [path.name for path in disk.iterdir()] == ["shard-00001.safetensors",
                                                          "shard-00000.safetensors"]  # fmt: skip
        remount(disk, "size=1m")
        assert drain(make_trajectories(dense, clean(), plan, disk)) == 2 * 4
        assert torch.equal(states(TrajectorySet.load(disk, clean())), whole)


def test_a_trajectory_depends_on_its_number_alone(tmp_path: Path) -> None:
    few = states(tiny_loops.trajectories(tmp_path / "few", count=3, batch=1))
    many = states(tiny_loops.trajectories(tmp_path / "many", count=12, batch=8))
    torch.testing.assert_close(few, many[:3], rtol=2e-3, atol=2e-3)
    other = states(tiny_loops.trajectories(tmp_path / "other", count=3, seed=1))
    assert (few[:, 0] - other[:, 0]).abs().mean() > 0.5


def test_a_damaged_shard_is_made_again(tmp_path: Path) -> None:
    whole = states(tiny_loops.trajectories(tmp_path))
    other = tiny_loops.plan(counts=(1, 2, 4))  # one with more states
    drain(make_trajectories(tiny_loops.dense(), clean(), other, tmp_path))
    assert TrajectorySet.load(tmp_path, clean()).visited == (749, 499, 249)
    assert torch.equal(states(tiny_loops.trajectories(tmp_path)), whole)


@pytest.mark.parametrize("left", [0, 6, -1])
def test_a_shard_that_is_cut_short_is_made_again(tmp_path: Path, left: int) -> None:
    whole = states(tiny_loops.trajectories(tmp_path))
    (shard,) = tmp_path.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:left])
    assert torch.equal(states(tiny_loops.trajectories(tmp_path)), whole)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    dense = tiny_loops.dense()
    dense.model.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        drain(make_trajectories(dense, clean(), tiny_loops.plan(), tmp_path))


class Labelled:
    """A model of labels alone: it moves x towards its label."""

    def __init__(self) -> None:
        self.calls = 0

    def call(self, model, inputs):
        self.calls += 1
        label = inputs["class_labels"].float().reshape(-1, 1, 1, 1)
        return inputs["sample"] - 0.01 * label


def test_guidance_is_in_the_trajectories(tmp_path: Path) -> None:
    """Oracle: the guided call of the sampler that has it tested, one step of DDIM."""
    from dataclasses import replace

    labels = {"class_labels": torch.arange(12)}
    data = CleanSet(clean().sample, labels, "labels", {"class_labels": torch.tensor(40)})
    family = Labelled()
    dense = replace(tiny_loops.dense(), family=family)
    plan = tiny_loops.plan(counts=(1,), count=4, steps=1, guidance=3.0)
    assert drain(make_trajectories(dense, data, plan, tmp_path)) == 4 * 2 and family.calls == 2
    made = TrajectorySet.load(tmp_path, data)
    x = states(made)
    given = Conditioning({"class_labels": torch.arange(4)}, data.null, 3.0)
    v = guided_call(dense, given)(x[:, 0], torch.full((4,), 999))
    bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[999]
    clean_end = bar.sqrt() * x[:, 0] - (1 - bar).sqrt() * v
    torch.testing.assert_close(x[:, 1], clean_end.float(), rtol=2e-3, atol=2e-3)
    assert made.conditions([1, 3, 13])["class_labels"].tolist() == [1, 3, 1]
