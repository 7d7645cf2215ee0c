"""What text encoders and VAEs need of memory: counted beside real tensors, and by the files."""

from __future__ import annotations

import pytest
import torch
from support.quick import QUICK
from support.tiny_autoencoders import save_latent_pipeline
from support.tiny_prompts import save_flux, save_sana, save_sd3, save_wan
from support.tiny_text import save_sd, save_sdxl

from diffc.data.prompts import text_elements
from diffc.data.recipe_of_model import recipe_of_model
from diffc.errors import RequestError
from diffc.models.load import load_component
from diffc.models.source import find_source
from diffc.models.texts.export import load_text_encoder
from diffc.models.texts.pipelines import find_texts
from diffc.models.without_memory import LiveBytes, WithoutMemory
from diffc.recipe import Recipe
from diffc.stage_inputs import RunShape
from diffc.stages import needs, uncut_memory
from diffc.stages.engine_memory import EXPORT_BYTES, engine_needs, graph_bytes
from diffc.stages.needs import check_memory, stage_needs, stages_until
from diffc.stages.uncut_memory import UncutPart, prompt_bytes, uncut_names, uncut_parts
from diffc_export import targets

MILLION = 1_000_000
ENCODERS = ["text_encoder", "text_encoder_2", "text_encoder_3"]
BOTH = Recipe.model_validate({"build": {"target": ["ort-cpu", "openvino"]}})
LARGE = (300 * MILLION, 200 * MILLION)


def run_of(folder, **options):
    source = find_source(folder)
    return source, recipe_of_model(source, None, {**QUICK, **options})


