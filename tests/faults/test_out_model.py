"""OUT/model holds the pipeline's own components, and opens whatever the source was like."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
from safetensors.torch import load_file, save_file
from support import tiny_text
from support.pipelines import edit_json, other_parts, save_ddpm, save_sd
from support.runs import options_of, refusal

import diffc
from diffc.errors import InputError
from diffc.models.load import load_component, load_denoiser, meta_denoiser
from diffc.models.other_parts import absent_notes, check_parts, parts_digest
from diffc.models.save import save_compressed
from diffc.models.source import find_source
from diffc.output import default_out

WEIGHTS = "diffusion_pytorch_model.safetensors"
PARTS = {"unet", "vae", "text_encoder", "tokenizer", "scheduler"}


def saved(source_folder: Path, **options) -> Path:
    """The folder around the source's denoiser, uncut."""
    source = find_source(source_folder, **options)
    folder = source_folder.with_name(f"{source_folder.name}-saved")
    save_compressed(load_denoiser(source), source, folder, {})
    return folder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def sd_folder(tmp_path_factory):
    return save_sd(tmp_path_factory.mktemp("sd") / "sd")


@pytest.fixture
def sd(sd_folder, tmp_path):
    return Path(shutil.copytree(sd_folder, tmp_path / "sd"))


def plain(folder):
    """As diffusers saves it."""


def all_fp16(folder):
    """Every network as `*.fp16.safetensors` alone."""
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))


def shards(folder, first, second, index):
    """Two parts of the text encoder's weights, by the names given, and their index."""
    path = folder / "text_encoder" / "model.safetensors"
    state = load_file(path)
    path.unlink()
    names = sorted(state)
    parts = {first: names[: len(names) // 2], second: names[len(names) // 2 :]}
    for name, own in parts.items():
        save_file({key: state[key] for key in own}, path.with_name(name), {"format": "pt"})
    places = {key: name for name, own in parts.items() for key in own}
    path.with_name(index).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def sharded(folder):
    shards(folder, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
           "model.safetensors.index.json")  # fmt: skip


def sharded_variant(folder):
    shards(folder, "model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors",
           "model.safetensors.index.fp16.json")  # fmt: skip


def two_variants(folder):
    """Plain and fp16 weights beside one another: one is enough."""
    for path in list(folder.rglob("*.safetensors")):
        shutil.copyfile(path, path.with_name(path.name.replace(".safe", ".fp16.safe")))


def pickled_text_encoder(folder):
    path = folder / "text_encoder" / "model.safetensors"
    torch.save(load_file(path), path.with_name("pytorch_model.bin"))
    path.unlink()


def without_checker(folder):
    """The index names a safety checker that was left out of the download."""
    edit_json(folder / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])  # noqa: E501  # fmt: skip


def without_checkers_weights(folder):
    """Its config is there: of a hub id, the weights of what no run uses are not fetched."""
    without_checker(folder)
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "config.json").write_text('{"model_type": "clip"}')


LAYOUTS = (plain, all_fp16, sharded, sharded_variant, two_variants, pickled_text_encoder,
           without_checker, without_checkers_weights)  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_ends_in_one_that_opens(sd, layout):
    before = load_file(sd / "text_encoder" / "model.safetensors")
    layout(sd)
    folder = saved(sd, allow_pickle=layout is pickled_text_encoder)
    pipeline = diffc.load(folder)
    state = pipeline.text_encoder.state_dict()
    assert all(torch.equal(state[name], value) for name, value in before.items() if name in state)
    assert not [name for name in files(folder) if "fp16" in name or name.endswith(".bin")]
    assert {path.name for path in folder.iterdir() if path.is_dir()} == PARTS


def test_a_part_without_weights_is_null_in_the_result_and_named(sd):
    before = parts_digest(find_source(sd))
    without_checkers_weights(sd)
    source = find_source(sd)
    (note,) = absent_notes(source)
    assert note == "safety_checker has no weights here: the compressed pipeline goes without"
    (fetched,) = absent_notes(replace(source, name="owner/name"))
    assert fetched == f"{note} (diffc fetch owner/name --whole)"
    index = json.loads((saved(sd) / "model_index.json").read_text())
    assert index["safety_checker"] == [None, None]  # what every library takes for no component
    assert parts_digest(source)["components"] == {**before["components"], "safety_checker": None}


