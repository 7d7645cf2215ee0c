"""A model folder may be laid out in any way that diffusers itself opens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.pipelines import edit_json, save_ddpm, save_sd
from support.tiny_text import WIDTH, unet

from diffc.errors import InputError
from diffc.models.source import find_source

STEM = "diffusion_pytorch_model"


def flatten(folder: Path) -> Path:
    """Move the denoiser's and the scheduler's files beside model_index.json."""
    for part in ("unet", "scheduler"):
        for path in (folder / part).iterdir():
            path.rename(folder / path.name)
        (folder / part).rmdir()
    return folder


@pytest.fixture
def ddpm(tmp_path):
    return save_ddpm(tmp_path / "m")


def weights_of(model):
    return [path.name for path in find_source(model).weights]


def test_a_flat_pipeline_is_the_nested_one(ddpm, tmp_path):
    nested = find_source(ddpm)
    flat = find_source(flatten(shutil.copytree(ddpm, tmp_path / "flat")))
    assert flat.digest == nested.digest and flat.component == "unet"
    assert flat.denoiser_folder == flat.folder
    assert {part.name: part.is_flat for part in flat.components} == {
        "unet": True,
        "scheduler": True,
    }


def test_a_scheduler_config_beside_a_lone_denoiser_is_read(ddpm):
    flat = flatten(ddpm)
    (flat / "model_index.json").unlink()
    assert find_source(flat).scheduler["_class_name"] == "DDPMScheduler"


def test_a_flat_component_has_its_own_files_alone(ddpm):
    (ddpm / "README.md").write_text("a card")
    parts = {part.name: part for part in find_source(flatten(ddpm)).components}
    assert [path.name for path in parts["scheduler"].files] == ["scheduler_config.json"]
    assert [path.name for path in parts["unet"].files] == ["config.json", f"{STEM}.safetensors"]


@pytest.mark.parametrize("variant", ["fp16", "bf16", "ema", "non_ema", "fp8_e4m3fn"])
def test_a_lone_variant_is_taken(ddpm, variant):
    weights = ddpm / "unet" / f"{STEM}.safetensors"
    weights.rename(ddpm / "unet" / f"{STEM}.{variant}.safetensors")
    source = find_source(ddpm)
    assert source.denoiser.weights.variant == variant and len(source.weights) == 1


def test_the_plain_weights_come_before_every_variant(ddpm):
    weights = ddpm / "unet" / f"{STEM}.safetensors"
    for variant in ("fp16", "non_ema"):
        shutil.copy(weights, ddpm / "unet" / f"{STEM}.{variant}.safetensors")
    assert weights_of(ddpm) == [f"{STEM}.safetensors"]


@pytest.mark.parametrize("variant", [None, "fp16", "bf16"])
def test_shards_as_they_are_written_today(tmp_path, variant):
    save_sd(tmp_path / "sd")
    shutil.rmtree(tmp_path / "sd" / "unet")
    unet(cross_attention_dim=WIDTH).save_pretrained(
        tmp_path / "sd" / "unet", variant=variant, max_shard_size="50KB"
    )
    source = find_source(tmp_path / "sd")
    assert len(source.weights) > 1 and source.denoiser.weights.variant == (variant or "")
    assert source.denoiser.weights.index in source.denoiser.files


@pytest.mark.parametrize("name", [f"{STEM}.safetensors.fp16.index.json",
                                  f"{STEM}.fp16.safetensors.index.json"])  # fmt: skip
def test_shards_with_a_variant_as_they_were_written_before(ddpm, name):
    folder = ddpm / "unet"
    shard = f"{STEM}-00001-of-00001.fp16.safetensors"
    (folder / f"{STEM}.safetensors").rename(folder / shard)
    (folder / name).write_text(json.dumps({"weight_map": {"conv_in.bias": shard}}))
    assert weights_of(ddpm) == [shard]


def test_whole_shards_need_no_index(tmp_path):
    unet(cross_attention_dim=WIDTH).save_pretrained(tmp_path / "u", max_shard_size="50KB")
    (tmp_path / "u" / f"{STEM}.safetensors.index.json").unlink()
    assert len(find_source(tmp_path / "u").weights) > 1
    next((tmp_path / "u").glob("*-00002-of-*")).unlink()
    with pytest.raises(InputError, match="parts of its weights"):
        find_source(tmp_path / "u")


def test_planning_needs_no_shard_that_an_index_names(tmp_path):
    unet(cross_attention_dim=WIDTH).save_pretrained(tmp_path / "u", max_shard_size="50KB")
    for path in (tmp_path / "u").glob("*.safetensors"):
        path.unlink()
    assert find_source(tmp_path / "u", need_weights=False).weights == ()
    with pytest.raises(InputError, match="which is missing"):
        find_source(tmp_path / "u")


def test_weights_of_another_name_are_named(ddpm):
    (ddpm / "unet" / f"{STEM}.safetensors").rename(ddpm / "unet" / "unet.safetensors")
    with pytest.raises(InputError, match=r"has no weights .*; it holds unet\.safetensors"):
        find_source(ddpm)


def test_a_denoiser_config_without_a_class_takes_the_index_s(ddpm):
    edit_json(ddpm / "unet" / "config.json", _class_name=None)
    source = find_source(ddpm)
    assert source.class_name == source.config["_class_name"] == "UNet2DModel"


def test_a_lone_config_without_a_class_is_refused(ddpm):
    edit_json(ddpm / "unet" / "config.json", _class_name=None)
    with pytest.raises(InputError, match=r"config\.json names no class"):
        find_source(ddpm / "unet")
    assert find_source(ddpm / "unet", family="UNet2DModel").config["_class_name"] == "UNet2DModel"


def test_components_are_keyed_by_their_files(tmp_path):
    save_sd(tmp_path / "sd")
    before = {part.name: part.digest for part in find_source(tmp_path / "sd").components}
    assert set(before) == {"unet", "vae", "text_encoder", "tokenizer", "scheduler"}
    (tmp_path / "sd" / "vae" / f"{STEM}.fp16.safetensors").write_bytes(b"not the one that is read")
    vae = find_source(tmp_path / "sd").vae
    assert vae.digest == before["vae"]
    edit_json(tmp_path / "sd" / "vae" / "config.json", scaling_factor=0.25)
    after = {part.name: part.digest for part in find_source(tmp_path / "sd").components}
    assert [name for name in before if before[name] != after[name]] == ["vae"]


def test_weights_are_of_one_variant_for_each_component(tmp_path):
    save_sd(tmp_path / "sd")
    vae = tmp_path / "sd" / "vae" / f"{STEM}.safetensors"
    vae.rename(vae.with_name(f"{STEM}.fp16.safetensors"))
    source = find_source(tmp_path / "sd")
    assert source.vae.weights.variant == "fp16" and source.denoiser.weights.variant == ""
