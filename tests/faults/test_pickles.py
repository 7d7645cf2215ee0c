"""Nothing is unpickled without leave: one rule and one message for every component."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.pipelines import save_sd
from support.runs import refusal

import diffc
from diffc.errors import InputError
from diffc.models.checking import check_components
from diffc.models.load import load_pipeline
from diffc.models.source import find_source
from diffc.recipe import resolve
from diffc.stages.preflight import preflight

PICKLES = {
    "unet": "diffusion_pytorch_model.bin",
    "vae": "diffusion_pytorch_model.bin",
    "text_encoder": "pytorch_model.bin",
}


@pytest.fixture
def sd(tmp_path):
    return save_sd(tmp_path / "sd")


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a red cat\na blue dog\n")
    return {"data": {"prompts": str(path)}}


def pickled(folder: Path, part: str) -> Path:
    """Turn a component's safetensors into a pickle."""
    file = next((folder / part).glob("*.safetensors"))
    torch.save(load_file(file), folder / part / PICKLES[part])
    file.unlink()
    return folder / part / PICKLES[part]


@pytest.mark.parametrize("part", PICKLES)
def test_pickles_of_every_component_need_the_flag(sd, tmp_path, part, prompts):
    expected = load_pipeline(find_source(sd)).components[part].state_dict()
    pickled(sd, part)
    error = refusal(sd, tmp_path / "out", **prompts)
    assert f"has only pickled weights ({PICKLES[part]})" in str(error)
    assert "--allow-pickle" in error.hint
    with pytest.raises(InputError, match="only pickled weights"):
        diffc.load(sd)
    assert check_components(find_source(sd, allow_pickle=True), prompts=True) == []
    loaded = diffc.load(sd, allow_pickle=True).components[part].state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())


def test_checks_that_passed_with_leave_are_made_again_without(sd, tmp_path, prompts):
    pickled(sd, "text_encoder")
    recipe = resolve(family="UNet2DConditionModel", model="sd", recipe=None, flags=prompts)
    preflight(find_source(sd, allow_pickle=True), recipe, tmp_path / "out", "plan")
    with pytest.raises(InputError, match="only pickled weights"):
        preflight(find_source(sd), recipe, tmp_path / "out", "plan")


class Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("unpickled"),))


@pytest.mark.parametrize("part", PICKLES)
@pytest.mark.parametrize("kind", ["code", "junk", "list", "not tensors"])
def test_a_pickle_of_something_else_is_refused_even_when_allowed(
    sd, tmp_path, part, kind, monkeypatch, prompts
):
    monkeypatch.chdir(tmp_path)
    path = pickled(sd, part)
    if kind == "code":
        path.write_bytes(pickle.dumps(Malicious()))
    elif kind == "junk":
        path.write_bytes(b"junk" * 100)
    else:
        torch.save([1] if kind == "list" else {"epoch": 3}, path)
    error = refusal(sd, tmp_path / "out", allow_pickle=True, **prompts)
    assert path.name in str(error) and error.hint
    assert not (tmp_path / "unpickled").exists()


def test_a_pickle_is_compared_with_its_class_as_well(sd, tmp_path, prompts):
    path = pickled(sd, "vae")
    state = torch.load(path, weights_only=True)
    del state["decoder.conv_out.bias"]
    torch.save(state, path)
    error = refusal(sd, tmp_path / "out", allow_pickle=True, **prompts)
    assert "decoder.conv_out.bias" in str(error)