def test_a_network_of_a_pipelines_own_class(sd):
    """Stable unCLIP's normaliser: diffusers' kind of network, under the pipelines' library."""
    normaliser = StableUnCLIPImageNormalizer(embedding_dim=4)
    torch.nn.init.constant_(normaliser.mean, 2.0)
    normaliser.save_pretrained(sd / "image_normalizer")
    named = ["stable_diffusion", "StableUnCLIPImageNormalizer"]
    edit_json(sd / "model_index.json", image_normalizer=named)
    for folder in (sd, saved(sd)):
        part = find_source(folder).find_component("image_normalizer")
        assert load_component(part).mean.tolist() == [[2.0] * 4]
    assert absent_notes(find_source(sd)) == []


def test_a_compressed_model_that_a_user_saved_as_a_pickle(tmp_path):
    folder = saved(save_ddpm(tmp_path / "ddpm"))
    path, before = folder / "unet" / WEIGHTS, load_denoiser(find_source(folder)).state_dict()
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    with pytest.raises(InputError, match="only pickled weights"):
        find_source(folder)
    source = find_source(folder, allow_pickle=True)
    assert source.is_cut and meta_denoiser(source).state_dict().keys() == before.keys()
    after = load_denoiser(source).state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_flat_repository_becomes_a_nested_one(tmp_path):
    flat = save_ddpm(tmp_path / "flat")
    for part in ("unet", "scheduler"):
        for path in list((flat / part).iterdir()):
            path.rename(flat / path.name)
        (flat / part).rmdir()
    folder = saved(flat)
    assert files(folder) == {"model_index.json", "pruning.json", "unet/config.json",
                             f"unet/{WEIGHTS}", "scheduler/scheduler_config.json"}  # fmt: skip
    assert type(diffc.load(folder)).__name__ == "DDPMPipeline"


def test_a_denoiser_alone_keeps_its_scheduler(tmp_path):
    model = save_ddpm(tmp_path / "m")
    shutil.copyfile(model / "scheduler" / "scheduler_config.json",
                    model / "unet" / "scheduler_config.json")  # fmt: skip
    folder = saved(model / "unet")
    assert find_source(folder).scheduler == find_source(model / "unet").scheduler != {}


def test_nothing_but_the_components_is_taken_along(sd):
    for name in ("checkpoint-500/model.safetensors", "logs/events", "diffc-out/m-0.3/plan.json",
                 "sd.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors",
                 "unet/optimizer.bin", "vae/diffusion_pytorch_model.bin"):  # fmt: skip
        (sd / name).parent.mkdir(parents=True, exist_ok=True)
        (sd / name).write_bytes(b"0" * 100)
    (sd / "unused").symlink_to("/nonexistent/logs")
    (sd / "vae" / "gone.json").symlink_to("/nonexistent/gone.json")
    for name in ("README.md", "LICENSE", "LICENSE.txt", "Notice.md"):
        (sd / name).write_text("words")
    folder = saved(sd)
    texts = {"README.dense.md", "LICENSE", "LICENSE.txt", "Notice.md"}
    assert {path.name for path in folder.iterdir()} == {
        *PARTS, *texts, "model_index.json", "pruning.json"
    }  # fmt: skip
    assert files(folder / "unet") == {"config.json", WEIGHTS}
    assert files(folder / "vae") == {"config.json", WEIGHTS}
    diffc.load(folder)


def test_a_read_only_source_gives_files_that_can_be_written(sd):
    for path in sd.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    folder = saved(sd)
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode & 0o200, path
    for path in (sd, *sd.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_file_that_may_not_be_read_is_refused_before_the_work(sd, monkeypatch):
    closed = sd / "vae" / WEIGHTS
    can = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed and can(path, mode))
    with pytest.raises(InputError, match=f"cannot read {closed}"):
        check_parts(find_source(sd))


