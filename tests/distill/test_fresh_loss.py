"""A training that takes its student away from the dense model is not taken, and says so."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file
from support import tiny_loops
from support.runs import compile_quickly
from support.tiny_training import clean, unet

from diffc.distill.all_steps import ModelPair
from diffc.distill.fresh_loss import ROWS, fresh_loss, why_not_taken
from diffc.models.denoiser import denoiser_of
from diffc.models.families.unet2d import FAMILY
from diffc.recipe import DistillSection
from diffc.report.trainings import training_words
from diffc.stages import distill

OPTIONS = DistillSection.model_validate(
    {"steps": 4, "batch": 4, "precision": "fp32", "losses": {"features": 0.0}}
)


def loss_of(student: torch.nn.Module) -> float:
    teacher = denoiser_of(unet(8, seed=0), FAMILY, tiny_loops.CONFIG)
    return fresh_loss(ModelPair(teacher, student), clean(), OPTIONS, 0)


@pytest.mark.slow
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
    assert why_not_taken(0.5, 0.5, 4) is None and why_not_taken(0.5, 0.4, 4) is None
    assert "0.5 before the 4 steps and 0.6 after" in str(why_not_taken(0.5, 0.6, 4))
    assert why_not_taken(0.5, math.nan, 4) is not None


@pytest.mark.slow
def test_the_model_from_before_a_wild_training_is_taken(tiny_model, tmp_path) -> None:
    wild = {"steps": 4, "warmup": 1, "batch": 4, "learning_rate": 0.3}
    report = compile_quickly(tiny_model, tmp_path / "wild", distill=wild)
    compile_quickly(tiny_model, tmp_path / "untrained", distill={"steps": 0})
    assert report.distillation["is_used"] is False
    assert any("made the model worse" in note for note in report.distillation["notes"])
    assert training_words(report) == ""
    trained, untrained = (
        load_file(next((tmp_path / name / "model").rglob("*.safetensors")))
        for name in ("wild", "untrained")
    )
    assert trained.keys() == untrained.keys()
    assert all(torch.equal(trained[name], value) for name, value in untrained.items())


@pytest.mark.slow
def test_a_training_that_helps_is_taken(tiny_model, tmp_path, monkeypatch) -> None:
    """There is one student all the while: low-rank additions have room for no second one."""
    students, load = [], distill._student

    def student(*given):
        students.append(load(*given))
        return students[-1]

    monkeypatch.setattr(distill, "_student", student)
    gentle = {"steps": 30, "warmup": 1, "batch": 4, "learning_rate": 1e-4}
    report = compile_quickly(tiny_model, tmp_path, distill=gentle)
    assert report.distillation["is_used"] is True and training_words(report) == "30 steps"
    assert len(students) == 1
