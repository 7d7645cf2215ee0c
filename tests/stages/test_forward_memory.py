"""What stages without gradients take of memory, counted: beside real tensors, and by the books."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from support.quick import QUICK
from support.tiny_text import save_sd
from torch import nn

from diffc.data.activations import activation_bytes
from diffc.data.latents import load_vae, pixel_shape
from diffc.data.prompts import text_elements
from diffc.data.recipe_of_model import recipe_of_model
from diffc.data.synthetic import synthesize
from diffc.measure import reference
from diffc.measure.quality.own_features import SEEN_AT_ONCE, GivenRows, middle_features
from diffc.models.source import find_source
from diffc.models.without_memory import LiveBytes, WithoutMemory
from diffc.prune.repair.least_squares import Sums, best_change
from diffc.recipe import Recipe
from diffc.stage_inputs import RunShape
from diffc.stages import call_memory
from diffc.stages.call_memory import call_bytes
from diffc.stages.forward_memory import (
    _change_bytes,
    _decoding_bytes,
    batch_bytes,
    data_bytes,
    reference_bytes,
    samples_bytes,
)
from diffc_export.events import drain


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFC_CACHE", str(tmp_path / "cache"))


def test_a_call_without_gradients_drops_what_it_has_used():
    width, rows = 64, 32
    place = WithoutMemory(torch.device("cpu"))
    with torch.device("meta"):
        chain = nn.Sequential(*(nn.Linear(width, width) for _ in range(5)))
    place.network(chain, trained=False)
    x = place.values({"x": ((width,), torch.float32)}, rows)["x"]
    row = 4 * width * rows
    assert place.peak_of_call(lambda: chain(x)) == 2 * row  # a layer's input and its output
    peak, at = place.bytes_at(
        lambda: chain(x), {"2": chain[2], "0": chain[0]}, {"2": True, "0": False}
    )
    assert (peak, at) == (2 * row, {"0": row, "2": row}) and list(at) == ["0", "2"]


@pytest.mark.parametrize(("columns", "outputs"), [(300, 40), (120, 400)])
def test_a_change_takes_what_the_books_say(columns, outputs):
    """Oracle: the bytes that are alive while the real change is computed."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(columns - 1, outputs)
    with LiveBytes([layer]) as live, torch.no_grad():
        sums = [Sums(columns, outputs, torch.device("cpu")) for _ in range(2)]
        true = torch.randn(outputs, columns, generator=generator)
        for one in sums:
            rows = torch.randn(50, columns, generator=generator)
            wanted = rows @ true.T
            one.add(rows, wanted, wanted)
        before = live.now
        change = best_change(*sums)
    assert change.weights is not None and before > 0
    inside = live.peak - 50 * 4 * (columns + outputs) * 2 - 4 * true.numel()
    assert 0.75 * _change_bytes(layer, outputs) < inside <= 1.05 * _change_bytes(layer, outputs)


def test_samples_take_the_modules_outputs_of_a_call_and_little_more(tiny_model):
    source = find_source(tiny_model)
    recipe = recipe_of_model(source, None, QUICK)
    dense = RunShape.of(Recipe()).open(source)
    rows = max(recipe.quality.images, 1)
    real = activation_bytes(dense, dense.examples(rows))
    half = activation_bytes(dense, dense.examples(max(recipe.data.images, rows)))
    counted = call_memory._counted(call_memory._Networks(source, recipe), "samples")["bytes"]
    assert real <= counted <= 2 * half


def test_features_of_many_samples_take_the_most_of_half_a_call(tiny_model):
    """Oracle: the bytes that are alive while the real model computes the features."""
    source = find_source(tiny_model)
    flags = {**QUICK, "quality": {"images": 1}, "data": {"images": SEEN_AT_ONCE}}
    recipe = recipe_of_model(source, None, flags)
    dense, place = RunShape.of(recipe).open(source), WithoutMemory(torch.device("cpu"))
    samples = torch.zeros(SEEN_AT_ONCE, *dense.sample_shape)
    with LiveBytes([dense.model]) as live:
        drain(middle_features(dense, samples, GivenRows({}, {})))
    skeleton = RunShape.of(recipe).open_on_meta(source)
    counted = samples_bytes(place, skeleton, source, recipe)
    assert counted == pytest.approx(live.peak - 2 * samples.nbytes, rel=0.05)


def test_a_middle_block_that_no_call_runs_is_counted_with_nothing(tiny_model, monkeypatch):
    """As the samples stage, which then compares no features."""
    source = find_source(tiny_model)
    recipe = recipe_of_model(source, None, {**QUICK, "quality": {"images": 1}})
    place, dense = WithoutMemory(torch.device("cpu")), RunShape.of(recipe).open_on_meta(source)
    dense.model.unused = nn.Identity()
    monkeypatch.setattr(type(dense.family), "middle_block", lambda _family, _model: "unused")
    counted = samples_bytes(place, dense, source, recipe)
    assert counted == batch_bytes(place, dense, 1) > 0


