"""What calls take of memory: counted without running them, beside what autograd really keeps."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from support.quick import QUICK
from torch import nn

from bench import training_memory
from diffc.data.recipe_of_model import recipe_of_model
from diffc.distill.low_rank import add_low_rank, count_additions, learn
from diffc.models.source import find_source
from diffc.models.without_memory import WithoutMemory, with_scores
from diffc.prune.plan import Plan
from diffc.recipe import LowRankSection, Recipe
from diffc.stage_inputs import RunShape
from diffc.stages import call_memory
from diffc.stages.call_memory import call_bytes
from diffc.stages.counted_stages import count_key

EXACT = {"precision": "fp32", "batch": 8, "steps": 4}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def source(tiny_model):
    return find_source(tiny_model)


def recipe_with(source, prune=None, **distill) -> Recipe:
    options = {"prune": prune or {}, "distill": {**EXACT, **distill}}
    return recipe_of_model(source, None, {**QUICK, **options})


def bytes_of(source, stage="distill", **options):
    networks = call_memory._Networks(source, recipe_with(source, **options))
    return call_memory._counted(networks, stage)["bytes"]


def test_a_chain_of_layers_takes_what_the_books_say():
    """Each ReLU keeps its output, which is the next layer's input; gradients come one by one."""
    width, rows, layers = 64, 32, 5
    place = WithoutMemory(torch.device("cpu"))
    with torch.device("meta"):
        parts = [(nn.Linear(width, width, bias=False), nn.ReLU()) for _ in range(layers)]
        chain = nn.Sequential(*(one for pair in parts for one in pair))
    place.network(chain, trained=True)
    x = place.values({"x": ((width,), torch.float32)}, rows)["x"]
    row, weight = 4 * width * rows, 4 * width * width
    peak = place.peak(lambda: chain(x).sum(), times=1)
    # before the first layer's gradient: every gradient but for its own, the last activations, and
    # the gradients on both sides of a layer
    assert layers * weight <= peak <= layers * weight + 3 * row + 64
    again = place.peak(lambda: chain(x).sum(), times=2)
    assert again - layers * weight >= layers * row  # gradients stay while activations come


def kept_by_autograd(source, rows: int) -> int:
    """What PyTorch's own hooks say that a real forward pass keeps, in float32."""
    dense = RunShape.of(Recipe()).open(source)
    dense.model.requires_grad_(True)
    return kept_of_call(dense, rows)


def kept_of_call(dense, rows: int) -> int:
    kept: dict[int, torch.UntypedStorage] = {}
    own = {value.untyped_storage().data_ptr() for value in dense.model.parameters()}

    def pack(value):
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # alive, so that no address comes twice
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        output = dense.call(dense.examples(rows))
    assert output.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


def test_activations_are_what_autograd_keeps_of_a_real_call(source):
    real = kept_by_autograd(source, rows=32)
    whole = {"importance": {"batch": 32}}
    counted = bytes_of(source, "importance", prune=whole)
    gradients = 4 * sum(p.numel() for p in RunShape.of(Recipe()).open(source).model.parameters())
    assert real < counted < 1.1 * real + gradients


@pytest.mark.slow
def test_blocks_one_at_a_time_need_less(source):
    alone, whole = (
        bytes_of(source, "importance", prune={"importance": {"batch": 8, "by_block": word}})
        for word in ("on", "off")
    )
    assert 0 < alone < 0.9 * whole


@pytest.mark.slow
def test_micro_batches_and_checkpointing_need_less(source):
    whole = bytes_of(source)
    halves = bytes_of(source, gradient_accumulation=2)
    again = bytes_of(source, gradient_checkpointing=True)
    both = bytes_of(source, gradient_accumulation=8, gradient_checkpointing=True)
    assert both < min(halves, again) and max(halves, again) < whole
    pieces = {"importance": {"batch": 8, "gradient_accumulation": 4}}
    eight = {"importance": {"batch": 8}}
    ranked = [bytes_of(source, "importance", prune=one) for one in (pieces, eight)]
    assert ranked[0] < ranked[1]


@pytest.mark.slow
def test_additions_bring_their_weights_moments_and_average(source):
    """Oracle: what autograd keeps of a real call beside what it keeps without additions."""
    counted, kept, dense = {}, {}, RunShape.of(Recipe()).open(source)
    for rank in (0, 4):
        if rank:
            add_low_rank(dense.model, LowRankSection(rank=rank))
        learn(dense.model)
        kept[rank] = kept_of_call(dense, rows=32)
        how = {"batch": 32, "low_rank": {"rank": rank}}
        counted[rank] = bytes_of(source, prune={"ratio": 0.0}, **how)
    more = kept[4] - kept[0] + 16 * count_additions(dense.model)  # activations are gone by the end
    assert kept[4] > kept[0] and counted[4] - counted[0] == more
    pieces = {"prune": {"ratio": 0.0}, "batch": 32, "gradient_accumulation": 2}
    gradients = bytes_of(source, **pieces) - bytes_of(source, **pieces, low_rank={"rank": 1})
    assert gradients > 0  # all of them stay from the first piece on


