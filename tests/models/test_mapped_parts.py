"""Text encoders and VAEs with their weights left in their files."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_prompts import save_sana, save_sd3
from support.tiny_text import save_sdxl

from diffc.errors import InputError
from diffc.models.load import load_component
from diffc.models.mapped import mapped_component, mapped_denoiser, mapped_text_parts
from diffc.models.source import find_source

SAVERS = {"sdxl": save_sdxl, "sd3": save_sd3, "sana": save_sana}
"""CLIP twice; CLIP twice and T5; Gemma."""


def with_weights_in(folder, dtype):
    """The folder with every floating-point weight in ``dtype``."""
    for path in folder.glob("*/*.safetensors"):
        state = load_file(path)
        new = {name: v.to(dtype) if v.is_floating_point() else v for name, v in state.items()}
        save_file(new, path, {"format": "pt"})
    return find_source(folder)


def mapped_ranges():
    """Addresses of pages that belong to files of weights."""
    ranges = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            if line.rstrip().endswith(".safetensors") or "/float32-" in line:
                ranges.append(tuple(int(end, 16) for end in line.split()[0].split("-")))
    return ranges


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SAVERS)
def test_they_are_the_networks_that_are_read_into_memory(tmp_path, name, dtype):
    """Oracle: ``load_component``; and no weight lies in memory of the process's own."""
    source = with_weights_in(SAVERS[name](tmp_path / "model"), dtype)
    parts = [part for part in source.components if part.is_text_encoder or part == source.vae]
    assert len(parts) > 1
    for part in parts:
        expected = load_component(part).state_dict()
        with mapped_component(part) as model:
            state, ranges = model.state_dict(), mapped_ranges()
            assert list(state) == list(expected) and not model.training
            for key, value in state.items():
                assert value.dtype == expected[key].dtype and torch.equal(value, expected[key])
                if value.nbytes >= 4096 and value.is_floating_point():
                    assert any(a <= value.data_ptr() < b for a, b in ranges), (part.name, key)


def test_a_pipelines_encoders_are_mapped_together(tmp_path):
    source = find_source(save_sd3(tmp_path / "model"))
    with mapped_text_parts(source) as pipeline:
        encoders = [getattr(pipeline, f"text_encoder{number}") for number in ("", "_2", "_3")]
        ranges = mapped_ranges()
        for one in encoders:
            weight = max(one.parameters(), key=torch.numel)
            assert any(a <= weight.data_ptr() < b for a, b in ranges)


def test_a_file_that_is_altered_midway_is_noticed(tmp_path):
    source = find_source(save_sdxl(tmp_path / "model"))
    part = source.find_component("text_encoder")
    path = part.need_weights().paths[0]
    altered = pytest.raises(InputError, match=r"safetensors was altered while it was read")
    with altered, mapped_component(part):
        save_file({name: value + 1 for name, value in load_file(path).items()}, path)


def test_copies_are_no_open_files(tmp_path):
    """Networks have more tensors than a process may have open files: 1,024 on many machines."""
    source = with_weights_in(save_sdxl(tmp_path / "model"), torch.bfloat16)
    before = len(os.listdir("/proc/self/fd"))
    with mapped_denoiser(source) as model:
        large = [value for value in model.state_dict().values() if value.nbytes >= 4096]
        assert len(large) > 8
        assert len(os.listdir("/proc/self/fd")) <= before + 2
