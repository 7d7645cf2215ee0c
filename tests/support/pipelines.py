"""Tiny random pipelines on disk, and small edits of them that real model folders come with."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import tiny_text


def save_ddpm(folder: Path, scheduler: Any = None, **config: Any) -> Path:
    """A DDPM pipeline of 16x16 greyscale images; ``config`` changes its U-Net's."""
    if scheduler is None:
        return saved_once(repr(sorted(config.items())), folder, lambda to: _save_ddpm(to, **config))
    return _save_ddpm(folder, scheduler, **config)


def _save_ddpm(folder: Path, scheduler: Any = None, **config: Any) -> Path:
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    base: dict[str, Any] = {
        "sample_size": 16, "in_channels": 1, "out_channels": 1, "layers_per_block": 1,
        "norm_num_groups": 4, "block_out_channels": (16, 32), "attention_head_dim": 8,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }  # fmt: skip
    unet = UNet2DModel(**(base | config))
    DDPMPipeline(unet=unet, scheduler=scheduler or DDPMScheduler()).save_pretrained(folder)
    return folder


def save_sd(folder: Path) -> Path:
    """Stable Diffusion's structure: 8x8 latents of 16x16 images."""
    return saved_once("stable diffusion", folder, tiny_text.save_sd)


_SAVED: dict[str, Path] = {}


def saved_once(name: str, folder: Path, save: Callable[[Path], object]) -> Path:
    """A copy of what ``save`` writes, in ``folder``; this process saves each ``name`` once."""
    import torch

    if name not in _SAVED:
        place = Path(tempfile.mkdtemp(prefix="diffc-tests-"))
        atexit.register(shutil.rmtree, place, ignore_errors=True)
        save(place / "model")
        _SAVED[name] = place / "model"
    torch.manual_seed(0)  # as where it has just been made
    return shutil.copytree(_SAVED[name], folder, dirs_exist_ok=True)


def other_parts(folder: Path) -> dict[str, Any]:
    """Every component of a tiny Stable Diffusion but its U-Net and scheduler."""
    return {
        "vae": tiny_text.vae(),
        "text_encoder": tiny_text.CLIPTextModel(tiny_text.text_config()),
        "tokenizer": tiny_text.tokenizer(folder.with_name(f"{folder.name}-words")),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; a value of None removes the key."""
    value = {**json.loads(path.read_text("utf-8")), **changes}
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}), "utf-8")


def save_image(path: Path, grey: int, side: int = 16) -> None:
    """A square PNG of one grey."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (side, side), grey).save(path)


def save_conditions(path: Path, class_name: str, config: Any, side: int | None, n: int = 6) -> None:
    """Example conditions of a denoiser as a .safetensors file for ``--data``."""
    from safetensors.torch import save_file

    from diffc.models.families import family
    from diffc.models.families.examples import example_inputs

    config = json.loads(json.dumps(dict(config)))
    specs = family(class_name).specs(config, side)
    rows = example_inputs(specs, config, n)
    save_file({s.name: rows[s.name].contiguous() for s in specs if s.kind == "condition"}, path)
