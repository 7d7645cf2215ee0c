"""Every family: cut equals silenced, costs equal counted ones, reload equals saved."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from support.family_cases import CASES, Case, case
from support.family_oracle import least_keep, random_keep, silenced, widths
from torch.utils.flop_counter import FlopCounterMode

from diffc.errors import InputError
from diffc.models.cut import load_cut, read_pruning, skeleton, write_pruning
from diffc.models.families import family
from diffc.models.families.base import PipelineTexts
from diffc.models.families.examples import meta_inputs
from diffc.models.groups import Role
from diffc.models.source import PRUNING_FILE
from diffc.prune.cost import cost_model
from diffc.prune.surgery import cut
from diffc_runtime.prompt_plan import GuidanceInput

TOLERANCE = 1e-5


@pytest.fixture(params=list(CASES))
def tiny(request) -> Case:
    return case(request.param)


def outputs(tiny: Case, model) -> torch.Tensor:
    with torch.no_grad():
        return tiny.family.call(model, tiny.inputs)


def cut_copy(tiny: Case, keep, model=None, groups=None):
    model = copy.deepcopy(tiny.model if model is None else model)
    cut(model, tiny.groups if groups is None else groups, keep)
    return model


# the same examples each time: fp32's rounding alone comes near the tolerance in rare ones
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(seed=st.integers(0, 2**31))
def test_cut_equals_silenced(tiny, seed):
    keep = random_keep(tiny.groups, seed)
    got = outputs(tiny, cut_copy(tiny, keep))
    expected = outputs(tiny, silenced(tiny.model, tiny.groups, keep))
    assert (got - expected).abs().max() <= TOLERANCE


def test_least_widths_equal_silenced(tiny):
    keep = least_keep(tiny.groups)
    got = outputs(tiny, cut_copy(tiny, keep))
    expected = outputs(tiny, silenced(tiny.model, tiny.groups, keep))
    assert (got - expected).abs().max() <= TOLERANCE


def test_cutting_nothing_changes_nothing(tiny):
    keep = {group.name: np.arange(group.size) for group in tiny.groups}
    assert torch.equal(outputs(tiny, cut_copy(tiny, keep)), outputs(tiny, tiny.model))


def test_each_group_alone_changes_the_output(tiny):
    """A group that nothing reads, or an oracle that compares nothing, would show here."""
    dense = outputs(tiny, tiny.model)
    rng = np.random.default_rng(0)
    for group in rng.permutation(np.array(tiny.groups, dtype=object))[:6]:
        if group.size == group.runs:
            continue
        got = outputs(tiny, cut_copy(tiny, least_keep([group])))
        assert got.shape == dense.shape
        assert (got - dense).abs().max() > 1e-4, group.name


def counted_macs(tiny: Case, model) -> float:
    model = copy.deepcopy(model).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tiny.family.call(model, meta_inputs(tiny.specs))
    return counter.get_total_flops() / 2


@pytest.mark.slow
def test_costs_equal_counted_ones(tiny):
    costs = cost_model(
        copy.deepcopy(tiny.model).to("meta"), meta_inputs(tiny.specs), tiny.family.call, tiny.groups
    )
    assert costs.macs(costs.dense) == pytest.approx(counted_macs(tiny, tiny.model), rel=1e-12)
    for seed in range(3):
        keep = random_keep(tiny.groups, seed)
        model = cut_copy(tiny, keep)
        kept = widths(tiny.groups, keep)
        assert costs.macs(kept) == pytest.approx(counted_macs(tiny, model), rel=1e-12)
        assert costs.params(kept) == sum(value.numel() for value in model.parameters())


@pytest.mark.slow
def test_reload_is_bit_identical_and_can_be_cut_again(tiny, tmp_path):
    model = cut_copy(tiny, random_keep(tiny.groups, 7))
    class_name = tiny.family.class_name
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    write_pruning(tmp_path / PRUNING_FILE, model, class_name, tiny.config, {})
    files = (tmp_path / "model.safetensors",)
    loaded = load_cut(class_name, tiny.config, files, read_pruning(tmp_path))
    assert torch.equal(outputs(tiny, loaded), outputs(tiny, model))

    groups = tiny.family.groups(
        copy.deepcopy(loaded).to("meta"), meta_inputs(tiny.specs), head_dims=tiny.head_dims
    )
    keep = random_keep(groups, 8)
    got = outputs(tiny, cut_copy(tiny, keep, loaded, groups))
    expected = outputs(tiny, silenced(loaded, groups, keep))
    assert (got - expected).abs().max() <= TOLERANCE


def test_no_position_belongs_to_two_channels(tiny):
    taken: dict[tuple[str, int], list[np.ndarray]] = {}
    for group in tiny.groups:
        for piece in group.slices:
            taken.setdefault((piece.tensor, piece.dim), []).append(piece.index.ravel())
    state = tiny.model.state_dict()
    for (name, dim), parts in taken.items():
        positions = np.concatenate(parts)
        assert len(np.unique(positions)) == len(positions), (name, dim)
        assert positions.min() >= 0
        assert positions.max() < state[name].shape[dim]


def test_every_matrix_inside_is_reached(tiny):
    """Attention, feed-forwards and (where they are traced) convolutions can all be cut."""
    reached = {piece.tensor for group in tiny.groups for piece in group.slices}
    inside = ("to_q", "to_k", "to_v", "add_k_proj", "net.2", "proj_mlp", "conv1", "conv_depth")
    for name, _ in tiny.model.named_parameters():
        layer, _, leaf = name.rpartition(".")
        if leaf == "weight" and layer.endswith(inside) and not layer.startswith("encoder."):
            assert name in reached, name


def test_names_are_unique_and_blocks_divide(tiny):
    names = [group.name for group in tiny.groups]
    assert len(set(names)) == len(names)
    assert all(group.size % group.runs == 0 for group in tiny.groups)


@pytest.mark.parametrize("name", [n for n in CASES if "head-dims" in n and "sana" not in n])
def test_temperature_matters(name):
    """Without the query's factor the cut model is another one: the oracle sees it."""
    tiny = case(name)
    groups = [group for group in tiny.groups if group.kind == "head_dim"]
    assert groups
    assert all(group.temperature for group in groups)
    plain = [replace(group, temperature=()) for group in groups]
    keep = least_keep(groups)
    expected = outputs(tiny, silenced(tiny.model, groups, keep))
    right = outputs(tiny, cut_copy(tiny, keep, groups=groups))
    wrong = outputs(tiny, cut_copy(tiny, keep, groups=plain))
    assert (right - expected).abs().max() <= TOLERANCE
    assert (wrong - expected).abs().max() > 10 * TOLERANCE


