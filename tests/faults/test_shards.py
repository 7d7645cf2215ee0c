"""Weights in several files, one of which is not what the others and the index say."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass

import pytest
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file
from support.command import diffc_in_process as diffc

from diffc.errors import InputError
from diffc.models.load import load_denoiser
from diffc.models.mapped import mapped_denoiser
from diffc.models.source import find_source
from diffc.runner import Stage, StageRunner
from diffc.stage_inputs import ModelInput
from diffc.stage_outcomes import StageOutcome
from diffc_export.events import Progress, drain

STEM = "diffusion_pytorch_model"
SECOND = f"{STEM}-00002-of-00012.safetensors"
INDEX = f"{STEM}.safetensors.index.json"
TENSOR = "down_blocks.1.resnets.0.conv1.bias"
"""One that the second file holds."""


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory):
    """The tiny model with its denoiser in twelve files."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("shards") / "m")
    model = UNet2DModel.from_pretrained(folder / "unet")
    shutil.rmtree(folder / "unet")
    model.save_pretrained(folder / "unet", max_shard_size="80KB")
    return folder


@pytest.fixture
def shards(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "m")


def rewrite(path, change):
    """Save a file again with other tensors."""
    state = load_file(path)
    change(state)
    save_file({name: value.contiguous() for name, value in state.items()}, path, {"format": "pt"})


def missing(second):
    second.unlink()


def truncated(second):
    second.write_bytes(second.read_bytes()[:-100])


def altered_header(second):
    content = bytearray(second.read_bytes())
    content[content.index(b'"F32"') + 1] ^= 1
    second.write_bytes(content)


def another_shape(second):
    rewrite(second, lambda state: state.update({TENSOR: state[TENSOR][:-1]}))


def a_tensor_less(second):
    rewrite(second, lambda state: state.pop(TENSOR))


def a_tensor_twice(second):
    first = load_file(second.with_name(SECOND.replace("00002", "00001")))
    rewrite(second, lambda state: state.update({"conv_in.bias": first["conv_in.bias"] + 1}))


def an_index_of_more(second):
    index = second.with_name(INDEX)
    content = json.loads(index.read_text())
    content["weight_map"]["conv_in.ghost"] = SECOND
    index.write_text(json.dumps(content))


FAULTS = {
    missing: "which is missing in",
    truncated: "is truncated: its header promises",
    altered_header: "is damaged: ",
    another_shape: r"its shape is \(31,\), by the config \(32,\)",
    a_tensor_less: f"{SECOND} lacks {TENSOR}, which {INDEX} says it holds",
    a_tensor_twice: f"{SECOND} holds conv_in.bias, and so does ",
    an_index_of_more: f"{SECOND} lacks conv_in.ghost, which {INDEX} says it holds",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_part_is_named_before_the_work(shards, tmp_path, fault):
    fault(shards / "unet" / SECOND)
    out = tmp_path / "out"
    ended = diffc("prune", shards, "--ratio", "0.3", "--out", out)
    line = ended.stderr.splitlines()[0]
    assert ended.returncode == 2 and SECOND in line, ended.stderr
    assert len(ended.stderr.splitlines()) == 2 and "Traceback" not in ended.stderr
    assert not out.exists()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("is_mapped", [False, True])
def test_a_part_that_becomes_faulty_after_the_checks(shards, fault, is_mapped):
    source = find_source(shards)
    fault(shards / "unet" / SECOND)
    with pytest.raises(InputError, match=FAULTS[fault]) as caught:
        if is_mapped:
            with mapped_denoiser(source):
                raise AssertionError
        load_denoiser(source)
    assert SECOND in str(caught.value)


def other_values(second):
    rewrite(second, lambda state: state.update({TENSOR: state[TENSOR] + 1}))


def test_a_sound_part_that_takes_another_s_place_while_weights_are_mapped(shards):
    source = find_source(shards)
    words = f"{SECOND} was altered while it was read"
    with pytest.raises(InputError, match=words), mapped_denoiser(source):
        other_values(shards / "unet" / SECOND)


@dataclass(frozen=True)
class Inputs:
    model: ModelInput


@pytest.mark.parametrize("alter", [other_values, missing])
def test_nothing_is_kept_of_a_stage_while_which_a_part_is_altered(shards, tmp_path, alter):
    """Its key would be that of the former weights."""

    def run(inputs, folder):
        yield Progress(1, 1, "")
        bias = load_denoiser(inputs.model.source).conv_in.bias
        (folder.out / "sum").write_text(str(float(bias.detach().sum())))
        if not (folder.scratch / "once").exists():
            (folder.scratch / "once").touch()
            alter(shards / "unet" / SECOND)
        return StageOutcome()

    def run_once():
        inputs = Inputs(ModelInput.denoiser(find_source(shards)))
        stage = Stage("toy", 1, inputs, run, StageOutcome, {"sum": "sum"})
        return drain(StageRunner(tmp_path / "out", tmp_path / "cache").do(stage))

    shutil.copyfile(shards / "unet" / SECOND, tmp_path / "second")
    with pytest.raises(InputError, match=f"{SECOND} was altered while it was read"):
        run_once()
    assert not (tmp_path / "out" / "sum").exists()
    shutil.copyfile(tmp_path / "second", shards / "unet" / SECOND)
    assert not run_once().cached and (tmp_path / "out" / "sum").exists()


def test_a_part_that_is_touched_and_stays_as_it_was(shards):
    """Some file systems give a file another number or time at each look."""
    source = find_source(shards)
    source.digest  # noqa: B018 - hashes the files
    second = shards / "unet" / SECOND
    os.utime(second, (1, 1))
    source.check_unaltered()
    other_values(second)
    with pytest.raises(InputError, match=f"{SECOND} was altered while it was read"):
        source.check_unaltered()