@pytest.mark.parametrize(
    ("save", "expected"),
    [
        (save_sd, ["decoder", "encoder", *ENCODERS[:1]]),
        (save_sdxl, ["decoder", "encoder", *ENCODERS[:2]]),
        (save_sd3, ["decoder", "encoder", *ENCODERS]),
        (save_flux, ["decoder", "encoder", *ENCODERS[:2]]),
        (save_sana, ["decoder", "encoder", *ENCODERS[:1]]),
        (save_wan, ENCODERS[:1]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_run_exports_what_its_pipeline_has(tmp_path, save, expected):
    source, recipe = run_of(save(tmp_path / "model"))
    assert uncut_names(source, recipe) == expected
    off = run_of(source.folder, text={"encoders": "off"})
    assert uncut_names(*off) == [name for name in expected if name not in ENCODERS]


@pytest.mark.parametrize("save", [save_sd, save_sd3], ids=lambda save: save.__name__)
def test_a_count_is_that_of_real_networks(tmp_path, save):
    """Oracle: the bytes that are alive while the loaded networks run, and their parameters."""
    source, recipe = run_of(
        save(tmp_path / "model"), build={"target": ["ort-cpu"], "batch": [1, 3]}
    )
    counted = uncut_parts(source, recipe)
    vae = load_component(source.vae)
    (latent,) = [s.shape for s in RunShape.of(recipe).specs(source) if s.kind == "sample"]
    latents = torch.zeros(3, *latent)
    pictures = torch.zeros_like(vae.decode(latents, return_dict=False)[0])
    calls = {
        "decoder": ("post_quant_conv", lambda: vae.decode(latents, return_dict=False)),
        "encoder": ("quant_conv", lambda: vae.encode(pictures, return_dict=False)),
    }
    for name, (beside, call) in calls.items():
        with LiveBytes([vae]) as live, torch.no_grad():
            call()
        assert counted[name].engine_calls == pytest.approx(live.peak, rel=0.05)
        modules = [one for one in (getattr(vae, name), getattr(vae, beside)) if one is not None]
        own = sum(value.numel() for one in modules for value in one.parameters())
        assert counted[name].parameters == own
    plan = find_texts(source, RunShape.of(recipe).specs(source)).plan
    for name, use in plan.encoders.items():
        encoder = load_text_encoder(source, name, use, plan.parts_of(name))
        inputs = {s.name: torch.ones(3, *s.shape, dtype=torch.int64) for s in encoder.specs()}
        with LiveBytes([encoder.model]) as live, torch.no_grad():
            encoder.call(encoder.model, inputs)
        assert counted[name].engine_calls == pytest.approx(live.peak, rel=0.05)
        assert counted[name].parameters == sum(v.numel() for v in encoder.model.parameters())
        assert counted[name].export_calls >= counted[name].engine_calls


def test_what_was_not_counted_has_the_parameters_of_its_files(tmp_path, monkeypatch):
    source, recipe = run_of(save_sd(tmp_path / "model"))

    def fail(*_):
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(uncut_memory, "_count", fail)
        rough = uncut_parts(source, recipe, count=False)
    counted = uncut_parts(source, recipe)
    assert rough.keys() == counted.keys()
    for name, one in rough.items():
        assert one.export_calls == 0
        assert one.parameters >= 0.9 * counted[name].parameters
    monkeypatch.setattr(uncut_memory, "_count", fail)
    assert uncut_parts(source, recipe, count=False) == counted  # from the cache


@pytest.mark.parametrize("name", ["deep-compression", "tiny", "vector-quantized"])
def test_other_autoencoders_are_counted(tmp_path, name):
    source, recipe = run_of(save_latent_pipeline(tmp_path / "model", name))
    parts = uncut_parts(source, recipe)
    assert list(parts) == ["decoder", "encoder"]
    assert all(one.parameters and one.export_calls and one.engine_calls for one in parts.values())


def test_masked_decoders_have_their_image_and_mask(tmp_path):
    source, recipe = run_of(save_latent_pipeline(tmp_path / "model", "asymmetric"))
    parts = uncut_parts(source, recipe)
    assert list(parts) == ["decoder", "encoder", "masked-decoder"]
    assert parts["masked-decoder"].engine_calls > parts["decoder"].engine_calls


def rows_of(recipe, uncut=None):
    needs = engine_needs(*LARGE, recipe, {}, uncut, tensor_sizes=())
    return {stage: memory for stage, memory, _ in needs}


PARTS = {
    "decoder": UncutPart(
        100 * MILLION, 5 * MILLION, 7 * MILLION, False, tensors=140, scored_calls=8 * MILLION
    ),
    "text_encoder": UncutPart(400 * MILLION, 9 * MILLION, 11 * MILLION, scored_calls=20 * MILLION),
}


def test_every_part_has_rows_in_the_order_of_the_run():
    stages = [
        one.stage
        for one in stage_needs(*LARGE, BOTH, {}, tensor_sizes=(), on_gpu=False, uncut=PARTS)
    ]
    exports = [name for name in stages if name.startswith("export")]
    sides = ["dense", "compressed", *PARTS]
    assert exports == [f"export-{name}" for name in sides]
    for target in ("ort-cpu", "openvino"):
        builds = [name for name in stages if name.startswith(f"build-{target}")]
        assert builds == [f"build-{target}-{name}" for name in sides]
        assert stages.index(f"bench-{target}") == stages.index(builds[-1]) + 1


def test_the_decoder_is_open_where_images_are_made():
    without, beside = (rows_of(BOTH, uncut) for uncut in ({}, PARTS))
    decoder = PARTS["decoder"]
    weights, graph = 1.03 * 4 * decoder.parameters, graph_bytes(140) - graph_bytes(0)
    for stage in ("bench-ort-cpu", "frontier-ort-cpu"):
        more = beside[stage] - without[stage]
        assert more == pytest.approx(weights + graph + 1.05 * decoder.scored_calls, rel=1e-6)
    assert beside["explain-ort-cpu"] == without["explain-ort-cpu"] + graph


def test_an_engine_that_is_compared_is_opened_with_its_call():
    rows = rows_of(BOTH, PARTS)
    large = PARTS["text_encoder"]
    opened, fused = 1.03 * 4 * large.parameters, 1.05 * 4 * large.parameters + large.engine_calls
    scored = round(opened + 1.05 * large.scored_calls)
    assert rows["build-ort-cpu-text_encoder"] == EXPORT_BYTES + scored
    assert rows["build-openvino-text_encoder"] == EXPORT_BYTES + round(fused)
    assert rows["build-ort-cpu-decoder"] == graph_bytes(140) + round(1.03 * 400 * MILLION)


def test_the_vae_is_built_in_fp32_in_every_precision():
    lower = Recipe.model_validate({"build": {"target": ["openvino"], "precision": "bf16"}})
    int8 = Recipe.model_validate({"build": {"target": ["openvino"], "precision": "int8"}})
    assert list(rows_of(lower, PARTS)) == ["build-openvino-decoder"]
    fp32 = rows_of(Recipe.model_validate({"build": {"target": ["openvino"]}}), PARTS)
    for part in PARTS:
        assert rows_of(int8, PARTS)[f"build-openvino-{part}"] == fp32[f"build-openvino-{part}"]


def test_a_text_encoder_is_converted_before_it_is_built():
    half = Recipe.model_validate({"build": {"target": ["trt-rtx"], "precision": "fp16"}})
    built = targets.target("trt-rtx").facts.memory["fp16"]
    rows = rows_of(half, PARTS)
    encoder = built.library + round(built.built * 2 * 400 * MILLION)
    assert rows["build-trt-rtx-text_encoder"] == EXPORT_BYTES + encoder
    decoder = built.library + round(built.built * 4 * 100 * MILLION)
    assert rows["build-trt-rtx-decoder"] == graph_bytes(140) + decoder


def test_prompts_are_encoded_with_weights_in_their_files(tmp_path):
    source, recipe = run_of(save_sd3(tmp_path / "model"))
    calls = prompt_bytes(WithoutMemory(torch.device("cpu")), source, recipe)
    weights = 4 * text_elements(source)
    assert prompt_bytes(WithoutMemory(torch.device("cuda")), source, recipe) >= weights
    assert calls > 0


def test_an_encoder_without_room_is_refused_before_the_work(tmp_path, monkeypatch):
    """The largest encoders have several times the parameters of what is compressed."""
    source, recipe = run_of(save_sd(tmp_path / "model"), build={"target": ["ort-cpu"]})
    check_memory(source, recipe, "bench")
    room = 10 * needs.PROCESS_BYTES
    monkeypatch.setattr(needs, "gpus", lambda: ())
    monkeypatch.setattr(needs, "host_memory", lambda: (room, room))
    large = {"text_encoder": UncutPart(3000 * MILLION)}
    monkeypatch.setattr(needs, "uncut_parts", lambda *_, **__: large)
    refused = pytest.raises(RequestError, match="'build-ort-cpu-text_encoder' needs about")
    with refused as caught:
        check_memory(source, recipe, "bench")
    check_memory(source, recipe, "export")  # its weights stay in their files
    assert "build-ort-cpu-text_encoder" in stages_until(source, recipe, "build")
    assert "--text-encoders off" in caught.value.hint
