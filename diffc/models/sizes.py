"""Keeps the size attributes of modules equal to the shapes of their tensors.

Surgery and reloading both change tensors of a module. Layers and diffusers' blocks repeat those
sizes in attributes, some of which their forward pass checks or uses.
"""

from __future__ import annotations

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.normalization import RMSNorm
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn


def follow_shapes(model: nn.Module) -> None:
    """Set every size attribute of ``model``'s layers from the shapes of their tensors, in place."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            depthwise = module.groups == module.in_channels and module.groups > 1
            module.out_channels = module.weight.shape[0]
            if depthwise:
                module.groups = module.out_channels
            module.in_channels = module.weight.shape[1] * module.groups
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.GroupNorm) and module.affine:
            module.num_channels = module.weight.shape[0]
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and module.elementwise_affine:
            module.normalized_shape = tuple(module.weight.shape)
        elif isinstance(module, nn.Embedding):
            module.embedding_dim = module.weight.shape[1]
        elif isinstance(module, RMSNorm) and module.weight is not None:
            module.dim = module.weight.shape
    for module in model.modules():
        _follow_resampling(module)


def _follow_resampling(module: nn.Module) -> None:
    """Set ``channels`` of Downsample2D and Upsample2D, which compare it with their input's.

    Those without a convolution lie inside a ResnetBlock2D and resample its input.
    """
    if isinstance(module, Downsample2D | Upsample2D):
        conv = getattr(module, "conv", None)
        if isinstance(conv, nn.Conv2d):
            module.channels, module.out_channels = conv.in_channels, conv.out_channels
    elif isinstance(module, ResnetBlock2D):
        for inner in (module.upsample, module.downsample):
            if isinstance(inner, Downsample2D | Upsample2D) and not inner.use_conv:
                inner.channels = inner.out_channels = module.conv1.in_channels


def replace_tensor(model: nn.Module, name: str, value: torch.Tensor) -> None:
    """Replace the parameter or buffer ``name`` of ``model`` by ``value``."""
    owner_name, _, leaf = name.rpartition(".")
    owner = model.get_submodule(owner_name)
    if leaf in owner._parameters:
        old = owner._parameters[leaf]
        assert old is not None
        setattr(owner, leaf, nn.Parameter(value, requires_grad=old.requires_grad))
    else:
        owner._buffers[leaf] = value


def get_tensor(model: nn.Module, name: str) -> torch.Tensor:
    """Return the parameter or buffer ``name`` of ``model``."""
    owner_name, _, leaf = name.rpartition(".")
    value = getattr(model.get_submodule(owner_name), leaf)
    assert isinstance(value, torch.Tensor)
    return value