@pytest.mark.slow
def test_a_student_of_loops_is_counted_with_the_features_that_it_learns_by(source):
    loop = {**EXACT, "features": 0.0}
    alone = bytes_of(source, "distill-loop", aim="loop", loop=loop)
    loop["features"] = 0.3
    assert bytes_of(source, "distill-loop", aim="loop", loop=loop) > 1.1 * alone


def test_more_trajectories_are_counted_anew(source):
    """A file of them holds 128, and a call works 64: both counts stand in the key."""
    loops = [recipe_with(source, aim="loop", loop={"trajectories": count}) for count in (64, 128)]
    few, many = (count_key(source, recipe, "trajectories", None) for recipe in loops)
    assert few != many


def test_no_network_without_memory_is_moved(source, monkeypatch):
    """Where torch exchanges tensors that are referred to, that fails: the stage had no count."""

    def fail(*_):
        raise RuntimeError("Couldn't swap")

    monkeypatch.setattr(nn.Module, "to", fail)
    assert bytes_of(source, "distill-loop", aim="loop", loop={"features": 1.0}) is not None


@pytest.mark.slow
def test_a_plan_that_was_made_counts_in_the_place_of_uniform_widths(compiled, source):
    out = compiled[0]
    plan = out / "plan.json"
    of_plan = call_bytes(source, recipe_with(source), plan)["distill"]
    dense = json.loads(plan.read_text())
    dense["units"] = [
        {**unit, "kept": unit["size"], "keep": list(range(unit["size"]))} for unit in dense["units"]
    ]
    whole = out.parent / "whole-plan.json"
    whole.write_text(json.dumps(dense))
    assert Plan.read(whole).keep() == {}
    assert of_plan < call_bytes(source, recipe_with(source), whole)["distill"]


@pytest.mark.slow
def test_a_count_is_kept_and_none_is_made_where_none_is_wanted(source, monkeypatch):
    recipe = recipe_with(source)
    assert call_bytes(source, recipe, count=False) == {}
    counted = call_bytes(source, recipe)

    def fail(*_):
        raise AssertionError("it is counted anew")

    monkeypatch.setattr(call_memory, "_counted", fail)
    assert call_bytes(source, recipe) == call_bytes(source, recipe, count=False) == counted
    longer = recipe_with(source, steps=9, learning_rate=1e-5, trackers=["tensorboard"])
    assert call_bytes(source, longer) == counted
    assert call_bytes(source, recipe, only=["distill"]) == {"distill": counted["distill"]}


@pytest.mark.slow
def test_a_class_that_shapes_alone_cannot_run_has_no_count(source, monkeypatch):
    def stubborn(*_):
        raise RuntimeError("data-dependent")

    monkeypatch.setattr("diffc.models.denoiser.Denoiser.call", stubborn)
    assert list(call_bytes(source, recipe_with(source))) == ["prune"]  # which calls nothing


@pytest.mark.slow
def test_the_estimate_of_a_training_is_what_it_takes():
    """A transformer that computes its activations again, in a process of its own."""
    row = training_memory.in_process("transformer", 4, True)
    assert row["own_peak_bytes"] == pytest.approx(row["estimated_bytes"], rel=0.1)


@pytest.mark.slow
def test_surgery_and_blocks_take_what_the_files_of_a_run_say(compiled, source):
    """The cut tensors, and the largest cut block with gradients and AdamW's moments."""
    out = compiled[0]
    dense, small = (
        {key: value.shape for key, value in load_file(path).items()}
        for path in (source.weights[0], find_source(out / "pruned").weights[0])
    )
    changed = [key for key in small if small[key] != dense[key]]
    for precision, each in (("fp32", 16), ("bf16", 18)):
        recipe = recipe_with(source, precision=precision, block_local={"steps": 2})
        counted = call_bytes(source, recipe, out / "plan.json")
        assert counted["prune"] == sum(4 * small[key].numel() for key in changed)
        blocks = {}
        for key in small:
            for part in ("resnets", "attentions"):
                head, found, tail = key.partition(f".{part}.")
                if found:
                    name = f"{head}.{part}.{tail.partition('.')[0]}"
                    blocks[name] = blocks.get(name, 0) + small[key].numel()
        assert counted["distill-blocks"] == each * max(blocks.values())
        few = recipe_with(
            source, precision=precision, block_local={"steps": 2}, low_rank={"rank": 1}
        )
        additions = call_bytes(source, few, out / "plan.json")["distill-blocks"]
        assert (each - 12) * max(blocks.values()) < additions < counted["distill-blocks"]


def test_scores_of_attention_count_where_a_runtime_has_them():
    """Oracle: (rows, heads, tokens, tokens) of float32, before and behind the softmax."""
    rows, heads, tokens, width = 2, 3, 256, 8
    place = WithoutMemory(torch.device("cpu"))
    (x,) = place.values({"x": ((heads, tokens, width), torch.float32)}, rows).values()

    def call():
        return torch.nn.functional.scaled_dot_product_attention(x, x, x)

    scores = 4 * rows * heads * tokens * tokens
    assert place.peak_of_call(call) < scores
    with with_scores():
        assert 2 * scores <= place.peak_of_call(call) < 3 * scores
