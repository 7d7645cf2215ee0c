"""The data stage: what decides its key, the null conditions it keeps, and what it says."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.family_cases import CASES

from diffc.data.clean import CleanSet
from diffc.models.families import family
from diffc.models.source import find_source
from diffc.recipe import resolve
from diffc.runner import StageFolder
from diffc.stages.data import data_stage
from diffc_export.events import drain


def done(tmp_path, source, recipe):
    """(the clean set, the stage's result)."""
    folder = StageFolder(*(tmp_path / name for name in ("out", "scratch", "logs")))
    folder.out.mkdir(parents=True, exist_ok=True)
    stage = data_stage(source, recipe)
    outcome = drain(stage.run(stage.inputs, folder))
    return CleanSet.load(folder.out / "clean.safetensors"), outcome


@pytest.mark.parametrize("given", ["synthetic", "images"])
def test_another_resolution_is_another_key(tiny_model, tmp_path, given) -> None:
    if given == "images":
        given = str(tmp_path / "images")
        (tmp_path / "images").mkdir()
        Image.new("L", (16, 16)).save(tmp_path / "images" / "x.png")
    source = find_source(str(tiny_model))
    keys = {
        data_stage(source, resolve(family="", flags={
            "data": {"source": given}, "export": {"resolution": side and [side]},
        })).key
        for side in (None, 16, 32)
    }  # fmt: skip
    assert len(keys) == 3


def tensors_for(case: str, tmp_path, **more):
    """A source of that case's denoiser, with a file of samples and conditions for it."""
    name, config, _ = CASES[case]
    specs = family(name).specs(config, None)
    from diffc.models.families.examples import example_inputs

    held = {k: v.contiguous() for k, v in example_inputs(specs, config, 3).items()}
    held.pop("timestep")
    save_file({**held, **more}, tmp_path / "data.safetensors")
    source = SimpleNamespace(
        class_name=name,
        config=config,
        folder=tmp_path,
        digest="x",
        is_pipeline=False,
        name=case,
        vae=None,
        components=(),
        index={},
        scheduler={},
    )
    flags = {"data": {"source": str(tmp_path / "data.safetensors")}}
    return source, resolve(family="", flags=flags), held


def test_dits_null_label_goes_with_given_samples(tmp_path) -> None:
    source, recipe, _ = tensors_for("dit", tmp_path)
    clean, result = done(tmp_path, source, recipe)
    assert clean.null == {"class_labels": torch.tensor(source.config["num_embeds_ada_norm"])}
    assert result.notes == []


def test_a_text_models_null_is_kept_or_missed(tmp_path) -> None:
    source, recipe, held = tensors_for("pixart", tmp_path)
    _, result = done(tmp_path, source, recipe)
    assert "no null conditions were given" in result.notes[0]
    null = {"null.encoder_hidden_states": torch.ones(held["encoder_hidden_states"].shape[1:])}
    source, recipe, _ = tensors_for("pixart", tmp_path, **null)
    clean, result = done(tmp_path, source, recipe)
    assert torch.equal(clean.null["encoder_hidden_states"], null["null.encoder_hidden_states"])
    assert result.notes == []


def test_skipped_files_are_told(tiny_model, tmp_path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("L", (16, 16)).save(tmp_path / "images" / "x.png")
    Image.new("L", (9, 16)).save(tmp_path / "images" / "y.png")
    (tmp_path / "images" / "z.png").write_bytes(b"no")
    flags = {"data": {"source": str(tmp_path / "images")}}
    _, result = done(tmp_path, find_source(str(tiny_model)), resolve(family="", flags=flags))
    assert result.notes == ["1 images used, 1 unreadable, 1 of another size"]
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 16, 16, 1), np.uint8))
    flags = {"data": {"source": str(tmp_path / "x.npz")}}
    _, result = done(tmp_path, find_source(str(tiny_model)), resolve(family="", flags=flags))
    assert result.notes == []
