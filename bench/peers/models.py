"""The networks that are compared, with weights where nobody trained any."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffc.models.diffusion import process_from_scheduler
from diffc.models.families import family as family_of
from diffc.models.families.examples import example_inputs
from diffc.models.source import Source, find_source

SCHEDULER = {
    "_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "beta_schedule": "linear",
    "beta_start": 0.0001, "beta_end": 0.02, "prediction_type": "epsilon",
}  # fmt: skip
CIFAR = {
    "sample_size": 32, "in_channels": 3, "out_channels": 3, "layers_per_block": 2,
    "block_out_channels": (128, 256, 256, 256), "attention_head_dim": None, "norm_eps": 1e-6,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1,
}  # fmt: skip
"""google/ddpm-cifar10-32, as published."""
SD = {
    "sample_size": 32, "in_channels": 4, "out_channels": 4, "layers_per_block": 1,
    "block_out_channels": (128, 256, 256), "cross_attention_dim": 256, "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
MODELS = {"cifar": ("UNet2DModel", CIFAR), "demo": None, "sd": ("UNet2DConditionModel", SD)}


def source_of(args, name: str) -> Source:
    """The model's pipeline folder; those that nobody trained are made in the work folder."""
    if MODELS[name] is None:
        return find_source(name)
    if name == "cifar" and args.cifar:
        return find_source(args.cifar)
    folder = args.work / name / "source"
    if not (folder / "scheduler" / "scheduler_config.json").exists():
        _make_source(folder, *MODELS[name])
    return find_source(folder)


def _make_source(folder: Path, class_name: str, config: Mapping[str, Any]) -> None:
    import diffusers

    torch.manual_seed(0)
    model = getattr(diffusers, class_name)(**config).eval()
    fit_last_layer(model, class_name)
    model.save_pretrained(folder / "unet")
    (folder / "scheduler").mkdir()
    content = json.dumps({"_class_name": "DDPMPipeline", "unet": ["diffusers", class_name]})
    (folder / "model_index.json").write_text(content)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))


@torch.no_grad()
def fit_last_layer(model: nn.Module, class_name: str, images: int = 48) -> None:
    """Ridge regression of the noise on the last convolution's 3x3 patches, for all timesteps."""
    family, process = family_of(class_name), process_from_scheduler(SCHEDULER)
    specs = family.specs(model.config)
    generator = torch.Generator().manual_seed(1)
    inputs = example_inputs(specs, model.config, images, generator)
    clean = smooth_images(images, specs[0].shape, generator)
    t = torch.linspace(0, len(process) - 1, images).long()
    noise = torch.randn(clean.shape, generator=generator)
    inputs |= {"sample": process.noised(clean, noise, t), "timestep": process.time(t)}
    caught: list[Tensor] = []
    hook = model.conv_out.register_forward_pre_hook(lambda _m, given: caught.append(given[0]))
    for rows in torch.arange(images).split(8):
        family.call(model, {key: value[rows] for key, value in inputs.items()})
    hook.remove()
    patches = torch.nn.functional.unfold(torch.cat(caught), 3, padding=1)  # (N, 9 C, H W)
    x = patches.transpose(1, 2).reshape(-1, patches.shape[1]).double()
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    y = noise.flatten(2).transpose(1, 2).reshape(-1, noise.shape[1]).double()
    gram = x.T @ x
    gram += 1e-4 * gram.diagonal().mean() * torch.eye(len(gram), dtype=x.dtype)
    solved = torch.linalg.solve(gram, x.T @ y).T.float()
    model.conv_out.weight.copy_(solved[:, :-1].reshape(model.conv_out.weight.shape))
    model.conv_out.bias.copy_(solved[:, -1])


def smooth_images(count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Low-pass noise in [-1, 1], (count, *shape): as smooth as images are."""
    small = torch.randn(count, shape[0], 4, 4, generator=generator)
    grown = nn.functional.interpolate(small, shape[1:], mode="bicubic", align_corners=False)
    return (grown * 0.7).clamp(-1, 1)


class Plain(nn.Module):
    """The module as a peer's exporter sees it: named tensors in, one tensor out."""

    def __init__(self, model: nn.Module, family: Any, names: list[str]) -> None:
        super().__init__()
        self.model, self.family, self.names = model, family, names

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.family.call(self.model, dict(zip(self.names, tensors, strict=True)))
