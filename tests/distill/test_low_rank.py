"""Low-rank additions: what a layer gives with them, what learns, and what is left in the end."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import tiny_loops, tiny_training
from support.family_cases import case, random_model
from support.tiny_training import same, weights
from torch import nn
from torch.nn import functional

from diffc.distill.all_steps import AllSteps, ModelPair
from diffc.distill.loop.lesson import LoopLesson
from diffc.distill.low_rank import (
    add_low_rank,
    count_additions,
    learn,
    merge_low_rank,
    trained_parameters,
)
from diffc.distill.run import Run, TrainingSettings
from diffc.distill.train import train
from diffc.errors import RequestError
from diffc.recipe import LowRankSection, Recipe, resolve
from diffc_export.events import drain

RANK = LowRankSection(rank=3, alpha=6.0)
SCALE = 2.0
CONVOLUTIONS = [
    (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
    (nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2), (2, 4, 9, 8)),
    (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 5, 6)),
    (nn.Conv3d(4, 6, (1, 3, 3), padding="same"), (2, 4, 3, 5, 5)),
]
LAYERS = [(nn.Linear(4, 6), (2, 5, 4)), *CONVOLUTIONS]


def with_values(model: nn.Module, seed: int = 0) -> None:
    """B too gets values, as after a training."""
    generator = torch.Generator().manual_seed(seed)
    for value in trained_parameters(model).values():
        value.data.copy_(0.3 * torch.randn(value.shape, generator=generator))


def product(addition) -> torch.Tensor:
    """B A, one output and one input after the other."""
    down, up = addition.down.flatten(1), addition.up.flatten(1)
    rows = [sum(up[o, r] * down[r] for r in range(len(down))) for o in range(len(up))]
    return torch.stack(rows).reshape(len(up), *addition.down.shape[1:])


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_a_layer_gives_what_the_formula_says_and_gradients_are_those_of_it(layer, shape):
    """Oracle: the plain layer with the weight W + scale B A, through which autograd goes."""
    ours, x = copy.deepcopy(layer), torch.randn(shape, requires_grad=True)
    add_low_rank(ours, RANK)
    learn(ours)
    assert torch.equal(ours(x), layer(x))  # B is 0
    with_values(ours)
    addition = ours.low_rank
    changed = layer.weight.detach() + SCALE * product(addition)
    names = {"weight": changed, "bias": layer.bias.detach()}
    theirs = torch.func.functional_call(layer, names, (x,))
    torch.testing.assert_close(ours(x), theirs, rtol=1e-5, atol=1e-5)
    factor = torch.randn_like(theirs)
    sources = (addition.down, addition.up, x)
    own = torch.autograd.grad((ours(x) * factor).sum(), sources)
    plain = torch.autograd.grad((theirs * factor).sum(), sources)
    for one, other in zip(own, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert ours.weight.grad is None and not ours.weight.requires_grad


@pytest.mark.parametrize("name", ["unet2d", "sd15", "flux", "sana", "wan"])
def test_the_merged_network_gives_what_it_gave_with_additions(name):
    of = case(name)
    model = random_model(of.family.class_name, of.config, seed=1).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    add_low_rank(model, LowRankSection(rank=2))
    learn(model)
    generator = torch.Generator().manual_seed(1)
    for value in trained_parameters(model).values():
        value.data.copy_(0.02 * torch.randn(value.shape, generator=generator))
    with torch.no_grad():
        unmerged = of.family.call(model, of.inputs)
        own = model.state_dict()
        assert all(torch.equal(own[key], value) for key, value in before.items())
        merge_low_rank(model)
        merged = of.family.call(model, of.inputs)
    assert list(model.state_dict()) == list(before) and not count_additions(model)
    assert not any(module._forward_hooks for module in model.modules())
    torch.testing.assert_close(merged, unmerged, rtol=0, atol=1e-5 * float(unmerged.abs().max()))
    after = model.state_dict()
    changed = [key for key in after if not torch.equal(after[key], before[key])]
    kinds = nn.Linear | nn.Conv2d | nn.Conv3d
    layers = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    assert changed and {key.removesuffix(".weight") for key in changed} <= set(layers)


def test_what_is_added_is_said_and_narrow_layers_have_their_own_rank():
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 2), nn.Conv2d(4, 4, 3, groups=4))
    notes = add_low_rank(model, LowRankSection(rank=4))
    shapes = [tuple(value.shape) for value in model[1].low_rank.parameters()]
    assert shapes == [(2, 6), (2, 2)] and not hasattr(model[2], "low_rank")
    count = 4 * (8 + 6) + 2 * (6 + 2)
    assert count_additions(model) == count and f"{count:,} parameters" in notes[0]
    assert notes[1:] == ["layers narrower than 4, with a rank of their own: 1"]


def started(folder: Path, **changes) -> Run:
    work = tiny_training.options(low_rank={"rank": 2}, **changes)
    student = tiny_training.unet(4, seed=1)
    lesson = AllSteps(ModelPair(tiny_training.teacher(), student), tiny_training.clean(), work)
    return Run.start(lesson, student, TrainingSettings(work, folder, low_rank=work.low_rank))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_optimizer_and_average_are_those_of_additions_alone(tmp_path, optimizer):
    run = started(tmp_path, optimizer=optimizer)
    count = count_additions(run.student)
    moments = [v for s in run.optimizer.state.values() for k, v in s.items() if k != "step"]
    assert sum(value.numel() for value in moments) == 2 * count
    assert sum(value.numel() for value in run.ema.shadow_params) == count
    assert 0 < count < sum(p.numel() for p in tiny_training.unet(4, seed=1).parameters()) / 2
    run.close()


def test_the_weights_of_the_cut_stay_until_additions_are_merged(tmp_path):
    """Oracle: the last checkpoint's moving average, added to the start by hand."""
    student = tiny_training.unet(4, seed=1)
    before, rank = weights(student), {"rank": 2, "alpha": 4.0}
    for _ in tiny_training.work(tmp_path, student, low_rank=rank, learning_rate=0.01):
        assert all(torch.equal(student.state_dict()[key], before[key]) for key in before)
    kept = load_file(tmp_path / "step-00000006.safetensors")
    assert {key.split(".")[0] for key in kept} == {"weights", "exp_avg", "exp_avg_sq", "ema"}
    assert all(".low_rank." in key for key in kept)
    after = weights(student)
    assert list(after) == list(before)
    for key, value in after.items():
        layer = key.removesuffix(".weight")
        down = kept.get(f"ema.{layer}.low_rank.down")
        if down is None:
            assert torch.equal(value, before[key])
            continue
        up = kept[f"ema.{layer}.low_rank.up"].flatten(1)
        change = 2.0 * (up @ down.flatten(1)).reshape(value.shape)
        torch.testing.assert_close(value, before[key] + change, rtol=1e-6, atol=1e-6)
        assert change.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in student.parameters())


