"""What is accepted as a model, and how everything else is refused."""

from __future__ import annotations

import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffc.errors import InputError, RequestError, UnavailableError
from diffc.models import load
from diffc.models.load import load_denoiser
from diffc.models.source import check_safetensors, find_source

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def model(tiny_model, tmp_path):
    """A copy of the tiny model that a test may break."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def test_a_pipeline_folder_and_its_denoiser(model):
    pipeline, alone = find_source(model), find_source(model / "unet")
    assert (pipeline.class_name, pipeline.component) == ("UNet2DModel", "unet")
    assert alone.component == "" and alone.config == pipeline.config


def test_the_demo_ships():
    source = find_source("demo")
    assert source.class_name == "UNet2DModel"
    assert sum(p.numel() for p in load_denoiser(source).parameters()) == 4_435_393


def test_the_digest_is_of_content(model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "copy")
    assert find_source(copy).digest == find_source(model).digest
    path = copy / WEIGHTS
    tensors = load_file(path)
    tensors["conv_in.bias"] = tensors["conv_in.bias"] + 1e-3
    save_file(tensors, path)
    assert find_source(copy).digest != find_source(model).digest


@pytest.mark.parametrize("length", [640, 896, 1152])
def test_a_header_whose_length_begins_like_a_pickle(tmp_path, length):
    entry = {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    header = json.dumps(entry).encode().ljust(length)
    path = tmp_path / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + header + bytes(4))
    assert check_safetensors(path) == {"x": (1,)}


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(InputError, match="is not a diffusers model"):
        find_source(tmp_path)


def test_a_path_that_is_not_there():
    with pytest.raises(InputError, match=r"there is no folder '\./nowhere'"):
        find_source("./nowhere")


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("dmeo", "did you mean demo? MODEL is"),
        ("bench/configs/sd15", "MODEL is"),  # not the folder bench, which is no model
        ("./sd15-our", "did you mean sd15-ours? MODEL is"),
        ("../sd15", "MODEL is"),
        ("nowhere/models/sd15", "MODEL is"),
    ],
)
def test_a_path_that_is_not_there_is_likened_to_what_lies_beside_it(
    typed, hint, tmp_path, monkeypatch
):
    (tmp_path / "bench" / "configs").mkdir(parents=True)
    (tmp_path / "sd15-ours").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="there is no folder") as caught:
        find_source(typed)
    assert caught.value.hint.startswith(hint)


def test_a_hub_id_that_cannot_be_fetched_may_be_a_folder(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no network")

    (tmp_path / "models" / "sd15-ours").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(UnavailableError, match="cannot fetch 'models/sd15-our'") as caught:
        find_source("models/sd15-our")
    assert caught.value.hint.startswith("did you mean the folder models/sd15-ours? Else check")
    with pytest.raises(UnavailableError) as caught:
        find_source("models/another-name")
    assert caught.value.hint.startswith("check the id")


def test_an_unsupported_class_names_the_supported_ones(model):
    index = json.loads((model / "model_index.json").read_text())
    index["unet"][1] = "UNet1DModel"
    (model / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="UNet1DModel") as caught:
        find_source(model)
    assert "UNet2DModel" in caught.value.hint


def test_damaged_json_names_the_file(model):
    (model / "model_index.json").write_text('{"unet": [')
    with pytest.raises(InputError, match=r"cannot read .*model_index\.json"):
        find_source(model)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_weights(model, keep):
    path = model / WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"diffusion_pytorch_model\.safetensors is truncated"):
        find_source(model)


def test_a_header_that_is_no_json(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 4) + b"{{{{")
    with pytest.raises(InputError, match="damaged header"):
        check_safetensors(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, -1])
def test_weights_that_are_not_finite(model, bad, place, monkeypatch):
    monkeypatch.setattr(load, "_PART", 7)  # the place is in the first or the last part of many
    path = model / WEIGHTS
    tensors = load_file(path)
    tensors["conv_out.weight"].view(-1)[place] = bad
    save_file(tensors, path)
    with pytest.raises(InputError, match=r"NaN or infinity in conv_out\.weight"):
        load_denoiser(find_source(model))


def test_weights_of_another_shape(model):
    path = model / WEIGHTS
    tensors = load_file(path)
    tensors["conv_in.weight"] = torch.zeros(99, 1, 3, 3)
    save_file(tensors, path)
    with pytest.raises(InputError, match="cannot be loaded"):
        load_denoiser(find_source(model))


def test_pickled_weights_need_a_flag(model):
    state = load_file(model / WEIGHTS)
    (model / WEIGHTS).unlink()
    torch.save(state, model / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match="only pickled weights") as caught:
        find_source(model)
    assert "--allow-pickle" in caught.value.hint
    loaded = load_denoiser(find_source(model, allow_pickle=True)).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_no_weights_will_do_for_planning(model):
    (model / WEIGHTS).unlink()
    assert find_source(model, need_weights=False).weights == ()
    with pytest.raises(InputError, match="has no weights"):
        find_source(model)


def test_a_hub_id_without_a_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        UnavailableError, match="cannot fetch 'nobody/nothing' from the hub"
    ) as caught:
        find_source("nobody/nothing")
    assert caught.value.exit_code == 2 and "network" in caught.value.hint


def test_a_forced_family_must_exist(model):
    with pytest.raises(RequestError, match="unknown family 'UNet2D'") as caught:
        find_source(model, family="UNet2D")
    assert "UNet2DModel" in caught.value.hint


def test_a_pipelines_vae_is_not_its_denoiser(model):
    index = json.loads((model / "model_index.json").read_text())
    index = {"vae": ["diffusers", "AutoencoderKL"], **index}
    (model / "model_index.json").write_text(json.dumps(index))
    assert find_source(model).component == "unet"
