"""What several processes call: the student inside of a wrapper that shows nothing of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from support import tiny_training
from support.family_cases import case
from torch import nn

from diffc.distill.all_steps import AllSteps, ModelPair
from diffc.distill.setup import as_called


class Wrapper(nn.Module):
    """DistributedDataParallel, as far as a family can see."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs, **named):
        return self.module(*inputs, **named)


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_a_family_that_reads_the_config_gets_it(name: str) -> None:
    of = case(name)
    model = as_called(of.model, SimpleNamespace(prepare_model=Wrapper))
    assert isinstance(model, Wrapper)
    with torch.no_grad():
        wanted = of.family.call(of.model, of.inputs)
        assert torch.equal(of.family.call(model, of.inputs), wanted)


def test_a_process_alone_calls_the_student_itself() -> None:
    student = nn.Linear(2, 2)
    assert as_called(student, SimpleNamespace(prepare_model=lambda model: model)) is student


def test_features_alone_give_a_gradient_to_the_end_of_the_network_too() -> None:
    """Several processes wait for the gradient of every parameter; one has none to wait for."""
    student = tiny_training.unet(4, seed=1)
    pair = ModelPair(tiny_training.teacher(), student, tiny_training.kept_halves())
    options = tiny_training.options(losses={"output": 0, "features": 1})
    lesson = AllSteps(pair, tiny_training.clean(), options)
    lesson.open(student, torch.device("cpu"), torch.float32)
    batch, losses = lesson.draw(0, range(2)), []
    for model in (student, as_called(student, SimpleNamespace(prepare_model=Wrapper))):
        losses.append(lesson.loss(model, batch))
        without = {name for name, value in student.named_parameters() if value.grad is None}
        losses[-1].backward()
    assert torch.equal(*losses) and "conv_out.weight" in without
    assert not student.conv_out.weight.grad.any() and student.conv_in.weight.grad.any()
    lesson.close()