@pytest.mark.parametrize("stop", [2, 5])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, stop):
    rank = {"low_rank": {"rank": 2}, "losses": {"features": 0.1}, "gradient_accumulation": 2}
    options = {**rank, "precision": "bf16", "learning_rate": 0.01}
    kept = tiny_training.kept_halves()
    whole, parts = (tiny_training.unet(4, seed=1) for _ in range(2))
    result = drain(tiny_training.work(tmp_path / "whole", whole, kept=kept, **options))
    work = tiny_training.work(tmp_path / "parts", kept=kept, **options)
    for _ in range(stop + 1):  # a checkpoint comes after its step's event
        next(work)
    work.close()
    resumed = drain(tiny_training.work(tmp_path / "parts", parts, kept=kept, **options))
    assert resumed.resumed_from == stop // 2 * 2 and resumed.losses == result.losses
    assert same(weights(whole), weights(parts)) and "rank 2" in result.notes[0]
    options["low_rank"] = {"rank": 3}
    again = tiny_training.work(tmp_path / "whole", kept=kept, **options)
    assert next(again).done == 1  # another run, which begins anew
    again.close()


def test_a_student_of_loops_goes_on_with_its_readout(tmp_path):
    """The last layer is solved before the additions learn, and again where a run goes on."""
    dense_way = tiny_loops.trajectories(tmp_path / "t", (1, 2))

    def running(folder, learner):
        how = tiny_loops.options(checkpoint_every=2)
        lesson = LoopLesson(learner, dense_way, tiny_loops.steps_of(1, 2), how)
        settings = TrainingSettings(how, folder, low_rank=LowRankSection(rank=2))
        return train(lesson, learner.model, settings)

    whole, parts = tiny_loops.student(), tiny_loops.student()
    before = weights(whole.model)
    result = drain(running(tmp_path / "whole", whole))
    assert any("the last layer was solved" in note for note in result.notes)
    work = running(tmp_path / "parts", tiny_loops.student())
    for _ in range(4):
        next(work)
    work.close()
    resumed = drain(running(tmp_path / "parts", parts))
    assert resumed.resumed_from == 2 and resumed.losses == result.losses
    assert same(weights(whole.model), weights(parts.model))
    biases = {k for k, v in weights(whole.model).items() if not torch.equal(v, before[k])}
    assert "conv_out.bias" in biases  # the readout's; no other bias learns
    assert {key for key in biases if key.endswith("bias")} == {"conv_out.bias"}


@pytest.mark.slow
def test_additions_bring_the_student_nearer(tmp_path):
    changes = {"steps": 40, "checkpoint_every": 40, "learning_rate": 0.01, "batch": 8}
    result = drain(tiny_training.work(tmp_path, low_rank={"rank": 4}, **changes))
    assert result.losses[-1][1] < 0.7 * result.losses[0][1]


@pytest.mark.parametrize("rank", [-1, 1.5, "many"])
def test_a_rank_that_is_none_is_refused(rank):
    with pytest.raises(RequestError, match=r"distill\.low_rank\.rank"):
        resolve(family="", flags={"distill": {"low_rank": {"rank": rank}}})
    with pytest.raises(RequestError, match=r"distill\.low_rank\.alpha"):
        resolve(family="", flags={"distill": {"low_rank": {"rank": 2, "alpha": 0}}})


def test_rank_0_trains_the_weights(tmp_path):
    assert Recipe().distill.low_rank.rank == 0
    plain, none = (tiny_training.trained(tmp_path / n, **c)[0] for n, c in (
        ("a", {}), ("b", {"low_rank": {"rank": 0, "alpha": 2.0}})))  # fmt: skip
    assert same(plain, none)


def test_the_addition_of_a_linear_layer_needs_no_product_of_the_weights_size():
    """Its activations are r wide: no matrix of the weight's size is kept for the way back."""
    layer = nn.Linear(64, 64)
    add_low_rank(layer, LowRankSection(rank=2))
    learn(layer)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: kept.append(v) or v, lambda v: v):
        functional.silu(layer(torch.randn(3, 64)))
    own = {layer.weight.data_ptr(), layer.low_rank.up.data_ptr(), layer.low_rank.down.data_ptr()}
    assert max(v.numel() for v in kept if v.data_ptr() not in own) <= 3 * 64
