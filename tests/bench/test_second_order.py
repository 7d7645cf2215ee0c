"""The benchmark of derivatives that a student matches: the term, and rows of equal time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from torch.autograd import forward_ad

from bench import second_order
from bench.held_out import IMAGES
from diffc.data.clean import CleanSet
from diffc.distill.all_steps import AllSteps, ModelPair
from diffc.models.denoiser import denoiser_of
from diffc.models.families import family
from diffc.recipe import DistillSection

SCHEDULER = {"_class_name": "DDPMScheduler", "num_train_timesteps": 10}
RESULTS = {
    "settings": {"ratio": 0.5, "budget_steps": 9, "images": 2, "loop": "ddim:2", "threads": 1},
    "training": {"optimizer": "muon", "learning_rate": 3e-4, "batch": 16},
    "date": "2026-11-29", "environment": None, "seconds": 12.0, "dense_held_out_error": 0.02,
    "rows": [{"row": "derivative, weight 1", "steps": 3, "processor_seconds": 12.4,
              "ssim": {"mean": 0.9, "ci95": [0.85, 0.95]}, "held_out_error": 0.03,
              "derivative_error": 0.25}],
}  # fmt: skip


def network(seed: int) -> UNet2DModel:
    """With attention, whose output is not laid out as a convolution's."""
    torch.manual_seed(seed)
    return UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), layers_per_block=1,
        norm_num_groups=4, attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


@pytest.fixture
def pair() -> ModelPair:
    teacher = network(0).requires_grad_(False).eval()
    denoiser = denoiser_of(teacher, family("UNet2DModel"), SCHEDULER)
    student = network(1).eval().to(memory_format=torch.channels_last)
    return ModelPair(denoiser, student, dict.fromkeys(["mid_block.resnets.0"]))


OPTIONS = DistillSection(batch=3, weighting="none", losses={"output": 1, "features": 0.1})


def lesson(kind: type[AllSteps], pair: ModelPair) -> AllSteps:
    clean = CleanSet(torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(2)), {}, "")
    lesson = kind(pair, clean, OPTIONS)
    lesson.open(pair.student, torch.device("cpu"), torch.float32)
    return lesson


def test_weight_0_is_the_products_loss(pair) -> None:
    product, own = (lesson(kind, pair) for kind in (AllSteps, second_order.SecondOrder))
    ours, theirs = own.draw(3, range(3)), product.draw(3, range(3))
    assert torch.equal(ours.noise, theirs.noise) and torch.equal(ours.t, theirs.t)
    assert torch.equal(own.loss(pair.student, ours), product.loss(pair.student, theirs))
    second, rest = ours.pieces(2)
    assert torch.equal(torch.cat([second.direction, rest.direction]), ours.direction)
    assert not torch.equal(own.draw(4, range(3)).direction, ours.direction)


def test_a_weight_adds_the_error_of_the_derivative_and_the_student_feels_it(pair) -> None:
    own = second_order.SecondOrder
    exact = lesson(own, pair)
    batch = exact.draw(0, range(3))
    plain = exact.loss(pair.student, batch)
    exact.close()
    weighed = lesson(type("Weighed", (own,), {"weight": 0.5}), pair)
    loss = weighed.loss(pair.student, batch)

    def along(model: torch.nn.Module) -> torch.Tensor:
        """The derivative by differences."""
        denoiser, size = pair.teacher.with_model(model), 1e-2
        noised = pair.teacher.noised(batch.clean, batch.noise, batch.t, batch.conditions)
        ends = [
            denoiser.call({**noised, "sample": noised["sample"] + side * size * batch.direction})
            for side in (1, -1)
        ]
        return (ends[0] - ends[1]) / (2 * size)

    with torch.no_grad():
        error = (along(pair.student) - along(pair.teacher.model)).square().mean()
    assert float(loss.detach() - plain.detach()) == pytest.approx(0.5 * float(error), rel=1e-2)
    gradients = []
    for one in (plain, loss):
        (gradient,) = torch.autograd.grad(one, [pair.student.conv_in.weight])
        gradients.append(gradient)
    assert not torch.allclose(*gradients, rtol=1e-2)
    assert not any(module._forward_pre_hooks for module in pair.student.modules())
    with forward_ad.dual_level(), torch.no_grad():
        output, tangent = weighed.derivative(pair.teacher.model, batch)
    assert output.shape == tangent.shape == batch.clean.shape


def test_the_page_has_a_row_for_each_training(monkeypatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "scripts")
    from page_second_order import second_order as section

    text = "\n".join(section(RESULTS))
    assert "| derivative, weight 1 | 3 | 12 | 0.900 [0.850, 0.950] | 0.0300 | 0.2500 |" in text
    assert "9 steps of the product's loss" in text
    assert "| derivative, weight 1 | 3 | 12 |" in second_order.table(RESULTS)


@pytest.mark.slow
def test_rows_have_equal_time_and_one_start(tmp_path, monkeypatch) -> None:
    random, sets = np.random.default_rng(0), {}
    for split in ("train", "test"):
        sets[split] = random.integers(0, 256, (IMAGES, 32, 32, 1), np.uint8)
        sets[f"{split}_labels"] = np.arange(IMAGES) % 10
    np.savez(tmp_path / "data.npz", **sets)
    out = tmp_path / "second_order.json"
    given = ["--small", "--budget-steps", 2, "--images", 2, "--loop", "ddim:2", "--weights", 0, 1]
    given += ["--fashion", tmp_path / "data.npz", "--work", tmp_path / "work", "--out", out]
    monkeypatch.setattr(sys, "argv", ["second_order", *map(str, given)])
    monkeypatch.setenv("DIFFC_CACHE", "")  # which main sets
    threads = torch.get_num_threads()
    try:
        second_order.main()
    finally:
        torch.set_num_threads(threads)
    results = json.loads(out.read_text())
    start, *rows = results["rows"]
    assert [row["row"] for row in rows] == ["the product's loss", "derivative, weight 1",
                                            "block-local"]  # fmt: skip
    assert start["steps"] == 0 and all(row["steps"] > 0 for row in rows)
    assert all(row["processor_seconds"] >= results["seconds"] for row in rows[:2])
