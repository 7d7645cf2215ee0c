"""How alike two sets of samples look to the dense model: a loss that does not blur.

A mean square over pixels is least at the mean of what might be, which is a blurred image; a student
of one call has few other means. Seen through the dense model's own first half, two images differ by
what they show (Lin & Yang 2024, arXiv 2401.00110, compare a diffusion model's features so). The
activations of the blocks before the middle are compared place by place, each scaled to a root mean
square of 1 over its channels, as LPIPS does (Zhang et al. 2018, arXiv 1801.03924).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from diffc.data.precision import autocast, device_of
from diffc.data.sharding import is_sharded
from diffc.distill.blocks import block_names
from diffc.distill.losses import channel_dim, per_sample
from diffc.errors import RequestError
from diffc.models.denoiser import Denoiser

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

NOISE_TO_SIGNAL = 0.08
"""The noise level that the dense model is called at: nearly clean."""
_LEAST = 1e-6


class DenseFeatures:
    """The outputs of the dense model's blocks before its middle, on clean samples."""

    def __init__(self, dense: Denoiser) -> None:
        """Find the blocks.

        Raises:
            RequestError: The network has no middle block.
        """
        middle = dense.family.middle_block(dense.model)
        if middle is None:
            raise RequestError(
                f"a {type(dense.model).__name__} has no middle block, and its features cannot be "
                "compared",
                hint="distill.loop.features: 0 in the recipe leaves them out",
            )
        process = dense.process
        ratio = process.noise / process.signal.clamp_min(1e-12)
        level = int((ratio - NOISE_TO_SIGNAL).abs().argmin())
        self.dense, self.middle = dense, dense.model.get_submodule(middle)
        self.time = float(process.model_time[level])
        self.blocks = [
            dense.model.get_submodule(name)
            for name in block_names(dense.model, dense.family)
            if not f"{name}.".startswith(f"{middle}.")
        ]
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def open(self, device: torch.device, dtype: torch.dtype) -> None:
        """Put the dense model on ``device``, in torch's own layout: see setup.prepare_models."""
        self.device, self.dtype = device, dtype
        self.dense.model.eval().requires_grad_(False)
        if is_sharded(self.dense.model):
            # gradients come from its blocks and never from its end, where the weights outside of
            # blocks would be collected again
            cast("FSDPModule", self.dense.model).set_reshard_after_forward(False, recurse=False)
        elif device_of(self.dense.model) != device:  # tensors without memory cannot be moved
            self.dense.model.to(device)

    def seen(self, clean: Tensor, conditions: Mapping[str, Tensor]) -> list[Tensor]:
        """What the dense model sees in clean samples (B, *sample): (B, ...) of each block."""
        with torch.no_grad():
            return self._seen(clean, conditions)

    def difference(
        self,
        ours: Tensor,
        theirs: Tensor,
        conditions: Mapping[str, Tensor],
        seen: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """(B,): how differently the dense model sees two batches of clean samples (B, *sample).

        The mean over the blocks of the mean square over places and channels. Gradients reach
        ``ours`` alone.

        Args:
            ours: The student's samples.
            theirs: Those that they should be.
            conditions: Of both.
            seen: What ``seen`` gave of ``theirs``, where it is known already.
        """
        seen = self.seen(theirs, conditions) if seen is None else seen
        pairs = zip(self._seen(ours, conditions), seen, strict=True)
        return torch.stack([per_sample(_scaled(a) - _scaled(b)) for a, b in pairs]).mean(0)

    def _seen(self, clean: Tensor, conditions: Mapping[str, Tensor]) -> list[Tensor]:
        """What the blocks give on the way to the middle, where the call ends if it can."""
        caught: list[Tensor] = []
        is_whole_call = is_sharded(self.dense.model)  # after half a call, FSDP2 is out of order
        passed: list[bool] = []

        def catch(_block: nn.Module, _given: Any, output: Any) -> None:
            # of a block with two streams the image's comes last
            if not passed:
                caught.append(output[-1] if isinstance(output, tuple) else output)

        def leave(_block: nn.Module, _given: Any) -> None:
            passed.append(True)
            if not is_whole_call:
                raise _AtMiddle

        hooks = [block.register_forward_hook(catch) for block in self.blocks]
        hooks.append(self.middle.register_forward_pre_hook(leave))
        times = torch.full((len(clean),), self.time, device=clean.device)
        try:
            with autocast(self.device, self.dtype):
                self.dense.call({"sample": clean, "timestep": times, **conditions})
        except _AtMiddle:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        return caught


def _scaled(features: Tensor) -> Tensor:
    values = features.float()
    square = values.square().mean(channel_dim(values), keepdim=True)
    return values * (square + _LEAST).rsqrt()


class _AtMiddle(Exception):
    """The middle block would run now; nothing after it is compared."""
