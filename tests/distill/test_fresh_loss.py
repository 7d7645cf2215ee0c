"""Whether a training says that it took its student away from the dense model."""

from __future__ import annotations

import pytest
import torch
from support import tiny_loops
from support.runs import compile_quickly
from support.tiny_training import clean, unet

from diffc.distill.all_steps import ModelPair
from diffc.distill.fresh_loss import ROWS, fresh_loss, why_worse
from diffc.models.denoiser import denoiser_of
from diffc.models.families.unet2d import FAMILY
from diffc.recipe import DistillSection

OPTIONS = DistillSection.model_validate(
    {"steps": 4, "batch": 4, "precision": "fp32", "losses": {"features": 0.0}}
)


def loss_of(student: torch.nn.Module) -> float:
    teacher = denoiser_of(unet(8, seed=0), FAMILY, tiny_loops.CONFIG)
    return fresh_loss(ModelPair(teacher, student), clean(), OPTIONS, 0)


def test_it_grows_with_the_distance_from_the_teacher() -> None:
    near, far = unet(8, seed=0), unet(8, seed=0)
    with torch.no_grad():
        for scale, model in ((1e-3, near), (1e-1, far)):
            generator = torch.Generator().manual_seed(1)
            for value in model.parameters():
                value += scale * torch.randn(value.shape, generator=generator)
    assert loss_of(unet(8, seed=0)) == pytest.approx(0, abs=1e-9)
    assert 0 < loss_of(near) < loss_of(far)


def test_a_student_is_left_as_it_was_and_rows_are_the_same() -> None:
    student = unet(4, seed=1).train()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    assert loss_of(student) == loss_of(student) and ROWS >= 16
    assert student.training
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())
    assert all(value.grad is None for value in student.parameters())


def test_only_a_worse_model_has_words() -> None:
    assert why_worse(0.5, 0.5, 4) is None and why_worse(0.5, 0.4, 4) is None
    assert "0.5 before the 4 steps and 0.6 after" in str(why_worse(0.5, 0.6, 4))


def test_the_report_says_that_a_training_made_the_model_worse(tiny_model, tmp_path) -> None:
    wild = {"steps": 4, "warmup": 1, "batch": 4, "learning_rate": 0.3}
    report = compile_quickly(tiny_model, tmp_path, distill=wild)
    assert any("made the model worse" in note for note in report.distillation["notes"])
