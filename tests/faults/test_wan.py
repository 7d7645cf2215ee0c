"""Wan: a video's denoiser of two networks, from its folder to a distilled model."""

from __future__ import annotations

import json

import pytest
import torch
from support.family_cases import CASES
from support.pipelines import edit_json, save_conditions
from support.runs import compile_quickly

from diffc.data.precision import channels_last
from diffc.models.dry_run import dry_run
from diffc.models.inputs import input_specs
from diffc.models.load import load_denoiser
from diffc.models.other_parts import uncompressed_notes
from diffc.models.source import find_source
from diffc.recipe import resolve
from diffc.stages.preflight import preflight

SIDE = 4


def save_wan(folder, case="wan", second=True):
    """A tiny WanPipeline's denoisers and scheduler."""
    import diffusers

    torch.manual_seed(0)
    model = diffusers.WanTransformer3DModel(**CASES[case][1])
    names = ["transformer", *(["transformer_2"] if second else [])]
    for name in names:
        model.save_pretrained(folder / name)
    diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    ).save_pretrained(folder / "scheduler")
    index = {name: ["diffusers", "WanTransformer3DModel"] for name in names}
    index |= {"_class_name": "WanPipeline", "boundary_ratio": 0.875,
              "scheduler": ["diffusers", "UniPCMultistepScheduler"]}  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index))
    save_conditions(folder / "conditions.safetensors", "WanTransformer3DModel", model.config, SIDE)
    return folder


@pytest.mark.slow
def test_wan_is_distilled_and_says_what_is_left_out(tmp_path):
    model = save_wan(tmp_path / "w")
    report = compile_quickly(
        model, tmp_path / "o", "distill", export={"resolution": SIDE},
        data={"source": str(model / "conditions.safetensors")},
    )  # fmt: skip
    assert any("transformer_2 is not compressed" in note for note in report.notes)
    assert any("are no pictures" in note for note in report.notes)
    assert not report.quality and not list((tmp_path / "o").glob("samples/*"))
    small = load_denoiser(find_source(tmp_path / "o" / "model"))
    assert sum(p.numel() for p in small.parameters()) == report.compressed.params


def test_a_pipeline_of_one_denoiser_has_no_such_note(tmp_path):
    assert uncompressed_notes(find_source(save_wan(tmp_path / "w", second=False))) == []


def test_the_second_of_two_denoisers_of_another_class_is_not_named(tmp_path):
    model = save_wan(tmp_path / "w")
    edit_json(model / "model_index.json", transformer_2=["diffusers", "SkyTransformer"])
    assert uncompressed_notes(find_source(model)) == []


def test_an_image_model_takes_one_picture_or_two(tmp_path):
    for case, tokens in (("wan-image", 257), ("wan-two-pictures", 514)):
        source = find_source(save_wan(tmp_path / case, case, second=False))
        specs = {spec.name: spec.shape for spec in input_specs(source, SIDE)}
        assert specs["encoder_hidden_states_image"] == (tokens, 16)
        assert specs["encoder_hidden_states"] == (512, 20)
        dry_run(source, SIDE)


def test_texts_of_an_image_model_keep_their_length():
    from diffc.models.families import family

    wan, config = family("WanTransformer3DModel"), CASES["wan-image"][1]
    lengths = {s.name: s.shape[0] for s in wan.specs(config, SIDE, 77) if s.shape}
    assert lengths["encoder_hidden_states"] == 512
    plain = {s.name: s.shape for s in wan.specs(CASES["wan"][1], SIDE, 77)}
    assert plain["encoder_hidden_states"] == (77, 20)


@pytest.mark.parametrize("resolution", ["4x8", "8"])
def test_preflight_of_wan_is_content(tmp_path, resolution):
    model = save_wan(tmp_path / "w")
    flags = {"prune": {"ratio": 0.3}, "export": {"resolution": resolution},
             "data": {"source": str(model / "conditions.safetensors")}}  # fmt: skip
    recipe = resolve(family="WanTransformer3DModel", flags=flags)
    assert preflight(find_source(model), recipe, tmp_path / "o", "bench")


def test_channels_last_is_for_two_dimensional_convolutions_alone():
    model = torch.nn.ModuleList([torch.nn.Conv2d(4, 4, 3), torch.nn.Conv3d(4, 4, 3),
                                 torch.nn.Linear(3, 3)])  # fmt: skip
    before = [value.clone() for value in model.parameters()]
    channels_last(model)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert model[1].weight.is_contiguous()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
