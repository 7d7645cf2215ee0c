"""Every component's tensors are compared with its class before any stage."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from safetensors.torch import load_file, save_file
from support import family_cases, tiny_text
from support.pipelines import edit_json, save_ddpm, save_sd
from support.runs import refusal
from typer.testing import CliRunner

import diffc
from diffc.cli.app import app
from diffc.data.latents import pixel_shape
from diffc.data.prompts import encode_prompts
from diffc.errors import InputError
from diffc.models.checking import check_component, check_components
from diffc.models.files import TensorEntry
from diffc.models.key_names import ExpectedTensors, check_tensors
from diffc.models.load import load_denoiser, load_pipeline
from diffc.models.source import find_source
from diffc_export.events import follow
from diffc_export.specs import TensorSpec

WEIGHTS = "diffusion_pytorch_model.safetensors"


def change(path, edit):
    """Replace a file's tensors by what ``edit`` makes of them."""
    save_file(edit(load_file(path)), path, metadata={"format": "pt"})
    return path.parent


def without(name):
    return lambda state: {key: value for key, value in state.items() if key != name}


def prefixed(prefix):
    return lambda state: {prefix + key: value for key, value in state.items()}


def unfused(state):
    """The state of a model into which an adapter was loaded."""
    out = {}
    for key, value in state.items():
        base = key.removesuffix(".weight")
        if base.endswith(("to_q", "to_k", "to_v")) and key.endswith("weight"):
            out |= {
                f"{base}.base_layer.weight": value,
                f"{base}.lora_A.default.weight": torch.randn(4, value.shape[1]),
                f"{base}.lora_B.default.weight": torch.zeros(value.shape[0], 4),
            }
        else:
            out[key] = value
    return out


@pytest.fixture
def ddpm(tmp_path):
    return save_ddpm(tmp_path / "m")


@pytest.fixture
def sd(tmp_path):
    return save_sd(tmp_path / "sd")


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a red cat\na blue dog\n")
    return {"data": {"prompts": str(path)}}


DENOISER_FAULTS = [
    (without("conv_out.bias"), r"1 of \d+ tensors is missing in .*unet: conv_out\.bias"),
    (prefixed("_orig_mod."), r"begin with '_orig_mod\.'"),
    (prefixed("module."), r"begin with 'module\.'"),
    (prefixed("module._orig_mod."), r"begin with '_orig_mod\.'"),
    (prefixed("model.unet."), r"begin with 'model\.unet\.'"),
    (unfused, r"adapter that is not fused"),
    (lambda s: {**s, "mid_block.attentions.0.to_q_lora.down.weight": torch.zeros(4, 32)},
     r"adapter that is not fused"),
    (lambda s: {**s, "mid_block.resnets.9.conv1.weight": torch.zeros(8, 8, 3, 3)},
     r"belong to no part of the model"),
    (lambda s: {**s, "conv_out.weight_scale": torch.ones(4)}, r"quantised already"),
    (lambda s: {**s, "conv_out.weight": s["conv_out.weight"].to(torch.int8)},
     r"quantised already or damaged \(conv_out\.weight is I8\)"),
    (lambda s: {**s, "conv_out.bias": s["conv_out.bias"].bool()}, r"conv_out\.bias is BOOL"),
    (lambda s: {**s, "conv_in.weight": torch.zeros(99, 1, 3, 3)}, r"conv_in\.weight in .* shape"),
    (lambda s: {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)},
     r"original names"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "says"), DENOISER_FAULTS)
def test_a_denoiser_with_other_tensors_is_refused_by_all(ddpm, tmp_path, edit, says):
    change(ddpm / "unet" / WEIGHTS, edit)
    error = refusal(ddpm, tmp_path / "out")
    assert error.hint
    for act in (lambda: diffc.load(ddpm), lambda: load_denoiser(find_source(ddpm))):
        with pytest.raises(InputError, match=says):
            act()
    assert not (tmp_path / "out").exists()
    for verb in (["plan", str(ddpm), "--ratio", "0.3"], ["inspect", str(ddpm)]):
        result = CliRunner().invoke(app, verb)
        assert isinstance(result.exception, InputError), result.output


def test_an_extra_tensor_is_a_note(ddpm):
    change(ddpm / "unet" / WEIGHTS, lambda s: {**s, "ema.step": torch.zeros(1)})
    notes = check_components(find_source(ddpm), prompts=False)
    assert len(notes) == 1 and "does not need: ema.step" in notes[0]
    assert load_denoiser(find_source(ddpm)) is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    "edit",
    [prefixed("_orig_mod."), without("decoder.conv_out.bias"), lambda s: {}],
)
def test_a_vae_with_other_tensors_is_refused(sd, tmp_path, edit, prompts):
    change(sd / "vae" / WEIGHTS, edit)
    assert str(sd / "vae") in str(refusal(sd, tmp_path / "out", **prompts))
    with pytest.raises(InputError, match=str(sd / "vae")):
        check_components(find_source(sd), prompts=False)
    with pytest.raises(InputError, match=str(sd / "vae")):
        diffc.load(sd)


