"""Importance: against finite differences, over timesteps, and between processes."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.quick import QUICK_IMPORTANCE
from support.timesteps import first_timesteps

from diffc.errors import InputError
from diffc.models.diffusion import process_from_scheduler
from diffc.models.groups import Role
from diffc.models.sizes import get_tensor
from diffc.models.without_memory import LiveBytes
from diffc.prune.importance import diff_pruning, importance, score_names
from diffc.prune.importance import sums as channel_sums
from diffc.prune.importance.diff_pruning import loss_curve, stratified
from diffc.prune.importance.gradients import (
    backward,
    batch_loss,
    draw_batch,
    probe_output,
    slice_sums,
)
from diffc.recipe import ImportanceSection
from diffc_export.events import drain

QUICK = ImportanceSection(**QUICK_IMPORTANCE)


@pytest.mark.slow
@pytest.mark.parametrize("method", score_names())
def test_every_method_scores_every_channel(subject, method):
    if method == "reference":  # it walks every timestep
        subject = first_timesteps(subject, 60)
    found = drain(importance(subject, QUICK.model_copy(update={"method": method}), 0))
    assert {g.name: (g.size,) for g in subject.groups} == {
        name: score.shape for name, score in found.scores.items()
    }
    assert all(np.isfinite(score).all() and (score >= 0).all() for score in found.scores.values())
    assert found.why["method"] == method


def test_a_slices_sum_is_the_change_when_it_is_scaled_to_zero(subject):
    """w . dL/dw over a slice equals the derivative of L along scaling that slice."""
    batch = draw_batch(subject, 300, 2, (0,))
    backward(subject, batch)
    group = subject.groups[3]
    sums = {g.name: s for g, s in slice_sums(subject)}[group.name]
    piece, channel, step = group.slices[0], 1, 1e-3
    index = torch.from_numpy(piece.index[channel])
    losses = []
    for sign in (1, -1):
        scaled = copy.deepcopy(subject.denoiser.model)
        with torch.no_grad():
            weight = get_tensor(scaled, piece.tensor).double()
            weight.index_copy_(
                piece.dim, index, weight.index_select(piece.dim, index) * (1 + sign * step)
            )
            get_tensor(scaled, piece.tensor).copy_(weight)
        moved = replace(subject, denoiser=subject.denoiser.with_model(scaled))
        losses.append(float(batch_loss(moved, batch).detach()))
    slope = (losses[0] - losses[1]) / (2 * step)
    assert sums[0, channel] == pytest.approx(slope, rel=0.05, abs=2e-5)


def test_products_take_the_memory_of_parts_of_tensors_alone(subject, monkeypatch):
    monkeypatch.setattr(channel_sums, "PART", 1024)
    backward(subject, draw_batch(subject, 300, 2, (0,)))
    model, gradients = subject.denoiser.model, torch.nn.Module()
    for number, value in enumerate(model.parameters()):
        gradients.register_buffer(str(number), value.grad)
    with LiveBytes([model, gradients]) as live:
        assert len(list(slice_sums(subject))) == len(subject.groups)
    assert 0 < live.peak < sum(4 * value.numel() for value in model.parameters()) / 2


def _scaled(subject, group, channel, factor):
    """The output's model where whatever reads one channel of the group reads ``factor`` of it."""
    model = copy.deepcopy(subject.denoiser.model)
    with torch.no_grad():
        for piece in group.by_role(Role.IN):
            weight, index = get_tensor(model, piece.tensor), torch.from_numpy(piece.index[channel])
            part = weight.index_select(piece.dim, index) * factor
            weight.index_copy_(piece.dim, index, part)
    return subject.denoiser.with_model(model)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 3])
def test_a_score_is_how_the_output_changes_without_the_channel(subject, number):
    """Against finite differences: the squared length of d output / d (scale of what reads it).

    The mean over directions that are the axes themselves is exact; random ones come near.
    """
    group = subject.groups[number]
    batch = draw_batch(subject, 300, 1, (0,))
    clean, noise, t, conditions = batch
    inputs = subject.denoiser.noised(clean, noise, t, conditions)
    step = 1e-2
    with torch.no_grad():
        ends = [_scaled(subject, group, 1, 1 + sign * step).call(inputs) for sign in (1, -1)]
    slope = (ends[0] - ends[1]) / (2 * step)
    exact = float(slope.square().mean())
    reading = [i for i, piece in enumerate(group.slices) if piece.role is Role.IN]
    squares = []
    for place in range(120):
        direction = torch.randn(clean.shape, generator=torch.Generator().manual_seed(place))
        if place == 0:
            expected = float((direction * slope).sum() / clean.numel() ** 0.5)
        probe_output(subject, batch, direction)
        sums = {g.name: s for g, s in slice_sums(subject)}[group.name]
        change = float(sums[reading].sum(axis=0)[1])
        if place == 0:
            assert change == pytest.approx(expected, rel=2e-2)
        squares.append(change**2)
    assert np.mean(squares) == pytest.approx(exact, rel=0.25)


