"""The layers of a network as things whose time can be measured alone.

The network runs once on the meta device. Every convolution, linear layer, normalisation and
attention leaves a ``Layer``: what it is, at which fixed shape, and which dimensions of which
tensors are its widths. Layers that are alike but for their widths share one table of times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from diffc.prune.cost import Dim, ModuleHook, module_hooks

Facts = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Layer:
    """One layer. dims: its widths, the input's before the output's where it has both.

    kind and facts:
        conv        (kernel), (stride), (padding), (spatial size of the input)
        depthwise   the same; one width
        linear      (tokens)
        group_norm  (groups), (spatial size); a SiLU follows, as in every ResNet block
        layer_norm  (tokens)
        attention   (queries, keys, head size); its one width is heads x head size
    """

    name: str
    kind: str
    facts: Facts
    dims: tuple[Dim, ...]


def layers_of(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    call: Callable[[nn.Module, Mapping[str, Tensor]], Tensor],
) -> list[Layer]:
    """Every layer that a forward pass of ``model`` runs (batch 1; the meta device will do)."""
    layers: list[Layer] = []
    with torch.no_grad(), _recording(model, layers):
        call(model, inputs)
    return layers


_KINDS = (nn.Conv2d, nn.Conv3d, nn.Linear, nn.GroupNorm, nn.LayerNorm)


@contextmanager
def _recording(model: nn.Module, layers: list[Layer]) -> Iterator[None]:
    hooks = {
        name: _hook(name, layers)
        for name, module in model.named_modules()
        if isinstance(module, _KINDS) and getattr(module, "weight", None) is not None
    }
    with module_hooks(model, hooks) as attentions, _Attention(attentions, layers):
        yield


def _hook(name: str, layers: list[Layer]) -> ModuleHook:
    weight = f"{name}.weight"
    both: tuple[Dim, ...] = ((weight, 1), (weight, 0))
    out: tuple[Dim, ...] = ((weight, 0),)

    def record(module: nn.Module, inputs: Any, _output: Tensor) -> None:
        spatial, tokens = tuple(inputs[0].shape[2:]), inputs[0].numel() // inputs[0].shape[-1]
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            padding = module.padding
            assert not isinstance(padding, str)
            facts = (module.kernel_size, module.stride, padding, spatial)
            depthwise = module.groups > 1
            kind = "depthwise" if depthwise else "conv"
            layers.append(Layer(name, kind, facts, out if depthwise else both))
        elif isinstance(module, nn.Linear):
            layers.append(Layer(name, "linear", ((tokens,),), both))
        elif isinstance(module, nn.GroupNorm):
            layers.append(Layer(name, "group_norm", ((module.num_groups,), spatial), out))
        elif isinstance(module, nn.LayerNorm):
            layers.append(Layer(name, "layer_norm", ((tokens,),), out))

    return record


class _Attention(TorchFunctionMode):
    """Notes every softmax attention inside a module with ``to_q``."""

    def __init__(self, stack: list[str], layers: list[Layer]) -> None:
        super().__init__()
        self.stack, self.layers = stack, layers

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.stack and func is torch.nn.functional.scaled_dot_product_attention:
            query, key = args[:2] if args else (kwargs["query"], kwargs["key"])
            # one head alone can only become narrower: its size is the width
            size = query.shape[-1] if query.shape[1] > 1 else 0
            facts = ((query.shape[-2], key.shape[-2], size),)
            dims: tuple[Dim, ...] = ((f"{self.stack[-1]}.to_q.weight", 0),)
            self.layers.append(Layer(self.stack[-1], "attention", facts, dims))
        return func(*args, **kwargs)
