"""The denoiser with its weights left in their files."""

from __future__ import annotations

import shutil
import tempfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.disks import file_system

from diffc.data.clean import CleanSet
from diffc.errors import InputError
from diffc.models import mapped
from diffc.models.denoiser import denoiser_of
from diffc.models.families import family
from diffc.models.families.base import sample_shape
from diffc.models.inputs import input_specs
from diffc.models.load import load_denoiser
from diffc.models.source import find_source
from diffc.prune.plan import Plan
from diffc.prune.repair.layers import readers
from diffc.prune.repair.run import repair
from diffc_export.events import drain


def folder_in(tiny_model, tmp_path, dtype):
    folder = shutil.copytree(tiny_model, tmp_path / str(dtype).removeprefix("torch."))
    path = next(folder.rglob("diffusion_pytorch_model.safetensors"))
    save_file({name: value.to(dtype) for name, value in load_file(path).items()}, path)
    return folder, path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_it_is_the_network_that_is_read_into_memory(tiny_model, tmp_path, dtype):
    folder, _ = folder_in(tiny_model, tmp_path, dtype)
    source = find_source(folder)
    expected = load_denoiser(source).state_dict()
    with mapped.mapped_denoiser(source) as model:
        state = model.state_dict()
        assert list(state) == list(expected)
        for name, value in state.items():
            assert value.dtype == expected[name].dtype and torch.equal(value, expected[name])
        assert not model.training


def test_weights_in_float32_are_the_files_own_pages(tiny_model):
    with mapped.mapped_denoiser(find_source(tiny_model)) as model:
        names = {line.split()[-1] for line in open("/proc/self/maps") if "safetensors" in line}  # noqa: SIM115
        assert any("diffusion_pytorch_model" in name for name in names)
        assert model is not None
    assert mapped.bytes_to_copy(find_source(tiny_model).weights) == 0


def test_other_numbers_are_copied_to_a_temporary_file(tiny_model, tmp_path, monkeypatch):
    folder, path = folder_in(tiny_model, tmp_path, torch.float16)
    source = find_source(folder)
    elements = sum(value.numel() for value in load_file(path).values())
    assert mapped.bytes_to_copy(source.weights) == 4 * elements
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    full = pytest.raises(InputError, match=r"no room for temporary files .* MB are needed")
    with full, mapped.mapped_denoiser(source):
        raise AssertionError


def test_a_disk_that_others_fill_while_weights_are_copied(tiny_model, tmp_path, monkeypatch):
    """The room that was there at first is gone; nothing of the copies stays."""
    source = find_source(folder_in(tiny_model, tmp_path, torch.float16)[0])
    expected = load_denoiser(source).state_dict()
    with file_system(tmp_path / "disk", "size=1m") as disk:
        needed = mapped.bytes_to_copy(source.weights)

        def fill(*_):
            (disk / "ballast").write_bytes(b"0" * (shutil.disk_usage(disk).free - needed // 2))
            return 0

        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        with monkeypatch.context() as patch:
            patch.setattr(mapped, "bytes_to_copy", fill)
            full = pytest.raises(InputError, match=r"\(TMPDIR\): No space left on device\n")
            with full, mapped.mapped_denoiser(source):
                raise AssertionError
        assert [path.name for path in disk.iterdir()] == ["ballast"]
        (disk / "ballast").unlink()
        with mapped.mapped_denoiser(source) as model:
            assert all(torch.equal(model.state_dict()[name], expected[name]) for name in expected)


def test_a_file_that_is_altered_midway_is_noticed(tiny_model, tmp_path):
    folder, path = folder_in(tiny_model, tmp_path, torch.float32)
    altered = pytest.raises(InputError, match=r"safetensors was altered while it was read")
    with altered, mapped.mapped_denoiser(find_source(folder)):
        save_file({name: value + 1 for name, value in load_file(path).items()}, path)


def test_weights_of_a_file_stay_in_it(tmp_path):
    layer, path = torch.nn.Linear(3, 2), tmp_path / "new.safetensors"
    save_file({"weight": torch.full((2, 3), 5.0)}, path)
    before, bias = path.read_bytes(), layer.bias.detach().clone()
    mapped.map_weights(layer, path)
    assert torch.equal(layer.weight, torch.full((2, 3), 5.0)) and torch.equal(layer.bias, bias)
    with torch.no_grad():
        layer.weight.add_(1)
    assert path.read_bytes() == before
    for wrong in (torch.zeros(3, 2), torch.zeros(2, 3, dtype=torch.float16)):
        save_file({"weight": wrong}, path)
        with pytest.raises(ValueError, match="weight is not like the model's"):
            mapped.map_weights(layer, path)


@pytest.mark.slow
def test_a_repair_of_mapped_weights_is_that_of_weights_in_memory(compiled, tiny_model):
    """To rounding, and neither model's files change."""
    out = compiled[0]
    keep = Plan.read(out / "plan.json").keep()
    source, cut = find_source(tiny_model), find_source(out / "pruned")
    paths = [*source.weights, *cut.weights]
    before = [path.read_bytes() for path in paths]
    specs = input_specs(source, None, None)
    sample = torch.randn(8, *sample_shape(specs), generator=torch.Generator().manual_seed(0))
    clean = CleanSet(sample, {}, "")

    def changed(dense_model, cut_model):
        facts = (source.scheduler, specs)
        dense = denoiser_of(dense_model, family(source.class_name), *facts)
        to_mend = readers(dense_model, cut_model, dense.groups(), keep)
        return drain(repair(dense, cut_model, to_mend, clean, rows=16, seed=0)).changed

    expected = changed(load_denoiser(source), load_denoiser(cut))
    with mapped.mapped_denoiser(source) as dense, mapped.mapped_denoiser(cut) as small:
        streamed = changed(dense, small)
    assert list(streamed) == list(expected) and expected
    for name, value in expected.items():
        torch.testing.assert_close(streamed[name], value, rtol=1e-5, atol=1e-7)
    assert [path.read_bytes() for path in paths] == before
