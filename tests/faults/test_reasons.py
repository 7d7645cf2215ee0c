"""A folder that cannot be compressed is refused with the true reason."""

from __future__ import annotations

import json
import shutil

import pytest
from support.pipelines import edit_json, save_ddpm, save_sd

from diffc.errors import InputError
from diffc.models.source import find_source


@pytest.fixture
def sd(tmp_path):
    return save_sd(tmp_path / "sd")


def refused(folder, **options) -> InputError:
    with pytest.raises(InputError) as caught:
        find_source(folder, need_weights=False, **options)
    error = caught.value
    assert error.hint and "\n" not in f"{error}{error.hint}" and len(str(error)) < 300
    return error


@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        ("transformer", "HunyuanDiT2DModel"),
        ("unet", "UNet3DConditionModel"),
        ("transformer", "ChromaTransformer2DModel"),
        ("unet", "StableCascadeUnet"),
        ("prior", "WuerstchenPrior"),
    ],
)
def test_a_vae_is_never_taken_in_the_denoiser_s_place(sd, name, class_name):
    (sd / "unet").rename(sd / name)
    index = json.loads((sd / "model_index.json").read_text())
    del index["unet"]
    edit_json(sd / name / "config.json", _class_name=class_name)
    (sd / "model_index.json").write_text(json.dumps({**index, name: ["diffusers", class_name]}))
    error = refused(sd)
    assert str(error).startswith(f"{class_name} in") and "is not supported" in str(error)
    assert "UNet2DConditionModel" in error.hint and "AutoencoderKL" not in error.hint
    assert find_source(sd, family="AutoencoderKL").component == "vae"
    assert find_source(sd / "vae").class_name == "AutoencoderKL"


def test_the_class_is_named_where_only_the_transformer_was_downloaded(tmp_path):
    index = {
        "_class_name": "Lumina2Pipeline",
        "vae": ["diffusers", "AutoencoderKL"],
        "transformer": ["diffusers", "Lumina2Transformer2DModel"],
    }
    (tmp_path / "transformer").mkdir()
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert "Lumina2Transformer2DModel" in str(refused(tmp_path))


def test_a_class_of_the_repository_s_own_code_is_not_run(sd):
    edit_json(sd / "model_index.json", unet=["unet_multiview", "UNet2DConditionModel"])
    assert "of the repository's own code (unet_multiview)" in str(refused(sd))
    assert find_source(sd, family="UNet2DConditionModel", need_weights=False).component == "unet"


def test_an_index_and_a_config_that_disagree_are_refused(sd):
    edit_json(sd / "unet" / "config.json", _class_name="UNet2DModel")
    error = refused(sd)
    assert "says that 'unet' is a UNet2DConditionModel" in str(error)


def test_an_index_that_names_another_folder_names_what_there_is(sd):
    (sd / "unet").rename(sd / "unet_ema")
    error = refused(sd)
    assert "names 'unet'" in str(error) and "lies in unet_ema" in error.hint


def test_an_index_alone_names_what_is_there(sd):
    shutil.rmtree(sd / "unet")
    assert "vae" in refused(sd).hint


@pytest.mark.parametrize(
    "file", ["pytorch_lora_weights.safetensors", "adapter_config.json", "my-LoRA.safetensors"]
)
@pytest.mark.parametrize("with_index", [True, False])
def test_an_adapter_s_repository_says_so(sd, file, with_index):
    shutil.rmtree(sd / "unet")
    if not with_index:
        (sd / "model_index.json").unlink()
    (sd / file).write_text("{}")
    error = refused(sd)
    assert f"is an adapter ({file})" in str(error) and "fuse_lora" in error.hint


def test_a_textual_inversion_says_so(tmp_path):
    (tmp_path / "learned_embeds.safetensors").write_bytes(b"")
    assert "textual inversion" in str(refused(tmp_path))


