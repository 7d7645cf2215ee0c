"""Files of the denoiser's own inputs: what is taken, and what is refused by name."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from support.quick import QUICK

import diffc
from diffc.data.tensors import has_samples, read_clean_set, read_null, read_tensors
from diffc.errors import InputError, RequestError
from diffc_export.specs import TensorSpec

SPECS = [
    TensorSpec("sample", (4, 8, 8), kind="sample"),
    TensorSpec("timestep", (), "int64", kind="timestep"),
    TensorSpec("text", (3, 5)),
    TensorSpec("class_labels", (), "int64"),
]


def write(tmp_path, **tensors):
    save_file(tensors, tmp_path / "data.safetensors")
    return tmp_path / "data.safetensors"


def rows(n=6):
    return {
        "sample": torch.arange(n).reshape(n, 1, 1, 1).expand(n, 4, 8, 8).float().contiguous(),
        "text": torch.arange(n).reshape(n, 1, 1).expand(n, 3, 5).double().contiguous(),
        "class_labels": torch.arange(n),
    }


def test_rows_stay_together_under_a_limit(tmp_path):
    clean = read_clean_set(write(tmp_path, **rows()), SPECS, limit=4, seed=1)
    assert len(clean) == 4 and clean.conditions["text"].dtype == torch.float32
    first = clean.sample[:, 0, 0, 0]
    assert torch.equal(first, clean.conditions["text"][:, 0, 0])
    assert torch.equal(first, clean.conditions["class_labels"].float())
    again = read_clean_set(tmp_path / "data.safetensors", SPECS, limit=4, seed=1)
    assert torch.equal(clean.sample, again.sample)
    other = read_clean_set(tmp_path / "data.safetensors", SPECS, limit=4, seed=2)
    assert not torch.equal(clean.sample, other.sample)


def test_conditions_alone_are_for_sampling(tmp_path):
    path = write(tmp_path, text=torch.zeros(2, 3, 5))
    assert not has_samples(path)
    assert set(read_tensors(path, SPECS)) == {"text"}  # labels are drawn by seed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text": None}, "'text' is missing"),
        ({"class_labels": None}, "'class_labels' is missing"),
        ({"prompt": torch.zeros(6)}, "'prompt' is none of the model's inputs"),
        ({"timestep": torch.zeros(6)}, "'timestep' is none of the model's inputs"),
        ({"text": torch.zeros(6, 3, 4)}, "'text' is (6, 3, 4); the model takes ('N', 3, 5)"),
        ({"text": torch.zeros(5, 3, 5)}, "rows do not go together"),
        ({"text": torch.full((6, 3, 5), torch.nan)}, "'text' holds NaN or infinity"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, said):
    tensors = {k: v for k, v in (rows() | change).items() if v is not None}
    with pytest.raises(InputError) as caught:
        read_tensors(write(tmp_path, **tensors), SPECS)
    assert said in str(caught.value)


def test_null_conditions_are_read_and_checked(tmp_path):
    path = write(tmp_path, **rows(), **{"null.text": torch.ones(3, 5).double()})
    assert set(read_tensors(path, SPECS)) == set(rows())
    null = read_null(path, SPECS)
    assert set(null) == {"text"} and null["text"].dtype == torch.float32
    for name, value in (("null.text", torch.ones(2, 5)), ("null.sample", torch.ones(4, 8, 8))):
        with pytest.raises(InputError, match=f"'{name}' .* is not a null condition"):
            read_null(write(tmp_path, **rows(), **{name: value}), SPECS)
    with pytest.raises(InputError, match="NaN"):
        read_null(write(tmp_path, **rows(), **{"null.text": torch.full((3, 5), torch.nan)}), SPECS)


def test_a_cut_file_is_refused(tmp_path):
    path = write(tmp_path, **rows())
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="truncated"):
        read_tensors(path, SPECS)


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    """A random text-conditioned pipeline: 16x16 latents, three words of five numbers."""
    folder = tmp_path_factory.mktemp("models") / "text"
    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=5, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(folder / "unet")  # fmt: skip
    DDIMScheduler().save_pretrained(folder / "scheduler")
    index = {"unet": ["diffusers", "UNet2DConditionModel"],
             "scheduler": ["diffusers", "DDIMScheduler"]}  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_a_text_model_without_conditions_says_what_to_give(text_model, tmp_path):
    with pytest.raises(RequestError, match="takes 'encoder_hidden_states'") as caught:
        diffc.compile(text_model, out=tmp_path / "out", stop="plan", options=QUICK)
    assert "--data FILE.safetensors" in caught.value.hint


@pytest.mark.slow
@pytest.mark.parametrize("given", [False, True])
def test_a_text_model_goes_through_the_whole_chain(text_model, tmp_path, given):
    torch.manual_seed(1)
    tensors = {"encoder_hidden_states": torch.randn(5, 77, 5)}
    if given:
        tensors["sample"] = torch.randn(5, 4, 16, 16)
    path = write(tmp_path, **tensors)
    options = {**QUICK, "data": {**QUICK["data"], "source": str(path)}}
    report = diffc.compile(text_model, ratio=0.25, out=tmp_path / "out", options=options)
    assert report.targets[0].parity.passed and report.quality["ssim"]["n"] == 4
    clean = load_file(tmp_path / "out" / ".diffc" / "clean.safetensors")
    assert len(clean["sample"]) == (5 if given else QUICK["data"]["images"])
    text = tensors["encoder_hidden_states"]
    for row in clean["encoder_hidden_states"]:  # each is one of those that were given
        assert (text - row).abs().amax(dim=(1, 2)).min() == 0
