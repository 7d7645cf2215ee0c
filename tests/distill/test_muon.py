"""Muon: torch's own as the oracle, what is left to AdamW, and a resumed run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import plain_lesson, tiny_training
from support.tiny_training import same, trained, weights
from torch import nn

from diffc.distill.muon import Muon, is_matrix, orthogonal
from diffc_export.events import drain

BETAS = (0.9, 0.99)


def _gradients(shape: tuple[int, ...], steps: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in range(steps)]


def _prepared(parameter: nn.Parameter, **options: float) -> Muon:
    ours = Muon([parameter], 1e-2, BETAS, options.get("weight_decay", 0.0))
    ours.state[parameter] = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(parameter)}
    return ours


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_steps_as_torchs_own(shape: tuple[int, int], decay: float) -> None:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    mine, other = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    ours = _prepared(mine, weight_decay=decay)
    theirs = torch.optim.Muon(
        [other], lr=1e-2, weight_decay=decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for gradient in _gradients(shape, 3):
        mine.grad, other.grad = gradient.clone(), gradient.clone()
        ours.step(), theirs.step()
    # both iterate in bfloat16, whose rounding depends on how products are grouped
    assert (mine - other).norm() < 0.02 * (other - start).norm()


def test_a_kernel_is_the_matrix_of_its_rows() -> None:
    flat = nn.Parameter(torch.zeros(16, 36))
    kernel = nn.Parameter(torch.zeros(16, 4, 3, 3))
    for parameter in (flat, kernel):
        parameter.grad = _gradients((16, 36), 1)[0].reshape(parameter.shape)
        _prepared(parameter).step()
    assert kernel.abs().max() > 0
    assert torch.equal(kernel.flatten(1), flat)


def test_the_singular_values_become_about_one_and_the_vectors_stay() -> None:
    rows = torch.randn(20, 50, generator=torch.Generator().manual_seed(2))
    left, _, right = torch.linalg.svd(rows, full_matrices=False)
    values = torch.diagonal(left.T @ orthogonal(rows) @ right.T)
    assert values.min() > 0.6 and values.max() < 1.3


@pytest.mark.parametrize(("is_fast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bfloat16_is_for_devices_that_are_fast_at_it(
    is_fast: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffc.data.precision.fast_bf16", lambda: is_fast)
    seen: set[torch.dtype] = set()
    product = torch.addmm

    def addmm(*matrices: torch.Tensor, **factors: float) -> torch.Tensor:
        seen.update(matrix.dtype for matrix in matrices)
        return product(*matrices, **factors)

    monkeypatch.setattr("torch.addmm", addmm)
    result = orthogonal(torch.eye(16))
    assert seen == {dtype} and result.dtype == torch.float32


def test_the_rest_steps_as_adamw() -> None:
    mine, other = (nn.Parameter(torch.ones(5)) for _ in range(2))
    ours = Muon([mine], 1e-2, BETAS, 0.0)
    theirs = torch.optim.AdamW([other], 1e-2, BETAS, weight_decay=0.0)
    for gradient in _gradients((5,), 3):
        mine.grad, other.grad = gradient.clone(), gradient.clone()
        ours.step(), theirs.step()
    assert torch.equal(mine, other)
    assert not is_matrix(torch.zeros(1, 64, 3, 3)) and is_matrix(torch.zeros(64, 64, 1, 1))


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    options = {"optimizer": "muon", "checkpoint_every": 2}
    assert any(map(is_matrix, tiny_training.unet(4, seed=1).parameters()))
    whole, _ = trained(tmp_path / "a", **options)
    plain, _ = trained(tmp_path / "c", checkpoint_every=2)
    assert not same(whole, plain)
    for event in (work := tiny_training.work(tmp_path / "b", **options)):
        if event.done == 5:  # the last checkpoint is that of step 4
            work.close()
    student = tiny_training.unet(4, seed=1)
    result = drain(tiny_training.work(tmp_path / "b", student, **options))
    assert result.resumed_from == 4 and same(weights(student), whole)


def test_a_resumed_run_counts_adamws_steps_where_a_matrix_comes_first(tmp_path: Path) -> None:
    """AdamW makes its first steps smaller, and must not take later ones for them."""
    whole, parts = plain_lesson.student(), plain_lesson.student()
    assert is_matrix(next(whole.parameters())) and not is_matrix(whole.bias)
    result = drain(plain_lesson.work(tmp_path / "a", whole, optimizer="muon"))
    plain_lesson.killed_at(5, tmp_path / "b", optimizer="muon")
    resumed = drain(plain_lesson.work(tmp_path / "b", parts, optimizer="muon"))
    assert resumed.resumed_from == 4 and resumed.losses == result.losses
    assert same(weights(whole), weights(parts))
