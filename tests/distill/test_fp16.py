"""fp16's loss scale, on a CPU's scaler: shared on resuming, and no end of overflow is taken."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from support import tiny_training
from support.tiny_training import Faulty, same, weights

from diffc.distill.all_steps import AllSteps, ModelPair
from diffc.distill.run import Run, TrainingSettings
from diffc.distill.train import SKIPS
from diffc.errors import RequestError
from diffc_export.events import drain


@pytest.fixture
def scaled(monkeypatch):
    """Runs scale their loss, as fp16 does on a GPU."""
    scaler = torch.amp.GradScaler

    def enabled(device, **_):
        return scaler(device, enabled=True, init_scale=64.0, growth_interval=3)

    monkeypatch.setattr(torch.amp, "GradScaler", enabled)


def overflowing(calls):
    """The family, whose student's gradient is not finite in these of its calls."""
    return Faulty(
        lambda call, output: output + (output * 0).abs().sqrt() if call in calls else output
    )


def test_a_step_that_overflows_is_left_out_and_the_scale_falls(tmp_path, scaled) -> None:
    student = tiny_training.unet(4, seed=1)
    work = tiny_training.work(tmp_path, student, family=overflowing({1}), ema_decay=0)
    next(work)
    assert same(weights(student), weights(tiny_training.unet(4, seed=1)))
    drain(work)
    assert not same(weights(student), weights(tiny_training.unet(4, seed=1)))


def test_overflow_without_an_end_stops_the_run(tmp_path, scaled) -> None:
    changes = {"steps": 60, "checkpoint_every": 10}
    family = overflowing({*range(5, 10), *range(12, 99)})  # five in a row are borne
    with pytest.raises(RequestError, match=rf"stopped at step {11 + SKIPS} of 60: the gradient"):
        drain(tiny_training.work(tmp_path, family=family, **changes))


def started(folder) -> Run:
    pair = ModelPair(tiny_training.teacher(), tiny_training.unet(4, seed=1))
    options = tiny_training.options(steps=8)
    lesson = AllSteps(pair, tiny_training.clean(), options)
    return Run.start(lesson, pair.student, TrainingSettings(options, folder, logs=folder))


def test_every_process_resumes_with_the_first_ones_scale(tmp_path, scaled, monkeypatch) -> None:
    drain(tiny_training.work(tmp_path, steps=8))
    sent: list[torch.Tensor] = []
    first, second = started(tmp_path), started(tmp_path / "not shared")
    two = {"num_processes": 2, "device": torch.device("cpu")}
    first.accelerator = SimpleNamespace(is_main_process=True, **two)
    second.accelerator = SimpleNamespace(is_main_process=False, **two)
    monkeypatch.setattr(torch.distributed, "broadcast", lambda t, src: sent.append(t.clone()))
    first.resume()
    monkeypatch.setattr(torch.distributed, "broadcast", lambda t, src: t.copy_(sent.pop(0)))
    second.resume()
    assert second.step == first.step == 8
    assert second.scaler.state_dict() == first.scaler.state_dict()
    assert first.scaler.state_dict()["scale"] == 256.0  # grown twice in eight steps of three
