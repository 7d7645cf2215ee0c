"""What torch-pruning does by itself with Taylor importance: a row of the benchmarks.

    add_gradients   of the noise loss over every 10th t, one batch and one noise, signs and all
    cut_by_stock    torch-pruning's pruner, importance and selection at a uniform channel ratio
    stock           the same of a UNet2DModel
    stock_at_macs   the same at the channel ratio that leaves the nearest to a share of the MACs

Its steps are whole multiples of the normalisation groups in every layer at once: coarse, so the
share that was reached is to be reported beside the result.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diffc.models.diffusion import Process
from diffc.models.sizes import follow_shapes

RATIOS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)


def add_gradients(
    model: nn.Module,
    process: Process,
    clean: Tensor,
    generator: torch.Generator,
    call: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> None:
    """Leave in ``model`` the gradients that stock Taylor sees.

    Args:
        model: The network.
        process: How clean images are noised.
        clean: (B, C, H, W).
        generator: Of the noise.
        call: The model's output for noised images and timesteps (B,); None: that of a UNet2DModel.
    """
    call = call or (lambda x, t: model(x, t, return_dict=False)[0])
    noise = torch.randn(clean.shape, generator=generator)
    model.requires_grad_(True)
    model.zero_grad(set_to_none=True)
    for step in range(0, len(process), 10):
        t = torch.full((len(clean),), step)
        output = call(process.noised(clean, noise, t), t)
        (output - process.target(clean, noise, t)).square().mean().backward()


def cut_by_stock(
    dense: nn.Module, example: Mapping[str, Tensor], ratio: float, whole: Sequence[nn.Module]
) -> nn.Module:
    """A pruned copy of ``dense``.

    Args:
        dense: The network, which holds gradients.
        example: What a call takes, by argument.
        ratio: The share of channels that goes.
        whole: Its layers whose outputs stay.
    """
    import torch_pruning as tp

    model = copy.deepcopy(dense)
    for copied, own in zip(model.parameters(), dense.parameters(), strict=True):
        copied.grad = None if own.grad is None else own.grad.clone()
    heads = {getattr(m, leaf): m.heads for m in model.modules() if hasattr(m, "to_q")
             for leaf in ("to_q", "to_k", "to_v")}  # fmt: skip
    names = [name for name, module in dense.named_modules() if any(module is one for one in whole)]
    stay = [model.get_submodule(name) for name in names]
    pruner = tp.pruner.BasePruner(
        model, dict(example), importance=tp.importance.GroupTaylorImportance(),
        pruning_ratio=ratio, num_heads=heads, ignored_layers=stay,
        channel_groups={}, root_module_types=[nn.Conv2d, nn.Linear], customized_pruners={},
        in_channel_groups={}, out_channel_groups={},
    )  # fmt: skip
    pruner.step()
    follow_shapes(model)
    model.zero_grad(set_to_none=True)
    return model


def stock(dense: nn.Module, example: Tensor, ratio: float) -> nn.Module:
    """A pruned copy of ``dense``, a UNet2DModel that holds gradients; example: (1, C, H, W)."""
    inputs = {"sample": example, "timestep": torch.ones(1).long()}
    return cut_by_stock(dense, inputs, ratio, [dense.conv_out])


def stock_at_macs(dense: nn.Module, example: Tensor, left: float) -> tuple[nn.Module, float]:
    """The stock model nearest to ``left`` of the dense MACs, and its channel ratio."""
    whole = macs(dense, example)

    def distance(ratio: float) -> float:
        return abs(macs(stock(dense, example, ratio), example) / whole - left)

    ratio = min(RATIOS, key=distance)
    return stock(dense, example, ratio), ratio


@torch.no_grad()
def macs(model: nn.Module, example: Tensor) -> float:
    """Multiply-accumulates of one call, attention's products included, by torch's counter."""
    with FlopCounterMode(display=False) as counter:
        model(example, torch.ones(1).long().to(example.device))
    return counter.get_total_flops() / 2