@pytest.mark.parametrize("edit", [prefixed("_orig_mod."), lambda s: dict(list(s.items())[1:])])
def test_a_text_encoder_with_other_tensors_is_refused_where_prompts_need_it(
    sd, tmp_path, edit, prompts
):
    change(sd / "text_encoder" / "model.safetensors", edit)
    assert str(sd / "text_encoder") in str(refusal(sd, tmp_path / "out", **prompts))
    assert check_components(find_source(sd), prompts=False) == []
    with pytest.raises(InputError, match="text_encoder"):
        diffc.load(sd)


@pytest.mark.parametrize(
    "edit",
    [
        lambda s: {f"text_model.{k.removeprefix('text_model.')}": v for k, v in s.items()},
        lambda s: {**s, "text_model.embeddings.position_ids": torch.arange(77)[None]},
    ],
)
def test_a_text_encoder_s_older_names_are_the_library_s_matter(sd, edit):
    change(sd / "text_encoder" / "model.safetensors", edit)
    assert check_component(find_source(sd).find_component("text_encoder")) == []
    assert load_pipeline(find_source(sd)).text_encoder is not None


def test_an_older_vae_s_attention_is_renamed_as_the_library_does(sd):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(state):
        for new, name in old.items():
            state = {key.replace(f".{new}.", f".{name}."): v for key, v in state.items()}
        return state

    before = load_pipeline(find_source(sd)).vae.state_dict()
    change(sd / "vae" / WEIGHTS, rename)
    assert check_components(find_source(sd), prompts=False) == []
    after = load_pipeline(find_source(sd)).vae.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_quantised_text_encoder_is_refused_where_prompts_need_it(sd, tmp_path, prompts):
    edit_json(sd / "text_encoder" / "config.json", quantization_config={"quant_method": "fp8"})
    assert "is quantised already (fp8)" in str(refusal(sd, tmp_path / "out", **prompts))


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 334\n", "git-lfs"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"\0" * 64, "truncated"),
    ],
)
def test_other_content_in_place_of_weights_is_named(sd, tmp_path, prompts, part, content, says):
    next((sd / part).glob("*.safetensors")).write_bytes(content)
    assert says in str(refusal(sd, tmp_path / "out", **prompts))
    with pytest.raises(InputError, match=says):
        diffc.load(sd)


@pytest.mark.parametrize("part", ["vae", "text_encoder", "tokenizer"])
def test_a_component_that_was_left_out_of_the_download_is_named(sd, tmp_path, prompts, part):
    shutil.rmtree(sd / part)
    error = refusal(sd, tmp_path / "out", **prompts)
    assert f"names '{part}'" in str(error) and "is missing" in str(error)
    with pytest.raises(InputError, match=f"names '{part}'"):
        diffc.load(sd)


def test_stable_diffusion_3_without_its_third_encoder_gets_zeros_in_its_place(tmp_path):
    save_sd3(tmp_path / "sd3")
    source = find_source(tmp_path / "sd3")
    specs = [
        TensorSpec("sample", (4, 8, 8), "float32", "sample"),
        TensorSpec("encoder_hidden_states", (333, 64), "float32", "condition"),
        TensorSpec("pooled_projections", (48,), "float32", "condition"),
    ]
    rows = follow(encode_prompts(source, specs, ["a red cat"])).rows["encoder_hidden_states"]
    assert rows.shape == (1, 333, 64) and rows[:, :77].any() and not rows[:, 77:].any()
    t5 = {"text_encoder_3": ["transformers", "T5EncoderModel"]}
    edit_json(tmp_path / "sd3" / "model_index.json", **t5)
    with pytest.raises(InputError, match=r"names 'text_encoder_3' \(T5EncoderModel\)"):
        check_components(find_source(tmp_path / "sd3"), prompts=True)


def save_sd3(folder):
    """Stable Diffusion 3 with two of its three text encoders."""
    words = tiny_text.tokenizer(folder.with_name("words"))
    config = {**family_cases._SD3, "joint_attention_dim": 64, "pooled_projection_dim": 48}
    encoders = [tiny_text.CLIPTextModelWithProjection(tiny_text.text_config()) for _ in range(2)]
    StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(**config), vae=tiny_text.vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), text_encoder=encoders[0],
        text_encoder_2=encoders[1], tokenizer=words, tokenizer_2=words, text_encoder_3=None,
        tokenizer_3=None,
    ).save_pretrained(folder)  # fmt: skip


def test_a_safety_checker_that_is_absent_is_no_fault(sd):
    named = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    edit_json(sd / "model_index.json", safety_checker=named, requires_safety_checker=True)
    assert check_components(find_source(sd), prompts=True) == []
    with pytest.warns(UserWarning, match="the pipeline goes without"):
        assert diffc.load(sd).safety_checker is None


