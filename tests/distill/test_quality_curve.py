"""The curve of quality over a run: of the moving average, resumed with it, changing nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import tiny_training
from support.tiny_training import same, trained, weights

from diffc.errors import OutOfMemory
from diffc.measure.samples import consistency
from diffc.models.denoiser import denoiser_of
from diffc.models.families.unet2d import FAMILY
from diffc_export.events import drain


def mean_weight(model) -> float:
    return float(torch.cat([p.detach().flatten() for p in model.parameters()]).mean())


def test_the_judge_sees_the_moving_average_and_changes_nothing(tmp_path: Path) -> None:
    plain, _ = trained(tmp_path / "a")
    student, seen = tiny_training.unet(4, seed=1), []

    def judge(model) -> float:
        seen.append(weights(model))
        return float(len(seen))

    work = tiny_training.work(tmp_path / "b", student, judge=judge, quality_every=3)
    events = [event for event in work if "ssim" in event.values]
    assert [(e.done, e.values["ssim"]) for e in events] == [(3, 1.0), (6, 2.0)]
    assert same(weights(student), plain)
    assert same(seen[-1], plain)  # the last average is what the student ends as
    assert not same(seen[0], plain)


def test_a_resumed_run_has_the_whole_curve(tmp_path: Path) -> None:
    whole = drain(tiny_training.work(tmp_path / "a", judge=mean_weight, quality_every=2))
    work = tiny_training.work(tmp_path / "b", judge=mean_weight, quality_every=2)
    while next(work).done < 5:
        pass
    work.close()
    parts = drain(tiny_training.work(tmp_path / "b", judge=mean_weight, quality_every=2))
    assert [step for step, _ in whole.quality] == [2, 4, 6]
    assert parts.resumed_from == 4 and parts.quality == whole.quality


def test_consistency_is_one_for_the_dense_model_itself() -> None:
    config = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000}
    dense, other = (tiny_training.unet(8, seed, size=16).eval() for seed in (0, 1))
    judge = consistency(denoiser_of(dense, FAMILY, config), {}, n=2, steps=3)
    assert judge(dense) == 1.0 and judge(other) < 0.99


def test_processes_that_sample_together_never_halve_their_own(monkeypatch) -> None:
    """The others would wait in the middle of a batch that one of them has no room for."""
    config, calls = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000}, []
    dense = denoiser_of(tiny_training.unet(8, 0, size=16), FAMILY, config)

    def full(*_given, **_named) -> None:
        calls.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("diffc.measure.samples.guided_call", full)
    monkeypatch.setattr("diffc.measure.samples.is_sharded", lambda model: True)
    with pytest.raises(OutOfMemory, match="curve of quality"):
        consistency(dense, {}, n=2, steps=3)(dense.model)
    assert len(calls) == 1