@pytest.mark.parametrize("name", ["unet2d", "unet2d-scale-shift", "sdxl", "flux", "sana", "vae"])
def test_the_oracle_sees_a_reader_out_of_order(name):
    tiny = case(name)
    group = max(tiny.groups, key=lambda group: group.size)
    reader = next(group.by_role(Role.IN))
    rolled = replace(reader, index=np.roll(reader.index, 1, axis=0))
    wrong = replace(group, slices=tuple(rolled if p is reader else p for p in group.slices))
    keep = random_keep([group], 0)
    expected = outputs(tiny, silenced(tiny.model, [group], keep))
    right = outputs(tiny, cut_copy(tiny, keep, groups=[group]))
    got = outputs(tiny, cut_copy(tiny, keep, groups=[wrong]))
    assert (right - expected).abs().max() <= TOLERANCE
    assert (got - expected).abs().max() > 10 * TOLERANCE


@pytest.mark.parametrize("name", ["sd35", "flux", "wan", "sana15"])
def test_normalised_heads_stay_whole(name):
    """A norm over a head's dimensions ties them together, so there heads are cut all the same."""
    tiny = case(name)
    groups = tiny.family.groups(tiny.model, tiny.inputs, head_dims=True)
    kinds = {group.name: group.kind for group in groups}
    assert kinds == {group.name: group.kind for group in tiny.groups} or name == "sana15"
    assert any(kind == "heads" for kind in kinds.values())


def test_unknown_blocks_are_refused_in_one_line():
    _, config, _ = CASES["unet2d"]
    skip = {
        **config,
        "down_block_types": ["SkipDownBlock2D", "AttnSkipDownBlock2D"],
        "up_block_types": ["AttnSkipUpBlock2D", "SkipUpBlock2D"],
        "block_out_channels": [32, 32],
    }
    found = family("UNet2DModel")
    with pytest.raises(InputError, match="cannot follow the channels of"):
        found.groups(skeleton("UNet2DModel", skip), meta_inputs(found.specs(skip)))


