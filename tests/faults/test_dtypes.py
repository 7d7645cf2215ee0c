"""A compressed model is saved in the dtypes of the weights that it was made from."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.pipelines import save_ddpm

from diffc.models.dtypes import stored_dtypes
from diffc.models.load import load_denoiser
from diffc.models.save import save_compressed
from diffc.models.source import find_source

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def saved(tmp_path, cast) -> dict[str, torch.dtype]:
    """name -> dtype, when a model whose tensors are ``cast(name, value)`` is saved again."""
    folder = save_ddpm(tmp_path / "m")
    state = load_file(folder / WEIGHTS)
    changed = {name: cast(name, value) for name, value in state.items()}
    save_file(changed, folder / WEIGHTS, metadata={"format": "pt"})
    source = find_source(folder)
    save_compressed(load_denoiser(source), source, tmp_path / "out", {})
    return {name: value.dtype for name, value in load_file(tmp_path / "out" / WEIGHTS).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_dtype_stays(tmp_path, dtype):
    assert set(saved(tmp_path, lambda _, value: value.to(dtype)).values()) == {dtype}


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bits_become_sixteen(tmp_path, dtype):
    assert set(saved(tmp_path, lambda _, value: value.to(dtype)).values()) == {torch.float16}


def test_eight_bits_become_the_files_own_sixteen(tmp_path):
    def cast(name, value):
        return value.to(torch.bfloat16 if "norm" in name else torch.float8_e4m3fn)

    assert set(saved(tmp_path, cast).values()) == {torch.bfloat16}


def test_doubles_become_float32(tmp_path):
    assert set(saved(tmp_path, lambda _, value: value.double()).values()) == {torch.float32}


@pytest.mark.parametrize("first", [torch.float16, torch.float8_e4m3fn])
def test_a_first_tensor_of_another_dtype_does_not_decide(tmp_path, first):
    def cast(name, value):
        return value.to(first) if name == "conv_in.bias" else value

    assert set(saved(tmp_path, cast).values()) == {torch.float32}


def test_norms_that_were_kept_in_float32_stay_so(tmp_path):
    dtypes = saved(tmp_path, lambda name, value: value if "norm" in name else value.half())
    assert all(dtype == torch.float32 for name, dtype in dtypes.items() if "norm" in name)
    assert dtypes["conv_in.weight"] == torch.float16


def test_pickled_weights_keep_theirs(tmp_path):
    folder = save_ddpm(tmp_path / "m")
    state = {name: value.half() for name, value in load_file(folder / WEIGHTS).items()}
    (folder / WEIGHTS).unlink()
    torch.save(state, folder / "unet" / "diffusion_pytorch_model.bin")
    source = find_source(folder, allow_pickle=True)
    save_compressed(load_denoiser(source), source, tmp_path / "out", {})
    values = load_file(tmp_path / "out" / WEIGHTS).values()
    assert {value.dtype for value in values} == {torch.float16}


def test_the_network_is_walked_once_whatever_its_size(tmp_path, monkeypatch):
    """Once for each tensor was a minute of a large model's time."""
    source = find_source(save_ddpm(tmp_path / "m"))
    model, walks = load_denoiser(source), []
    state_dict = type(model).state_dict

    def counted(*args, **kwargs):
        walks.append(args)
        return state_dict(*args, **kwargs)

    monkeypatch.setattr(type(model), "state_dict", counted)
    stored_dtypes(source.denoiser, model)
    assert 0 < len(walks) <= 4
