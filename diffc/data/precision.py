"""The fast floating-point type of a device, and forward passes in it."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager

import torch
from torch import nn

from diffc_runtime.machine.cpu import fast_bf16


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 if the device is fast at it, else float32."""
    if device.type == "cpu":
        return torch.bfloat16 if fast_bf16() else torch.float32
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8:
        return torch.bfloat16
    return torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Return a context of automatic mixed precision in ``dtype``; it does nothing for float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def best_device() -> torch.device:
    """Return the GPU of this process if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's parameters."""
    return next(model.parameters()).device


def channels_last(model: nn.Module) -> None:
    """Store the weights of two-dimensional convolutions in channels-last order, in place.

    ``nn.Module.to`` would do the same to a video's five dimensions, which torch refuses.
    """
    for value in (*model.parameters(), *model.buffers()):
        if value.ndim == 4:
            value.data = value.data.contiguous(memory_format=torch.channels_last)
