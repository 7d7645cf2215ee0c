"""The repair after a cut: against numpy's least squares, and never worse on held-out rows."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch
from support.cut_models import FAMILIES, cut_copy, dense_denoiser
from support.family_cases import case
from torch import nn

from diffc.calibration.in_step import calls_in_step
from diffc.models.groups import Group, Role, Slice
from diffc.models.layer_rows import (
    add_change,
    blocks,
    column_count,
    input_rows,
    output_rows,
    positions,
)
from diffc.prune.repair import room, run
from diffc.prune.repair.layers import readers
from diffc.prune.repair.least_squares import RIDGES, Sums, best_change
from diffc.prune.surgery import cut
from diffc_export.events import drain


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sums_of(inputs: torch.Tensor, lack: torch.Tensor) -> Sums:
    sums = Sums(inputs.shape[1], lack.shape[1], inputs.device)
    sums.add(inputs, lack, lack + 1)
    return sums


def two_layers() -> tuple[nn.Sequential, Group]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4))
    index = np.arange(10)[:, None]
    slices = (
        Slice("0.weight", 0, Role.OUT, index),
        Slice("0.bias", 0, Role.OUT, index),
        Slice("2.weight", 1, Role.IN, index),
    )
    return model, Group("0", 10, slices)


def test_a_cut_net_gets_the_weights_of_numpys_least_squares():
    model, group = two_layers()
    keep = {"0": np.array([0, 2, 5, 6, 9])}
    small = copy.deepcopy(model)
    cut(small, [group], keep)
    assert list(readers(model, small, [group], keep).able) == ["2"]
    with torch.no_grad():
        x = random(4000, 6)
        hidden, wanted = small[:2](x), model(x)
        (block,) = blocks(small[2])
        rows = input_rows(small[2], hidden, small(x), torch.tensor([0]), block)
        change = best_change(*[sums_of(rows, wanted - small(x))] * 2)
        assert change.ridge == RIDGES[0]
        add_change(small[2], change.weights, block)
    columns = np.concatenate([hidden.numpy(), np.ones((4000, 1))], 1).astype(np.float64)
    best = np.linalg.lstsq(columns, wanted.numpy().astype(np.float64), rcond=None)[0].T
    got = torch.cat([small[2].weight, small[2].bias[:, None]], 1).detach().numpy()
    np.testing.assert_allclose(got, best, atol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(3, 5),
        nn.Linear(3, 5, bias=False),
        nn.Conv2d(3, 5, 3, padding=1),
        nn.Conv2d(3, 5, 3, stride=2),
        nn.Conv2d(3, 5, (1, 3), dilation=2, padding=(0, 2), bias=False),
    ],
)
@torch.no_grad()
def test_rows_times_weights_are_the_layers_outputs(layer):
    value = random(2, 7, 9, 3) if isinstance(layer, nn.Linear) else random(2, 3, 7, 9)
    output = layer(value)
    chosen = torch.randperm(positions(layer, output))[:6]
    (block,) = blocks(layer)
    rows = input_rows(layer, value, output, chosen, block)
    weights = layer.weight.flatten(1)
    if layer.bias is not None:
        weights = torch.cat([weights, layer.bias[:, None]], 1)
    assert rows.shape[1] == column_count(layer, block)
    torch.testing.assert_close(rows @ weights.T, output_rows(layer, output, chosen))
    add_change(layer, weights, block)
    torch.testing.assert_close(layer(value), 2 * output)


@pytest.mark.parametrize("layer", [nn.Linear(7, 5), nn.Conv2d(7, 5, 3, padding=1)])
@torch.no_grad()
def test_blocks_of_a_wide_layer_are_the_whole_layer(layer, monkeypatch):
    value = random(2, 9, 7) if isinstance(layer, nn.Linear) else random(2, 7, 4, 6)
    output = layer(value)
    chosen = torch.arange(4)
    (whole,) = blocks(layer)
    rows = input_rows(layer, value, output, chosen, whole)
    monkeypatch.setattr("diffc.models.layer_rows.MOST_COLUMNS", 3 * layer.weight[0, 0].numel())
    several = blocks(layer)
    assert len(several) == 3
    assert all(column_count(layer, b) <= rows.shape[1] // 2 for b in several)
    parts = [input_rows(layer, value, output, chosen, b)[:, :-1] for b in several]
    torch.testing.assert_close(torch.cat(parts, 1), rows[:, :-1])
    weights = layer.weight.flatten(1).clone()
    add_change(
        layer, torch.cat([weights[:, : parts[0].shape[1]], layer.bias[:, None]], 1), several[0]
    )
    assert torch.equal(layer.weight[:, several[0]].flatten(1), 2 * weights[:, : parts[0].shape[1]])
    assert torch.equal(layer.weight[:, several[1]], weights.view_as(layer.weight)[:, several[1]])


@pytest.mark.parametrize("rows", [3, 40])
@pytest.mark.parametrize("seed", range(4))
def test_never_worse_on_held_out_rows(seed, rows):
    """Fewer rows than columns, columns that are equal (a singular covariance), and noise alone."""
    inputs, judges = random(rows, 12, seed=seed), random(20, 12, seed=seed + 9)
    inputs[:, 1], judges[:, 1] = inputs[:, 0], judges[:, 0]
    lack, held_out = random(rows, 3, seed=seed + 20), random(20, 3, seed=seed + 30)
    change = best_change(sums_of(inputs, lack), sums_of(judges, held_out))
    assert change.after <= change.before
    assert (change.weights is None) == (change.after == change.before)
    if change.weights is not None:
        left = held_out - judges @ change.weights.float().T
        exact = left.square().sum() / (held_out + 1).square().sum()
        assert change.after == pytest.approx(float(exact), rel=1e-4)


def test_calls_wait_for_each_other_and_see_new_weights():
    model, _ = two_layers()
    results: list[torch.Tensor] = []
    given = [random(1, 6, seed=i) for i in range(3)]
    works = [lambda x=x: results.append(model(x)) for x in given]
    before = threading.active_count()
    with calls_in_step(model, ["2"], works, before=True) as calls:
        assert [call.to_next_layer().name for call in calls] == ["2"] * 3
        with torch.no_grad():
            model[2].weight.zero_()
        assert [call.to_next_layer() for call in calls] == [None] * 3
    assert all(torch.equal(result[0], model[2].bias) for result in results)
    assert threading.active_count() == before


def test_a_call_that_fails_says_so_and_leaves_no_thread():
    model, _ = two_layers()
    before = threading.active_count()
    works = [lambda: model(random(1, 6)), lambda: model(random(1, 7))]
    with pytest.raises(RuntimeError), calls_in_step(model, ["2"], works) as calls:
        for call in calls:
            call.to_next_layer()
    assert threading.active_count() == before


def prepared(name: str):
    """The dense denoiser, the cut model, its readers, and clean samples of one tiny family."""
    dense, clean = dense_denoiser(name)
    small, keep = cut_copy(dense, name)
    return dense, small, readers(dense.model, small, case(name).groups, keep), clean


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_comes_nearer_to_its_dense_model(name):
    dense, small, mendable, clean = prepared(name)
    result = drain(run.repair(dense, small, mendable, clean, rows=48, seed=0))
    assert result.is_used
    assert result.repaired.to_dense < result.cut.to_dense
    assert result.dense.to_dense == 0
    assert all(layer.after <= layer.before for layer in result.layers)
    assert set(mendable.able) | set(mendable.reasons) == {
        *(layer.name for layer in result.layers),
        *result.left_alone,
    }
    for tensor, value in result.changed.items():
        assert torch.equal(small.get_parameter(tensor), value)


@pytest.mark.parametrize(("name", "most"), [("unet2d", 30), ("dit", 8)])
def test_wide_layers_are_mended_block_by_block(name, most, monkeypatch):
    """Blocks of few inputs come nearer too, and the last one is no worse than the first."""
    monkeypatch.setattr("diffc.models.layer_rows.MOST_COLUMNS", most)
    dense, small, mendable, clean = prepared(name)
    result = drain(run.repair(dense, small, mendable, clean, rows=24, seed=0))
    assert result.repaired.to_dense < result.cut.to_dense
    widths = {n: small.get_submodule(n).weight[0].numel() for n in mendable.able}
    wide = [layer for layer in result.layers if widths[layer.name] > most]
    assert wide and all(layer.columns <= most + 1 for layer in wide)
    assert all(layer.after <= layer.before * (1 + 1e-6) for layer in result.layers)


def test_it_is_the_same_in_every_run():
    changed = []
    for _ in range(2):
        dense, small, mendable, clean = prepared("dit")
        changed.append(drain(run.repair(dense, small, mendable, clean, rows=16, seed=5)).changed)
    assert changed[0].keys() == changed[1].keys()
    assert all(torch.equal(changed[0][name], changed[1][name]) for name in changed[0])


def test_a_network_that_comes_no_nearer_stays_as_it_is(monkeypatch):
    dense, small, mendable, clean = prepared("dit")
    before = {name: value.clone() for name, value in small.state_dict().items()}
    monkeypatch.setattr(run, "add_change", lambda layer, *_: layer.weight.data.fill_(float("nan")))
    result = drain(run.repair(dense, small, mendable, clean, rows=16, seed=0))
    assert not result.is_used
    assert not result.changed
    assert all(torch.equal(before[name], value) for name, value in small.state_dict().items())


def test_activations_that_are_not_finite_leave_a_layer_alone():
    dense, small, mendable, clean = prepared("dit")
    last = list(mendable.able)[-1]
    dense.model.get_submodule(last).bias.data.fill_(float("nan"))
    result = drain(run.repair(dense, small, mendable, clean, rows=16, seed=0))
    assert result.left_alone[last] == "its activations are not finite"
    assert not result.is_used


def test_memory_that_runs_out_halves_the_rows(monkeypatch):
    dense, small, mendable, clean = prepared("dit")
    before = {name: value.clone() for name, value in small.state_dict().items()}
    real, calls = run.best_change, []

    def once(*sums):
        calls.append(sums)
        if len(calls) == 2:
            assert any(not torch.equal(before[n], v) for n, v in small.state_dict().items())
            raise MemoryError("no room")
        return real(*sums)

    monkeypatch.setattr(run, "best_change", once)
    assert drain(run.repair(dense, small, mendable, clean, rows=32, seed=0)).samples == 16


def test_rows_are_as_many_as_the_room_holds(monkeypatch):
    dense, small, _, _ = prepared("unet2d")
    models = (dense, dense.with_model(small))
    one, two = dense.examples(1), dense.examples(2)
    whole, cut_one = (room.activation_bytes(model, one) for model in models)
    assert cut_one < whole
    assert room.activation_bytes(dense, two) == pytest.approx(2 * whole, rel=0.1)
    assert room.rows_with_room(256, models, one) == 256
    monkeypatch.setattr(room, "ROOM", 40 * (whole + cut_one))
    assert room.rows_with_room(256, models, one) == 40
    monkeypatch.setattr(room, "ROOM", 1)
    assert room.rows_with_room(256, models, one) == 16


@pytest.mark.parametrize("rows", [3, 40])
def test_inputs_that_repeat_each_other_are_no_trouble(rows):
    """A singular matrix of products: equal inputs, a constant 0, and fewer rows than inputs."""
    value = random(rows, 6)
    inputs = torch.cat([value, value, torch.zeros(rows, 1)], 1)
    true = random(4, 6, seed=1)
    sums = sums_of(inputs, value @ true.T)
    change = best_change(sums, sums)
    assert change.weights is not None and bool(torch.isfinite(change.weights).all())
    assert change.after <= 1e-6 < change.before
    shared = change.weights[:, :6] + change.weights[:, 6:12]  # what a pair of equal inputs does
    if rows > 6:
        np.testing.assert_allclose(shared.numpy(), true.numpy(), atol=1e-4)
    assert float(change.weights[:, 12].abs().max()) == 0