def test_a_pipeline_class_that_is_not_installed(sd, tmp_path, prompts):
    edit_json(sd / "model_index.json", _class_name="MyPipeline")
    assert "names MyPipeline" in str(refusal(sd, tmp_path / "out", **prompts))
    (note,) = check_components(find_source(sd), prompts=False)
    assert "names MyPipeline" in note
    for named in ("MyPipeline", None, ["my_pipeline", "MyPipeline"]):
        edit_json(sd / "model_index.json", _class_name=named)
        with pytest.raises(InputError, match=r"model_index\.json names"):
            diffc.load(sd)


@pytest.mark.parametrize(
    "entry", [["transformers", "CLIPTextModelOfTheFuture"], ["my_code", "MyEncoder"]]
)
def test_a_component_class_that_is_not_installed(sd, tmp_path, prompts, entry):
    edit_json(sd / "model_index.json", text_encoder=entry)
    assert entry[1] in str(refusal(sd, tmp_path / "out", **prompts))
    with pytest.raises(InputError, match=entry[1]):
        diffc.load(sd)


def test_a_vae_config_without_a_class_takes_the_index_s(sd):
    edit_json(sd / "vae" / "config.json", _class_name=None)
    assert check_components(find_source(sd), prompts=False) == []
    assert type(load_pipeline(find_source(sd)).vae).__name__ == "AutoencoderKL"
    assert pixel_shape(find_source(sd), (4, 8, 8)) == (3, 16, 16)


@pytest.mark.parametrize("named", ["conv_out.bias", None])
def test_a_compressed_model_has_exactly_its_tensors(tiny_cut, tmp_path, named):
    edit = without(named) if named else lambda s: {**s, "foo": torch.zeros(1)}
    change(tiny_cut / "unet" / WEIGHTS, edit)
    says = named or "foo"
    assert says in str(refusal(tiny_cut, tmp_path / "out"))
    with pytest.raises(InputError, match=says):
        diffc.load(tiny_cut)
    result = CliRunner().invoke(app, ["plan", str(tiny_cut), "--ratio", "0.2"])
    assert isinstance(result.exception, InputError)


def test_a_compressed_model_without_pruning_json_names_it(tiny_cut, tmp_path):
    (tiny_cut / "pruning.json").unlink()
    assert "pruning.json" in refusal(tiny_cut, tmp_path / "out").hint
    with pytest.raises(InputError, match="cannot be loaded: its shape is"):
        diffc.load(tiny_cut)


@pytest.mark.parametrize(
    "attributes",
    [None, 3, {"conv_in": 3}, {"nowhere": {}}, {"conv_in": {"forward": 1}}, {"conv_in": {"x": 1}}],
)
def test_a_pruning_json_that_does_not_fit_is_refused(tiny_cut, tmp_path, attributes):
    value = json.loads((tiny_cut / "pruning.json").read_text())
    (tiny_cut / "pruning.json").write_text(json.dumps({**value, "attributes": attributes}))
    assert "pruning.json" in str(refusal(tiny_cut, tmp_path / "out"))
    with pytest.raises(InputError, match=r"pruning\.json"):
        diffc.load(tiny_cut)


@pytest.fixture
def tiny_cut(ddpm, tmp_path):
    """A model whose middle was cut by hand, saved as diffc does."""
    from diffc.models.families import family
    from diffc.models.families.examples import example_inputs
    from diffc.models.save import save_compressed
    from diffc.prune.surgery import cut

    source = find_source(ddpm)
    model, known = load_denoiser(source), family(source.class_name)
    specs = known.specs(source.config, None)
    groups = known.groups(model, example_inputs(specs, source.config))
    group = groups[0]
    run = group.size // group.runs
    cut(model, groups, {group.name: np.arange(group.size).reshape(-1, run)[:, : run // 2].ravel()})
    save_compressed(model, source, tmp_path / "cut", {})
    return tmp_path / "cut"


def test_the_message_counts_and_names_two(tmp_path):
    expected = ExpectedTensors({f"layer.{i}.weight": (2, 2) for i in range(9)})
    held = {f"layer.{i}.weight": TensorEntry("F32", (2, 2)) for i in range(5)}
    with pytest.raises(InputError) as caught:
        check_tensors(tmp_path, held, expected)
    assert str(caught.value) == (
        f"4 of 9 tensors are missing in {tmp_path}: layer.5.weight, layer.6.weight, ..."
    )


def test_the_published_layout_of_a_dit_opens(tmp_path):
    folder = tmp_path / "dit"
    DiTPipeline(
        transformer=DiTTransformer2DModel(**family_cases._DIT),
        vae=tiny_text.vae(),
        scheduler=DDIMScheduler(),
    ).save_pretrained(folder)
    edit_json(folder / "transformer" / "config.json", _class_name="Transformer2DModel")
    edit_json(folder / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    assert check_components(find_source(folder), prompts=False) == []
    assert type(diffc.load(folder).transformer) is DiTTransformer2DModel