@pytest.mark.parametrize(
    ("files", "is_whole"),
    [
        ((), False),
        (("tokenizer_config.json",), False),
        (("tokenizer_config.json", "vocab.json"), False),
        (("vocab.json", "merges.txt"), True),
        (("tokenizer.json",), True),
        (("spiece.model",), True),
    ],
)
def test_a_tokenizer_without_a_vocabulary_is_refused(sd, files, is_whole):
    """transformers makes an empty tokenizer of its class: every word is unknown."""
    folder = sd / "tokenizer"
    for path in folder.iterdir():
        path.unlink()
    for name in files:
        (folder / name).write_text("{}")
    (part,) = (one for one in find_source(sd).components if one.is_tokenizer)
    if is_whole:
        part.need_folder()
        return
    with pytest.raises(InputError, match=r"tokenizer holds no vocabulary of 'tokenizer' \(CLIP"):
        part.need_folder()


@pytest.mark.parametrize("half", ["one", "all but norms", "fp8", "all", "none"])
def test_weights_keep_the_precision_that_most_of_them_have(tmp_path, half):
    path = save_ddpm(tmp_path / "m") / "unet" / WEIGHTS
    state = load_file(path)
    narrow = {
        "one": sorted(state)[:1],
        "all but norms": [name for name in state if "norm" not in name],
        "fp8": state,
        "all": state,
        "none": [],
    }[half]
    dtype = torch.float8_e4m3fn if half == "fp8" else torch.float16
    save_file({k: v.to(dtype) if k in narrow else v for k, v in state.items()}, path)
    wanted = {"one": torch.float32, "none": torch.float32}.get(half, torch.float16)
    kept = {k: v.dtype for k, v in load_file(saved(tmp_path / "m") / "unet" / WEIGHTS).items()}
    norms = {dtype for name, dtype in kept.items() if "norm" in name}
    assert norms == {torch.float32 if half == "all but norms" else wanted}
    assert {dtype for name, dtype in kept.items() if "norm" not in name} == {wanted}


def test_a_controlnet_is_refused_before_the_work(tmp_path):
    from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline

    unet = tiny_text.unet(cross_attention_dim=24)
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16))
    StableDiffusionControlNetPipeline(
        unet=unet, controlnet=net, scheduler=DDIMScheduler(clip_sample=False),
        **other_parts(tmp_path / "cn"),
    ).save_pretrained(tmp_path / "cn")  # fmt: skip
    (tmp_path / "prompts.txt").write_text("a red cat\n")
    prompts = {"data": {"prompts": str(tmp_path / "prompts.txt")}}
    error = refusal(tmp_path / "cn", tmp_path / "o", **prompts)
    assert "'controlnet' (ControlNetModel) is made for the denoiser's channels" in str(error)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("name", "entry", "config"),
    [
        ("adapter", ["diffusers", "T2IAdapter"], {}),
        ("motion_adapter", ["diffusers", "MotionAdapter"], {}),
        ("controlnet", ["pipelines.controlnet.multicontrolnet", "MultiControlNetModel"], {}),
        ("brushnet", ["diffusers", "BrushNetModel"], {}),
        ("guide", ["diffusers", "UNet2DModel"], {"block_out_channels": [16, 32]}),
    ],
)
def test_everything_of_the_denoisers_widths_is_refused(sd, name, entry, config):
    (sd / name).mkdir()
    (sd / name / "config.json").write_text(json.dumps(config))
    edit_json(sd / "model_index.json", **{name: entry})
    with pytest.raises(InputError, match=f"'{name}' .*would not fit the compressed unet"):
        check_parts(find_source(sd))


def test_an_image_encoder_and_a_vae_of_the_same_widths_are_no_hindrance(sd):
    edit_json(sd / "vae" / "config.json", block_out_channels=[16, 32])
    (sd / "image_encoder").mkdir()
    (sd / "image_encoder" / "config.json").write_text("{}")
    edit_json(sd / "model_index.json",
              image_encoder=["transformers", "CLIPVisionModelWithProjection"])  # fmt: skip
    check_parts(find_source(sd))


