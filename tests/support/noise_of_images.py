"""The runtime's noise in the place of torch's, so that diffusers' pipelines are an oracle."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from diffc_runtime import Pipeline
from diffc_runtime.image_inputs import _POSTERIOR
from diffc_runtime.noise import fill, image_noise, image_streams


@contextmanager
def our_noise(pipe: Pipeline, size: tuple[int, int], seed: int, n: int) -> Iterator[None]:
    """diffusers draws what the runtime draws: the loop's noise, and those of the posteriors."""
    streams = image_streams(seed, 0, n, _POSTERIOR)

    def draw(shape: Any, *_: object, **__: object) -> torch.Tensor:
        out = np.empty((n, *shape[1:]), np.float32)
        fill(streams, out)
        return torch.from_numpy(out)

    noise = image_noise(seed, 0, n, pipe.shape_at(size))

    def loop_noise(*_: object, **__: object) -> torch.Tensor:
        return torch.from_numpy(noise.copy())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.models.autoencoders.vae.randn_tensor", draw)
        for name, module in list(sys.modules.items()):
            if name.startswith("diffusers.pipelines.") and hasattr(module, "randn_tensor"):
                patch.setattr(module, "randn_tensor", loop_noise)
        yield


def as_theirs(latents: Any, name: str) -> torch.Tensor:
    """Latents (N, C, H, W) as a pipeline takes and gives them: FLUX's packs them into tokens."""
    from diffusers import FluxPipeline

    tensor = torch.as_tensor(latents)
    return FluxPipeline._pack_latents(tensor, *tensor.shape) if name == "flux" else tensor
