"""Random LoRAs of any network, in the names that people's files have, and what they mean."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

State = dict[str, Tensor]


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """Every layer that a LoRA can change: linear ones, and convolutions without groups."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        or (isinstance(module, nn.Conv2d | nn.Conv3d) and module.groups == 1)
    }


def random_pairs(
    model: nn.Module,
    seed: int = 0,
    *,
    rank: int = 3,
    size: float = 0.3,
    where: Callable[[str], bool] = lambda name: True,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Layer -> (A, B) of a LoRA of ``model``, as peft shapes them."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for name, module in layers_of(model).items():
        if not where(name):
            continue
        out, into, *kernel = module.weight.shape
        down = torch.randn(rank, into, *kernel, generator=generator)
        up = torch.randn(out, rank, *(1 for _ in kernel), generator=generator)
        pairs[name] = (down * size / down[0].numel() ** 0.5, up * size)
    return pairs


def peft_names(pairs: Mapping[str, tuple[Tensor, Tensor]], prefix: str = "") -> State:
    """diffusers' and peft's names; ``prefix``: ``unet.``."""
    state = {}
    for name, (down, up) in pairs.items():
        state[f"{prefix}{name}.lora_A.weight"] = down
        state[f"{prefix}{name}.lora_B.weight"] = up
    return state


def kohya_names(
    pairs: Mapping[str, tuple[Tensor, Tensor]], alpha: float, prefix: str = "lora_unet_"
) -> State:
    """kohya's names, with an alpha for each layer."""
    state = {}
    for name, (down, up) in pairs.items():
        flat = prefix + name.replace(".", "_")
        state[f"{flat}.lora_down.weight"] = down
        state[f"{flat}.lora_up.weight"] = up
        state[f"{flat}.alpha"] = torch.tensor(alpha)
    return state


def clip_state() -> State:
    """A change of one layer of tiny_text's CLIP, in kohya's names."""
    layer = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    down, up = torch.full((2, 24), 0.1), torch.full((32, 2), 0.1)
    return {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}


def save_lora(state: State, path: Path, metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in state.items()}, path, metadata)
    return path


def with_side_paths(
    model: nn.Module, pairs: Mapping[str, tuple[Tensor, Tensor]], factor: float
) -> nn.Module:
    """A copy whose layers run B(A(x)) beside their own weight: what a LoRA means, nothing fused.

    The definition of the LoRA paper, layer by layer; no product of B and A is ever made.
    """
    model = copy.deepcopy(model)
    for name, (down, up) in pairs.items():
        layer = model.get_submodule(name)
        layer.register_forward_hook(functools.partial(_beside, down, up, factor))
    return model


def _beside(down: Tensor, up: Tensor, factor: float, layer: nn.Module, args, output: Tensor):
    x = args[0]
    if isinstance(layer, nn.Linear):
        return output + factor * (x @ down.flatten(1).T @ up.flatten(1).T)
    conv = nn.functional.conv2d if isinstance(layer, nn.Conv2d) else nn.functional.conv3d
    inner = conv(x, down, None, layer.stride, layer.padding, layer.dilation)
    return output + factor * conv(inner, up)
