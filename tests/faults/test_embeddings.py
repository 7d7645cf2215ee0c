"""Every embedding option of a class: taken rightly, or refused by its name before any work."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.pipelines import edit_json, other_parts, save_ddpm, save_image, save_sd
from support.runs import compile_quickly, refusal

from diffc.errors import InputError
from diffc.models.cut import skeleton
from diffc.models.dry_run import dry_call, dry_run
from diffc.models.families import family
from diffc.models.inputs import input_specs
from diffc.models.source import find_source
from diffc.prune.planning import cost_of
from diffc.recipe import resolve
from diffc.stages.preflight import preflight

UNET = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "layers_per_block": 1,
    "norm_num_groups": 4, "attention_head_dim": 4, "cross_attention_dim": 24,
}  # fmt: skip
AUDIO = {
    "down_block_types": ["CrossAttnDownBlock2D"] * 2,
    "up_block_types": ["CrossAttnUpBlock2D"] * 2,
    "cross_attention_dim": [16, 32],
    "class_embed_type": "simple_projection",
    "projection_class_embeddings_input_dim": 12,
    "class_embeddings_concat": True,
}
KOLORS = {
    "encoder_hid_dim": 40, "encoder_hid_dim_type": "text_proj", "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + 24,
}  # fmt: skip


def unet_folder(folder, **config):
    """A lone denoiser's folder, its config alone."""
    folder.mkdir(parents=True, exist_ok=True)
    value = {"_class_name": "UNet2DConditionModel", **UNET, **config}
    (folder / "config.json").write_text(json.dumps(value))
    return folder


def shapes(folder):
    """The inputs of the folder's denoiser, once a dry run has passed."""
    source = find_source(folder, need_weights=False)
    dry_run(source)
    return {spec.name: spec.shape for spec in input_specs(source)}


def prompts_file(folder):
    path = folder / "prompts.txt"
    path.write_text("a red cat\na blue dog\n")
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "name", "shape"),
    [
        (KOLORS, "encoder_hidden_states", (77, 40)),
        ({"encoder_hid_dim": 40}, "encoder_hidden_states", (77, 40)),  # text_proj by default
        ({"class_embed_type": "identity"}, "class_labels", (64,)),
        ({"class_embed_type": "identity", "time_embedding_dim": 48}, "class_labels", (48,)),
        ({"class_embed_type": "timestep"}, "class_labels", ()),
        (
            {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 10},
            "class_labels",
            (10,),
        ),
        ({"num_class_embeds": 7}, "class_labels", ()),
        (AUDIO, "class_labels", (12,)),
        ({"time_cond_proj_dim": 9}, "timestep_cond", (9,)),
        ({"time_embedding_type": "fourier"}, "encoder_hidden_states", (77, 24)),
        (
            {"cross_attention_dim": [24, 40], "mid_block_type": "UNetMidBlock2D"},
            "encoder_hidden_states",
            (77, 24),
        ),
        ({"cross_attention_dim": [24, 24]}, "encoder_hidden_states", (77, 24)),
    ],
)
def test_an_option_of_the_unet_with_cross_attention_is_taken(tmp_path, config, name, shape):
    folder = unet_folder(tmp_path, **config)
    assert shapes(folder)[name] == shape
    assert cost_of(find_source(folder, need_weights=False)).groups


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"encoder_hid_dim": 40, "encoder_hid_dim_type": "ip_image_proj"}, "'ip_image_proj'"),
        ({"encoder_hid_dim": 40, "encoder_hid_dim_type": "image_proj"}, "'image_proj'"),
        ({"encoder_hid_dim": 40, "encoder_hid_dim_type": "text_image_proj"}, "'text_image_proj'"),
        ({"class_embed_type": "words"}, "class_embed_type 'words'"),
        ({"class_embed_type": "projection"}, "needs projection_class_embeddings_input_dim"),
        ({"addition_embed_type": "image"}, "addition_embed_type 'image'"),
        ({"cross_attention_dim": None}, "cross_attention_dim None"),
        ({"cross_attention_dim": [20, 40]}, r"cross_attention_dim \[20, 40\]"),
        ({"time_embedding_type": "words"}, "cannot be made from its config"),
    ],
)
def test_an_option_of_the_unet_with_cross_attention_is_refused_by_name(tmp_path, config, words):
    with pytest.raises(InputError, match=words) as caught:
        shapes(unet_folder(tmp_path, **config))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"time_embedding_type": "learned", "num_train_timesteps": 1000}, "'learned'"),
        ({"time_embedding_type": "fourier"}, "'fourier'"),
        ({"time_embedding_type": "words"}, "cannot be made from its config"),
        ({"class_embed_type": "projection"}, "class_embed_type 'projection'"),
        ({"class_embed_type": "identity"}, r"takes 'class_labels' \('N', 64\)"),
        ({"class_embed_type": "timestep"}, r"takes 'class_labels' \('N',\)"),
    ],
)
def test_an_option_of_the_plain_unet_is_refused_before_any_stage(tmp_path, config, words):
    model = save_ddpm(tmp_path / "m")
    edit_json(model / "unet" / "config.json", **config)
    error = refusal(model, tmp_path / "o")
    assert re.search(words, str(error)), error
    assert error.hint and not (tmp_path / "o").exists()


