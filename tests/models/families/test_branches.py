"""Branches of every family: left out equals silenced, in outputs, costs, files and the loss."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.family_cases import CASES, Case, case
from support.family_oracle import random_keep, silenced
from torch.utils.flop_counter import FlopCounterMode

from diffc.distill.blocks import kept_channels
from diffc.errors import InputError
from diffc.models.branches import removed_branches
from diffc.models.cut import load_cut, read_pruning, write_pruning
from diffc.models.families.examples import meta_inputs
from diffc.models.source import PRUNING_FILE
from diffc.prune.cost import cost_model
from diffc.prune.surgery import cut

TOLERANCE = 1e-5
LAST = ("conv2", "to_out.0", "to_add_out", "net.2", "conv_point", "proj_out")
"""The layers that add a branch's result to what passes it by."""
NOTHING = np.array([], dtype=np.int64)
NETWORKS = {kind: name for name, (kind, _, _) in reversed(CASES.items())}
"""Class -> the first of its cases."""


@pytest.fixture(params=NETWORKS.values())
def tiny(request) -> Case:
    return case(request.param)


def outputs(tiny: Case, model) -> torch.Tensor:
    with torch.no_grad():
        return tiny.family.call(model, tiny.inputs)


def without(tiny: Case, branches, keep=None):
    """A copy with ``branches`` left out, and cut to ``keep``."""
    model = copy.deepcopy(tiny.model)
    units = [*tiny.groups, *tiny.family.branches(model)]
    cut(model, units, {**(keep or {}), **{branch.name: NOTHING for branch in branches}})
    return model


def quiet(model, branches):
    """A copy in which the last layers of ``branches`` are zero. Knows no family."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for branch in branches:
            ends = [module for name, module in model.named_modules()
                    if name.startswith(f"{branch.name}.") and name.endswith(LAST)]  # fmt: skip
            assert ends or branch.kind == "block", branch  # its parts may be gone already
            for value in (value for end in ends for value in end.parameters()):
                value.zero_()
    return model


def some(tiny: Case, seed: int):
    branches = tiny.family.branches(tiny.model)
    chosen = np.random.default_rng(seed).random(len(branches)) < 0.5
    return [branch for branch, out in zip(branches, chosen, strict=True) if out] or branches[:1]


@pytest.mark.slow
def test_each_branch_left_out_equals_silenced_and_changes_the_output(tiny):
    branches = tiny.family.branches(tiny.model)
    dense = outputs(tiny, tiny.model)
    assert branches
    for branch in branches:
        got = outputs(tiny, without(tiny, [branch]))
        assert (got - outputs(tiny, quiet(tiny.model, [branch]))).abs().max() <= TOLERANCE, branch
        assert (got - dense).abs().max() > 1e-4, branch


@pytest.mark.parametrize("seed", [0, 1])
def test_branches_and_channels_together_equal_silenced(tiny, seed):
    keep, branches = random_keep(tiny.groups, seed), some(tiny, seed)
    got = outputs(tiny, without(tiny, branches, keep))
    expected = outputs(tiny, quiet(silenced(tiny.model, tiny.groups, keep), branches))
    assert (got - expected).abs().max() <= TOLERANCE


def test_every_branch_left_out_equals_silenced(tiny):
    branches = tiny.family.branches(tiny.model)
    got = outputs(tiny, without(tiny, branches))
    assert (got - outputs(tiny, quiet(tiny.model, branches))).abs().max() <= TOLERANCE


def test_costs_equal_counted_ones(tiny):
    branches = tiny.family.branches(tiny.model)
    units = [*tiny.groups, *branches]
    meta = copy.deepcopy(tiny.model).to("meta")
    costs = cost_model(meta, meta_inputs(tiny.specs), tiny.family.call, units)
    assert costs.units == units and costs.branches == branches
    for seed in range(2):
        keep, out = random_keep(tiny.groups, seed), some(tiny, seed)
        model = without(tiny, out, keep)
        widths = [len(keep[group.name]) for group in tiny.groups]
        widths = np.array([*widths, *(int(branch not in out) for branch in branches)])
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            tiny.family.call(copy.deepcopy(model).to("meta"), meta_inputs(tiny.specs))
        assert costs.macs(widths) == pytest.approx(counter.get_total_flops() / 2, rel=1e-12)
        assert costs.params(widths) == sum(value.numel() for value in model.parameters())


def test_reload_is_bit_identical_and_can_be_cut_again(tiny, tmp_path):
    branches = some(tiny, 5)
    model = without(tiny, branches, random_keep(tiny.groups, 5))
    class_name = tiny.family.class_name
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    write_pruning(tmp_path / PRUNING_FILE, model, class_name, tiny.config, {})
    pruning = read_pruning(tmp_path)
    assert pruning["format"] == 2
    assert set(pruning["removed"]) == set(removed_branches(model)) <= {b.name for b in branches}
    files = (tmp_path / "model.safetensors",)
    loaded = load_cut(class_name, tiny.config, files, pruning)
    assert torch.equal(outputs(tiny, loaded), outputs(tiny, model))

    more = [b for b in tiny.family.branches(loaded) if b.name not in pruning["removed"]]
    assert more == tiny.family.branches(loaded)
    again = copy.deepcopy(loaded)
    cut(again, more, {branch.name: NOTHING for branch in more})
    expected = outputs(tiny, quiet(loaded, more))
    assert (outputs(tiny, again) - expected).abs().max() <= TOLERANCE


def test_the_feature_loss_skips_blocks_that_are_left_out(tiny):
    keep = random_keep(tiny.groups, 0)
    before = kept_channels(tiny.model, tiny.family, tiny.groups, keep)
    out = dict.fromkeys(list(before)[:1], NOTHING)
    after = kept_channels(tiny.model, tiny.family, tiny.groups, {**keep, **out})
    assert set(before) - set(after) == set(out)


def test_a_branch_that_is_not_there_is_refused(tmp_path):
    tiny = case("unet2d")
    with pytest.raises(InputError, match=r"leaves out 'mid_block\.resnets\.9', which is no part"):
        cut(copy.deepcopy(tiny.model), tiny.groups, {"mid_block.resnets.9": NOTHING})
    pruning = {"format": 2, "attributes": {}, "removed": ["mid_block.resnets.9"]}
    (tmp_path / PRUNING_FILE).write_text(json.dumps(pruning))
    with pytest.raises(InputError, match=r"leaves out 'mid_block\.resnets\.9'"):
        load_cut("UNet2DModel", tiny.config, (), read_pruning(tmp_path))
    (tmp_path / PRUNING_FILE).write_text(json.dumps({**pruning, "removed": [1]}))
    with pytest.raises(InputError, match="its removed parts are not a list of names"):
        read_pruning(tmp_path)