def test_names_of_output_folders(tmp_path, monkeypatch):
    for name in ("m", "-odd", ".hidden", "a b"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "m")
    assert default_out(".", 0.3) == Path("diffc-out/m-0.3")
    assert default_out("../m/", 0.3) == Path("diffc-out/m-0.3")
    assert default_out("..", 0.3) == Path(f"diffc-out/{tmp_path.name}-0.3")
    assert default_out("../-odd", 0.3) == Path("diffc-out/odd-0.3")
    assert default_out("../.hidden", 0.3) == Path("diffc-out/hidden-0.3")
    assert default_out("../a b", 0.3) == Path("diffc-out/a b-0.3")
    assert default_out("/", 0.5) == Path("diffc-out/model-0.5")
    assert default_out("demo", 0.5) == Path("diffc-out/demo-0.5")
    assert default_out("google/ddpm-cifar10-32", 0.5) == Path("diffc-out/ddpm-cifar10-32-0.5")


@pytest.mark.slow
def test_inside_the_models_own_folder_twice(tmp_path, monkeypatch):
    """Neither OUT nor the cache in the model's folder is taken for a part of the model."""
    folder = save_ddpm(tmp_path / "m")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DIFFC_CACHE", str(folder / "cache"))
    for ratio in (0.3, 0.4):
        diffc.compile(
            ".", ratio=ratio, stop="prune", options=options_of({"build": {"target": ["ort-cpu"]}})
        )
    outs = sorted(path.name for path in (folder / "diffc-out").iterdir())
    assert outs == ["m-0.3", "m-0.4"]
    assert {path.name for path in (folder / "diffc-out" / "m-0.4" / "pruned").iterdir()} == {
        "model_index.json", "pruning.json", "scheduler", "unet"
    }  # fmt: skip
    diffc.load(folder / "diffc-out" / "m-0.4" / "pruned")


@pytest.fixture(scope="module")
def cut_folder(tmp_path_factory):
    """A pipeline whose U-Net was really cut: its widths are no longer those of its config."""
    from diffc.models.families import family
    from diffc.models.families.examples import example_inputs
    from diffc.prune.surgery import cut

    source = find_source(save_ddpm(tmp_path_factory.mktemp("cut") / "m"))
    model, kind = load_denoiser(source), family(source.class_name)
    groups = kind.groups(model, example_inputs(kind.specs(source.config, None), source.config))
    keep = {group.name: list(range(group.size - 4)) for group in groups if group.size > 8}
    cut(model, groups, keep)
    save_compressed(model, source, source.folder.with_name("o"), {})
    return source.folder.with_name("o")


def shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def test_a_compressed_pipeline_can_be_saved_and_loaded_again_and_again(cut_folder, tmp_path):
    before = diffc.load(cut_folder)
    last = cut_folder
    for name in ("x", "y"):
        diffc.load(last).save_pretrained(tmp_path / name)
        last = tmp_path / name
    after = diffc.load(last)
    assert shapes(after.unet) == shapes(before.unet)
    pairs = zip(after.unet.parameters(), before.unet.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert find_source(last).digest != find_source(cut_folder.with_name("m")).digest


def test_what_was_saved_again_is_planned_as_it_is(cut_folder, tmp_path):
    from diffc.models.load import meta_denoiser

    diffc.load(cut_folder).unet.save_pretrained(tmp_path / "alone")
    assert shapes(meta_denoiser(find_source(tmp_path / "alone"))) == shapes(
        diffc.load(cut_folder).unet
    )


def test_without_any_word_of_the_cut_nothing_is_planned_or_loaded(cut_folder, tmp_path):
    from diffc.models.load import meta_denoiser

    folder = Path(shutil.copytree(cut_folder, tmp_path / "copied"))
    (folder / "pruning.json").unlink()
    for call in (diffc.load, lambda path: meta_denoiser(find_source(path))):
        with pytest.raises(InputError) as caught:
            call(folder)
        assert "pruning.json" in f"{caught.value} {caught.value.hint}"


def test_a_compressed_source_is_saved_without_its_earlier_cut(cut_folder, tmp_path):
    diffc.load(cut_folder).save_pretrained(tmp_path / "x")
    folder = saved(tmp_path / "x")
    assert "diffc_pruning" not in json.loads((folder / "unet" / "config.json").read_text())
    diffc.load(folder)