@pytest.mark.slow
def test_a_plain_unet_that_adds_its_labels_as_they_are_is_cut_around_them(tmp_path):
    model, data = save_ddpm(tmp_path / "m", class_embed_type="identity"), tmp_path / "d.safetensors"
    save_file({"class_labels": torch.randn(6, 64), "sample": torch.randn(6, 1, 16, 16)}, data)
    compile_quickly(model, tmp_path / "o", "prune", data={"source": str(data)})
    pruned = find_source(tmp_path / "o" / "pruned")
    assert dry_run(pruned) == []


def test_labels_of_image_folders_are_refused_where_the_number_of_classes_is_unknown(tmp_path):
    model = save_ddpm(tmp_path / "m", class_embed_type="timestep")
    for name in "abc":
        save_image(tmp_path / "data" / name / "0.png", 90)
    error = refusal(model, tmp_path / "o", data={"source": str(tmp_path / "data")})
    assert (
        "neither the data nor the config give them" in str(error)
        and "--data FILE.safetensors" in error.hint
    )


@pytest.mark.slow
def test_labels_have_the_dtype_of_the_graphs_input(tmp_path):
    model = save_ddpm(tmp_path / "m", class_embed_type="timestep", num_class_embeds=3)
    for i, name in enumerate("abc"):
        for n in range(2):
            save_image(tmp_path / "data" / name / f"{n}.png", 90 + i)
    compile_quickly(model, tmp_path / "read", "plan", data={"source": str(tmp_path / "data")})
    compile_quickly(model, tmp_path / "drawn", "plan")
    for out in ("read", "drawn"):
        labels = load_file(tmp_path / out / ".diffc" / "clean.safetensors")["class_labels"]
        assert labels.dtype == torch.float32 and set(labels.tolist()) <= {0.0, 1.0, 2.0}


@pytest.mark.parametrize(
    ("pipeline", "length", "tokens"),
    [
        ("StableDiffusionPipeline", 77, 77),
        ("StableDiffusionPipeline", 248, 248),
        ("StableDiffusionPipeline", 10**30, 77),
        ("KolorsPipeline", 10**30, 256),
        ("LDMTextToImagePipeline", 512, 77),
    ],
)
def test_the_length_of_a_text_is_the_pipelines_whatever_its_width(
    tmp_path, pipeline, length, tokens
):
    folder = save_sd(tmp_path / "sd")
    edit_json(folder / "unet" / "config.json", cross_attention_dim=512)
    edit_json(folder / "tokenizer" / "tokenizer_config.json", model_max_length=length)
    edit_json(folder / "model_index.json", _class_name=pipeline)
    specs = {spec.name: spec.shape for spec in input_specs(find_source(folder))}
    assert specs["encoder_hidden_states"] == (tokens, 512)


