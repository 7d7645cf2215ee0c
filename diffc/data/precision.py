"""The fast floating-point type of a device, and forward passes in it."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager

import torch
from torch import nn

from diffc_runtime.machine.cpu import fast_bf16


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device is fast at it, else float32."""
    if device.type == "cpu":
        return torch.bfloat16 if fast_bf16() else torch.float32
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8:
        return torch.bfloat16
    return torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Automatic mixed precision in ``dtype``; nothing for float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def best_device() -> torch.device:
    """The GPU of this process where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are."""
    return next(model.parameters()).device


def channels_last(model: nn.Module) -> None:
    """Lay the weights of two-dimensional convolutions out channel by channel, in place.

    ``nn.Module.to`` would do the same to the five dimensions of a video's, which torch refuses.
    """
    for value in (*model.parameters(), *model.buffers()):
        if value.ndim == 4:
            value.data = value.data.contiguous(memory_format=torch.channels_last)
