"""The networks that are compared, with weights where nobody trained any."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffc.data.clean import CleanSet
from diffc.models.diffusion import process_from_scheduler
from diffc.models.families import family as family_of
from diffc.models.families.examples import example_inputs
from diffc.models.source import Source, find_source
from diffc_export.specs import TensorSpec

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
DIT = {
    "num_attention_heads": 6, "attention_head_dim": 64, "num_layers": 12, "patch_size": 2,
    "sample_size": 32, "in_channels": 4, "out_channels": 4, "num_embeds_ada_norm": 1000,
}  # fmt: skip
"""DiT-S/2 of 256 x 256 images' latents (Peebles and Xie 2023), without a learned variance. The
paper starts the gates and the last layer from zero; the class starts the gates as any layer, so
that each block adds something, and the last layer is fitted here."""
MODELS = {
    "cifar": ("UNet2DModel", CIFAR), "demo": None, "sd": ("UNet2DConditionModel", SD),
    "dit": ("DiTTransformer2DModel", DIT),
}  # fmt: skip


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
    component = family_of(class_name).component
    model.save_pretrained(folder / component)
    (folder / "scheduler").mkdir()
    content = {"_class_name": "DDPMPipeline", component: ["diffusers", class_name]}
    (folder / "model_index.json").write_text(json.dumps(content))
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))


@torch.no_grad()
def fit_last_layer(model: nn.Module, class_name: str, images: int = 48) -> None:
    """Ridge regression of the noise on what the last layer is given, for all timesteps.

    That is the 3x3 patches of a convolution's input, or a transformer's tokens.
    """
    family, process = family_of(class_name), process_from_scheduler(SCHEDULER)
    specs = family.specs(model.config)
    generator = torch.Generator().manual_seed(1)
    inputs = example_inputs(specs, model.config, images, generator)
    clean = smooth_images(images, specs[0].shape, generator)
    t = torch.linspace(0, len(process) - 1, images).long()
    noise = torch.randn(clean.shape, generator=generator)
    inputs |= {"sample": process.noised(clean, noise, t), "timestep": process.time(t)}
    caught: list[Tensor] = []
    last = last_layer(model)
    hook = last.register_forward_pre_hook(lambda _m, given: caught.append(given[0]))
    for rows in torch.arange(images).split(8):
        family.call(model, {key: value[rows] for key, value in inputs.items()})
    hook.remove()
    given = torch.cat(caught)
    if isinstance(last, nn.Conv2d):
        patches = nn.functional.unfold(given, 3, padding=1)  # (N, 9 C, H W)
        x, y = patches.transpose(1, 2), noise.flatten(2).transpose(1, 2)
    else:
        x, y = given, tiles(noise, model.config.patch_size)
    weight, bias = ridge(x.flatten(0, 1).double(), y.flatten(0, 1).double())
    last.weight.copy_(weight.reshape(last.weight.shape))
    last.bias.copy_(bias)


def last_layer(model: nn.Module) -> nn.Conv2d | nn.Linear:
    """The layer that gives the output: a U-Net's convolution, a transformer's projection."""
    return model.conv_out if hasattr(model, "conv_out") else model.proj_out_2


def tiles(images: Tensor, patch: int) -> Tensor:
    """(N, C, H, W) -> (N, tokens, patch * patch * C), as a transformer's last layer gives them."""
    n, channels, height, width = images.shape
    cut = images.reshape(n, channels, height // patch, patch, width // patch, patch)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(n, -1, patch * patch * channels)


def ridge(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (outputs, inputs) and biases (outputs,) that give y (rows, outputs) from x."""
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    gram = x.T @ x
    gram += 1e-4 * gram.diagonal().mean() * torch.eye(len(gram), dtype=x.dtype)
    solved = torch.linalg.solve(gram, x.T @ y).T.float()
    return solved[:, :-1], solved[:, -1]


def smooth_images(count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Low-pass noise in [-1, 1], (count, *shape): as smooth as images are."""
    small = torch.randn(count, shape[0], 4, 4, generator=generator)
    grown = nn.functional.interpolate(small, shape[1:], mode="bicubic", align_corners=False)
    return (grown * 0.7).clamp(-1, 1)


def smooth_set(
    specs: Sequence[TensorSpec], config: Mapping[str, Any], images: int = 16
) -> CleanSet:
    """Samples that stand for data, and conditions of the right kind, where nobody trained."""
    generator = torch.Generator().manual_seed(2)
    inputs = example_inputs(specs, config, images, generator)
    conditions = {k: v for k, v in inputs.items() if k not in ("sample", "timestep")}
    return CleanSet(smooth_images(images, specs[0].shape, generator), conditions, "low-pass")


class Plain(nn.Module):
    """The module as a peer's exporter sees it: named tensors in, one tensor out."""

    def __init__(self, model: nn.Module, family: Any, names: list[str]) -> None:
        super().__init__()
        self.model, self.family, self.names = model, family, names

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.family.call(self.model, dict(zip(self.names, tensors, strict=True)))
