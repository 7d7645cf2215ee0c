"""LoRA files: names, meaning, identity, and what is refused."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from support.family_cases import case
from support.loras import clip_state, kohya_names, layers_of, peft_names, random_pairs, save_lora
from support.pipelines import save_ddpm, save_sd

from diffc.errors import InputError, RequestError
from diffc.models.components import Component
from diffc.models.load import load_component, load_denoiser, load_pipeline, meta_denoiser
from diffc.models.loras.files import ComponentLoras, find_lora, with_loras
from diffc.models.loras.fusing import check_loras, fuse_state
from diffc.models.loras.pairs import read_pairs
from diffc.models.save import save_compressed
from diffc.models.source import find_source
from diffc.recipe import Recipe, resolve


@pytest.fixture
def sd(tmp_path):
    return save_sd(tmp_path / "sd")


@pytest.fixture
def unet(sd):
    return load_denoiser(find_source(sd))


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def fused_state(folder, *texts):
    return state_of(load_denoiser(with_loras(find_source(folder), map(str, texts))))


def expected_state(model, pairs, factor):
    state = state_of(model)
    for name, (down, up) in pairs.items():
        product = torch.einsum("or,ri->oi", up.flatten(1).double(), down.flatten(1).double())
        weight = state[f"{name}.weight"]
        state[f"{name}.weight"] = weight + (factor * product).reshape(weight.shape).float()
    return state


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-5, rtol=0, msg=name)


def processor_names(pairs):
    """Of the first LoRAs of diffusers, which changed attention processors alone."""
    state = {}
    for name, (down, up) in pairs.items():
        block, _, layer = name.replace("to_out.0", "to_out").rpartition(".")
        state[f"unet.{block}.processor.{layer}_lora.down.weight"] = down
        state[f"unet.{block}.processor.{layer}_lora.up.weight"] = up
    return state


NAMINGS = {
    "diffusers": lambda pairs: peft_names(pairs, "unet."),
    "peft": lambda pairs: peft_names(pairs, "base_model.model."),
    "peft with an adapter's name": lambda pairs: {
        key.replace(".weight", ".default.weight"): value
        for key, value in peft_names(pairs, "base_model.model.unet.").items()
    },
    "bare": peft_names,
    "processors": processor_names,
}


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_means_the_same(naming, sd, unet, tmp_path):
    def is_attention(name):
        return name.endswith(("to_q", "to_k", "to_v", "to_out.0"))

    pairs = random_pairs(unet, where=is_attention)
    path = save_lora(NAMINGS[naming](pairs), tmp_path / "lora.safetensors")
    assert_same(fused_state(sd, f"{path}:0.5"), expected_state(unet, pairs, 0.5))


def test_kohya_divides_alpha_by_the_rank(sd, unet, tmp_path):
    pairs = random_pairs(unet, rank=4)
    path = save_lora(kohya_names(pairs, alpha=1.0), tmp_path / "lora.safetensors")
    assert_same(fused_state(sd, f"{path}:2"), expected_state(unet, pairs, 2 / 4))


def test_a_folder_of_peft_has_its_alpha_in_adapter_config(sd, unet, tmp_path):
    folder, pairs = tmp_path / "adapter", random_pairs(unet, rank=4)
    path = save_lora(peft_names(pairs, "base_model.model."), folder / "adapter_model.safetensors")
    without = find_lora(str(folder)).digest
    config = {"lora_alpha": 8, "r": 4, "alpha_pattern": {"mid_block.attentions.0.proj_in": 2}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    pattern = {"mid_block.attentions.0.proj_in": pairs.pop("mid_block.attentions.0.proj_in")}
    state = expected_state(unet, pairs, 8 / 4)
    product = torch.einsum("or,ri->oi", *(v.flatten(1) for v in reversed(*pattern.values())))
    name = "mid_block.attentions.0.proj_in.weight"
    state[name] = state[name] + (2 / 4 * product).reshape(state[name].shape)
    assert_same(fused_state(sd, folder), state)
    assert find_lora(str(path)).digest != without  # the config decides what the file means


def test_rslora_divides_by_the_root_of_the_rank(sd, unet, tmp_path):
    pairs = random_pairs(unet, rank=4)
    metadata = {"unet.lora_alpha": 6, "unet.use_rslora": True, "unet.r": 4}
    path = save_lora(
        peft_names(pairs, "unet."),
        tmp_path / "lora.safetensors",
        {"lora_adapter_metadata": json.dumps(metadata)},
    )
    assert_same(fused_state(sd, path), expected_state(unet, pairs, 6 / 2))


@pytest.mark.parametrize("style", ["diffusers", "kohya", "older"])
def test_text_encoders_are_fused_too(style, sd, unet, tmp_path):
    part = find_source(sd).find_component("text_encoder")
    encoder = load_component(part)
    names = {key.removesuffix(".weight") for key in load_file(part.weights.paths[0])}
    pairs = random_pairs(encoder, where=lambda name: name.endswith(("q_proj", "fc1")))
    in_file = {
        next(one for one in names if one.endswith(name)): pair for name, pair in pairs.items()
    }
    assert len(in_file) == 4
    state = {
        "diffusers": lambda: peft_names(in_file, "text_encoder."),
        "kohya": lambda: kohya_names(in_file, 3.0, "lora_te_"),
        "older": lambda: {
            key.replace("lora_A", "lora_linear_layer.down").replace(
                "lora_B", "lora_linear_layer.up"
            ): value
            for key, value in peft_names(in_file, "text_encoder.").items()
        },
    }[style]()
    unet_pairs = random_pairs(unet, where=lambda name: "mid_block" in name)
    path = save_lora({**state, **kohya_names(unet_pairs, 3.0)}, tmp_path / "lora.safetensors")
    source = with_loras(find_source(sd), [f"{path}:0.5"])
    pipeline = load_pipeline(source)
    assert_same(state_of(pipeline.text_encoder), expected_state(encoder, pairs, 0.5))
    assert_same(state_of(pipeline.unet), expected_state(unet, unet_pairs, 0.5))
    # a saved model has them in its files, and the dtypes of the source's
    save_compressed(pipeline.unet, source, tmp_path / "saved", {})
    again = load_component(find_source(tmp_path / "saved").find_component("text_encoder"))
    assert_same(state_of(again), state_of(pipeline.text_encoder))
    assert check_loras(source, shapes_of(source)) == [
        f"the LoRA lora.safetensors at 0.5 changes {len(unet_pairs)} layers of unet "
        "and 4 layers of text_encoder"
    ]


def shapes_of(source):
    return {name: tuple(v.shape) for name, v in meta_denoiser(source).state_dict().items()}


def test_the_note_counts_layers(sd, unet, tmp_path):
    pairs = random_pairs(unet)
    path = save_lora(peft_names(pairs, "unet."), tmp_path / "lora.safetensors")
    source = with_loras(find_source(sd), [f"{path}:0.8"])
    (note,) = check_loras(source, shapes_of(source))
    assert note == f"the LoRA lora.safetensors at 0.8 changes {len(pairs)} layers of unet"


def test_a_lora_is_part_of_the_models_identity(sd, unet, tmp_path):
    path = save_lora(peft_names(random_pairs(unet), "unet."), tmp_path / "lora.safetensors")
    other = save_lora(peft_names(random_pairs(unet, 5), "unet."), tmp_path / "other.safetensors")
    moved = shutil.copy(path, tmp_path / "moved.safetensors")
    dense = find_source(sd)
    digests = [
        with_loras(dense, texts).digest
        for texts in ([], [f"{path}"], [f"{path}:0.5"], [f"{other}"], [f"{path}", f"{other}"])
    ]
    assert len(set(digests)) == 5 and digests[0] == dense.digest
    assert with_loras(dense, [str(moved)]).digest == digests[1]
    late = with_loras(dense, [], [str(path)])
    assert late.digest == digests[1] and late.base.digest == dense.digest


def test_a_lora_of_the_denoiser_leaves_the_text_encoders_key(sd, unet, tmp_path):
    path = save_lora(peft_names(random_pairs(unet), "unet."), tmp_path / "lora.safetensors")
    dense, with_it = find_source(sd), with_loras(find_source(sd), [str(path)])
    before, after = (one.find_component("text_encoder").digest for one in (dense, with_it))
    assert before == after
    assert dense.denoiser.digest != with_it.denoiser.digest


def test_names_of_original_repositories_are_translated_by_diffusers(tmp_path):
    """SDXL as kohya trains it, Flux as kohya does."""
    sdxl = case("sdxl")
    names = {
        "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q":
            "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
    }  # fmt: skip
    weight = sdxl.model.get_parameter(f"{next(iter(names.values()))}.weight")
    state = {}
    for name in names:
        state[f"{name}.lora_down.weight"] = torch.randn(2, weight.shape[1])
        state[f"{name}.lora_up.weight"] = torch.randn(weight.shape[0], 2)
        state[f"{name}.alpha"] = torch.tensor(1.0)
    lora = find_lora(str(save_lora(state, tmp_path / "sgm.safetensors")))
    shapes = {name: tuple(value.shape) for name, value in sdxl.model.state_dict().items()}
    (pair,) = read_pairs(
        lora, "unet", shapes, ComponentLoras((lora,), "UNet2DConditionModel", sdxl.config)
    )
    assert pair.layer == next(iter(names.values()))
    assert pair.scale == 0.5


# ---------------------------------------------------------------------------------- bad input


def refused(folder, *texts) -> InputError:
    with pytest.raises(InputError) as caught:
        source = with_loras(find_source(folder), map(str, texts))
        check_loras(source, shapes_of(source))
    assert "\n" not in str(caught.value) and caught.value.hint
    return caught.value


def test_a_lora_of_another_base_model(sd, tmp_path):
    other = case("sdxl").model
    path = save_lora(peft_names(random_pairs(other), "unet."), tmp_path / "lora.safetensors")
    assert "lora.safetensors" in str(refused(sd, path))
    flux = case("flux").model
    path = save_lora(peft_names(random_pairs(flux), "transformer."), tmp_path / "flux.safetensors")
    assert "LoRA of another base model: none of its" in str(refused(sd, path))


def test_a_lora_of_other_widths(sd, unet, tmp_path):
    pairs = random_pairs(unet)
    down, up = pairs["mid_block.attentions.0.proj_in"]
    pairs["mid_block.attentions.0.proj_in"] = (down, torch.cat([up, up]))
    path = save_lora(peft_names(pairs, "unet."), tmp_path / "lora.safetensors")
    error = refused(sd, path)
    assert "of another base model: it changes mid_block.attentions.0.proj_in by 64x32" in str(error)
    assert "unet has 32x32" in str(error)


def test_wrong_ranks(sd, unet, tmp_path):
    pairs = random_pairs(unet)
    name = next(iter(pairs))
    pairs[name] = (pairs[name][0][:2], pairs[name][1])
    path = save_lora(peft_names(pairs, "unet."), tmp_path / "lora.safetensors")
    assert f"the ranks of {name} differ" in str(refused(sd, path))


def test_half_a_pair(sd, unet, tmp_path):
    state = peft_names(random_pairs(unet), "unet.")
    del state["unet.conv_in.lora_B.weight"]
    path = save_lora(state, tmp_path / "lora.safetensors")
    assert "is not whole: it has unet.conv_in.lora_A.weight" in str(refused(sd, path))


def test_a_few_keys_that_fit_nowhere(sd, unet, tmp_path):
    state = peft_names(random_pairs(unet), "unet.")
    state["unet.mid_block.other.lora_A.weight"] = torch.zeros(2, 4)
    path = save_lora(state, tmp_path / "lora.safetensors")
    error = refused(sd, path)
    assert f"1 of {len(state)} keys" in str(error) and "mid_block.other.lora_A" in str(error)
    assert "never left out in silence" in error.hint


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("unet.conv_in.lora_magnitude_vector", "a DoRA"),
        ("lora_unet_conv_in.hada_w1_a", "a LoHa"),
        ("lora_unet_conv_in.lokr_w1", "a LoKr"),
        ("lora_unet_conv_in.lora_mid.weight", "a LoCon with a core"),
        ("unet.conv_in.lora_B.bias", "a LoRA with biases"),
        ("diffusion_model.conv_in.diff_b", "a file of whole differences"),
    ],
)
def test_other_kinds_of_adapters_are_named(key, kind, sd, unet, tmp_path):
    state = {**peft_names(random_pairs(unet), "unet."), key: torch.zeros(4)}
    path = save_lora(state, tmp_path / "lora.safetensors")
    error = refused(sd, path)
    assert f"is {kind}" in str(error) and "fuse it there" in error.hint


def test_text_encoder_keys_alone(sd, tmp_path):
    path = save_lora(clip_state(), tmp_path / "lora.safetensors")
    error = refused(save_ddpm(tmp_path / "ddpm"), path)
    assert "changes only text_encoder, which" in str(error) and "does not have" in str(error)
    source = with_loras(find_source(sd), [str(path)])  # a pipeline that has it takes it
    assert "1 layers of text_encoder" in check_loras(source, shapes_of(source))[0]


def test_text_encoder_keys_beside_others_are_said_to_change_nothing(sd, unet, tmp_path):
    state = {**clip_state(), **kohya_names(random_pairs(unet), 1.0)}
    path = save_lora(state, tmp_path / "lora.safetensors")
    source = with_loras(find_source(sd / "unet"), [str(path)])
    assert "its keys of text_encoder change nothing" in check_loras(source, shapes_of(source))[0]


@pytest.mark.parametrize("name", ["lora.bin", "lora.pt", "lora.ckpt"])
def test_pickles_are_refused_unread(name, sd, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"a": Trap()}, tmp_path / name)
    assert "is a pickle, which can run code" in str(refused(sd, tmp_path / name))
    shutil.copy(tmp_path / name, tmp_path / "named.safetensors")
    assert "pickle" in str(refused(sd, tmp_path / "named.safetensors"))
    assert not (tmp_path / "ran").exists()


def test_a_truncated_file(sd, unet, tmp_path):
    path = save_lora(peft_names(random_pairs(unet), "unet."), tmp_path / "lora.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    assert "is truncated" in str(refused(sd, path))


def test_values_that_are_not_finite(sd, unet, tmp_path):
    state = peft_names(random_pairs(unet), "unet.")
    state["unet.conv_in.lora_A.weight"][0, 0] = torch.nan
    path = save_lora(state, tmp_path / "lora.safetensors")
    assert "holds NaN or infinity in unet.conv_in.lora_A" in str(refused(sd, path))


def test_a_file_that_is_not_there(sd, tmp_path):
    assert "there is no LoRA file" in str(refused(sd, tmp_path / "none.safetensors"))
    (tmp_path / "empty").mkdir()
    assert "holds no pytorch_lora_weights.safetensors" in str(refused(sd, tmp_path / "empty"))


@pytest.mark.parametrize("weight", ["heavy", "", "nan", "inf", "0.5x"])
def test_a_weight_that_is_no_number(weight, tmp_path):
    with pytest.raises(RequestError, match=r"is no weight such as 0\.8"):
        resolve(family="", flags={"loras": [f"style.safetensors:{weight}"]})


def test_the_same_file_twice(sd, unet, tmp_path):
    path = save_lora(peft_names(random_pairs(unet), "unet."), tmp_path / "lora.safetensors")
    with pytest.raises(RequestError, match="is there twice"):
        resolve(family="", flags={"loras": [f"{path}:0.5", str(path)]})
    copied = shutil.copy(path, tmp_path / "copy.safetensors")
    error = refused(sd, f"{path}:0.5", copied)
    assert "was given twice" in str(error) and "copy.safetensors:1.5" in error.hint
    with pytest.raises(InputError, match="given twice"):
        with_loras(find_source(sd), [str(path)], [str(copied)])


def test_a_recipe_holds_whole_paths_and_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = Recipe.model_validate({"loras": ["a,b.safetensors", "c.safetensors:-0.5"]})
    assert recipe.loras == (f"{tmp_path}/a,b.safetensors:1.0", f"{tmp_path}/c.safetensors:-0.5")
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    assert Recipe.model_validate({"loras": "none"}).loras == ()
    (tmp_path / "odd:0.5").touch()
    assert Recipe.model_validate({"loras": "odd:0.5"}).loras == (f"{tmp_path}/odd:0.5:1.0",)


# ------------------------------------------------------------------------- peft as the oracle


@pytest.mark.parametrize("name", ["unet2d", "sd15", "dit", "pixart", "sd3", "flux", "sana", "wan"])
def test_peft_merges_to_the_same_weights(name, tmp_path):
    peft = pytest.importorskip("peft")
    tiny = case(name)
    torch.manual_seed(0)
    names = [*layers_of(tiny.model)]
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=names, init_lora_weights=False)
    with_adapter = peft.get_peft_model(copy.deepcopy(tiny.model), config)
    with_adapter.save_pretrained(tmp_path / "adapter")
    merged = state_of(with_adapter.merge_and_unload())
    lora = find_lora(str(tmp_path / "adapter"))
    class_name = type(tiny.model).__name__
    loras = ComponentLoras((lora,), class_name, tiny.config)
    got = fuse_state(
        Component("", "diffusers", class_name, tmp_path, loras=loras), state_of(tiny.model)
    )
    assert_same(got, merged)
