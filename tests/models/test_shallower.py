"""A model that lost whole blocks alone is one of fewer layers, which stock diffusers opens."""

from __future__ import annotations

import copy
import json

import diffusers
import numpy as np
import pytest
import torch
from support.family_cases import Case, case

from diffc.models.branches import removed_branches
from diffc.models.load import load_denoiser
from diffc.models.save import save_compressed
from diffc.models.source import PRUNING_FILE, Source, find_source, read_json
from diffc.prune.surgery import cut

TRANSFORMERS = ("dit", "pixart", "sd3", "flux", "sana", "wan")
NOTHING = np.array([], dtype=np.int64)


def saved(tiny: Case, folder) -> Source:
    """The dense model in a pipeline's folder."""
    component = tiny.family.component
    tiny.model.save_pretrained(folder / component)
    diffusers.DDPMScheduler().save_pretrained(folder / "scheduler")
    index = {"_class_name": "DiffusionPipeline", "scheduler": ["diffusers", "DDPMScheduler"],
             component: ["diffusers", tiny.family.class_name]}  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index))
    return find_source(folder)


def without_blocks(tiny: Case):
    """A copy without the first block of every list that may lose it."""
    model = copy.deepcopy(tiny.model)
    blocks = [branch for branch in tiny.family.branches(model) if branch.kind == "block"]
    first = {branch.name.partition(".")[0]: branch for branch in reversed(blocks)}
    cut(model, [*tiny.groups, *blocks], {b.name: NOTHING for b in first.values()})
    return model


def outputs(tiny: Case, model) -> torch.Tensor:
    with torch.no_grad():
        return tiny.family.call(model, tiny.inputs)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_diffusers_opens_it_and_gives_the_same_bits(name, tmp_path):
    tiny = case(name)
    source = saved(tiny, tmp_path / "dense")
    model = without_blocks(tiny)
    save_compressed(model, source, tmp_path / "out", {}, plain=True)
    component = tmp_path / "out" / tiny.family.component
    stock = getattr(diffusers, tiny.family.class_name).from_pretrained(component)
    assert torch.equal(outputs(tiny, stock), outputs(tiny, model))
    again = load_denoiser(find_source(tmp_path / "out"))
    assert torch.equal(outputs(tiny, again), outputs(tiny, model))
    assert removed_branches(again) == []
    index = read_json(tmp_path / "out" / "model_index.json")
    assert index[tiny.family.component] == ["diffusers", tiny.family.class_name]
    kept = read_json(tmp_path / "out" / PRUNING_FILE)["kept_blocks"]
    assert all(len(blocks) == 1 for blocks in kept.values()) and kept.keys() == (
        tiny.family.depth_entries.keys()
    )


def test_channels_that_went_too_need_diffc(tmp_path):
    tiny = case("flux")
    source = saved(tiny, tmp_path / "dense")
    group = [g for g in tiny.groups if g.kind == "ffn" and g.size >= 2 * g.runs][-1]
    keep = np.arange(group.size).reshape(group.runs, -1)[:, ::2].ravel()
    model = copy.deepcopy(tiny.model)
    blocks = [branch for branch in tiny.family.branches(model) if branch.kind == "block"]
    gone = next(branch for branch in blocks if not branch.covers(group.slices[0].module))
    cut(model, [*tiny.groups, gone], {group.name: keep, gone.name: NOTHING})
    save_compressed(model, source, tmp_path / "out", {}, plain=True)
    assert read_json(tmp_path / "out" / PRUNING_FILE)["format"] == 2
    index = read_json(tmp_path / "out" / "model_index.json")
    assert index[tiny.family.component] == ["diffc", tiny.family.class_name]
    again = load_denoiser(find_source(tmp_path / "out"))
    assert torch.equal(outputs(tiny, again), outputs(tiny, model))


def test_a_part_of_a_block_needs_diffc(tmp_path):
    tiny = case("dit")
    source = saved(tiny, tmp_path / "dense")
    model = copy.deepcopy(tiny.model)
    part = next(one for one in tiny.family.branches(model) if one.name.endswith("1.ff"))
    cut(model, [*tiny.groups, part], {part.name: NOTHING})
    save_compressed(model, source, tmp_path / "out", {}, plain=True)
    assert read_json(tmp_path / "out" / PRUNING_FILE)["removed"] == [part.name]