@pytest.mark.parametrize("name", ["ControlNetModel", "T2IAdapter", "MotionAdapter"])
def test_what_steers_a_denoiser_is_none(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": name}))
    assert f"is a {name}, which steers a denoiser" in str(refused(tmp_path))


def test_a_transformers_model_and_a_scheduler_alone_say_so(sd):
    assert "CLIPTextModel of transformers" in str(refused(sd / "text_encoder"))
    assert "neither" in str(refused(sd / "scheduler"))


def test_a_training_output_says_where_the_model_lies(tmp_path):
    for steps in (500, 1000):
        save_ddpm(tmp_path / "out" / f"checkpoint-{steps}")
        shutil.copytree(
            tmp_path / "out" / f"checkpoint-{steps}" / "unet",
            tmp_path / "states" / f"checkpoint-{steps}" / "unet",
        )
    error = refused(tmp_path / "out")
    assert "the model lies in checkpoint-1000" in str(error)
    error = refused(tmp_path / "states")
    assert "the model lies in checkpoint-1000/unet" in str(error)


def test_a_checkpoint_in_one_file_says_how_to_convert_it(tmp_path):
    (tmp_path / "dreamshaper.safetensors").write_bytes(b"")
    assert "from_single_file" in refused(tmp_path).hint


@pytest.mark.parametrize(
    ("class_name", "runtime"),
    [
        ("OnnxStableDiffusionPipeline", "ONNX"),
        ("ORTStableDiffusionXLPipeline", "ONNX"),
        ("OVFluxPipeline", "OpenVINO"),
        ("FlaxStableDiffusionPipeline", "Flax"),
    ],
)
def test_pipelines_of_other_runtimes_say_so(sd, class_name, runtime):
    edit_json(sd / "model_index.json", _class_name=class_name)
    assert f" {runtime} pipeline (" in str(refused(sd))


QUANTISED = {
    "quanto": {"quant_method": "quanto", "weights_dtype": "int8"},
    "torchao": {"quant_method": "torchao", "quant_type": "int8wo"},
    "gguf": {"quant_method": "gguf", "compute_dtype": "float32"},
    "sdnq": {"quant_method": "sdnq", "weights_dtype": "uint4"},
    "bitsandbytes": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
}


@pytest.mark.parametrize("method", QUANTISED)
@pytest.mark.parametrize("need_weights", [True, False])
def test_a_quantised_denoiser_is_refused_from_its_config(sd, method, need_weights):
    edit_json(sd / "unet" / "config.json", quantization_config=QUANTISED[method])
    for folder in (sd, sd / "unet"):
        with pytest.raises(InputError, match=rf"is quantised already \({method}\)"):
            find_source(folder, need_weights=need_weights)


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-lfs pointer"),
        (b"\n<!DOCTYPE html><html></html>", "a web page"),
        (b"\xff\xfe{\x00}\x00", "UTF-16"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"", "cannot read"),
        (b"[]", "no JSON object"),
        (b'{"a": "\xe9"}', "cannot read"),
        (b"[" * 100_000, "cannot read"),
    ],
)
def test_json_that_is_something_else_says_what_it_is(sd, file, content, says):
    (sd / file).write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        find_source(sd)
    assert file in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-lfs pointer"),
        (b"<html>" + b" " * 100, "a web page"),
        (b"PK\x03\x04" + b"\0" * 100, "is a pickle"),
        (b"\x02\0\0\0\0\0\0\0[]", "damaged header"),
        (b"\x0d\0\0\0\0\0\0\0" + b'{"a":{"b":1}}', "damaged header"),
        (b"", "truncated"),
    ],
)
def test_weights_that_are_something_else_say_what_they_are(sd, content, says):
    (sd / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=says):
        find_source(sd)


@pytest.mark.parametrize(
    ("norm", "class_name"),
    [("ada_norm_zero", "DiTTransformer2DModel"), ("ada_norm_single", "PixArtTransformer2DModel")],
)
@pytest.mark.parametrize("index_says", ["Transformer2DModel", None])
def test_the_older_name_of_a_transformer_is_mapped(tmp_path, norm, class_name, index_says):
    folder = tmp_path / "m" / "transformer"
    folder.mkdir(parents=True)
    config = {"_class_name": "Transformer2DModel", "norm_type": norm}
    (folder / "config.json").write_text(json.dumps(config))
    index = {"transformer": ["diffusers", index_says or class_name]}
    (tmp_path / "m" / "model_index.json").write_text(json.dumps(index))
    assert find_source(tmp_path / "m", need_weights=False).class_name == class_name
    assert find_source(folder, need_weights=False).class_name == class_name


def test_the_wrong_case_of_a_class_is_mapped(sd):
    edit_json(sd / "model_index.json", unet=["diffusers", "Unet2DConditionModel"])
    edit_json(sd / "unet" / "config.json", _class_name="UNet2dConditionModel")
    assert find_source(sd, need_weights=False).class_name == "UNet2DConditionModel"


@pytest.mark.parametrize(
    "file", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"]
)
def test_a_server_s_answer_in_place_of_a_file(sd, file):
    (sd / file).write_text('{"error": "Access to this model is restricted"}')
    error = refused(sd)
    assert "server's error message" in str(error) and "restricted" in str(error)


def test_a_gguf_file_beside_a_config_is_quantised(sd):
    for path in (sd / "unet").glob("*.safetensors"):
        path.unlink()
    (sd / "unet/model-Q4_K.gguf").write_bytes(b"GGUF")
    assert "quantised already (gguf)" in str(refused(sd))


def test_the_pipeline_of_a_checkpoint_is_named_and_not_its_part(tmp_path):
    save_ddpm(tmp_path / "train/checkpoint-500")
    error = refused(tmp_path / "train")
    assert str(error).endswith("the model lies in checkpoint-500")


def test_an_index_without_components_says_so(sd):
    (sd / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    assert "names no component" in str(refused(sd))


def test_utf_32_is_not_called_utf_16(sd):
    path = sd / "unet/config.json"
    path.write_bytes(path.read_text().encode("utf-32"))
    error = refused(sd)
    assert "UTF-32" in str(error) and "iconv -f UTF-32 -t UTF-8" in error.hint


@pytest.mark.parametrize("name", ["../x", "/tmp", "a/b", ".."])
def test_a_component_outside_the_folder_is_refused(sd, name):
    edit_json(sd / "model_index.json", **{name: ["diffusers", "UNet2DModel"]})
    assert "which is not a folder's name" in str(refused(sd))


def test_complex_weights_are_refused(sd):
    import torch
    from safetensors.torch import load_file, save_file

    from diffc.models.load import meta_denoiser

    path = next((sd / "unet").glob("*.safetensors"))
    state = load_file(path)
    state["conv_in.weight"] = state["conv_in.weight"].to(torch.complex64)
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"conv_in.weight holds complex numbers"):
        meta_denoiser(find_source(sd))
