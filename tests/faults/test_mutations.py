"""A good pipeline folder, damaged at random: it is refused in one line, or what is opened is what
the files hold. Never a traceback, never another model."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.pipelines import save_ddpm, save_sd

import diffc
from diffc.errors import DiffcError
from diffc.models.source import find_source
from diffc.recipe import resolve
from diffc.stages.preflight import preflight

FAST, MANY = range(40), range(40, 340)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("good")
    return {"ddpm": save_ddpm(folder / "ddpm"), "sd": save_sd(folder / "sd")}


def _files(folder: Path, suffix: str = "") -> list[Path]:
    return sorted(path for path in folder.rglob(f"*{suffix}") if path.is_file())


def _configs(folder: Path) -> list[Path]:
    return [path for path in _files(folder, ".json") if "tokenizer" not in str(path)]


def _edit_weights(
    folder: Path, draw: random.Random, edit: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    path = draw.choice(_files(folder, ".safetensors"))
    save_file(edit(load_file(path)), path, metadata={"format": "pt"})


def drop_tensor(folder: Path, draw: random.Random) -> None:
    def edit(state: dict[str, Any]) -> dict[str, Any]:
        state.pop(draw.choice(sorted(state)))
        return state

    _edit_weights(folder, draw, edit)


def rename_tensors(folder: Path, draw: random.Random) -> None:
    def edit(state: dict[str, Any]) -> dict[str, Any]:
        prefix = draw.choice(["module.", "_orig_mod.", "model.", "x"])
        chosen = sorted(state) if draw.random() < 0.5 else [draw.choice(sorted(state))]
        return {prefix + k if k in chosen else k: v for k, v in state.items()}

    _edit_weights(folder, draw, edit)


def change_tensor(folder: Path, draw: random.Random) -> None:
    changes: list[Callable[[Any], Any]] = [
        lambda v: v[:-1], lambda v: v.flatten(), lambda v: v.unsqueeze(0), lambda v: v.half(),
        lambda v: v.double(), lambda v: v * float("nan"), lambda v: v[:0], lambda v: v.int(),
    ]  # fmt: skip

    def edit(state: dict[str, Any]) -> dict[str, Any]:
        name = draw.choice(sorted(k for k, v in state.items() if v.ndim))
        return {**state, name: draw.choice(changes)(state[name]).contiguous()}

    _edit_weights(folder, draw, edit)


def add_tensor(folder: Path, draw: random.Random) -> None:
    name = draw.choice(["ema.step", "extra.lora_A.weight", "conv_in.weight.absmax", "zzz"])
    _edit_weights(folder, draw, lambda state: {**state, name: torch.zeros(3)})


def cut_file(folder: Path, draw: random.Random) -> None:
    path = draw.choice(_files(folder))
    data = path.read_bytes()
    path.write_bytes(data[: draw.randrange(len(data))])


def overwrite_file(folder: Path, draw: random.Random) -> None:
    contents = [
        b"", b"\0" * 64, b"<!DOCTYPE html><html></html>", b"\xff\xfe{\0}\0", b"[]", b"null", b"{}",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 99\n",
        draw.randbytes(200),
    ]  # fmt: skip
    draw.choice(_files(folder)).write_bytes(draw.choice(contents))


def flip_bits(folder: Path, draw: random.Random) -> None:
    path = draw.choice(_files(folder))
    data = bytearray(path.read_bytes())
    for _ in range(draw.randrange(1, 4)):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(data))


def move_file(folder: Path, draw: random.Random) -> None:
    path = draw.choice(_files(folder))
    names = [f"{path.stem}.fp16{path.suffix}", f"old-{path.name}", f"{path.name}.bak", "x.bin"]
    path.rename(path.with_name(draw.choice(names)))


def remove(folder: Path, draw: random.Random) -> None:
    path = draw.choice(sorted(folder.rglob("*")))
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def add_junk(folder: Path, draw: random.Random) -> None:
    name = draw.choice(["notes.txt", ".cache/x", "checkpoint-5/model.safetensors", "unet/a.bin",
                        "vae/diffusion_pytorch_model.bf16.safetensors", "logs/a/b"])  # fmt: skip
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(draw.randbytes(50))
    (folder / "dangling").symlink_to("/nonexistent/x")


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    places = []
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        places.append((value, key))
        if isinstance(inner, dict | list):
            places += _places(inner)
    return places


def _other_value(old: Any, draw: random.Random) -> Any:
    if isinstance(old, bool):
        return draw.choice([not old, None, "yes"])
    if isinstance(old, int | float):
        return draw.choice([0, -1, old + 1, old * 2, 3, 7, str(old), None, [old], 0.5, 1e30])
    if isinstance(old, str):
        return draw.choice(["", "nonsense", old + "x", None, 3, [old]])
    return draw.choice([None, [], {}, "x", 5])


def change_config(folder: Path, draw: random.Random) -> None:
    path = draw.choice(_configs(folder))
    value = json.loads(path.read_text("utf-8"))
    container, key = draw.choice(_places(value))
    container[key] = _other_value(container[key], draw)
    path.write_text(json.dumps(value), "utf-8")


def drop_config_key(folder: Path, draw: random.Random) -> None:
    path = draw.choice(_configs(folder))
    value = json.loads(path.read_text("utf-8"))
    container, key = draw.choice(_places(value))
    del container[key]
    path.write_text(json.dumps(value), "utf-8")


MUTATIONS = (drop_tensor, rename_tensors, change_tensor, add_tensor, cut_file, overwrite_file,
             flip_bits, move_file, remove, add_junk, change_config, change_config,
             drop_config_key)  # fmt: skip


def _open(folder: Path, out: Path) -> Any:
    """What ``compile`` checks before its first stage, then the pipeline."""
    source = find_source(folder)
    recipe = resolve(family=source.class_name, model=source.name, flags={"prune": {"ratio": 0.3}})
    preflight(source, recipe, out, "distill")
    return diffc.load(folder)


def _stored(state: dict[str, Any], name: str) -> Any:
    """The tensor of a parameter; the loading library itself adds or drops ``text_model.``."""
    names = (name, f"text_model.{name}", name.removeprefix("text_model."))
    return next((state[key] for key in names if key in state), None)


def _assert_of_the_files(pipeline: Any, folder: Path) -> None:
    """Every parameter of ``pipeline`` is the tensor of that name in its component's file."""
    for name, component in pipeline.components.items():
        if not hasattr(component, "named_parameters"):
            continue
        state = {key: value for path in _files(folder / name, ".safetensors")
                 for key, value in _readable(path).items()}  # fmt: skip
        for key, value in component.named_parameters():
            stored = _stored(state, key)
            assert stored is not None, f"{name}: {key} is in no file"
            assert value.shape == stored.shape
            assert value.float().equal(stored.float()), f"{name}: {key} is not the file's"


def _readable(path: Path) -> dict[str, Any]:
    try:
        return load_file(path)
    except Exception:  # junk beside the weights, which nothing may have opened
        return {}


def _check(good: dict[str, Path], folder: Path, seed: int) -> None:
    draw = random.Random(seed)
    shutil.copytree(good[draw.choice(["ddpm", "sd", "sd"])], folder)
    mutation = draw.choice(MUTATIONS)
    mutation(folder, draw)
    try:
        pipeline = _open(folder, folder.with_name("out"))
    except DiffcError as error:
        assert error.exit_code == 2
        assert "\n" not in str(error) and str(error).strip() and len(str(error)) < 400, str(error)
        assert not str(error).rstrip().endswith(":"), str(error)
        return
    _assert_of_the_files(pipeline, folder)


@pytest.mark.parametrize("seed", FAST)
def test_a_damaged_folder_is_refused_or_read_as_it_is(good, tmp_path, seed):
    _check(good, tmp_path / "damaged", seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", MANY)
def test_many_damaged_folders(good, tmp_path, seed):
    _check(good, tmp_path / "damaged", seed)