def test_the_vae_that_decodes_is_counted_with_its_weights(tmp_path):
    """Oracle: the bytes that are alive while a real VAE decodes."""
    source = find_source(save_sd(tmp_path / "sd"))
    recipe = recipe_of_model(source, None, {**QUICK, "quality": {"images": 3}})
    place, dense = WithoutMemory(torch.device("cpu")), RunShape.of(recipe).open_on_meta(source)
    vae, latents = load_vae(source), torch.zeros(3, *dense.sample_shape)
    weights = 4 * sum(value.numel() for value in vae.parameters())
    with LiveBytes([vae]) as live, torch.no_grad():
        vae.decode(latents, return_dict=False)
    counted = _decoding_bytes(place, dense, source, recipe)
    assert live.peak > 0 and counted == pytest.approx(weights + live.peak, rel=0.02)


def test_drawn_samples_take_what_drawing_them_takes(tiny_model):
    """Oracle: the bytes that are alive while the real model draws them."""
    source = find_source(tiny_model)
    drawing = {"images": 6, "batch": 4, "steps": 2}
    recipe = recipe_of_model(source, None, {**QUICK, "data": drawing})
    dense = RunShape.of(recipe).open(source)
    with LiveBytes([dense.model]) as live:
        clean = drain(synthesize(dense, 6, steps=2, batch=4))
    place, skeleton = WithoutMemory(torch.device("cpu")), RunShape.of(recipe).open_on_meta(source)
    counted = data_bytes(place, skeleton, source, recipe, torch.float32)
    assert counted == pytest.approx(live.peak, rel=0.1)
    assert counted > 2 * clean.sample.nbytes
    few = recipe.model_copy(update={"data": recipe.data.model_copy(update={"batch": 1})})
    assert data_bytes(place, skeleton, source, few, torch.float32) < counted / 2


def test_given_samples_take_two_copies_of_their_file(tiny_model, tmp_path):
    """Oracle: the file, whose rows they are."""
    source, file = find_source(tiny_model), tmp_path / "own.safetensors"
    save_file({"sample": torch.zeros(500, 1, 16, 16)}, file)
    recipe = recipe_of_model(source, None, {**QUICK, "data": {"source": str(file), "images": 500}})
    place, dense = WithoutMemory(torch.device("cpu")), RunShape.of(recipe).open_on_meta(source)
    counted = data_bytes(place, dense, source, recipe, torch.float32)
    assert counted == pytest.approx(2 * file.stat().st_size, rel=0.01)


def test_images_go_through_the_vae_and_prompts_through_the_text_encoders(tmp_path):
    """Oracles: the bytes that are alive while a real VAE encodes, and the encoders' files."""
    source, prompts = find_source(save_sd(tmp_path / "sd")), tmp_path / "prompts.txt"
    prompts.write_text("a shoe\n")
    data = {"source": str(tmp_path), "images": 3}
    recipe = recipe_of_model(source, None, {**QUICK, "data": data})
    place, dense = WithoutMemory(torch.device("cpu")), RunShape.of(recipe).open_on_meta(source)
    vae, images = load_vae(source), torch.zeros(3, *pixel_shape(source, dense.sample_shape))
    weights = 4 * sum(value.numel() for value in vae.parameters())
    with LiveBytes([vae]) as live, torch.no_grad():
        vae.encode(images, return_dict=False)
    counted = data_bytes(place, dense, source, recipe, torch.float32)
    rows = 3 * sum(4 * spec.numel() for spec in _rows_of(dense))
    assert counted == pytest.approx(weights + live.peak + images.nbytes + rows, rel=0.02)
    assert 4 * text_elements(source) == pytest.approx(
        sum(one.stat().st_size for one in (tmp_path / "sd").glob("text_encoder*/*.safetensors")),
        rel=0.1,
    )


def _rows_of(dense):
    return [torch.empty(spec.shape) for spec in dense.specs if spec.kind != "timestep"]


def test_reference_calls_stay_within_their_room(tiny_model, monkeypatch):
    """Rows that have room are computed together; with room for none, one at a time."""
    source = find_source(tiny_model)
    recipe = recipe_of_model(source, None, QUICK)
    place, dense = WithoutMemory(torch.device("cpu")), RunShape.of(recipe).open_on_meta(source)
    whole = reference_bytes(place, dense)
    assert whole == batch_bytes(place, dense, reference.LEVELS)
    monkeypatch.setattr(reference, "ROOM", 0)
    assert reference_bytes(place, dense) == batch_bytes(place, dense, 1) < whole / 4


@pytest.mark.slow
def test_every_stage_without_gradients_is_counted(tiny_model):
    source = find_source(tiny_model)
    loop = {"aim": "loop", "loop": {"trajectories": 8, "teacher_steps": 2}}
    options = {**QUICK, "distill": {**QUICK["distill"], **loop}, "loops": ["ddim:1"]}
    few = recipe_of_model(source, None, {**options, "repair": {"rows": 16}})
    counted = call_bytes(source, few)
    assert all(counted[stage] > 0 for stage in ("repair", "trajectories", "samples"))
    many = call_bytes(source, recipe_of_model(source, None, {**options, "repair": {"rows": 512}}))
    assert many["repair"] > counted["repair"] and many["samples"] == counted["samples"]
    uncut = recipe_of_model(source, None, {**options, "prune": {"ratio": 0.0}})
    assert call_bytes(source, uncut)["repair"] == 0