def test_a_pipeline_without_a_tokenizer_conditions_on_one_embedding(tmp_path):
    folder = save_sd(tmp_path / "sd")
    edit_json(folder / "model_index.json", tokenizer=None, text_encoder=None)
    specs = {spec.name: spec.shape for spec in input_specs(find_source(folder))}
    assert specs["encoder_hidden_states"] == (1, 24)


def test_a_lone_denoiser_has_the_length_of_clip(tmp_path):
    folder = unet_folder(tmp_path, cross_attention_dim=512)
    assert shapes(folder)["encoder_hidden_states"] == (77, 512)


@pytest.mark.slow
def test_conditions_of_another_length_are_used_at_theirs_with_a_note(tmp_path):
    model, data = save_sd(tmp_path / "sd"), tmp_path / "d.safetensors"
    texts = {"encoder_hidden_states": torch.randn(4, 154, 24), "sample": torch.randn(4, 4, 8, 8)}
    save_file(texts, data)
    flags = {"data": {"source": str(data)}, "prune": {"ratio": 0.3}}
    recipe = resolve(family="UNet2DConditionModel", flags=flags)
    notes = preflight(find_source(model), recipe, tmp_path / "o", "plan")
    assert any("154 tokens, not the usual 77" in note for note in notes)
    longer = compile_quickly(model, tmp_path / "o", "plan", data={"source": str(data)})
    usual = compile_quickly(
        model, tmp_path / "o2", "plan", data={"prompts": prompts_file(tmp_path)}
    )
    assert longer.model.macs > usual.model.macs  # there are more keys to attend to


@pytest.mark.slow
def test_a_text_that_no_block_attends_to_is_no_input(tmp_path):
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    config = {**UNET, "down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    unet, model = UNet2DConditionModel(**config, mid_block_type="UNetMidBlock2D"), tmp_path / "nox"
    StableDiffusionPipeline(
        unet=unet, scheduler=DDIMScheduler(clip_sample=False), **other_parts(model)
    ).save_pretrained(model)
    assert [spec.name for spec in input_specs(find_source(model))] == ["sample", "timestep"]
    error = refusal(model, tmp_path / "o", data={"prompts": prompts_file(tmp_path)})
    assert "attends to no text" in str(error) and error.hint == "leave the prompts out"
    compile_quickly(model, tmp_path / "o", "plan")  # without prompts it is unconditional


def test_an_input_that_the_output_does_not_depend_on_is_refused():
    unet = family("UNet2DModel")
    config = {
        "sample_size": 8, "block_out_channels": [16, 32], "norm_num_groups": 4,
        "down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2,
        "num_class_embeds": 3,
    }  # fmt: skip

    class Deaf:
        class_name = "UNet2DModel"

        def call(self, model, inputs):
            labels = torch.zeros_like(inputs["class_labels"])
            return unet.call(model, {**inputs, "class_labels": labels})

    with pytest.raises(InputError, match="does not depend on its input 'class_labels'"):
        dry_call(skeleton("UNet2DModel", config), Deaf(), unet.specs(config))


@pytest.mark.slow
def test_blocks_that_no_call_reaches_are_left_whole_and_named(tmp_path):
    """GLIGEN's gated attention, which runs only where boxes are given."""
    source = find_source(unet_folder(tmp_path, attention_type="gated"), need_weights=False)
    notes = dry_run(source)
    assert notes == ["left whole, since no call reaches them: fuser (4), position_net"]
    touched = {piece.module for group in cost_of(source).groups for piece in group.slices}
    assert touched and not any("fuser" in name or "position_net" in name for name in touched)