@pytest.mark.parametrize("name", ["sd15", "flux"])
def test_a_model_saved_while_it_trains_runs_when_loaded(name, tmp_path):
    """Gradient checkpointing is a state of the training run; loaded without its function, it
    would stop every forward pass that records gradients, an export's among them."""
    tiny = case(name)
    model = cut_copy(tiny, least_keep(tiny.groups))
    expected = outputs(tiny, model)
    model.enable_gradient_checkpointing()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    write_pruning(tmp_path / "pruning.json", model, tiny.family.class_name, tiny.config, {})
    pruning = read_pruning(tmp_path)
    weights = (tmp_path / "model.safetensors",)
    again = load_cut(tiny.family.class_name, tiny.config, weights, pruning)
    assert torch.equal(tiny.family.call(again, tiny.inputs).detach(), expected)


@pytest.mark.parametrize("block", ["SimpleCrossAttnDownBlock2D", "KDownBlock2D"])
def test_blocks_that_cannot_be_cut_are_named(block):
    _, config, _ = CASES["sd15"]
    other = {**config, "down_block_types": [block] * 2}
    found = family("UNet2DConditionModel")
    with pytest.raises(InputError, match=f"with {block} cannot be cut"):
        found.groups(skeleton("UNet2DConditionModel", other), meta_inputs(found.specs(other)))


def test_specs_fill_in_what_a_config_leaves_out(tiny):
    """The same from a sparse config.json as from the one diffusers completes."""
    _, sparse, _ = CASES[tiny.name]
    assert tiny.family.specs(sparse, 8) == tiny.family.specs(tiny.model.config, 8)


def test_a_dits_classes_are_its_classs_own_where_the_config_leaves_them_out():
    dit = family("DiTTransformer2DModel")
    classes = dit.full_config({})["num_embeds_ada_norm"]
    assert dit.class_count({}) == classes and dit.null_conditions({}) == {"class_labels": classes}


@pytest.mark.parametrize("key", ["class_embed_type", "addition_embed_type"])
def test_unknown_conditions_are_refused(key):
    _, config, _ = CASES["sd15"]
    with pytest.raises(InputError, match=f"{key} 'image'"):
        family("UNet2DConditionModel").specs({**config, "in_channels": 4, key: "image"})


@pytest.mark.parametrize("encoders", [("text_encoder",), ("text_encoder", "text_encoder_2")])
def test_a_consistency_model_takes_the_scale_of_guidance_itself(encoders):
    added = ("text_embeds", "time_ids") if len(encoders) > 1 else ()
    takes = ("encoder_hidden_states", "timestep_cond", *added)
    texts = PipelineTexts({"time_cond_proj_dim": 256}, encoders, {}, {}, 77, takes, {})
    plan = family("UNet2DConditionModel").prompt_plan(texts)
    assert plan.guidance == GuidanceInput("timestep_cond", "sinusoids", width=256)


def test_flux_single_block_columns_do_not_overlap():
    tiny = case("flux")
    pieces = [
        piece
        for group in tiny.groups
        for piece in group.slices
        if piece.tensor == "single_transformer_blocks.0.proj_out.weight"
    ]
    heads, mlp = sorted(pieces, key=lambda piece: piece.index.min())
    assert heads.index.max() + 1 == mlp.index.min()
    columns = tiny.model.get_parameter(heads.tensor).shape[1]
    assert heads.index.size + mlp.index.size == columns


@pytest.mark.parametrize("name", ["sd15", "sana"])
def test_gates_go_with_their_values(name):
    tiny = case(name)
    first = next(group for group in tiny.groups if group.kind == "ffn")
    rows = first.slices[0].index
    assert rows.shape == (first.size, 2)
    assert all(b - a == first.size for a, b in rows)
    assert all(b[0] - a[0] == 1 for a, b in pairwise(rows))


def test_head_groups_count_heads():
    tiny = case("sdxl")
    for group in tiny.groups:
        if group.kind == "heads":
            attention = tiny.model.get_submodule(group.heads_of)
            assert group.size == attention.heads
            assert group.size * group.elements == attention.to_q.out_features
            assert math.prod(group.slices[0].index.shape) == attention.to_q.out_features
