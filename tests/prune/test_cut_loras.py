"""Cutting a LoRA commutes with adding it, for every family; and it means what the paper says."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from support.family_cases import CASES, Case, case
from support.family_oracle import least_keep, random_keep
from support.loras import (
    kohya_names,
    layers_of,
    peft_names,
    random_pairs,
    save_lora,
    with_side_paths,
)

from diffc.models.components import Component
from diffc.models.loras.files import ComponentLoras, find_lora
from diffc.models.loras.fusing import fuse_model
from diffc.models.loras.pairs import LoraPair, read_pairs
from diffc.prune.lora import cut_pairs, diffusers_names
from diffc.prune.surgery import cut

TOLERANCE = 1e-5
NOTHING = np.array([], dtype=np.int64)
NETWORKS = {kind: name for name, (kind, _, _) in reversed(CASES.items()) if kind != "AutoencoderKL"}
"""Class -> the first of its cases."""
MORE = ("sdxl", "unet2d-head-dims", "dit-head-dims", "pixart-head-dims", "sd3-head-dims", "sd35",
        "sana-head-dims", "sana15", "flux-schnell", "wan-image")  # fmt: skip
WEIGHTS = (0.7, -1.3)


@pytest.fixture(params=[*NETWORKS.values(), *MORE])
def tiny(request) -> Case:
    return case(request.param)


@pytest.fixture(params=NETWORKS.values())
def network(request) -> Case:
    return case(request.param)


def part_with(tiny: Case, loras) -> Component:
    files = ComponentLoras(tuple(loras), type(tiny.model).__name__, tiny.config)
    return Component("", "diffusers", type(tiny.model).__name__, None, loras=files)


def two_loras(tiny: Case, folder):
    """One in diffusers' names, one in kohya's with an alpha, of different ranks, with weights."""
    first, second = random_pairs(tiny.model, 1, rank=2), random_pairs(tiny.model, 2, rank=4)
    paths = [
        save_lora(peft_names(first, f"{tiny.family.component}."), folder / "first.safetensors"),
        save_lora(kohya_names(second, alpha=2.0), folder / "second.safetensors"),
    ]
    texts = [f"{path}:{weight}" for path, weight in zip(paths, WEIGHTS, strict=True)]
    factors = (WEIGHTS[0], WEIGHTS[1] * 2.0 / 4)
    return [find_lora(text) for text in texts], list(zip((first, second), factors, strict=True))


def outputs(tiny: Case, model) -> torch.Tensor:
    with torch.no_grad():
        return tiny.family.call(model, tiny.inputs)


def fused(tiny: Case, loras):
    model = copy.deepcopy(tiny.model)
    fuse_model(part_with(tiny, loras), model)
    return model


def test_a_fused_lora_is_the_side_path_of_the_paper(network, tmp_path):
    loras, meaning = two_loras(network, tmp_path)
    oracle = network.model
    for pairs, factor in meaning:
        oracle = with_side_paths(oracle, pairs, factor)
    expected, got = outputs(network, oracle), outputs(network, fused(network, loras))
    scale = expected.abs().max().clamp(min=1)
    assert ((got - expected).abs().max() / scale) <= TOLERANCE
    assert (got - outputs(network, network.model)).abs().max() > 1e-2


@pytest.mark.parametrize("with_branches", [False, True], ids=["widths", "depth"])
def test_cutting_commutes_with_adding_two_loras(tiny, with_branches, tmp_path):
    loras, meaning = two_loras(tiny, tmp_path)
    branches = tiny.family.branches(tiny.model)
    gone = {one.name: NOTHING for one in branches[:: max(2, len(branches) // 3)]}
    keep = {**random_keep(tiny.groups, 3), **(gone if with_branches else {})}
    units = [*tiny.groups, *branches]

    added_first = fused(tiny, loras)
    cut(added_first, units, keep)

    cut_first = copy.deepcopy(tiny.model)
    cut(cut_first, units, keep)
    left_out = []
    for lora, (pairs, factor) in zip(loras, meaning, strict=True):
        shapes = {name: tuple(value.shape) for name, value in tiny.model.state_dict().items()}
        part = part_with(tiny, [lora])
        done = cut_pairs(read_pairs(lora, "", shapes, part.loras), units, keep)
        assert {pair.layer for pair in done.pairs} | {*done.left_out} == {*pairs}
        left_out += done.left_out
        assert_same_factor(done.pairs, lora.weight, factor, keep, tiny)
        for pair in done.pairs:
            with torch.no_grad():
                weight = cut_first.get_parameter(f"{pair.layer}.weight")
                weight.add_(pair.change(lora.weight).reshape(weight.shape))

    assert bool(left_out) == any(name not in dict(layers_of(cut_first)) for name in pairs)
    expected = added_first.state_dict()
    for name, value in cut_first.state_dict().items():
        assert value.shape == expected[name].shape, name
        assert (value - expected[name]).abs().max() <= TOLERANCE, name
    difference = outputs(tiny, cut_first) - outputs(tiny, added_first)
    assert difference.abs().max() <= TOLERANCE * outputs(tiny, added_first).abs().max().clamp(min=1)


def assert_same_factor(
    pairs: tuple[LoraPair, ...], weight: float, factor: float, keep, tiny
) -> None:
    """Only where heads became shorter does a pair's scale differ from the file's."""
    hot = {name for group in tiny.groups if group.name in keep for name in group.temperature}
    for pair in pairs:
        if f"{pair.layer}.weight" not in hot:
            assert pair.scale * weight == pytest.approx(factor)


def test_pairs_are_cut_with_their_layers(network, tmp_path):
    loras, _ = two_loras(network, tmp_path)
    shapes = {name: tuple(value.shape) for name, value in network.model.state_dict().items()}
    pairs = read_pairs(loras[0], "", shapes, part_with(network, loras).loras)
    keep = least_keep(network.groups)
    done = cut_pairs(pairs, network.groups, keep)
    model = copy.deepcopy(network.model)
    cut(model, network.groups, keep)
    narrower = {
        name
        for name, layer in layers_of(model).items()
        if layer.weight.shape != shapes[f"{name}.weight"]
    }
    assert done.narrowed == len(narrower) > 0


def test_peft_runs_the_cut_lora_beside_the_cut_model(network, tmp_path):
    """Through diffusers' own loading where the class has it, else through peft's."""
    peft = pytest.importorskip("peft")
    loras, _ = two_loras(network, tmp_path)
    shapes = {name: tuple(value.shape) for name, value in network.model.state_dict().items()}
    pairs = read_pairs(loras[0], "", shapes, part_with(network, loras).loras)
    branches = network.family.branches(network.model)
    units = [*network.groups, *branches]
    keep = {**random_keep(network.groups, 3), branches[0].name: NOTHING}
    done = cut_pairs(pairs, units, keep)
    state = diffusers_names("net", done.pairs, loras[0])

    model = copy.deepcopy(network.model)
    cut(model, units, keep)
    if hasattr(model, "load_lora_adapter"):
        model.load_lora_adapter(state, prefix="net")
    else:
        names = [pair.layer for pair in done.pairs]
        config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=names)
        peft.inject_adapter_in_model(config, model)
        plain = {key.removeprefix("net."): value for key, value in state.items()}
        assert not peft.set_peft_model_state_dict(model, plain).unexpected_keys
    expected = fused(network, loras[:1])
    cut(expected, units, keep)
    scale = outputs(network, expected).abs().max().clamp(min=1)
    difference = outputs(network, model) - outputs(network, expected)
    assert difference.abs().max() / scale <= TOLERANCE