def test_the_probe_is_the_same_in_pieces(subject):
    """Rows worked one by one leave the gradients of the whole batch."""
    batch = draw_batch(subject, 300, 4, (0,))
    direction = torch.randn(batch[0].shape, generator=torch.Generator().manual_seed(0))
    found = []
    for rows in (None, 1):
        subject.limit.rows = rows
        probe_output(subject, batch, direction)
        found.append(subject.denoiser.model.conv_in.weight.grad.clone())
    assert torch.allclose(*found, rtol=1e-3, atol=1e-5)


def test_the_seed_decides(subject):
    first, again, other = (drain(importance(subject, QUICK, seed)) for seed in (0, 0, 1))
    name = subject.groups[0].name
    assert np.array_equal(first.scores[name], again.scores[name])
    assert not np.array_equal(first.scores[name], other.scores[name])


def test_the_curve_and_the_chosen_timesteps_are_recorded(subject):
    found = drain(importance(subject, QUICK, 0))
    curve = found.why["curve"]
    assert len(curve["t"]) == len(curve["relative_loss"]) == 5
    assert max(curve["relative_loss"]) == 1.0
    assert found.why["passes"] == 6 and found.why["threshold"] == 0.05


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_losses_of_every_parametrisation_are_on_one_scale(prediction):
    """The same error in the implied noise gives the same loss, whatever is predicted."""
    process = process_from_scheduler({"prediction_type": prediction})
    t = torch.tensor([10, 300, 700])
    generator = torch.Generator().manual_seed(0)
    clean, noise, error = (torch.randn(3, 1, 8, 8, generator=generator) for _ in range(3))
    x_t = process.noised(clean, noise, t)
    wrong = noise + 0.1 * error  # a model that errs by this much in epsilon, at fixed x_t
    a, b = (row[t].float().reshape(-1, 1, 1, 1) for row in (process.signal, process.noise))
    x_0 = (x_t - b * wrong) / a
    output = {"epsilon": wrong, "sample": x_0, "v_prediction": a * wrong - b * x_0}[prediction]
    loss = (output - process.target(clean, noise, t)).square().flatten(1).mean(1)
    expected = (0.1 * error).square().flatten(1).mean(1)
    assert torch.allclose(loss * process.epsilon_scale(t), expected, rtol=2e-3)


def test_timesteps_are_spread_over_their_cells():
    cells = [[0, 9], [50, 59]]
    times = stratified(cells, 10, 0)
    assert times == sorted(times) and sum(t < 10 for t in times) == 5
    assert all(t <= 9 or 50 <= t <= 59 for t in times)


def test_a_loss_that_is_not_finite_is_said(subject):
    process = subject.denoiser.process
    denoiser = replace(
        subject.denoiser, process=replace(process, signal=process.signal * float("nan"))
    )
    with pytest.raises(InputError, match="not finite"):
        drain(loss_curve(replace(subject, denoiser=denoiser), QUICK, 0))


def test_gradients_that_are_nan_are_said(subject, monkeypatch):
    def poison(gradient):
        return gradient * float("nan")

    subject.denoiser.model.conv_in.weight.register_hook(poison)
    with pytest.raises(InputError, match=r"gradients of conv_in\.weight are not finite"):
        drain(importance(subject, QUICK, 0))


def test_two_processes_sum_to_one(subject, monkeypatch):
    """Each of two ranks does its share; their sums are the single process's scores."""
    whole = drain(importance(subject, QUICK, 0)).scores
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(diff_pruning, "process_share", lambda rank=rank: (rank, 2))
        monkeypatch.setattr(diff_pruning, "_add_over_processes", lambda total, world: None)
        parts.append(drain(importance(subject, QUICK, 0)).scores)
    for name, score in whole.items():
        assert np.allclose(parts[0][name] + parts[1][name], score, rtol=1e-9)
